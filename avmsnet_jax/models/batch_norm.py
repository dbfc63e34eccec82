"""Batch normalisation with PyTorch's semantics."""

import jax
import jax.numpy as jnp
from flax import nnx

EPSILON = 1e-5
MOMENTUM = 0.1  # PyTorch's: the weight of the *new* value


class BatchNorm(nnx.Module):
    """Normalises over every axis but the last, in float32 whatever it is given.

    `flax.nnx.BatchNorm` differs from PyTorch's in what it stores: the biased variance of the batch. PyTorch
    normalises with the biased and stores the *unbiased* one, n / (n - 1) times larger: a third larger for a
    linear layer at batch 4. Resumed and converted training follows PyTorch only with the latter.

    Under `jit` over a mesh the mean over the batch axis is global, so statistics are synchronised between devices.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((channels,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((channels,), jnp.float32))
        self.use_running_average = False  # what nnx.Module.eval() and .train() set

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `x` (B, ..., channels); the result has the dtype of `x`."""
        scale, bias = self.scale[...], self.bias[...]
        if self.use_running_average:
            gain = scale * jax.lax.rsqrt(self.var[...] + EPSILON)
            return (x.astype(jnp.float32) * gain + (bias - self.mean[...] * gain)).astype(x.dtype)
        y, mean, var = normalise(x.astype(jnp.float32), scale, bias)
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        self.mean[...] = (1 - MOMENTUM) * self.mean[...] + MOMENTUM * mean
        self.var[...] = (1 - MOMENTUM) * self.var[...] + MOMENTUM * unbiased
        return y.astype(x.dtype)


@jax.custom_vjp
def normalise(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises `x` (B, ..., C) float32 by its own statistics.

    The gradient is written out (Ioffe and Szegedy 2015, section 3), which takes half the passes over `x` that
    differentiating the formula does.

    Returns:
      the normalised x times `scale` plus `bias`; the mean (C,); the biased variance (C,). The statistics are for the
      running averages: no gradient flows through them.
    """
    mean = _channel_mean(x)
    # Two passes, as E[x^2] - E[x]^2 loses all digits where the mean is large against the spread.
    var = _channel_mean(jnp.square(x - mean))
    gain = scale * jax.lax.rsqrt(var + EPSILON)
    return (x - mean) * gain + bias, mean, var


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple:
    y, mean, var = normalise(x, scale, bias)
    return (y, mean, var), (x, scale, mean, var)


def _backward(residuals: tuple, cotangents: tuple) -> tuple:
    x, scale, mean, var = residuals
    dy = cotangents[0]
    inverse = jax.lax.rsqrt(var + EPSILON)
    normalised = (x - mean) * inverse
    mean_dy, mean_product = _channel_mean(dy), _channel_mean(dy * normalised)
    count = x.size // x.shape[-1]
    dx = scale * inverse * (dy - mean_dy - normalised * mean_product)
    return dx, mean_product * count, mean_dy * count


normalise.defvjp(_forward, _backward)


def _channel_mean(x: jax.Array) -> jax.Array:
    """The mean of `x` (B, ..., C) float32 for each channel, (C,)."""
    if jax.default_backend() != "cpu":
        return jnp.mean(x, tuple(range(x.ndim - 1)))
    # XLA on CPU reduces leading axes with strided scalar code; as a product with ones it takes a sixth of the time.
    # Clip by clip first: one running float32 sum over a whole batch would lose digits.
    clips = x.reshape(x.shape[0], -1, x.shape[-1])
    ones = jnp.full((clips.shape[1],), 1 / clips.shape[1], x.dtype)
    return jnp.mean(jnp.einsum("n,bnc->bc", ones, clips), axis=0)
