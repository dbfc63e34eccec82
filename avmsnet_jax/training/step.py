"""One training step, as a pure function of the state and a batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from avmsnet_jax.models.avmsnet import AVMSNet


class TrainState(NamedTuple):
    """Everything that a step changes. `step` counts the steps done."""

    step: jax.Array
    params: nnx.State
    stats: nnx.State
    opt_state: optax.OptState


Loss = Callable[[jax.Array, jax.Array], jax.Array]
Step = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, jax.Array]]


def bce(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean binary cross-entropy of `logits` (B,) against `labels` (B,) in 0-1."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))


def double_sigmoid(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The released code's loss: cross-entropy *with logits* of what already is a sigmoid, so never below 0.31."""
    return bce(jax.nn.sigmoid(logits), labels)


LOSSES: dict[str, Loss] = {"bce": bce, "double_sigmoid": double_sigmoid}


def split(model: AVMSNet, optimizer: optax.GradientTransformation) -> tuple[Any, TrainState]:
    """The static part of `model`, set to training, and the state that training starts from."""
    model.train()
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = states
    return graphdef, TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))


def make_step(graphdef: Any, optimizer: optax.GradientTransformation, loss: Loss) -> Step:
    """A jitted step: (state, batch) -> (state, loss). The state handed in is donated and cannot be used again.

    The batch has `clip` (B, T, H, W, 3) uint8, `sound` (B, S) float32 and `label` (B,) float32. Sharded over the mesh's
    `data` axis, it makes gradients and BN statistics global.
    """

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, jax.Array]:
        def forward(params: nnx.State) -> tuple[jax.Array, nnx.State]:
            # A copy, as a forward pass changes the statistics, and those of `state` belong to another trace.
            model = nnx.merge(graphdef, params, state.stats, copy=True)
            value = loss(model(batch["clip"], batch["sound"]).logits, batch["label"])
            return value, nnx.state(model, nnx.BatchStat)

        (value, stats), grads = jax.value_and_grad(forward, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, stats, opt_state), value

    return jax.jit(step, donate_argnums=0)
