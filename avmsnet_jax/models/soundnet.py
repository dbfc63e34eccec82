"""SoundNet's first seven convolutions (Aytar, Vondrick and Torralba 2016): waveform to features."""

import jax
import jax.numpy as jnp
from flax import nnx

from avmsnet_jax.errors import UserError
from avmsnet_jax.models.ops import pool
from avmsnet_jax.models.ops.batch_norm import BatchNorm
from avmsnet_jax.models.ops.conv1d import Conv1d

# Of each convolution (stride 2): channels relative to the width, kernel, padding; and the pool after it.
LAYERS = ((1, 64, 32, 8), (2, 32, 16, 8), (4, 16, 8, 1), (8, 8, 4, 1), (16, 4, 2, 4), (32, 4, 2, 1), (64, 4, 2, 2))
FEATURES = 64  # channels of the last layer relative to the width


def lengths(samples: int) -> list[int]:
    """Time steps after each convolution, before its pool, for a waveform of `samples`."""
    found = []
    for _, kernel, padding, size in LAYERS:
        found.append((samples + 2 * padding - kernel) // 2 + 1)
        samples = found[-1] // size
    return found


class SoundNet(nnx.Module):
    """Waveform (B, S) in +-256 to features (B, 64 x width): 1024 at the published width of 16."""

    def __init__(self, width: int, *, dtype: str, rngs: nnx.Rngs):
        self.dtype = dtype
        convs, channels = [], 1
        for factor, kernel, padding, _ in LAYERS:
            convs.append(Conv1d(channels, width * factor, kernel, padding, dtype=dtype, rngs=rngs))
            channels = width * factor
        self.convs = nnx.List(convs)
        self.bns = nnx.List(BatchNorm(width * factor) for factor, *_ in LAYERS)

    def __call__(self, audio: jax.Array) -> jax.Array:
        """Features of `audio` (B, S) float32 in +-256, averaged over the remaining time (one step for 35280 samples).

        Raises:
          UserError: `audio` is not (B, S), or too short.
        """
        if audio.ndim != 2:
            raise UserError(f"audio has shape {audio.shape}; SoundNet takes (clips, samples)")
        if lengths(audio.shape[1])[-1] < LAYERS[-1][-1]:
            raise UserError(f"audio has {audio.shape[1]} samples a clip, too few for SoundNet; pad clips to 35280")
        x = audio.astype(self.dtype)[..., None]  # (B, 35280, 1)
        # After each layer, at the published width: (B, 2205, 16), (B, 137, 32), (B, 68, 64), (B, 34, 128), (B, 4, 256),
        # (B, 3, 512), (B, 1, 1024).
        for conv, bn, (*_, size) in zip(self.convs, self.bns, LAYERS, strict=True):
            x = pool.runs(nnx.relu(bn(conv(x))), size)
        return jnp.mean(x, axis=1)
