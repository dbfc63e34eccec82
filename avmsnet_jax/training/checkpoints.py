"""Checkpoints of a training run: network, optimizer, step and data position, saved together."""

import collections
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx, traverse_util
from jax.experimental import multihost_utils

from avmsnet_jax import config as config_lib
from avmsnet_jax import hosts, json_file, storage
from avmsnet_jax.config import Config
from avmsnet_jax.errors import UserError, brief
from avmsnet_jax.staging import remove, remove_from_under
from avmsnet_jax.training.step import TrainState
from avmsnet_jax.weights import checkpoint, location

TRAINING, POSITION, FINGERPRINT = "training", "position", "fingerprint"
DAMAGED = "damaged"  # folder next to `checkpoints` for unreadable checkpoints
_ITEM_NAMES = (location.MODEL, location.CONFIG, location.VALIDATION, TRAINING, POSITION, FINGERPRINT)


def begun(directory: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return bool(_steps(directory))


def _check_ours(directory: Path) -> None:
    """Raises UserError for links, and for folders of the user's that Orbax would take for its own and remove."""
    for path in (directory, *directory.iterdir()):
        if path.is_symlink():
            raise UserError(f"{path} is a link; put the real folder in its place, or give another --workdir")
    for path in {*directory.glob("*.orbax-checkpoint-tmp*")} - {*_unfinished(directory)}:
        raise UserError(f"{path} is no unfinished checkpoint, and Orbax would remove it; move it away")


def _unfinished(directory: Path) -> list[Path]:
    """Folders of unfinished saves: empty, or with items of ours in them."""
    found = []
    for path in directory.glob("*.orbax-checkpoint-tmp*"):
        if re.fullmatch(r"\d+\.orbax-checkpoint-tmp(-\d+)?", path.name) and path.is_dir():
            with contextlib.suppress(FileNotFoundError):  # Orbax's threads may be at work on it
                items = {entry.name.split(".")[0] for entry in path.iterdir()}
                if not items or items & {*_ITEM_NAMES, "_CHECKPOINT_METADATA"}:
                    found.append(path)
    return found


class Checkpoints:
    """The checkpoints of a run, `checkpoints/<step>/`. `avmsnet_jax.load` reads their items `model` and `config`.

    Keeps the newest `train.keep_checkpoints`, and the one with the best validation. Of a run on a store, each is copied
    there in the background once it is on the local disk. If several processes train such a run, the first one fetches
    the state from all devices and saves it, because the processes share no folder that Orbax could write to.

    Args:
      run: the working directory; `checkpoints` in it is made if need be.
      config: of the run.
      graphdef: the static part of the network.

    Attributes:
      directory: the folder `checkpoints`.
      best: step and average precision of the best validation so far.
      latest: the step of the newest checkpoint, including one still being written; 0 if there is none.

    Raises:
      UserError: `checkpoints` cannot be made, or holds links or what is not ours.
    """

    def __init__(self, run: storage.Run, config: Config, graphdef: Any):
        self.directory = directory = run.folder / "checkpoints"
        self._run, self._config, self._graphdef = run, config, graphdef
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot create {error.filename}: {error.strerror}; choose another --workdir") from None
        if hosts.is_first():
            _check_ours(directory)
            for unfinished in _unfinished(directory):  # left when a process was killed during a save
                remove(unfinished)
        hosts.wait_for_all("unfinished checkpoints are removed")
        self._apart = run.is_remote and jax.process_count() > 1
        self._copier = futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._copying: futures.Future[None] | None = None
        self.best: tuple[int, float] | None = None
        self._manager = None if self._apart and not hosts.is_first() else self._make_manager()
        self.best = self._find_best()
        self.latest = max(_steps(directory), default=0)

    def _make_manager(self) -> ocp.CheckpointManager:
        alone = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
        )
        keep = [ocp.checkpoint_managers.LatestN(self._config.train.keep_checkpoints), _Best(self)]
        return ocp.CheckpointManager(
            self.directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(keep),
                multiprocessing_options=alone if self._apart else ocp.options.MultiprocessingOptions(),
                create=False,
            ),
            item_names=_ITEM_NAMES,
        )

    def is_better(self, found: dict[str, float | None]) -> bool:
        """Whether a validation is the best so far. One without an average precision never is."""
        precision = found["average_precision"]
        return precision is not None and (self.best is None or precision > self.best[1])

    def save(
        self,
        step: int,
        state: TrainState,
        position: dict[str, Any],
        found: dict[str, float | None] | None = None,
    ) -> None:
        """Starts to save the state and the data position; training continues meanwhile.

        With an EMA, the item `model` holds the averaged weights and `training` the current ones.

        Args:
          step: how many steps are done.
          state: after that step.
          position: of the data iterator.
          found: the validation of this state, if there was one.

        Raises:
          UserError: the disk is full or cannot be written. Earlier checkpoints are still there.
        """
        model = nnx.merge(self._graphdef, state.params if state.ema is None else state.ema, state.stats)
        trees = {
            location.MODEL: checkpoint.model_tree(model),
            TRAINING: traverse_util.unflatten_dict(_named(_rest(state)), sep="/"),
        }
        if self._apart:
            trees = jax.tree.map(_fetched, trees)
        documents: dict[str, Any] = {
            location.CONFIG: config_lib.to_dict(self._config.model),
            POSITION: position,
            FINGERPRINT: fingerprint(state),
        }
        if found is not None:
            documents[location.VALIDATION] = found
            if self.is_better(found):
                self.best = step, found["average_precision"] or 0.0
        self.latest = step
        if self._manager is None:
            return
        items: dict[str, Any] = {name: ocp.args.JsonSave(values) for name, values in documents.items()}
        items[location.MODEL] = ocp.args.PyTreeSave(trees[location.MODEL])
        items[TRAINING] = ocp.args.StandardSave(trees[TRAINING])
        with self._writing():
            self._wait_for_copy()
            self._manager.save(step, args=ocp.args.Composite(**items))
        if self._run.is_remote:
            self._copying = self._copier.submit(self._copy)

    def restore(self, described: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores the newest readable checkpoint: the state, sharded as `described`, and the data position.

        Newer checkpoints that are damaged are moved to the folder `damaged` beside `checkpoints`, with a warning.

        Raises:
          UserError: none can be read; they stay where they are.
        """
        damaged: list[tuple[int, str]] = []
        for step in sorted(_steps(self.directory), reverse=True):
            try:
                found = self._restore(step, described)
            except Exception as error:  # Orbax and tensorstore raise many kinds for damaged files
                damaged.append((step, brief(error)))
                continue
            self._set_aside(damaged)
            return found
        step, reason = damaged[0]
        more = f", nor from {len(damaged) - 1} before it" if len(damaged) > 1 else ""
        raise UserError(
            f"cannot resume from {self.directory / str(step)}{more}: {reason}; give another --workdir to start anew"
        )

    def close(self) -> None:
        """Waits until the last save is on disk, and on the store, and closes Orbax's manager."""
        with self._writing():
            self._copier.shutdown()
            self._wait_for_copy()
            if self._manager:
                self._manager.wait_until_finished()
        if self._manager:
            self._manager.close()

    def _copy(self) -> None:
        """Copies a checkpoint to the store when it is whole."""
        assert self._manager is not None
        self._manager.wait_until_finished()
        try:
            self._run.push()
        except UserError as error:
            raise UserError(f"{error}; the same command resumes from the checkpoint before") from error

    def _wait_for_copy(self) -> None:
        if self._copying:
            self._copying.result()

    def _restore(self, step: int, described: TrainState) -> tuple[TrainState, dict[str, Any]]:
        place = self.directory / str(step)
        _, tree = checkpoint.restore(place)
        model = nnx.merge(self._graphdef, described.params, described.stats)
        checkpoint.set_model_tree(model, tree, str(place))
        _, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, stats = states
        found = {item: json_file.read(place / item / "metadata", "") for item in (POSITION, FINGERPRINT)}
        by_position = isinstance(found[FINGERPRINT], list)  # as versions before this one saved the state
        rest = _rest(described)
        leaves = _named(rest)
        keys = [f"{index:05d}" for index in range(len(leaves))] if by_position else list(leaves)
        wanted = dict(zip(keys, leaves.values(), strict=True))
        arrays = checkpoint.read_item(place / TRAINING, wanted, f"{place}: not the state of this run")
        # Each process places its own parts; `device_put` would compare the whole arrays between all processes.
        placed = [
            jax.make_array_from_callback(leaf.shape, leaf.sharding, arrays[key].__getitem__)
            for key, leaf in wanted.items()
        ]
        restored = jax.tree.unflatten(jax.tree.structure(rest), placed)
        count, weights = restored["step"], restored["params"]
        good = jax.make_array_from_callback((), described.gone_bad_at.sharding, np.zeros((), np.int32).__getitem__)
        ema = None if weights is None else params
        state = TrainState(count, params if ema is None else weights, stats, restored["opt_state"], ema, good)
        expected = fingerprint(state)
        if found[FINGERPRINT] != (list(expected.values()) if by_position else expected):
            raise ValueError("its numbers are not those that were saved")
        position = found[POSITION]
        if not isinstance(position, dict) or position.get("next_index") != step or int(count) != step:
            raise ValueError(f"{position!r} is no position in the data of step {step}")
        return state, position

    def _set_aside(self, damaged: Sequence[tuple[int, str]]) -> None:
        for step, reason in damaged:
            target = self.directory.parent / DAMAGED / str(step)
            if hosts.is_first() or self._apart:
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
            if hosts.is_first():
                place = storage.join(self._run.name, DAMAGED, target.name)
                print(
                    f"warning: the checkpoint of step {step} is damaged ({reason}); it is now {place}, and the one "
                    "before is used",
                    file=sys.stderr,
                    flush=True,
                )
        if damaged:
            hosts.wait_for_all("damaged checkpoints are set aside")
            if self._manager:
                self._manager.reload()
            self.best = self._find_best()
            self.latest = max(_steps(self.directory), default=0)

    def _find_best(self) -> tuple[int, float] | None:
        best = location.best_step(self.directory)
        return None if best is None else (best, location.validation_of(self.directory / str(best)) or 0.0)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a full disk, during this save or the one before, into a UserError."""
        try:
            yield
        except (ValueError, OSError) as error:  # tensorstore raises either
            for unfinished in _unfinished(self.directory):  # to free the disk space that it takes
                remove_from_under(unfinished)
            raise UserError(
                f"cannot write a checkpoint to {self.directory}: {checkpoint.cause(error)}; "
                "make room, and the same command resumes from the checkpoint before"
            ) from error


def _steps(directory: Path) -> list[int]:
    """The steps of all checkpoints, damaged ones included."""
    return [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]


def _fetched(leaf: jax.Array) -> np.ndarray:
    """The values of an array that may be divided among the devices of several processes; all of them call this."""
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    return multihost_utils.process_allgather(leaf, tiled=True)


class _Best:
    """Orbax's preservation policy that keeps the checkpoint with the best validation."""

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        best = self._checkpoints.best
        return [best is not None and info.step == best[0] for info in checkpoints]


def fingerprint(state: TrainState) -> dict[str, int]:
    """A checksum for each array of a training state by name, which any changed or moved bit changes.

    Integer arithmetic modulo 2^32, so that it is the same on any number of devices.
    """
    leaves = _named(state)
    del leaves["gone_bad_at"]  # 0 in every saved state, and not saved
    return dict(zip(leaves, map(int, jax.device_get(_fingerprints([*leaves.values()]))), strict=True))


@jax.jit
def _fingerprints(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_fingerprint(leaf) for leaf in leaves]


@jax.jit  # traced once for all arrays of a shape
def _fingerprint(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    # Each element gets its own factor, so that swapped values are noticed; odd, as an even one would lose the top bit.
    factor = jnp.ones((), jnp.uint32)
    for axis, multiplier in enumerate((2654435761, 2246822519, 3266489917, 668265263, 374761393)[: leaf.ndim]):
        factor = factor + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(multiplier)
    return jnp.sum(bits * (2 * factor + 1), dtype=jnp.uint32)


def _rest(state: TrainState) -> dict[str, Any]:
    """The state without the items `model` and `position`. An OrderedDict, because JAX sorts the keys of a dict."""
    weights = None if state.ema is None else state.params
    return collections.OrderedDict(step=state.step, opt_state=state.opt_state, params=weights)


def _named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by name, such as `opt_state/groups/global/momentum/buffer/fc1/kernel`."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path: tuple[Any, ...]) -> str:
    """A key path as names joined by slashes, without the wrappers of NNX (`value`) and Optax (`inner_state`)."""
    names = [str(getattr(entry, "key", getattr(entry, "name", ""))) for entry in path]
    return "/".join(name for name in names if name not in ("value", "inner_state", "inner_states"))
