"""A training run on disk: network, optimiser, step and data position saved as one item, so that none can lead."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx

from avmsnet_jax import config as config_lib
from avmsnet_jax import hosts
from avmsnet_jax.config import Config
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import remove, remove_from_under
from avmsnet_jax.training.step import TrainState
from avmsnet_jax.weights import checkpoint

TRAINING, POSITION, FINGERPRINT = "training", "position", "fingerprint"
DAMAGED = "damaged"  # beside `checkpoints`: what could not be read
_ITEM_NAMES = (checkpoint.MODEL, checkpoint.CONFIG, checkpoint.VALIDATION, TRAINING, POSITION, FINGERPRINT)


def begun(directory: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return any(path.name.isdigit() for path in directory.glob("*"))


def _check_ours(directory: Path) -> None:
    """Raises UserError for what Orbax would take for its own, and for links, through which it would remove others'."""
    for path in (directory, *directory.iterdir()):
        if path.is_symlink():
            raise UserError(f"{path} is a link; put the real folder in its place, or give another --workdir")
    for path in {*directory.glob("*.orbax-checkpoint-tmp*")} - {*_unfinished(directory)}:
        raise UserError(f"{path} is no unfinished checkpoint, and Orbax would remove it; move it away")


def _unfinished(directory: Path) -> list[Path]:
    """The folders of saves that did not end: empty, or with items of ours in them."""
    found = []
    for path in directory.glob("*.orbax-checkpoint-tmp*"):
        if re.fullmatch(r"\d+\.orbax-checkpoint-tmp(-\d+)?", path.name) and path.is_dir():
            with contextlib.suppress(FileNotFoundError):  # Orbax's threads may be at work on it
                items = {entry.name.split(".")[0] for entry in path.iterdir()}
                if not items or items & {*_ITEM_NAMES, "_CHECKPOINT_METADATA"}:
                    found.append(path)
    return found


class Checkpoints:
    """The checkpoints of a run, `directory/<step>/`. What `avmsnet_jax.load` reads of one are `model` and `config`.

    The newest `train.keep_checkpoints` stay, and the one that did best on the held-out films.
    """

    def __init__(self, directory: Path, config: Config):
        self.directory = directory
        self._config = config
        if hosts.is_first():
            _check_ours(directory)
            for unfinished in _unfinished(directory):  # a kill in the middle of a save leaves one
                remove(unfinished)
        hosts.wait_for_all("unfinished checkpoints are removed")
        # The step and average precision of the best so far, None where none was validated.
        self.best: tuple[int, float] | None = None
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(
                    [ocp.checkpoint_managers.LatestN(config.train.keep_checkpoints), _Best(self)]
                ),
            ),
            item_names=_ITEM_NAMES,
        )
        self.best = self._find_best()

    @property
    def latest(self) -> int:
        """The step of the newest checkpoint, those on their way to the disk included; 0 where there is none."""
        return self._manager.latest_step() or 0

    def is_better(self, found: dict[str, float | None]) -> bool:
        """Whether a validation is better than all before; one without an average precision is not."""
        precision = found["average_precision"]
        return precision is not None and (self.best is None or precision > self.best[1])

    def save(
        self,
        step: int,
        graphdef: Any,
        state: TrainState,
        position: dict[str, Any],
        found: dict[str, float | None] | None = None,
    ) -> None:
        """Starts to save `state` and the data iterator's `position`; training goes on meanwhile.

        Where an average of the weights is kept, that is the model, and the weights go with the optimiser.

        Args:
          step: how many are done.
          graphdef: the static part of the network.
          state: after that step.
          position: where the data go on.
          found: what a validation of exactly this state gave.

        Raises:
          UserError: the disk is full, or cannot be written. The checkpoints before are still there.
        """
        model = nnx.merge(graphdef, state.params if state.ema is None else state.ema, state.stats)
        items = {
            checkpoint.MODEL: ocp.args.PyTreeSave(checkpoint.model_tree(model)),
            checkpoint.CONFIG: ocp.args.JsonSave(config_lib.to_dict(self._config.model)),
            TRAINING: ocp.args.StandardSave(_numbered(_rest(state))),
            POSITION: ocp.args.JsonSave(position),
            FINGERPRINT: ocp.args.JsonSave(fingerprint(state)),
        }
        if found is not None:
            items[checkpoint.VALIDATION] = ocp.args.JsonSave(found)
            if self.is_better(found):
                self.best = step, found["average_precision"] or 0.0
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, graphdef: Any, described: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint that can be read, its arrays placed as `described`, and the data position.

        Newer ones that are damaged are moved to a folder `damaged` beside `checkpoints`, with a warning.

        Raises:
          UserError: none can be read; they stay where they are.
        """
        damaged: list[tuple[int, str]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._restore(step, graphdef, described)
            except Exception as error:  # of many kinds in Orbax and tensorstore; all mean that it cannot be read
                damaged.append((step, checkpoint.brief(error)))
                continue
            self._set_aside(damaged)
            return found
        step, reason = damaged[0]
        more = f", nor from {len(damaged) - 1} before it" if len(damaged) > 1 else ""
        raise UserError(
            f"cannot resume from {self.directory / str(step)}{more}: {reason}; give another --workdir to start anew"
        )

    def wait(self) -> None:
        """Waits for the last save to be on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save, and ends."""
        self.wait()
        self._manager.close()

    def _restore(self, step: int, graphdef: Any, described: TrainState) -> tuple[TrainState, dict[str, Any]]:
        place = self.directory / str(step)
        _, tree = checkpoint.restore(place)
        model = nnx.merge(graphdef, described.params, described.stats)
        checkpoint.set_model_tree(model, tree, str(place))
        _, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, stats = states
        rest = _rest(described)
        leaves = _numbered(rest)
        arrays = checkpoint.read_item(place / TRAINING, leaves, f"{place}: not the state of this run")
        # Each process places its own parts. `device_put` would compare the whole arrays of all processes.
        placed = [
            jax.make_array_from_callback(leaf.shape, leaf.sharding, arrays[name].__getitem__)
            for name, leaf in leaves.items()
        ]
        count, opt_state, weights = jax.tree.unflatten(jax.tree.structure(rest), placed)
        documents = {item: ocp.args.JsonRestore() for item in (POSITION, FINGERPRINT)}
        found = self._manager.restore(step, args=ocp.args.Composite(**documents))
        ema = None if weights is None else params
        state = TrainState(count, params if ema is None else weights, stats, opt_state, ema)
        if found[FINGERPRINT] != fingerprint(state):
            raise ValueError("its numbers are not those that were saved")
        position = found[POSITION]
        if not isinstance(position, dict) or position.get("next_index") != step or int(count) != step:
            raise ValueError(f"{position!r} is no position in the data of step {step}")
        return state, position

    def _set_aside(self, damaged: Sequence[tuple[int, str]]) -> None:
        for step, reason in damaged:
            target = self.directory.parent / DAMAGED / str(step)
            if hosts.is_first():
                try:
                    if target.parent.is_symlink():
                        raise UserError(f"{target.parent} is a link; remove it, or give another --workdir")
                    target.parent.mkdir(exist_ok=True)
                    while os.path.lexists(target):
                        target = target.with_name(target.name + "x")
                    (self.directory / str(step)).rename(target)
                except OSError as error:
                    raise UserError(
                        f"the checkpoint of step {step} is damaged ({reason}) and cannot be moved to {target}: "
                        f"{error.strerror}; make {target.parent.parent} writable"
                    ) from None
                print(
                    f"warning: the checkpoint of step {step} is damaged ({reason}); it is now {target}, and the one "
                    "before is used",
                    file=sys.stderr,
                    flush=True,
                )
        if damaged:
            hosts.wait_for_all("damaged checkpoints are set aside")
            self._manager.reload()
            self.best = self._find_best()

    def _find_best(self) -> tuple[int, float] | None:
        best = checkpoint.best_step(self.directory)
        return None if best is None else (best, checkpoint.validation_of(self.directory / str(best)) or 0.0)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a full disk, of this save or of the one before, into a UserError."""
        try:
            yield
        except (ValueError, OSError) as error:  # what tensorstore makes of it
            for unfinished in _unfinished(self.directory):  # it takes what room there was
                remove_from_under(unfinished)
            raise UserError(
                f"cannot write a checkpoint to {self.directory}: {checkpoint.cause(error)}; "
                "make room, and the same command resumes from the checkpoint before"
            ) from error


class _Best:
    """Orbax's protocol of a preservation policy: the best by validation stays."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        best = self._checkpoints.best
        return [best is not None and info.step == best[0] for info in checkpoints]


def fingerprint(state: TrainState) -> list[int]:
    """A number for each array of a training state, which any changed or moved bit changes.

    Integer arithmetic modulo 2^32, so that it is the same on any number of devices.
    """
    return [int(value) for value in jax.device_get(_fingerprints(jax.tree.leaves(state)))]


@jax.jit
def _fingerprints(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_fingerprint(leaf) for leaf in leaves]


def _fingerprint(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    # An odd factor for each place, different from its neighbours': odd, as an even one would lose the highest bit.
    factor = jnp.ones((), jnp.uint32)
    for axis, multiplier in enumerate((2654435761, 2246822519, 3266489917, 668265263, 374761393)[: leaf.ndim]):
        factor = factor + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(multiplier)
    return jnp.sum(bits * (2 * factor + 1), dtype=jnp.uint32)


def _rest(state: TrainState) -> tuple[Any, ...]:
    """What the items `model` and `position` do not hold."""
    return state.step, state.opt_state, None if state.ema is None else state.params


def _numbered(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by number: Orbax then needs to know neither NNX nor Optax."""
    return {f"{index:05d}": leaf for index, leaf in enumerate(jax.tree.leaves(tree))}
