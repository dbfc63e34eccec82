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
        """Starts to save `state` and the data iterator's `position`; training goes on meanwhile."""
        model = nnx.merge(graphdef, state.params, state.stats)
        with self._writing():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    **{
                        checkpoint.MODEL: ocp.args.PyTreeSave(checkpoint.model_tree(model)),
                        checkpoint.CONFIG: ocp.args.JsonSave(config_lib.to_dict(self._config.model)),
                        TRAINING: ocp.args.StandardSave(_numbered((state.step, state.opt_state))),
                        POSITION: ocp.args.JsonSave(position),
                    }
                ),
            )

    def restore(self, graphdef: Any, state: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The latest checkpoint, placed as `state` is, and the data position; None if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        place = self.directory / str(step)
        _, tree = checkpoint.restore(place)
        model = nnx.merge(graphdef, state.params, state.stats)
        checkpoint.set_model_tree(model, tree, str(place))
        _, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
        rest = (state.step, state.opt_state)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _numbered(rest))
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    **{TRAINING: ocp.args.StandardRestore(abstract), POSITION: ocp.args.JsonRestore()}
                ),
            )
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"cannot resume from {place}: {checkpoint.brief(error)}; give another --workdir to start anew"
            ) from error
        count, opt_state = jax.tree.unflatten(jax.tree.structure(rest), list(found[TRAINING].values()))
        return TrainState(count, states[0], states[1], opt_state), found[POSITION]

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


def _numbered(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by number: Orbax then needs to know neither NNX nor Optax."""
    return {f"{index:05d}": leaf for index, leaf in enumerate(jax.tree.leaves(tree))}
