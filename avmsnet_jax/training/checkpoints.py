"""A training run on disk: network, optimiser, step and data position saved as one item, so that none can lead."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx

from avmsnet_jax import config as config_lib
from avmsnet_jax.config import Config
from avmsnet_jax.errors import UserError
from avmsnet_jax.training.step import TrainState
from avmsnet_jax.weights import checkpoint

TRAINING, POSITION = "training", "position"


def begun(directory: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return any(path.name.isdigit() for path in directory.glob("*"))


class Checkpoints:
    """The checkpoints of a run, `directory/<step>/`. What `avmsnet_jax.load` reads of one are `model` and `config`."""

    def __init__(self, directory: Path, config: Config):
        self.directory = directory
        self._config = config
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=config.train.keep_checkpoints),
            item_names=(checkpoint.MODEL, checkpoint.CONFIG, TRAINING, POSITION),
        )

    def save(self, graphdef: Any, state: TrainState, position: dict[str, Any]) -> None:
        """Starts to save `state` and the data iterator's `position`; training goes on meanwhile.

        Where an average of the weights is kept, that is the model, and the weights go with the optimiser.
        """
        model = nnx.merge(graphdef, state.params if state.ema is None else state.ema, state.stats)
        with self._writing():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    **{
                        checkpoint.MODEL: ocp.args.PyTreeSave(checkpoint.model_tree(model)),
                        checkpoint.CONFIG: ocp.args.JsonSave(config_lib.to_dict(self._config.model)),
                        TRAINING: ocp.args.StandardSave(_numbered(_rest(state))),
                        POSITION: ocp.args.JsonSave(position),
                    }
                ),
            )

    def restore(self, graphdef: Any, described: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest checkpoint, its arrays placed as `described`, and the data position."""
        step = self._manager.latest_step()
        place = self.directory / str(step)
        _, tree = checkpoint.restore(place)
        model = nnx.merge(graphdef, described.params, described.stats)
        checkpoint.set_model_tree(model, tree, str(place))
        _, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
        params, stats = states
        rest = _rest(described)
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    **{TRAINING: ocp.args.StandardRestore(_numbered(rest)), POSITION: ocp.args.JsonRestore()}
                ),
            )
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"cannot resume from {place}: {checkpoint.brief(error)}; give another --workdir to start anew"
            ) from error
        count, opt_state, weights = jax.tree.unflatten(jax.tree.structure(rest), list(found[TRAINING].values()))
        ema = None if weights is None else params
        return TrainState(count, params if ema is None else weights, stats, opt_state, ema), found[POSITION]

    def close(self) -> None:
        """Waits for the last save to be on disk."""
        with self._writing():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns a full disk, of this save or of the one before, into a UserError."""
        try:
            yield
        except (ValueError, OSError) as error:  # what tensorstore makes of it
            cause = re.search(r"[^:]+(?= \[os_error_code)", str(error))
            reason = cause[0].strip() if cause else checkpoint.brief(error)
            raise UserError(
                f"cannot write a checkpoint to {self.directory}: {reason}; "
                "make room, and the same command resumes from the checkpoint before"
            ) from error


def _rest(state: TrainState) -> tuple[Any, ...]:
    """What the items `model` and `position` do not hold."""
    return state.step, state.opt_state, None if state.ema is None else state.params


def _numbered(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by number: Orbax then needs to know neither NNX nor Optax."""
    return {f"{index:05d}": leaf for index, leaf in enumerate(jax.tree.leaves(tree))}
