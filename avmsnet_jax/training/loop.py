"""The training run."""

import contextlib
import functools
import time
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from avmsnet_jax import config as config_lib
from avmsnet_jax import hosts, storage
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.data.cache import local_records
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import staged
from avmsnet_jax.training import curve, nonfinite, tables
from avmsnet_jax.training import peak as peak_lib
from avmsnet_jax.training.checkpoints import Checkpoints, begun
from avmsnet_jax.training.log import Log
from avmsnet_jax.training.metrics import METRICS, MetricsWriter, read_metrics
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.profile import Profile
from avmsnet_jax.training.same_run import check_same_run
from avmsnet_jax.training.step import Step, TrainState, batch_shapes, begin, describe, make_step
from avmsnet_jax.training.stop_request import Stop, listening
from avmsnet_jax.training.terminal import say
from avmsnet_jax.training.validation import make_validate
from avmsnet_jax.weights import checkpoint

CURVE = "curve.png"


def train(config: Config, workdir: storage.Place) -> None:
    """Trains the configured network on prepared records, or resumes the run in `workdir`.

    Leaves in `workdir`, a folder or a place on a store: `config.json`, `metrics.jsonl` (a line every
    `train.log_every_steps` steps and at the end of each epoch), `tensorboard/`, `checkpoints/<step>/` and, at the end,
    `curve.png`.

    SIGTERM saves a checkpoint and returns; Ctrl-C saves one and raises a KeyboardInterrupt that says so.

    Raises:
      UserError: the records, initial weights and configuration do not match; `workdir` holds another run or cannot
        be written; or a loss, gradient or BN statistic is not finite.
    """
    with hosts.together(config.hosts, workdir), storage.run_in(workdir, tidy=hosts.is_first()) as run:
        hosts.wait_for_all("each has a copy of a run on a store")
        _train(config, run)


def _train(config: Config, run: storage.Run) -> None:
    workdir = run.folder
    records, held_out, steps_per_epoch = _open_records(config)
    last = config.train.epochs * steps_per_epoch
    mesh = _make_mesh(config)
    changes = check_same_run(config, workdir)
    peak = peak_lib.of(mesh, config.model.dtype)  # measured while the devices are idle
    optimizer = make_optimizer(config, steps_per_epoch)
    graphdef, described, create = describe(config, optimizer, mesh)
    is_new = not begun(workdir / "checkpoints")
    state = _initialized(create(), config, optimizer, graphdef) if is_new else described
    batches = _train_batches(config, records)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(run, config, graphdef)))
        if not is_new:
            state = _restored(checkpoints, described, records, batches)
        # Reading `step` of a new state would wait for its initialization, which overlaps with compiling the step.
        first = 0 if is_new else int(state.step)
        say(f"{run.name}: {len(records)} clips, {steps_per_epoch} steps per epoch; {_plan(first, last)}")
        if first >= last:
            return
        _introduce(config, mesh, described, held_out, changes, peak)
        _write_config(config, workdir)

        stop = stack.enter_context(listening())
        writer = stack.enter_context(contextlib.closing(MetricsWriter(workdir, first)))
        placed = stack.enter_context(contextlib.closing(pipeline.Ahead(batches, functools.partial(_place, mesh))))
        step = _compiled(make_step(graphdef, optimizer, config, described), config, described, mesh)
        validate = make_validate(graphdef, config, held_out, mesh) if held_out else None
        log = stack.enter_context(contextlib.closing(Log(config, steps_per_epoch, first, last, peak.rate, writer)))
        profile = stack.enter_context(contextlib.closing(Profile(config, workdir, first, last, log)))

        done = first
        stopping = jax.process_count() == 1 and stop.asked(done)  # requested while the step was compiled
        while done < last and not stopping:
            profile.before(done + 1, state)
            with log.stopwatch.waiting():
                batch, position = next(placed)
            with jax.transfer_guard("disallow"):  # any other transfer between host and devices is an error
                state, measured = step(state, batch)
            done += 1
            log.add(done, measured)

            stopping, found = stop.asked(done), None
            save = stopping or _is_checkpoint_due(config, steps_per_epoch, done)
            if (log.is_due(done) or save) and (bad := log.write(done)):
                placed.close()
                raise nonfinite.explained(bad, graphdef, config, mesh, state, batches, checkpoints.latest)
            if validate is not None and done % steps_per_epoch == 0:
                with log.stopwatch.paused():
                    found = validate(state)
                is_best = checkpoints.is_better(found)
                log.validated(done, found, is_best)
                save = save or is_best
            if save:
                with log.stopwatch.paused():
                    checkpoints.save(done, state, {**position, "records": records.identity}, found)
        if not stopping:
            profile.before(done + 1, state)
    _finish(run, stop, done, last)


def _open_records(config: Config) -> tuple[pipeline.Records, pipeline.Records | None, int]:
    """The records to train on, those held out for validation, and the steps of an epoch."""
    whole = pipeline.open_split(local_records(config.data), config.data.train_split, config.model, config.data.fold)
    records, held_out = pipeline.hold_out(whole, config.data.validation_fraction, config.train.seed)
    return records, held_out, pipeline.steps_per_epoch(records, batch_size=config.train.batch_size)


def _make_mesh(config: Config) -> Mesh:
    mesh, parts = mesh_lib.make_mesh(config.mesh), config.train.accumulate
    name = "train.batch_size" if parts == 1 else f"train.batch_size over train.accumulate={parts}"
    mesh_lib.check_divides(mesh, config.train.batch_size // parts, name)
    return mesh


def _train_batches(config: Config, records: pipeline.Records) -> pipeline.Batches:
    """The batches of the run; of several processes each reads its share."""
    return pipeline.train_batches(
        records,
        batch_size=config.train.batch_size // jax.process_count(),
        seed=config.train.seed,
        epochs=config.train.epochs,
        flip=config.data.flip,
        threads=config.data.threads,
        workers=config.data.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _place(mesh: Mesh, batch: pipeline.Batch) -> dict[str, jax.Array]:
    """The arrays of a batch that a step takes, on the devices."""
    return mesh_lib.place_batch(mesh, {name: batch[name] for name in ("clip", "sound", "label")})


def _initialized(
    state: TrainState, config: Config, optimizer: optax.GradientTransformation, graphdef: Any
) -> TrainState:
    """The initial state, with the weights that `init.checkpoint` has, if it is given."""
    if not config.init.checkpoint:
        return state
    model = nnx.merge(graphdef, state.params, state.stats)
    checkpoint.initialize(model, config.init.checkpoint)
    _, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(lambda *states: begin(config, optimizer, *states), out_shardings=shardings)(*states)


def _restored(
    checkpoints: Checkpoints, described: TrainState, records: pipeline.Records, batches: pipeline.Batches
) -> TrainState:
    """The state of the newest checkpoint; `batches` continue where it was saved.

    Raises:
      UserError: no checkpoint can be read, or the run began with other records.
    """
    state, position = checkpoints.restore(described)
    if position.get("records") != records.identity:
        raise UserError(
            f"{records.directory} does not hold the records that {checkpoints.directory.parent} began with, but "
            f"{len(records)} clips cut otherwise or of other films; give those, or another --workdir to start anew"
        )
    batches.set_state(position)
    return state


def _plan(first: int, last: int) -> str:
    if first >= last:
        return f"already trained to step {first}, nothing to do (raise --config.train.epochs to continue)"
    return f"resuming at step {first} of {last}" if first else f"{last} steps"


def _introduce(
    config: Config,
    mesh: Mesh,
    described: TrainState,
    held_out: pipeline.Records | None,
    changes: list[str],
    peak: peak_lib.Peak,
) -> None:
    """Prints the settings of a run before it starts."""
    for change in changes:
        say(f"changed since the run began: {change}")
    if held_out:
        say(f"held out for validation: {len(held_out)} clips")
    elif config.data.validation_fraction:
        say(f"fewer than {pipeline.FEWEST_FILMS} films to train on, so none is held out for validation")
    say(tables.devices(mesh, config.train.batch_size))
    say(tables.each_group(tables.parameters(config, described.params)))
    say(str(peak))


def _write_config(config: Config, workdir: Path) -> None:
    if hosts.is_first():
        with staged(workdir / "config.json") as stage:
            stage.write_text(config_lib.dumps(config), encoding="utf-8")


def _compiled(step: Step, config: Config, described: TrainState, mesh: Mesh) -> Step:
    """The step, compiled for the devices."""
    say("compiling the step: a minute or more the first time, seconds from then on")
    began = time.perf_counter()
    program = step.lower(described, batch_shapes(config, mesh)).compile()  # type: ignore[attr-defined]
    say(f"{tables.memory(described, program)}; compiled in {time.perf_counter() - began:.0f} s")
    return program


def _is_checkpoint_due(config: Config, steps_per_epoch: int, done: int) -> bool:
    settings = config.train
    epoch, within = divmod(done, steps_per_epoch)
    if settings.checkpoint_every_steps and not done % settings.checkpoint_every_steps:
        return True
    return not within and (epoch == settings.epochs or not epoch % settings.checkpoint_every_epochs)


def _finish(run: storage.Run, stop: Stop, done: int, last: int) -> None:
    """Draws the training curve, and prints how the run ended."""
    if done and hosts.is_first():
        with staged(run.folder / CURVE) as stage:
            curve.draw(read_metrics(run.folder / METRICS), stage)
        run.push()
    if done == last:
        checkpoints = storage.join(run.name, "checkpoints")
        say(f"{run.name}: trained to step {last}; checkpoints in {checkpoints}, curve in {CURVE}")
        return
    saved = f"step {done} of {last} is saved, and the same command resumes there" if done else "no step was done"
    if stop.interrupted:
        raise KeyboardInterrupt(saved)
    say(f"{run.name}: asked to stop (SIGTERM); {saved}")
