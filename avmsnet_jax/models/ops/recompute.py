"""Activation checkpointing: the backward pass recomputes activations, so that they need not be stored."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from avmsnet_jax.models.ops import dependency
from avmsnet_jax.models.ops.platform import for_platform

Pure = Callable[[nnx.State, nnx.State, jax.Array], tuple[jax.Array, nnx.State]]


def recomputed(module: Any, x: jax.Array, *, platform: str | None = None) -> jax.Array:
    """`module(x)`, storing only `x` (B, T, H, W, C) for the backward pass.

    The BN statistics of `module` are updated once, in the forward pass: recomputation starts from the statistics before
    it and drops its update. `platform` as for `for_platform`.
    """
    graphdef, *states = nnx.split(module, nnx.Param, nnx.BatchStat)
    params, stats = states

    def forward(params: nnx.State, stats: nnx.State, x: jax.Array) -> tuple[jax.Array, nnx.State]:
        copy = nnx.merge(graphdef, params, stats, copy=True)
        return copy(x), nnx.state(copy, nnx.BatchStat)

    y, after = _checkpointed(forward, platform)(params, stats, x)
    nnx.update(module, after)
    return y


def _checkpointed(forward: Pure, platform: str | None) -> Pure:
    """`forward` with a gradient that recomputes it first.

    `jax.checkpoint` does the same, but XLA for CPU drops its barrier between the two computations and merges them:
    memory rises by a quarter instead of halving.
    """

    def backward(inputs: tuple, cotangents: tuple[jax.Array, nnx.State]) -> tuple:
        params, stats, x = inputs
        _, pullback = jax.vjp(forward, params, stats, for_platform(platform, _after, x, cotangents[0]))
        return pullback(cotangents)

    function = jax.custom_vjp(forward)
    function.defvjp(lambda *inputs: (forward(*inputs), inputs), backward)
    return function


def _after(platform: str, x: jax.Array, dy: jax.Array) -> jax.Array:
    """`x` with a data dependency on `dy`, so that XLA cannot schedule the recomputation before `dy` is known.

    Both are (B, T, H, W, C), and only B must be the same.
    """
    if platform != "cpu":
        return jax.lax.optimization_barrier((x, dy))[0]
    return dependency.after(x, dy[:, :1, :1, :1, :1])
