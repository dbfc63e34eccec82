"""Finds the cause of a loss, gradient or statistic that is not finite."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax import xla
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.errors import UserError, few
from avmsnet_jax.training.optimizer import parameter_path
from avmsnet_jax.training.step import LOSSES, TrainState, micro_batches

_LOWER = "lower --config.optimizer.learning_rate, or set --config.optimizer.clip_norm"


class NotFinite(NamedTuple):
    """A step whose loss, gradient or new statistics are NaN or infinite."""

    step: int
    loss: float
    gradient_norm: float

    def __str__(self) -> str:
        if not np.isfinite(self.loss):
            what = f"the loss is {self.loss}"
        elif not np.isfinite(self.gradient_norm):
            what = "the gradient is not finite"
        else:
            what = "BN statistics are not finite"
        return f"{what} at step {self.step}"


def explained(
    bad: NotFinite,
    graphdef: Any,
    config: Config,
    mesh: Mesh,
    state: TrainState,
    batches: pipeline.Batches,
    latest: int,
) -> UserError:
    """The error that ends the run: repeats the bad step, which left the state unchanged, to name the cause.

    Args:
      bad: the step.
      graphdef: the static part of the network.
      config: of the run.
      mesh: the devices.
      state: after the step or later ones.
      batches: those of the run; closed here.
      latest: the step of the newest checkpoint; 0 if there is none.
    """
    batches.set_state({"next_index": bad.step - 1})
    batch = next(batches)
    batches.close()
    cause = find(graphdef, config, mesh, state, batch)
    kept = f"the checkpoint of step {latest} is kept" if latest else "none was saved"
    return UserError(f"{bad}: {cause} ({kept})")


def find(graphdef: Any, config: Config, mesh: Mesh, state: TrainState, batch: pipeline.Batch) -> str:
    """Repeats a step and names the first thing in it that is not finite, and a remedy.

    Looks, in this order, at the batch, the parameters and statistics, the activations from the stem on, and the
    gradients and new statistics. Arguments as for `explained`; `batch` is this process's part.
    """
    for name in ("sound", "label"):
        bad = ~np.isfinite(batch[name]).reshape(len(batch[name]), -1).all(axis=1)
        if bad.any():
            clip = int(np.flatnonzero(bad)[0])
            where = f"frame {int(batch['frame'][clip])} of {batch['video'][clip]}"
            return f"the {name} of the clip at {where} is not finite; prepare the data again"
    weights = jax.jit(_whether_finite)({"parameters": state.params, "statistics": state.stats})
    if wrong := _not_finite(weights):
        return f"before the step {few(wrong)} were not finite; start from other weights, or an earlier checkpoint"

    run = xla.jit(_flags(graphdef, config), mesh_lib.platform(mesh), out_shardings=mesh_lib.replicated(mesh))
    parts, group = config.train.accumulate, config.train.norm_clips or 1
    for index in range(parts):
        part = {name: micro_batches(batch[name], parts, group)[index] for name in ("clip", "sound", "label")}
        seen, gradients, statistics = jax.device_get(run(state.params, state.stats, mesh_lib.place_batch(mesh, part)))
        stages = [name for name in (*_ORDER, *seen) if name in seen and not seen[name]]
        if stages:
            return f"the activations of {stages[0]} are the first that are not finite; {_LOWER}"
        if wrong := _not_finite(gradients):
            return f"the gradient of {few(wrong)} is not finite; {_LOWER}"
        if wrong := _not_finite(statistics):
            return f"the spread of what reaches {few(wrong)} is too large for a float32; {_LOWER}"
    return f"the gradient is too large for its norm to be a float32; {_LOWER}"


def _flags(graphdef: Any, config: Config) -> Callable[..., tuple[Any, Any, Any]]:
    """A function that says of each activation, gradient and new BN statistic whether it is finite."""

    def forward(params: nnx.State, stats: nnx.State, placed: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        model = nnx.merge(graphdef, params, stats, copy=True)
        out = model(placed["clip"], placed["sound"])
        value = LOSSES[config.train.loss](out.logits, placed["label"], config.train.positive_weight)
        return value, ({**out.activations, "logits": out.logits}, nnx.state(model, nnx.BatchStat))

    def backward(params: nnx.State, stats: nnx.State, placed: dict[str, jax.Array]) -> tuple[Any, Any, Any]:
        grads, (seen, after) = jax.grad(forward, has_aux=True)(params, stats, placed)
        return _whether_finite(seen), _whether_finite(grads), _whether_finite(after)

    return backward


# The order of the forward pass; `jit` returns dictionaries sorted by key.
_ORDER = ("stem", "layer1", "layer2", "layer3", "soundnet", "adjust", "fusion", "fc1", "fc2", "logits")


def _whether_finite(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)


def _not_finite(flags: Any) -> list[str]:
    return [parameter_path(path) for path, flag in jax.tree.leaves_with_path(flags) if not flag]
