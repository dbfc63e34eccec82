"""The audio localization module: which places of the picture does the sound belong to."""

import jax
import jax.numpy as jnp
from flax import nnx

from avmsnet_jax.models import init


class ALM(nnx.Module):
    """A bilinear form between what is seen at each place and what is heard."""

    def __init__(self, visual: int, sound: int, width: int, channels: int, *, dtype: str, rngs: nnx.Rngs):
        self.visual = nnx.Linear(visual, width, dtype=dtype, kernel_init=init.kaiming_fan_out, rngs=rngs)
        self.sound = nnx.Linear(sound, width, dtype=dtype, kernel_init=init.kaiming_fan_out, rngs=rngs)
        self.kernel = nnx.Param(init.bilinear(rngs.params(), (channels, width, width)))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.dtype = dtype

    def __call__(self, visual: jax.Array, sound: jax.Array) -> jax.Array:
        """Relates `visual` (B, H, W, C) to `sound` (B, S): (B, H, W, channels), out_k = v W_k a + c_k."""
        v = nnx.relu(self.visual(visual))
        a = nnx.relu(self.sound(sound))
        # The sound is the same at every place: contracting with it first leaves one matrix a clip.
        form = jnp.einsum("kij,bj->bik", self.kernel[...].astype(self.dtype), a)
        return jnp.einsum("bhwi,bik->bhwk", v, form) + self.bias[...].astype(self.dtype)
