"""The 3-D convolution: one kernel layout, several forms with the same result."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from avmsnet_jax.models import init
from avmsnet_jax.models.ops.platform import for_platform
from avmsnet_jax.models.ops.product import product

Triple = tuple[int, int, int]
Form = Callable[[jax.Array, jax.Array, Triple, Triple], jax.Array]


def direct(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """The plain form: XLA's convolution. Arguments and result as for `conv3d`."""
    return lax.conv_general_dilated(
        x, kernel, stride, [(p, p) for p in padding], dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def pointwise(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """For 1x1x1 kernels: drop the positions that the stride skips, then one matrix product."""
    if kernel.shape[:3] != (1, 1, 1) or any(padding):
        raise ValueError("the pointwise form is for unpadded 1x1x1 kernels")
    x = x[:, :: stride[0], :: stride[1], :: stride[2]]
    return product(x.reshape(-1, x.shape[-1]), kernel[0, 0, 0]).reshape(*x.shape[:-1], -1)


def paired_fold(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """Each pair of output frames by one 2-D convolution over all frames that they depend on, folded into channels.

    For kernels with few input channels, such as the stem's three. The folded kernel of a frame is zero for input frames
    that only the other frame of the pair depends on, which are an eighth of it for seven taps.
    """
    depth, height, width, channels, out = kernel.shape
    frames = (x.shape[1] + 2 * padding[0] - depth) // stride[0] + 1
    pairs = -(-frames // 2)
    seen = depth + stride[0]
    # Padding after the last frame; negative, to cut off frames, if the stride skips the last ones.
    lacking = (pairs - 1) * 2 * stride[0] + seen - x.shape[1] - padding[0]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (padding[0], lacking, 0), *((0, 0, 0),) * 3))
    beside = x.transpose(0, 2, 3, 1, 4).reshape(x.shape[0], *x.shape[2:4], -1)
    starts = range(0, pairs * 2 * stride[0], 2 * stride[0])
    stacked = jnp.stack([beside[..., t * channels : (t + seen) * channels] for t in starts], axis=1)
    later = stride[0] * channels

    def at(ends: tuple[int, int]) -> jax.Array:
        """The kernel with its temporal taps folded into the input channels, zero-padded by `ends`."""
        folded = kernel.transpose(1, 2, 0, 3, 4).reshape(height, width, depth * channels, out)
        return jnp.pad(folded, ((0, 0), (0, 0), ends, (0, 0)))

    both = jnp.concatenate([at((0, later)), at((later, 0))], axis=-1)
    y = _conv2d(stacked.reshape(-1, *stacked.shape[2:]), both, stride[1:], padding[1:])
    y = y.reshape(x.shape[0], pairs, *y.shape[1:3], 2, out).transpose(0, 1, 4, 2, 3, 5)
    return y.reshape(x.shape[0], 2 * pairs, *y.shape[3:])[:, :frames]


def taps(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """The sum of one 2-D convolution per temporal tap."""
    inputs = _temporal_taps(x, kernel.shape[0], stride[0], padding[0])
    y = functools.reduce(
        jnp.add,
        (_conv2d(tap.reshape(-1, *tap.shape[2:]), kernel[t], stride[1:], padding[1:]) for t, tap in enumerate(inputs)),
    )
    return y.reshape(*inputs[0].shape[:2], *y.shape[1:])


def shift(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """One 2-D convolution to (taps x out) channels of every frame, then shifted adds along time."""
    depth, height, width, channels, out = kernel.shape
    spread = kernel.transpose(1, 2, 3, 0, 4).reshape(height, width, channels, depth * out)
    y = _conv2d(x.reshape(-1, *x.shape[2:]), spread, stride[1:], padding[1:])
    outputs = _temporal_taps(y.reshape(*x.shape[:2], *y.shape[1:]), depth, stride[0], padding[0])
    return functools.reduce(jnp.add, (tap[..., t * out : (t + 1) * out] for t, tap in enumerate(outputs)))


FORMS: tuple[Form, ...] = (direct, pointwise, paired_fold, taps, shift)


class Forms(NamedTuple):
    """The forms that compute the result, the gradient by the input, and the gradient by the kernel."""

    forward: Form
    input: Form
    kernel: Form


def choose(platform: str, kernel_size: Sequence[int], stride: Sequence[int]) -> Forms:
    """The fastest forms for a kernel of a size and stride (D, H, W).

    `python -m benchmarks.operators` measures them; docs/performance.md has the results. On CPU the direct form takes
    20 to 30 times as long for the gradient by the input of a strided 3x3x3 kernel, and 8 to 12 times for the stem. On
    GPU it is the fastest except for the stem. TPU was not measured.
    """
    if max(kernel_size) == 1:
        return Forms(pointwise, pointwise, pointwise)
    if max(kernel_size) > 3 and platform in ("cpu", "gpu"):
        return Forms(paired_fold, paired_fold, paired_fold)
    if platform == "cpu":
        return Forms(taps, taps, shift if max(stride) == 1 else taps)
    return Forms(direct, direct, direct)


def conv3d(
    x: jax.Array,
    kernel: jax.Array,
    stride: Triple = (1, 1, 1),
    padding: Triple = (0, 0, 0),
    *,
    platform: str | None = None,
) -> jax.Array:
    """Cross-correlation of `x` (B, T, H, W, C) with `kernel` (D, H, W, C, O), zero padding on both sides.

    Args:
      x: input; the result has its dtype.
      kernel: filter taps.
      stride: step along T, H, W.
      padding: zeros added at each end of T, H, W.
      platform: as for `for_platform`.

    Returns:
      (B, T', H', W', O) with T' = (T + 2p - D) // s + 1, and so on.
    """

    def chosen(platform: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
        forms = choose(platform, kernel.shape[:3], stride)
        if len(set(forms)) == 1:
            return forms.forward(x, kernel, stride, padding)
        return _mixed(x, kernel, stride, padding, forms)

    return for_platform(platform, chosen, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _mixed(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple, forms: Forms) -> jax.Array:
    return forms.forward(x, kernel, stride, padding)


def _forward(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple, forms: Forms) -> tuple:
    return forms.forward(x, kernel, stride, padding), (x, kernel)


def _backward(stride: Triple, padding: Triple, forms: Forms, residuals: tuple, dy: jax.Array) -> tuple:
    x, kernel = residuals
    to_x = jax.linear_transpose(lambda x: forms.input(x, kernel, stride, padding), x)
    to_kernel = jax.linear_transpose(lambda kernel: forms.kernel(x, kernel, stride, padding), kernel)
    return *to_x(dy), *to_kernel(dy)


_mixed.defvjp(_forward, _backward)


class Conv3d(nnx.Module):
    """A 3-D convolution with one kernel layout (D, H, W, in, out), whatever form runs it."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel_size: Triple,
        stride: Triple = (1, 1, 1),
        padding: Triple = (0, 0, 0),
        *,
        use_bias: bool = False,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(init.kaiming_fan_out(rngs.params(), (*kernel_size, channels, out)))
        self.bias = nnx.Param(jnp.zeros((out,), jnp.float32)) if use_bias else None
        self.stride, self.padding, self.dtype = stride, padding, dtype
        self.platform: str | None = None  # see AVMSNet

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x` (B, T, H, W, in) to (B, T', H', W', out) in the compute dtype."""
        kernel = self.kernel[...].astype(self.dtype)
        y = conv3d(x.astype(self.dtype), kernel, self.stride, self.padding, platform=self.platform)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def _conv2d(frames: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Sequence[int]) -> jax.Array:
    return lax.conv_general_dilated(
        frames, kernel, tuple(stride), [(p, p) for p in padding], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _temporal_taps(x: jax.Array, kernel_size: int, stride: int, padding: int) -> list[jax.Array]:
    """The input of each temporal tap, `kernel_size` arrays (B, T_out, H, W, C)."""
    x = jnp.pad(x, ((0, 0), (padding, padding), *((0, 0),) * 3))
    span = (x.shape[1] - kernel_size) // stride * stride + 1
    return [x[:, tap : tap + span : stride] for tap in range(kernel_size)]
