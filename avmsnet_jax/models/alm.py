"""The audio localization module (ALM): relates the sound to places in the picture."""

import jax
import jax.numpy as jnp
from flax import nnx

from avmsnet_jax.models import init


class ALM(nnx.Module):
    """A bilinear form between the visual features at each place and the sound features.

    Args:
      visual: channels of the visual features.
      sound: channels of the sound features.
      width: channels that both are mapped to.
      channels: channels of the output.
      dtype: compute dtype.
      rngs: for the initial weights.
    """

    def __init__(self, visual: int, sound: int, width: int, channels: int, *, dtype: str, rngs: nnx.Rngs):
        self.visual = nnx.Linear(visual, width, dtype=dtype, kernel_init=init.kaiming_fan_out, rngs=rngs)
        self.sound = nnx.Linear(sound, width, dtype=dtype, kernel_init=init.kaiming_fan_out, rngs=rngs)
        self.kernel = nnx.Param(init.bilinear(rngs.params(), (channels, width, width)))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.dtype = dtype

    def __call__(self, visual: jax.Array, sound: jax.Array) -> jax.Array:
        """Maps `visual` (B, H, W, C) and `sound` (B, S) to (B, H, W, channels): out_k = v W_k a + c_k."""
        v = nnx.relu(self.visual(visual))  # (B, 7, 7, 128)
        a = nnx.relu(self.sound(sound))  # (B, 128)
        # The sound is the same at every place, so contracting with it first leaves one matrix per clip, (B, 128, 64).
        form = jnp.einsum("kij,bj->bik", self.kernel[...].astype(self.dtype), a)
        return jnp.einsum("bhwi,bik->bhwk", v, form) + self.bias[...].astype(self.dtype)
