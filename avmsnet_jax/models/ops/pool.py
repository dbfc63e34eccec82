"""Maximum pooling as in PyTorch: ties send the gradient to the first maximum, and NaN propagates.

The gradient is chosen by comparing the values. The gradients of `jnp.maximum` and `jnp.max` compare the values with the
maximum instead; if XLA recomputes it in the backward pass and rounds differently, no value matches.
"""

import jax
import jax.numpy as jnp
from jax import lax


def cubes(x: jax.Array) -> jax.Array:
    """3x3x3 maximum, stride 2, padding 1: (B, T, H, W, C) with even T, H, W to half of each.

    Computed axis by axis as maxima of slices: `reduce_window` takes twice as long on CPU, its gradient four times.
    """
    for axis in (3, 2, 1):  # this order decides which of tied values is the first
        even, odd = (x[(slice(None),) * axis + (slice(start, None, 2),)] for start in (0, 1))
        before = [(0, 0)] * x.ndim
        before[axis] = (1, 0)
        last = lax.slice_in_dim(jnp.pad(odd, before, constant_values=-jnp.inf), 0, odd.shape[axis], axis=axis)
        x = _larger(_larger(last, even), odd)
    return x


def runs(x: jax.Array, size: int) -> jax.Array:
    """The maximum of each `size` steps, a power of two: (B, S, C) to (B, S // size, C); a remainder is dropped."""
    steps = x.shape[1] // size
    x = x[:, : steps * size].reshape(len(x), steps, size, -1)
    while x.shape[2] > 1:
        x = _larger(x[:, :, ::2], x[:, :, 1::2])
    return x[:, :, 0]


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
