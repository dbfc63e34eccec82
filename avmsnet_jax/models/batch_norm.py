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
        """Normalises `x` (..., channels); the result has the dtype of `x`."""
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            axes = tuple(range(x.ndim - 1))
            wide = x.astype(jnp.float32)
            mean = jnp.mean(wide, axes)
            # Two passes, as E[x^2] - E[x]^2 loses all digits where the mean is large against the spread.
            var = jnp.mean(jnp.square(wide - mean), axes)
            count = x.size // x.shape[-1]
            unbiased = var * (count / max(count - 1, 1))
            self.mean[...] = (1 - MOMENTUM) * self.mean[...] + MOMENTUM * jax.lax.stop_gradient(mean)
            self.var[...] = (1 - MOMENTUM) * self.var[...] + MOMENTUM * jax.lax.stop_gradient(unbiased)
        gain = self.scale[...] * jax.lax.rsqrt(var + EPSILON)
        return (x.astype(jnp.float32) * gain + (self.bias[...] - mean * gain)).astype(x.dtype)
