"""One 3-D convolution: one parameter layout, several execution forms that give the same numbers."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from avmsnet_jax.models import init
from avmsnet_jax.models.product import product

Triple = tuple[int, int, int]


def _pad(x: jax.Array, padding: Triple) -> jax.Array:
    return jnp.pad(x, ((0, 0), *((p, p) for p in padding), (0, 0)))


def _conv2d(frames: jax.Array, kernel: jax.Array, stride: Sequence[int], padding: Sequence[int]) -> jax.Array:
    return lax.conv_general_dilated(
        frames, kernel, tuple(stride), [(p, p) for p in padding], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _temporal_taps(x: jax.Array, kernel_size: int, stride: int, padding: int) -> list[jax.Array]:
    """The input of each temporal tap, `kernel_size` arrays (B, T_out, H, W, C)."""
    x = _pad(x, (padding, 0, 0))
    span = (x.shape[1] - kernel_size) // stride * stride + 1
    return [x[:, tap : tap + span : stride] for tap in range(kernel_size)]


def _direct(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, stride, [(p, p) for p in padding], dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def _folded(kernel: jax.Array) -> jax.Array:
    """The kernel's temporal taps side by side in the channels that it takes."""
    depth, height, width, channels, out = kernel.shape
    return kernel.transpose(1, 2, 0, 3, 4).reshape(height, width, depth * channels, out)


def _fold(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple, multiple: int = 1) -> jax.Array:
    """Temporal taps folded into channels, then one 2-D convolution over B*T frames.

    Channels of zeros fill up to a multiple of `multiple`.
    """
    depth, channels = kernel.shape[0], kernel.shape[3]
    taps = _temporal_taps(x, depth, stride[0], padding[0])
    missing = -depth * channels % multiple
    if missing:
        taps.append(jnp.zeros((*taps[0].shape[:-1], missing), x.dtype))
    stacked = jnp.concatenate(taps, axis=-1)
    folded = jnp.pad(_folded(kernel), ((0, 0), (0, 0), (0, missing), (0, 0)))
    y = _conv2d(stacked.reshape(-1, *stacked.shape[2:]), folded, stride[1:], padding[1:])
    return y.reshape(*stacked.shape[:2], *y.shape[1:])


def _paired_fold(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """Every two frames of the result by one 2-D convolution of all frames that they see, folded into channels.

    To make its input moves half of what `_fold` does, in longer runs; for it a frame's kernel has zeros where only the
    other frame sees, an eighth of it for seven taps.
    """
    depth, *_, channels, out = kernel.shape
    frames = (x.shape[1] + 2 * padding[0] - depth) // stride[0] + 1
    pairs = -(-frames // 2)
    seen = depth + stride[0]
    # Zeros behind the last frame; less than none where the stride leaves frames over, which are cut off.
    lacking = (pairs - 1) * 2 * stride[0] + seen - x.shape[1] - padding[0]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (padding[0], lacking, 0), *((0, 0, 0),) * 3))
    beside = x.transpose(0, 2, 3, 1, 4).reshape(x.shape[0], *x.shape[2:4], -1)
    starts = range(0, pairs * 2 * stride[0], 2 * stride[0])
    stacked = jnp.stack([beside[..., t * channels : (t + seen) * channels] for t in starts], axis=1)
    later = stride[0] * channels
    both = jnp.concatenate(
        [jnp.pad(_folded(kernel), ((0, 0), (0, 0), ends, (0, 0))) for ends in ((0, later), (later, 0))], axis=-1
    )
    y = _conv2d(stacked.reshape(-1, *stacked.shape[2:]), both, stride[1:], padding[1:])
    y = y.reshape(x.shape[0], pairs, *y.shape[1:3], 2, out).transpose(0, 1, 4, 2, 3, 5)
    return y.reshape(x.shape[0], 2 * pairs, *y.shape[3:])[:, :frames]


def _taps(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """One 2-D convolution for each temporal tap, summed."""
    taps = _temporal_taps(x, kernel.shape[0], stride[0], padding[0])
    y = functools.reduce(
        jnp.add,
        (_conv2d(tap.reshape(-1, *tap.shape[2:]), kernel[t], stride[1:], padding[1:]) for t, tap in enumerate(taps)),
    )
    return y.reshape(*taps[0].shape[:2], *y.shape[1:])


def _shift(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """One 2-D convolution to (taps x out) channels of every frame, then shifted adds along time."""
    depth, height, width, channels, out = kernel.shape
    spread = kernel.transpose(1, 2, 3, 0, 4).reshape(height, width, channels, depth * out)
    y = _conv2d(x.reshape(-1, *x.shape[2:]), spread, stride[1:], padding[1:])
    taps = _temporal_taps(y.reshape(*x.shape[:2], *y.shape[1:]), depth, stride[0], padding[0])
    return functools.reduce(jnp.add, (tap[..., t * out : (t + 1) * out] for t, tap in enumerate(taps)))


def _im2col(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """Every tap's input side by side, then one matrix product."""
    size = kernel.shape[:3]
    x = _pad(x, padding)
    spans = [(n - k) // s * s + 1 for n, k, s in zip(x.shape[1:4], size, stride, strict=True)]
    columns = [
        x[:, t : t + spans[0] : stride[0], i : i + spans[1] : stride[1], j : j + spans[2] : stride[2]]
        for t in range(size[0])
        for i in range(size[1])
        for j in range(size[2])
    ]
    return jnp.concatenate(columns, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _pointwise(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple) -> jax.Array:
    """1x1x1: drop what the stride skips first, then one matrix product."""
    if kernel.shape[:3] != (1, 1, 1) or any(padding):
        raise ValueError("the pointwise form is for unpadded 1x1x1 kernels")
    x = x[:, :: stride[0], :: stride[1], :: stride[2]]
    return product(x.reshape(-1, x.shape[-1]), kernel[0, 0, 0]).reshape(*x.shape[:-1], -1)


_APPLY: dict[str, Callable[..., jax.Array]] = {
    "direct": _direct,
    "fold": _fold,
    "aligned fold": functools.partial(_fold, multiple=8),  # tensor cores take whole groups of channels
    "paired fold": _paired_fold,
    "taps": _taps,
    "shift": _shift,
    "im2col": _im2col,
    "pointwise": _pointwise,
}
FORMS = tuple(_APPLY)


class Forms(NamedTuple):
    """Which form computes the result, the gradient of the input, and that of the kernel."""

    forward: str
    input: str
    kernel: str


# What `python -m benchmarks.operators` found fastest, by backend and kind of kernel; docs/performance.md has tables.
# In XLA's direct form the input's gradient of a strided 3x3x3 takes 20 to 30 times as long, the stem 8 to 12 times.
_CUBE = Forms("taps", "taps", "shift")
_STRIDED = Forms("taps", "taps", "taps")
_STEM = Forms("paired fold", "paired fold", "paired fold")
_POINT = Forms("pointwise", "pointwise", "pointwise")
_DIRECT = Forms("direct", "direct", "direct")
_UNMEASURED = {"point": _POINT, "cube": _DIRECT, "strided cube": _DIRECT, "stem": _DIRECT}
# On an H200 in bf16, 64 clips: the stem by the aligned fold 2.6 ms forward and 3.0 for its kernel, by the fold 3.9 and
# 4.3, directly 12.2 and 7.2; 64 to 64 channels, 3x3x3, directly 0.21, 0.21 and 0.20 ms as `xla_gpu.jit` has it and
# 0.37, 0.37 and 0.35 without, in 2-D forms 0.23 to 0.31.
_ALIGNED = Forms("aligned fold", "aligned fold", "aligned fold")
_TABLE = {
    "cpu": {"point": _POINT, "cube": _CUBE, "strided cube": _STRIDED, "stem": _STEM},
    "gpu": {"point": _POINT, "cube": _DIRECT, "strided cube": _DIRECT, "stem": _ALIGNED},
}


def choose_forms(backend: str, kernel_size: Sequence[int], stride: Sequence[int]) -> Forms:
    """The fastest forms for a kernel of that size and stride (D, H, W) on a backend ("cpu", "gpu", "tpu")."""
    if tuple(kernel_size) == (1, 1, 1):
        kind = "point"
    elif max(kernel_size) > 3:
        kind = "stem"
    else:
        kind = "cube" if max(stride) == 1 else "strided cube"
    return _TABLE.get(backend, _UNMEASURED)[kind]


def conv3d(
    x: jax.Array, kernel: jax.Array, stride: Triple = (1, 1, 1), padding: Triple = (0, 0, 0), form: str = ""
) -> jax.Array:
    """Cross-correlation of `x` (B, T, H, W, C) with `kernel` (D, H, W, C, O), zero padding on both sides.

    Args:
      x: input; the result has its dtype.
      kernel: filter taps.
      stride: step along T, H, W.
      padding: zeros added at each end of T, H, W.
      form: one of `FORMS`, for the result and both gradients; empty = those that `choose_forms` gives.

    Returns:
      (B, T', H', W', O) with T' = (T + 2p - D) // s + 1, and so on.
    """
    forms = Forms(form, form, form) if form else choose_forms(jax.default_backend(), kernel.shape[:3], stride)
    if len(set(forms)) == 1:
        return _APPLY[forms.forward](x, kernel, stride, padding)
    return _mixed(x, kernel, stride, padding, forms)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _mixed(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple, forms: Forms) -> jax.Array:
    return _APPLY[forms.forward](x, kernel, stride, padding)


def _forward(x: jax.Array, kernel: jax.Array, stride: Triple, padding: Triple, forms: Forms) -> tuple:
    return _APPLY[forms.forward](x, kernel, stride, padding), (x, kernel)


def _backward(stride: Triple, padding: Triple, forms: Forms, residuals: tuple, dy: jax.Array) -> tuple:
    x, kernel = residuals
    to_x = jax.linear_transpose(lambda x: _APPLY[forms.input](x, kernel, stride, padding), x)
    to_kernel = jax.linear_transpose(lambda kernel: _APPLY[forms.kernel](x, kernel, stride, padding), kernel)
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

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x` (B, T, H, W, in) to (B, T', H', W', out) in the compute dtype."""
        y = conv3d(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.stride, self.padding)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)
