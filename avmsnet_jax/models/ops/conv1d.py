"""The 1-D convolution of SoundNet: stride 2, even kernel."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from avmsnet_jax.models import init
from avmsnet_jax.models.ops.platform import for_platform
from avmsnet_jax.models.ops.product import product


def direct(x: jax.Array, kernel: jax.Array, bias: jax.Array, padding: int) -> jax.Array:
    """The plain form: XLA's convolution. Arguments and result as for `conv1d`."""
    dimensions = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x, kernel, (2,), [(padding, padding)], dimension_numbers=dimensions) + bias


def unfolded(x: jax.Array, kernel: jax.Array, bias: jax.Array, padding: int) -> jax.Array:
    """As one matrix product.

    XLA's convolution on CPU is slow for few steps and many channels: in a training step of four clips on two cores,
    SoundNet's last layer takes 100 ms by convolution and 5 ms in this form.
    """
    size, channels, out = kernel.shape
    steps = (x.shape[1] + 2 * padding - size) // 2 + 1
    x = jnp.pad(x, ((0, 0), (padding, padding), (0, 0)))
    pairs = x[:, : x.shape[1] // 2 * 2].reshape(len(x), -1, 2 * channels)
    columns = jnp.concatenate([pairs[:, tap : tap + steps] for tap in range(size // 2)], axis=-1)
    y = product(columns.reshape(-1, size * channels), kernel.reshape(-1, out)) + bias
    return y.reshape(len(x), steps, out)


def conv1d(x: jax.Array, kernel: jax.Array, bias: jax.Array, padding: int, *, platform: str | None = None) -> jax.Array:
    """Cross-correlation of `x` (B, S, C) with `kernel` (K, C, O), K even, at stride 2, plus `bias` (O,).

    Args:
      x: input; the result has its dtype.
      kernel: filter taps.
      bias: added to every step of the result.
      padding: zeros added at each end.
      platform: as for `for_platform`.

    Returns:
      (B, S', O) with S' = (S + 2p - K) // 2 + 1.
    """

    def chosen(platform: str, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return (unfolded if platform == "cpu" else direct)(x, kernel, bias, padding)

    return for_platform(platform, chosen, x, kernel, bias)


class Conv1d(nnx.Conv):
    """A 1-D convolution of stride 2 with bias, padded by `padding` at both ends; SAME would pad unequally."""

    def __init__(self, channels: int, out: int, size: int, padding: int, *, dtype: str, rngs: nnx.Rngs):
        super().__init__(
            channels, out, (size,), 2, padding=padding, dtype=dtype, kernel_init=init.conv2d, rngs=rngs
        )  # fmt: skip
        self.platform: str | None = None  # see AVMSNet

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Convolves `inputs` (B, S, channels) to (B, S', out) in the compute dtype."""
        assert isinstance(self.padding, int)
        assert self.bias is not None
        x, kernel, bias = (array.astype(self.dtype) for array in (inputs, self.kernel[...], self.bias[...]))
        return conv1d(x, kernel, bias, self.padding, platform=self.platform)
