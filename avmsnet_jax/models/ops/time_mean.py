"""The mean over time."""

import jax
import jax.numpy as jnp

from avmsnet_jax.models.ops.platform import for_platform


def time_mean(x: jax.Array, *, platform: str | None = None) -> jax.Array:
    """The mean of `x` (B, T, H, W, C) over T; `platform` as for `for_platform`."""
    return for_platform(platform, lambda name, x: _as_product(x) if name == "cpu" else jnp.mean(x, axis=1), x)


def _as_product(x: jax.Array) -> jax.Array:
    """As a product with ones: XLA on CPU would fuse a sum into its consumers and recompute it for each kernel tap."""
    batch, steps = x.shape[:2]
    ones = jnp.ones((batch, steps), x.dtype)
    total = jnp.einsum("bt,btn->bn", ones, x.reshape(batch, steps, -1), preferred_element_type=jnp.float32)
    return (total / steps).astype(x.dtype).reshape(batch, *x.shape[2:])
