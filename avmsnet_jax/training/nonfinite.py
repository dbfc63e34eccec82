"""What is to blame for a loss or a gradient that is not a finite number."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax import xla
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.training.optimizer import parameter_path
from avmsnet_jax.training.step import LOSSES, TrainState, micro_batches
from avmsnet_jax.weights.checkpoint import few

_LOWER = "lower --config.optimizer.learning_rate, or set --config.optimizer.clip_norm"


def find(graphdef: Any, config: Config, mesh: Mesh, state: TrainState, batch: pipeline.Batch) -> str:
    """Repeats the step on `batch` and names the first thing in it that is not finite, and what can be done.

    Looks, in this order, at the batch, the parameters and statistics, the activations from the stem on, and the
    gradients and new statistics.

    Args:
      graphdef: the static part of the network.
      config: that of the run.
      mesh: the devices.
      state: as it was before the step.
      batch: this process's part of what the step took.
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
    """Of a forward and a backward pass: whether each activation, gradient and new BN statistic is finite."""

    def forward(params: nnx.State, stats: nnx.State, placed: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        model = nnx.merge(graphdef, params, stats, copy=True)
        out = model(placed["clip"], placed["sound"])
        value = LOSSES[config.train.loss](out.logits, placed["label"], config.train.positive_weight)
        return value, ({**out.activations, "logits": out.logits}, nnx.state(model, nnx.BatchStat))

    def backward(params: nnx.State, stats: nnx.State, placed: dict[str, jax.Array]) -> tuple[Any, Any, Any]:
        grads, (seen, after) = jax.grad(forward, has_aux=True)(params, stats, placed)
        return _whether_finite(seen), _whether_finite(grads), _whether_finite(after)

    return backward


# SoundNet runs beside the trunk; `jit` gives dictionaries back by name.
_ORDER = ("stem", "layer1", "layer2", "layer3", "soundnet", "adjust", "fusion", "fc1", "fc2", "logits")


def _whether_finite(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)


def _not_finite(flags: Any) -> list[str]:
    return [parameter_path(path) for path, flag in jax.tree.leaves_with_path(flags) if not flag]
