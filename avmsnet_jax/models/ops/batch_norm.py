"""Batch normalization with PyTorch's semantics."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from avmsnet_jax.models.ops.platform import for_platform

EPSILON = 1e-5
MOMENTUM = 0.1  # PyTorch's: the weight of the *new* value
_ROW = 2048  # values in a row that is summed
_PIECE = 2**16  # values in a piece, which fits into the CPU cache

Terms = tuple[jax.Array, ...]


class BatchNorm(nnx.Module):
    """Normalizes over every axis but the last, in float32 for any input dtype.

    `flax.nnx.BatchNorm` stores the biased variance of the batch. PyTorch normalizes by the biased variance but stores
    the *unbiased* one, n / (n - 1) times larger: a third larger for a linear layer at batch 4. To train as PyTorch
    does, this layer does the same.

    With `norm_clips`, each group of that many consecutive clips of the batch is normalized by its own statistics, as
    `torch.nn.DataParallel` does with the clips of each GPU. The running estimates take the mean over the groups
    (DataParallel keeps those of the first GPU), with the unbiased variance of a group. Groups depend on the batch
    alone, not on the number of devices; if each device holds whole groups, devices do not wait for each other.
    Without `norm_clips`, under `jit` over a mesh, the statistics are those of the whole batch on all devices.

    Args:
      channels: size of the last axis.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((channels,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((channels,), jnp.float32))
        self.use_running_average = False  # set by nnx.Module.eval() and .train()
        self.platform: str | None = None  # see AVMSNet
        self.norm_clips = 0  # 0 = all clips of the batch

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes `x` (B, ..., channels); the result has the dtype of `x`.

        Raises:
          ValueError: in training, the batch is larger than `norm_clips` and not a multiple of it.
        """
        scale, bias = self.scale[...], self.bias[...]
        if self.use_running_average:
            gain = scale * jax.lax.rsqrt(self.var[...] + EPSILON)
            return (x.astype(jnp.float32) * gain + (bias - self.mean[...] * gain)).astype(x.dtype)
        groups = self._groups(len(x))
        count = x.size // (x.shape[-1] * groups)
        if groups == 1:
            y, mean, var = normalize(x.astype(jnp.float32), scale, bias, self.platform)
        else:
            parts = x.astype(jnp.float32).reshape(groups, -1, *x.shape[1:])
            own = jax.vmap(lambda part: normalize(part, scale, bias, self.platform))
            y, means, variances = own(parts)
            y, mean, var = y.reshape(x.shape), means.mean(axis=0), variances.mean(axis=0)
        unbiased = var * (count / max(count - 1, 1))
        self.mean[...] = (1 - MOMENTUM) * self.mean[...] + MOMENTUM * mean
        self.var[...] = (1 - MOMENTUM) * self.var[...] + MOMENTUM * unbiased
        return y.astype(x.dtype)

    def _groups(self, clips: int) -> int:
        if not self.norm_clips or clips <= self.norm_clips:
            return 1
        if clips % self.norm_clips:
            raise ValueError(f"{clips} clips cannot be divided into groups of {self.norm_clips}")
        return clips // self.norm_clips


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, platform: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes `x` (B, ..., C) float32 by its own statistics.

    The gradient is explicit (Ioffe and Szegedy 2015, section 3), which takes half as many passes over `x` as automatic
    differentiation.

    Returns:
      the normalized x times `scale` plus `bias`; the mean (C,); the biased variance (C,). No gradient flows through the
      statistics, which are for the running averages.
    """
    mean, var = moments(x, platform)
    gain = scale * jax.lax.rsqrt(var + EPSILON)
    return (x - mean) * gain + bias, mean, var


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, platform: str | None) -> tuple:
    y, mean, var = normalize(x, scale, bias, platform)
    return (y, mean, var), (x, scale, mean, var)


def _backward(platform: str | None, residuals: tuple, cotangents: tuple) -> tuple:
    x, scale, mean, var = residuals
    dy = cotangents[0]
    inverse = jax.lax.rsqrt(var + EPSILON)
    mean_dy, mean_product = _channel_means(platform, _gradients, (x, dy), (mean, inverse))
    count = x.size // x.shape[-1]
    dx = scale * inverse * (dy - mean_dy - (x - mean) * inverse * mean_product)
    return dx, mean_product * count, mean_dy * count


normalize.defvjp(_forward, _backward)


def moments(x: jax.Array, platform: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance, (C,) each, of `x` (B, ..., C) over all axes but the last.

    Two passes, because E[x^2] - E[x]^2 loses all digits if the mean is large relative to the spread.
    """
    (mean,) = _channel_means(platform, _values, (x,), ())
    (var,) = _channel_means(platform, _squares, (x,), (mean,))
    return mean, var


def _values(x: jax.Array) -> Terms:
    return (x,)


def _squares(x: jax.Array, mean: jax.Array) -> Terms:
    return (jnp.square(x - mean),)


def _gradients(x: jax.Array, dy: jax.Array, mean: jax.Array, inverse: jax.Array) -> Terms:
    return dy, dy * ((x - mean) * inverse)


def _means(terms: Callable[..., Terms], arrays: Terms, constants: Terms) -> Terms:
    axes = tuple(range(arrays[0].ndim - 1))
    return tuple(jnp.mean(term, axes) for term in terms(*arrays, *constants))


@functools.partial(jax.jit, static_argnums=0)  # otherwise each call outside `jit` would compile the loop
def _means_in_pieces(terms: Callable[..., Terms], arrays: Terms, constants: Terms) -> Terms:
    """The form for CPU, where XLA would write the terms to memory, then reduce them slowly.

    Summed in pieces, the terms stay in the CPU cache. A piece has some positions of all clips, so that each device sums
    those of its own clips.
    """
    batch, *places, channels = arrays[0].shape
    count = math.prod(places)
    piece = max((n for n in range(1, count + 1) if count % n == 0 and batch * n * channels <= _PIECE), default=1)
    arrays = tuple(x.reshape(batch, count, channels) for x in arrays)

    def add(index: jax.Array, totals: Terms) -> Terms:
        cut = (jax.lax.dynamic_slice_in_dim(x, index * piece, piece, axis=1) for x in arrays)
        return tuple(total + term for total, term in zip(totals, terms(*cut, *constants), strict=True))

    number = len(jax.eval_shape(terms, *arrays, *constants))
    nothing = jnp.zeros((batch, piece, channels), arrays[0].dtype)
    totals = jax.lax.fori_loop(0, count // piece, add, (nothing,) * number)
    # Summing is faster over long rows, so concatenate several positions into one row.
    beside = max((n for n in range(1, _ROW // channels + 1) if piece % n == 0), default=1)
    rows = (jnp.sum(total.reshape(batch, -1, beside * channels), axis=1) for total in totals)
    return tuple(jnp.sum(row.reshape(-1, channels), axis=0) / (batch * count) for row in rows)


def _channel_means(platform: str | None, terms: Callable[..., Terms], arrays: Terms, constants: Terms) -> Terms:
    """The mean over all axes but the last, (C,), of each of `terms(*arrays (B, ..., C), *constants (C,))`."""

    def chosen(platform: str, arrays: Terms, constants: Terms) -> Terms:
        return (_means_in_pieces if platform == "cpu" else _means)(terms, arrays, constants)

    return for_platform(platform, chosen, arrays, constants)
