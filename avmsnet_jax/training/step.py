"""The training step, a pure function of the state and a batch."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax import xla
from avmsnet_jax.config import Config
from avmsnet_jax.models.avmsnet import AVMSNet
from avmsnet_jax.models.ops import dependency
from avmsnet_jax.models.ops.batch_norm import BatchNorm


class TrainState(NamedTuple):
    """The training state, which a step updates.

    Attributes:
      step: how many steps are done.
      params: the network's parameters.
      stats: its batch-norm statistics.
      opt_state: the optimizer's state.
      ema: the moving average of the parameters, if `train.ema_decay` is set.
      gone_bad_at: the first step whose loss, gradient or statistics were not finite, 0 = none. From that step on,
        nothing else in the state changes.
    """

    step: jax.Array
    params: nnx.State
    stats: nnx.State
    opt_state: optax.OptState
    ema: nnx.State | None
    gone_bad_at: jax.Array


class Measured(NamedTuple):
    """Measurements of a step.

    Attributes:
      loss: of the batch.
      gradient_norm: of the gradient by all parameters, before clipping.
      finite: whether loss, gradient and new statistics are finite, in this step and all before.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    finite: jax.Array


Batch = dict[str, jax.Array]
Loss = Callable[[jax.Array, jax.Array, float], jax.Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Measured]]
Gradients = Callable[[nnx.State, nnx.State, Batch], tuple[jax.Array, nnx.State, nnx.State]]


def bce(logits: jax.Array, labels: jax.Array, positive_weight: float = 1.0) -> jax.Array:
    """Mean binary cross-entropy of `logits` (B,) against `labels` (B,) in 0-1.

    With weight w of key clips and p = sigmoid(logit): the mean of -(w y log p + (1 - y) log(1 - p)). The same as
    torch's BCEWithLogitsLoss(pos_weight=w).
    """
    return jnp.mean(positive_weight * labels * jax.nn.softplus(-logits) + (1 - labels) * jax.nn.softplus(logits))


def double_sigmoid(logits: jax.Array, labels: jax.Array, positive_weight: float = 1.0) -> jax.Array:
    """The released code's loss: cross-entropy *with logits* applied to a sigmoid, so never below 0.31."""
    return bce(jax.nn.sigmoid(logits), labels, positive_weight)


LOSSES: dict[str, Loss] = {"bce": bce, "double_sigmoid": double_sigmoid}


def describe(
    config: Config, optimizer: optax.GradientTransformation, mesh: Mesh, platform: str = ""
) -> tuple[Any, TrainState, Callable[[], TrainState]]:
    """Describes the training state of the configured network without making any of its arrays.

    Args:
      config: the configuration.
      optimizer: by `make_optimizer`.
      mesh: the devices.
      platform: whose forms of the network's operations to use: "cpu", "gpu" or "tpu"; empty = that of the devices.

    Returns:
      the static part of the network; shape, dtype and sharding of every array of the state; and a function that makes
      the state with random weights by `train.seed`. Each array is created sharded, never whole on one device.
    """
    static = []

    def first() -> TrainState:  # one function, so that JAX traces it once for shapes and program
        model = AVMSNet(config.model, rngs=nnx.Rngs(config.train.seed))
        model.train()
        model.trunk.recompute = config.train.remat
        model.set_attributes(platform=platform or mesh_lib.platform(mesh))
        model.set_attributes(BatchNorm, norm_clips=config.train.norm_clips)
        graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
        static.append(graphdef)
        return begin(config, optimizer, *states)

    shapes = jax.eval_shape(first)
    described = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        mesh_lib.shardings(mesh, shapes),
    )
    return static[0], described, lambda: jax.jit(first, out_shardings=_shardings(described))()


def batch_shapes(config: Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and sharding of a batch of `train.batch_size` clips, to compile a step before there is data."""
    size, model, sharding = config.train.batch_size, config.model, mesh_lib.shared_batch(mesh)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "clip": ((size, model.frames, model.frame_size, model.frame_size, 3), jnp.uint8),
        "sound": ((size, model.audio_samples), jnp.float32),
        "label": ((size,), jnp.float32),
    }
    return {name: jax.ShapeDtypeStruct(*shape, sharding=sharding) for name, shape in shapes.items()}


def begin(config: Config, optimizer: optax.GradientTransformation, params: nnx.State, stats: nnx.State) -> TrainState:
    """The state before the first step, from a network's parameters and statistics."""
    ema = jax.tree.map(jnp.copy, params) if config.train.ema_decay else None
    step, gone_bad_at = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return TrainState(step, params, stats, optimizer.init(params), ema, gone_bad_at)


def make_step(
    graphdef: Any,
    optimizer: optax.GradientTransformation,
    config: Config,
    described: TrainState,
    platform: str = "",
) -> Step:
    """A jitted training step: (state, batch) -> (state, measured). The state passed in is donated.

    The batch has `clip` (B, T, H, W, 3) uint8, `sound` (B, S) float32 and `label` (B,) float32. Sharded over the
    mesh, its gradients are those of the whole batch. BN takes its statistics from groups of `train.norm_clips` clips,
    or from all clips where that is 0. With gradient accumulation (`train.accumulate`) the micro-batches hold whole
    groups, so that it changes nothing but the memory a step takes; where `norm_clips` is 0, a micro-batch is a group.

    A step that is not finite sets `TrainState.gone_bad_at` and changes nothing else, nor do the steps after it: the
    state before the failure is still there when the host looks at what was measured.

    Args:
      graphdef: by `describe`.
      optimizer: by `make_optimizer`.
      config: the configuration.
      described: by `describe`.
      platform: as for `describe`.
    """
    mesh: Mesh = described.step.sharding.mesh  # type: ignore[attr-defined]
    platform = platform or mesh_lib.platform(mesh)
    gradients = _gradients(graphdef, config, mesh, platform)
    squares = functools.partial(sum_of_squares, platform=platform, fsdp=mesh.shape["fsdp"])

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Measured]:
        value, stats, grads = gradients(state.params, state.stats, batch)
        norm = jnp.sqrt(jax.tree.reduce(jnp.add, jax.tree.map(squares, grads)))
        finite = jnp.isfinite(value) & jnp.isfinite(norm) & (state.gone_bad_at == 0)
        finite &= jax.tree.reduce(jnp.logical_and, jax.tree.map(lambda x: jnp.isfinite(x).all(), stats))

        def apply(state: TrainState) -> TrainState:
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            ema = state.ema
            if ema is not None:
                ema = optax.incremental_update(params, ema, 1 - config.train.ema_decay)
            return TrainState(state.step + 1, params, stats, opt_state, ema, state.gone_bad_at)

        def keep(state: TrainState) -> TrainState:
            first_bad = jnp.where(state.gone_bad_at == 0, state.step + 1, state.gone_bad_at)
            return state._replace(gone_bad_at=first_bad)

        if platform == "cpu":  # jnp.where on all parameters takes six times as long as lax.cond
            after = jax.lax.cond(finite, apply, keep, state)
        else:  # lax.cond may wait for the host
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), apply(state), keep(state))
        return after, Measured(value, norm, finite)

    return xla.jit(step, platform, donate_argnums=0, out_shardings=(_shardings(described), None))


def _gradients(graphdef: Any, config: Config, mesh: Mesh, platform: str) -> Gradients:
    """The function (params, stats, batch) -> (loss, new statistics, gradient by the parameters)."""
    loss, parts = LOSSES[config.train.loss], config.train.accumulate

    def whole(params: nnx.State, stats: nnx.State, batch: Batch) -> tuple[jax.Array, nnx.State, nnx.State]:
        def forward(params: nnx.State) -> tuple[jax.Array, nnx.State]:
            # A copy: the forward pass updates the statistics in place, and those of `stats` belong to another trace.
            model = nnx.merge(graphdef, params, stats, copy=True)
            if mesh.shape["fsdp"] > 1:
                model.fc1.dot_general = mesh_lib.shared_layer(mesh, model.fc1.dot_general)
            logits = model(batch["clip"], batch["sound"]).logits
            return loss(logits, batch["label"], config.train.positive_weight), nnx.state(model, nnx.BatchStat)

        (value, after), grads = jax.value_and_grad(forward, has_aux=True)(params)
        return value, after, grads

    def accumulated(params: nnx.State, stats: nnx.State, batch: Batch) -> tuple[jax.Array, nnx.State, nnx.State]:
        # Micro-batch i takes every n-th group from i on, so that each device already holds its share of each.
        micro = {name: micro_batches(x, parts, config.train.norm_clips or 1) for name, x in batch.items()}

        def add(total: tuple, part: Batch) -> tuple[tuple, None]:
            if platform == "cpu":  # or XLA computes micro-batches side by side
                known = jax.tree.reduce(jnp.add, jax.tree.map(lambda x: x.ravel()[0], total))
                part = part | {"clip": dependency.after(part["clip"], known)}
            return jax.tree.map(jnp.add, total, whole(params, stats, part)), None

        start = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), stats, params))
        # XLA on CPU gives Eigen only the convolutions outside of loops; the others take thirty times as long.
        total, _ = jax.lax.scan(add, start, micro, unroll=parts if platform == "cpu" else 1)
        # Each micro-batch moves the running estimates from the same values: the mean of these moves is the batch's.
        return jax.tree.map(lambda x: x / parts, total)

    return whole if parts == 1 else accumulated


def micro_batches(x: Any, parts: int, group: int) -> Any:
    """An array (B, ...) as (parts, B / parts, ...): part i has the groups i, i + parts, ... of `group` rows each."""
    group = min(group, len(x) // parts)
    return x.reshape(-1, parts, group, *x.shape[1:]).swapaxes(0, 1).reshape(parts, -1, *x.shape[1:])


def sum_of_squares(x: jax.Array, platform: str, fsdp: int = 1) -> jax.Array:
    """The sum of squares of a gradient. `fsdp` devices share the rows of a linear layer's.

    XLA on CPU would write all squares to memory before it adds them, so a large layer is added up in pieces.
    """
    if platform != "cpu" or x.ndim != 2 or x.size < 2**22:
        return jnp.sum(jnp.square(x))
    rows = math.gcd(len(x), 64 * fsdp)  # of a piece, which each device has a share of
    pieces = x.reshape(rows, -1, x.shape[1])

    def add(piece: int, total: jax.Array) -> jax.Array:
        return total + jnp.square(jax.lax.dynamic_index_in_dim(pieces, piece, axis=1, keepdims=False))

    return jnp.sum(jax.lax.fori_loop(0, pieces.shape[1], add, jnp.zeros((rows, x.shape[1]), x.dtype)))


def _shardings(described: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, described)
