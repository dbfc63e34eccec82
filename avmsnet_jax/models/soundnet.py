"""SoundNet's first seven convolutions (Aytar, Vondrick and Torralba 2016): waveform to features."""

import jax
import jax.numpy as jnp
from flax import nnx

from avmsnet_jax.errors import UserError
from avmsnet_jax.models import init
from avmsnet_jax.models.batch_norm import BatchNorm

# channels over the width, kernel, padding, pool (window = stride)
LAYERS = ((1, 64, 32, 8), (2, 32, 16, 8), (4, 16, 8, 1), (8, 8, 4, 1), (16, 4, 2, 4), (32, 4, 2, 1), (64, 4, 2, 2))
FEATURES = 64  # channels of the last layer over the width


def lengths(samples: int) -> list[int]:
    """Time steps after each convolution and each pool, for a waveform of `samples`."""
    found = []
    for _, kernel, padding, pool in LAYERS:
        samples = (samples + 2 * padding - kernel) // 2 + 1
        found.append(samples)
        if pool > 1:
            samples //= pool
            found.append(samples)
    return found


class SoundNet(nnx.Module):
    """Waveform (B, S) in +-256 to features (B, 64 x width): 1024 at the published width of 16."""

    def __init__(self, width: int, *, dtype: str, rngs: nnx.Rngs):
        self.dtype = dtype
        convs, channels = [], 1
        for factor, kernel, padding, _ in LAYERS:
            convs.append(
                nnx.Conv(
                    channels,
                    width * factor,
                    (kernel,),
                    strides=(2,),
                    # Symmetric: SAME would pad even kernels by one more on one side.
                    padding=((padding, padding),),
                    dtype=dtype,
                    kernel_init=init.conv2d,
                    rngs=rngs,
                )
            )
            channels = width * factor
        self.convs = nnx.List(convs)
        self.bns = nnx.List(BatchNorm(width * factor) for factor, *_ in LAYERS)

    def __call__(self, audio: jax.Array) -> jax.Array:
        """Features of `audio` (B, S) float32 in +-256; time steps left at the end (one at 35280 samples) are averaged.

        Raises:
          UserError: `audio` is not (B, S), or so short that no feature is left.
        """
        if audio.ndim != 2:
            raise UserError(f"audio has shape {audio.shape}; SoundNet takes (clips, samples)")
        if lengths(audio.shape[1])[-1] < 1:
            raise UserError(f"audio has {audio.shape[1]} samples a clip, too few for SoundNet; pad clips to 35280")
        x = audio.astype(self.dtype)[..., None]
        for conv, bn, (_, _, _, pool) in zip(self.convs, self.bns, LAYERS, strict=True):
            x = nnx.relu(bn(conv(x)))
            if pool > 1:
                # Not jnp.max: its gradient divides by how many values equal the maximum, which a compiler that computes
                # them a second time may find to be none.
                x = nnx.max_pool(x, (pool,), (pool,))
        return jnp.mean(x, axis=1)
