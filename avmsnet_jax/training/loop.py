"""The training run."""

import contextlib
import functools
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx
from jax.sharding import Mesh

from avmsnet_jax import config as config_lib
from avmsnet_jax import hosts, json_file
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import staged
from avmsnet_jax.training import curve, nonfinite, tables
from avmsnet_jax.training import peak as peak_lib
from avmsnet_jax.training.checkpoints import Checkpoints, begun
from avmsnet_jax.training.log import METRICS, Log, NotFiniteError, read_metrics
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.step import Step, TrainState, batch_shapes, begin, describe, make_step
from avmsnet_jax.training.stop_request import Stop, listening
from avmsnet_jax.training.validation import Validate, make_validate
from avmsnet_jax.weights import checkpoint

CURVE, PROFILE = "curve.png", "profile"


class _Run(NamedTuple):
    """What the loop works with: `first` steps are done, `last` is where it ends."""

    config: Config
    workdir: Path
    mesh: Mesh
    graphdef: Any
    step: Step
    records: pipeline.Records
    batches: pipeline.Batches
    placed: pipeline.Ahead[dict[str, jax.Array]]
    validate: Validate | None
    checkpoints: Checkpoints
    log: Log
    stop: Stop
    steps_per_epoch: int
    first: int
    last: int


def train(config: Config, workdir: Path) -> None:
    """Trains the configured network on prepared records, or goes on where `workdir` left off.

    Leaves `config.json` (what was configured), `metrics.jsonl` (a line every `train.log_every_steps` steps and at the
    end of an epoch), `tensorboard/`, `checkpoints/<step>/` and, at the end, `curve.png` in `workdir`.

    SIGTERM ends it in good order after a checkpoint; so does Ctrl-C, by a KeyboardInterrupt that says so.

    Raises:
      UserError: the records, the first weights or the configuration do not fit, `workdir` holds another run or cannot
        be written, or a loss or a gradient is not finite.
    """
    with hosts.together(config.hosts, workdir):
        _train(config, workdir)


def _train(config: Config, workdir: Path) -> None:
    whole = pipeline.open_split(config.data.dir, config.data.train_split, config.model, config.data.fold)
    records, held_out = pipeline.hold_out(whole, config.data.validation_fraction, config.train.seed)
    steps_per_epoch = pipeline.steps_per_epoch(records, batch_size=config.train.batch_size)
    mesh = mesh_lib.make_mesh(config.mesh)
    parts = config.train.accumulate
    name = "train.batch_size" if parts == 1 else f"train.batch_size over train.accumulate={parts}"
    mesh_lib.check_divides(mesh, config.train.batch_size // parts, name)
    changes = _check_same_run(config, workdir)
    peak = peak_lib.of(mesh, config.model.dtype)  # before anything else is asked of the devices

    optimizer = make_optimizer(config, steps_per_epoch)
    graphdef, described, create = describe(config, optimizer, mesh)
    state = None if begun(workdir / "checkpoints") else _initialised(create(), config, optimizer, graphdef)
    batches = pipeline.train_batches(
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

    try:
        (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {error.filename}: {error.strerror}; choose another --workdir") from None
    with contextlib.closing(Checkpoints(workdir / "checkpoints", config)) as checkpoints:
        first = 0
        if state is None:
            state, position = checkpoints.restore(graphdef, described)
            if position.get("records") != records.identity:
                raise UserError(
                    f"{config.data.dir} does not hold the records that {workdir} began with, but {len(records)} clips "
                    "cut otherwise or of other films; give those, or another --workdir to start anew"
                )
            batches.set_state(position)
            first = int(state.step)  # of random weights it would wait until they are made, and the step can be compiled
        last = config.train.epochs * steps_per_epoch
        say = f"{workdir}: {len(records)} clips, {steps_per_epoch} steps an epoch, {mesh.size} devices"
        if first >= last:
            _print(f"{say}; already trained to step {first}, nothing to do (raise --config.train.epochs to go on)")
            return
        _print(say + (f"; resuming at step {first} of {last}" if first else f"; {last} steps"))
        _introduce(config, mesh, described, held_out, changes)
        _print(str(peak))
        if hosts.is_first():
            with staged(workdir / "config.json") as stage:
                stage.write_text(config_lib.dumps(config), encoding="utf-8")
        with (
            listening() as stop,
            contextlib.closing(Log(workdir, config, steps_per_epoch, first, last, peak.rate)) as log,
            contextlib.closing(pipeline.Ahead(batches, functools.partial(_place, mesh))) as placed,
        ):
            step = _compiled(make_step(graphdef, optimizer, config, described), config, described, mesh)
            validate = make_validate(graphdef, config, held_out, mesh) if held_out else None
            log.start(first)
            run = _Run(
                config, workdir, mesh, graphdef, step, records, batches, placed, validate, checkpoints, log, stop,
                steps_per_epoch, first, last,
            )  # fmt: skip
            reached = _loop(run, state)
    _finish(workdir, stop, reached, last)


def _loop(run: _Run, state: TrainState) -> int:
    """Takes the steps, and returns how many are done when it ends: all, or as many as there were when it was asked."""
    if jax.process_count() == 1 and run.stop.asked(run.first):  # while the step was compiled
        return run.first
    with contextlib.ExitStack() as trace:
        for count in range(run.first + 1, run.last + 1):
            _profile(run, count, state, trace)
            waiting = time.perf_counter()
            batch, position = next(run.placed)
            run.log.waited += time.perf_counter() - waiting
            with jax.transfer_guard("disallow"):  # between host and devices nothing moves but what was put there
                state, measured = run.step(state, batch)
            run.log.add(count, measured)
            stopping, save = run.stop.asked(count), _is_due(run, count)
            if run.log.is_due(count) or save or stopping:
                try:
                    run.log.write(count)
                except NotFiniteError as error:
                    run.placed.close()
                    raise _explained(run, state, *error.args) from None
            found = run.validate(state) if run.validate and not count % run.steps_per_epoch else None
            if found is not None:
                better = run.checkpoints.is_better(found)
                run.log.validated(count, found, better)
                save = save or better
            if save or stopping:
                held = {**position, "records": run.records.identity}
                run.checkpoints.save(count, run.graphdef, state, held, found)
                run.log.restart_clock()
            if stopping:
                run.checkpoints.wait()
                return count
        _profile(run, run.last + 1, state, trace)
    return run.last


def _is_due(run: _Run, count: int) -> bool:
    """Whether a checkpoint belongs after this step."""
    settings = run.config.train
    epoch, within = divmod(count, run.steps_per_epoch)
    if settings.checkpoint_every_steps and not count % settings.checkpoint_every_steps:
        return True
    return count == run.last or (not within and not epoch % settings.checkpoint_every_epochs)


def _explained(run: _Run, state: TrainState, step: int, what: str) -> UserError:
    """What a loss or gradient that is not finite came of: the step is done again, from the state that it left alone."""
    run.batches.set_state({"next_index": step - 1})
    batch = next(run.batches)
    run.batches.close()
    reason = nonfinite.find(run.graphdef, run.config, run.mesh, state, batch)
    kept = f"the checkpoint of step {run.checkpoints.latest} is kept" if run.checkpoints.latest else "none was saved"
    return UserError(f"{what} at step {step}: {reason} ({kept})")


def _finish(workdir: Path, stop: Stop, reached: int, last: int) -> None:
    """Says how the run ended, and leaves its curve."""
    if reached and hosts.is_first():
        with staged(workdir / CURVE) as stage:
            curve.draw(read_metrics(workdir / METRICS), stage)
    if reached == last:
        _print(f"{workdir}: trained to step {last}; checkpoints in {workdir / 'checkpoints'}, curve in {CURVE}")
        return
    saved = f"step {reached} of {last} is saved, and the same command resumes there" if reached else "no step was done"
    if stop.interrupted:
        raise KeyboardInterrupt(saved)
    _print(f"{workdir}: asked to stop (SIGTERM); {saved}")


def _introduce(
    config: Config, mesh: Mesh, described: TrainState, held_out: pipeline.Records | None, changes: list[str]
) -> None:
    """What a run is about to do."""
    for change in changes:
        _print(f"changed since the run began: {change}")
    if held_out:
        _print(f"held out to validate on: {len(held_out)} clips")
    elif config.data.validation_fraction:
        _print(f"fewer than {pipeline.FEWEST_FILMS} films to train on, so none is held out to validate on")
    _print(tables.devices(mesh, config.train.batch_size))
    _print(tables.each_group(tables.parameters(config, described.params)))


def _compiled(step: Step, config: Config, described: TrainState, mesh: Mesh) -> Step:
    """The step as a program for these devices, and a word about the memory that it takes."""
    _print("compiling the step: a minute or more the first time, seconds from then on")
    began = time.perf_counter()
    program = step.lower(described, batch_shapes(config, mesh)).compile()  # type: ignore[attr-defined]
    _print(f"{tables.memory(described, program)}; compiled in {time.perf_counter() - began:.0f} s")
    return program


def _profile(run: _Run, count: int, state: TrainState, trace: contextlib.ExitStack) -> None:
    """Starts or ends a trace before step `count`; whatever ends the loop ends it, too."""
    start, steps = run.config.train.profile_from, run.config.train.profile_steps
    end = min(start + steps, run.last + 1)
    if not run.first < start <= run.last or count not in (start, end):
        return
    jax.block_until_ready(state)  # what has been asked for before is no part of it, and what was in it is done
    began = time.perf_counter()
    if count == start:
        trace.enter_context(jax.profiler.trace(str(run.workdir / PROFILE)))
    else:
        trace.close()
        run.log.say(f"traced steps {start} to {end - 1}: {run.workdir / PROFILE}")
    run.log.leave_out(time.perf_counter() - began)


def _initialised(
    state: TrainState, config: Config, optimizer: optax.GradientTransformation, graphdef: Any
) -> TrainState:
    """The first state, with the weights of `init.checkpoint` as far as it has them."""
    if not config.init.checkpoint:
        return state
    model = nnx.merge(graphdef, state.params, state.stats)
    checkpoint.initialise(model, config.init.checkpoint)
    _, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(lambda *states: begin(config, optimizer, *states), out_shardings=places)(*states)


def _check_same_run(config: Config, workdir: Path) -> list[str]:
    """Raises UserError where the run in `workdir` cannot go on with this configuration; says what else has changed.

    The network, the optimiser's state and the data position have to fit what is on disk; how fast to learn, for how
    long, and where the records lie may change.
    """
    path = workdir / "config.json"
    if not (path.exists() and begun(workdir / "checkpoints")):
        return []
    remedy = "give another --workdir, or remove it to resume with the configuration given now"
    before = config_lib.from_dict(Config, json_file.read(path, remedy), str(path))
    changes = []
    for name in config_lib.fields():
        section, field = name.split(".")
        held, wanted = getattr(getattr(before, section), field), getattr(getattr(config, section), field)
        if held == wanted or section in ("hosts", "mesh", "init", "eval"):
            continue
        turned = name == "train.ema_decay" and bool(held) != bool(wanted)
        if section == "model" or name in _FIXED or turned:
            raise UserError(
                f"{workdir} holds a run with {name}={held}, not {wanted}; "
                "give another --workdir, or the same configuration to resume"
            )
        changes.append(f"{name} from {held} to {wanted}")
    return changes


# Beside the network's: what the optimiser's state and the position in the data are of.
_FIXED = (
    "data.fold",
    "data.train_split",
    "data.validation_fraction",
    "optimizer.name",
    "train.batch_size",
    "train.seed",
)


def _place(mesh: Mesh, batch: pipeline.Batch) -> dict[str, jax.Array]:
    """What a step takes of a batch, on the devices."""
    return mesh_lib.place_batch(mesh, {name: batch[name] for name in ("clip", "sound", "label")})


def _print(text: str) -> None:
    """To the terminal, of several processes from the first alone."""
    if hosts.is_first():
        print(text, flush=True)
