"""The training run."""

import contextlib
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from avmsnet_jax import config as config_lib
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import staged
from avmsnet_jax.training.checkpoints import Checkpoints, begun
from avmsnet_jax.training.optimizer import learning_rates, make_optimizer
from avmsnet_jax.training.step import TrainState, begin, create, describe, make_step
from avmsnet_jax.weights import checkpoint


def train(config: Config, workdir: Path) -> None:
    """Trains the configured network on prepared records, or goes on where `workdir` left off.

    Leaves `config.json` (what was configured), `metrics.jsonl` (a line every `train.log_every_steps` steps and at the
    end of an epoch) and `checkpoints/<step>/` in `workdir`.

    Raises:
      UserError: the records, the first weights or the configuration do not fit, `workdir` holds another run or cannot
        be written, or the loss is not finite.
    """
    records = pipeline.open_split(config.data.dir, config.data.train_split, config.model, config.data.fold)
    steps_per_epoch = pipeline.steps_per_epoch(records, batch_size=config.train.batch_size)
    mesh = mesh_lib.make_mesh(config.mesh)
    mesh_lib.check_divides(mesh, config.train.batch_size, "train.batch_size")
    _check_same_run(config, workdir)

    optimizer = make_optimizer(config, steps_per_epoch)
    graphdef, described = describe(config, optimizer, mesh)
    state = None if begun(workdir / "checkpoints") else _first_state(config, optimizer, graphdef, described)
    batches = pipeline.train_batches(
        records,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        epochs=config.train.epochs,
        flip=config.data.flip,
        threads=config.data.threads,
        workers=config.data.workers,
    )

    try:
        (workdir / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {error.filename}: {error.strerror}; choose another --workdir") from None
    with contextlib.closing(Checkpoints(workdir / "checkpoints", config)) as checkpoints:
        if state is None:
            state, position = checkpoints.restore(graphdef, described)
            try:
                batches.set_state(position)
            except ValueError as error:
                place = workdir / "checkpoints" / str(int(state.step))
                raise UserError(f"cannot resume from {place}: {error}; give another --workdir to start anew") from None
        first, last = int(state.step), config.train.epochs * steps_per_epoch
        say = f"{workdir}: {len(records)} clips, {steps_per_epoch} steps an epoch, {mesh.size} devices"
        if first >= last:
            print(f"{say}; already trained to step {first}, nothing to do (raise --config.train.epochs to go on)")
            return
        print(say + (f"; resuming at step {first} of {last}" if first else f"; {last} steps"), flush=True)
        with staged(workdir / "config.json") as stage:
            stage.write_text(config_lib.dumps(config), encoding="utf-8")
        _forget_after(first, workdir / "metrics.jsonl")

        step = make_step(graphdef, optimizer, config, described)
        with (
            contextlib.closing(pipeline.ahead(batches, functools.partial(_place, mesh))) as placed,
            open(workdir / "metrics.jsonl", "a", encoding="utf-8") as file,
        ):
            log = _Log(file, config, steps_per_epoch, first, last)
            for count in range(first + 1, last + 1):
                waiting = time.perf_counter()
                batch, position = next(placed)
                log.waited += time.perf_counter() - waiting
                state, loss = step(state, batch)
                log.add(count, loss)
                epoch, ends = divmod(count, steps_per_epoch)
                if count == last or (not ends and not epoch % config.train.checkpoint_every_epochs):
                    checkpoints.save(graphdef, state, position)
            log.close()
    print(f"{workdir}: trained to step {last}; checkpoints in {workdir / 'checkpoints'}", flush=True)


def _first_state(
    config: Config, optimizer: optax.GradientTransformation, graphdef: Any, described: TrainState
) -> TrainState:
    """Random weights, or those of `init.checkpoint` as far as it has them."""
    state = create(config, optimizer, described)
    if not config.init.checkpoint:
        return state
    model = nnx.merge(graphdef, state.params, state.stats)
    checkpoint.initialise(model, config.init.checkpoint)
    _, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    # Placed as a step leaves it, or the second step would be compiled anew.
    return jax.device_put(begin(config, optimizer, *states), jax.tree.map(lambda leaf: leaf.sharding, described))


def _check_same_run(config: Config, workdir: Path) -> None:
    """Raises UserError where the run in `workdir` cannot go on with this configuration.

    The network, the optimiser's state and the data position have to fit what is on disk; how fast to learn, for how
    long, and where the records lie may change.
    """
    path = workdir / "config.json"
    if not (path.exists() and begun(workdir / "checkpoints")):
        return
    try:
        before = config_lib.from_dict(Config, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); give another --workdir or remove it") from None
    fixed = [f"model.{name}" for name in vars(config.model)]
    for name in [*fixed, "data.fold", "optimizer.name", "train.batch_size", "train.seed"]:
        section, field = name.split(".")
        held, wanted = getattr(getattr(before, section), field), getattr(getattr(config, section), field)
        if held != wanted:
            raise UserError(
                f"{workdir} holds a run with {name}={held}, not {wanted}; "
                "give another --workdir, or the same configuration to resume"
            )


def _forget_after(step: int, path: Path) -> None:
    """Drops the lines of `metrics.jsonl` beyond `step`, which a killed run had reached but not saved."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except ValueError:  # the kill came in the middle of the line
            break
    with staged(path) as stage:
        stage.write_text("".join(kept), encoding="utf-8")


def _place(mesh: jax.sharding.Mesh, batch: pipeline.Batch) -> dict[str, jax.Array]:
    """What a step takes of a batch, on the devices."""
    return mesh_lib.place_batch(mesh, {name: batch[name] for name in ("clip", "sound", "label")})


class _Log:
    """Losses to `metrics.jsonl` and to the terminal. They are fetched when a line is due, never in between."""

    def __init__(self, file: TextIO, config: Config, steps_per_epoch: int, first: int, last: int):
        self._file, self._config, self._steps_per_epoch, self._last = file, config, steps_per_epoch, last
        self._rates = learning_rates(config, steps_per_epoch)
        self._losses: list[jax.Array] = []  # since the last line, on the device
        self._epoch: list[float] = []  # of the epoch so far
        self._bar = tqdm(total=last, initial=first, unit="step", disable=not sys.stderr.isatty())
        self._since = time.perf_counter()
        self.waited = 0.0  # seconds since the last line in which the next batch was not there

    def add(self, step: int, loss: jax.Array) -> None:
        """Notes the loss of a step, on the device, and writes a line if one is due."""
        self._losses.append(loss)
        self._bar.update()
        if step % self._config.train.log_every_steps and step % self._steps_per_epoch and step != self._last:
            return
        losses = np.asarray(jax.device_get(self._losses))
        elapsed = time.perf_counter() - self._since
        if not np.isfinite(losses).all():
            culprit = step - len(losses) + 1 + int(np.flatnonzero(~np.isfinite(losses))[0])
            raise UserError(
                f"the loss is {losses[~np.isfinite(losses)][0]} at step {culprit}; "
                "lower --config.optimizer.learning_rate (earlier checkpoints are kept)"
            )
        line = {
            "step": step,
            "epoch": (step - 1) // self._steps_per_epoch + 1,
            "loss": float(losses.mean()),
            "learning_rate": {name: float(rate(step - 1)) for name, rate in self._rates.items()},
            "clips_per_second": len(losses) * self._config.train.batch_size / elapsed,
            "data_wait_seconds": self.waited,
            "data_wait_share": self.waited / elapsed,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._bar.set_postfix(loss=f"{line['loss']:.4f}", clips_s=f"{line['clips_per_second']:.1f}")
        self._epoch += losses.tolist()
        if not step % self._steps_per_epoch:
            if self._bar.disable:
                print(
                    f"epoch {line['epoch']}/{self._config.train.epochs}  step {step}/{self._last}  "
                    f"mean loss {np.mean(self._epoch):.4f}  {line['clips_per_second']:.1f} clips/s",
                    flush=True,
                )
            self._epoch = []
        self._losses, self.waited, self._since = [], 0.0, time.perf_counter()

    def close(self) -> None:
        self._bar.close()
