"""The attention module (DAM) after the stem, layer1 and layer2 (in the paper's figure also after layer3)."""

import jax
import jax.numpy as jnp
from flax import nnx

from avmsnet_jax.models import init
from avmsnet_jax.models.ops.time_mean import time_mean

WIDTH = 16  # channels between its two convolutions


class DAM(nnx.Module):
    """Spatial attention: mean over time -> conv 3x3 to 16 channels -> conv 1x1 -> softmax over space."""

    def __init__(self, channels: int, *, dtype: str, rngs: nnx.Rngs):
        self.conv = nnx.Conv(channels, WIDTH, (3, 3), padding=1, dtype=dtype, kernel_init=init.conv2d, rngs=rngs)
        start = nnx.initializers.constant(-6.0)
        self.score = nnx.Conv(WIDTH, 1, (1, 1), dtype=dtype, kernel_init=init.conv2d, bias_init=start, rngs=rngs)
        self.platform: str | None = None  # see AVMSNet

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Takes `x` (B, T, H, W, C); returns `x * (1 + a)` and the attention `a` (B, H, W) float32, which sums to 1."""
        mean = time_mean(x, platform=self.platform)  # (B, H, W, C)
        score = self.score(self.conv(mean))[..., 0].astype(jnp.float32)  # (B, H, W)
        attention = jax.nn.softmax(score, axis=(1, 2))
        return x * (1 + attention)[:, None, :, :, None].astype(x.dtype), attention
