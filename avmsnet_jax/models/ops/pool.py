"""Maximum pooling, as in PyTorch: of equal values the first gets the gradient, and what is no number stays none.

It is chosen by comparing the values, not by looking which of them equals the maximum (`jnp.maximum`, `jnp.max`):
computed a second time for the gradient, none might.
"""

import jax
import jax.numpy as jnp
from jax import lax


def cubes(x: jax.Array) -> jax.Array:
    """3x3x3 maximum, stride 2, one cell of padding: (B, T, H, W, C), sizes even, to half of T, H and W.

    Axis by axis, and as maxima of slices: `reduce_window` takes twice as long on CPU and its gradient four times.
    """
    for axis in (3, 2, 1):  # the first of equal values is the first in this order
        even, odd = (x[(slice(None),) * axis + (slice(start, None, 2),)] for start in (0, 1))
        before = [(0, 0)] * x.ndim
        before[axis] = (1, 0)
        last = lax.slice_in_dim(jnp.pad(odd, before, constant_values=-jnp.inf), 0, odd.shape[axis], axis=axis)
        x = _larger(_larger(last, even), odd)
    return x


def runs(x: jax.Array, size: int) -> jax.Array:
    """The maximum of each `size` steps, a power of two: (B, S, C) to (B, S // size, C), without what is left over."""
    steps = x.shape[1] // size
    x = x[:, : steps * size].reshape(len(x), steps, size, -1)
    while x.shape[2] > 1:
        x = _larger(x[:, :, ::2], x[:, :, 1::2])
    return x[:, :, 0]


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
