"""Each execution form of the 3-D convolution against PyTorch's conv3d: values and both gradients."""

import functools

import jax
import numpy as np
import pytest

from avmsnet_jax.models.ops import conv3d
from tests.models.conftest import worst

torch = pytest.importorskip("torch")

# (frames, height, width), channels, out, kernel, stride, padding
SHAPES = {
    "stem": ((4, 8, 8), 3, 4, (7, 7, 7), (1, 2, 2), (3, 3, 3)),
    "cube": ((4, 6, 6), 3, 5, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "cube, stride 2": ((4, 6, 6), 3, 5, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    "point": ((2, 3, 3), 6, 4, (1, 1, 1), (1, 1, 1), (0, 0, 0)),
    "shortcut": ((4, 6, 6), 3, 5, (1, 1, 1), (2, 2, 2), (0, 0, 0)),
    "adjust": ((2, 7, 7), 4, 3, (1, 1, 1), (2, 1, 1), (0, 0, 0)),
    "one frame": ((1, 2, 2), 2, 3, (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    "odd cube, stride 2": ((3, 7, 5), 2, 3, (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    "odd stem": ((3, 9, 11), 3, 2, (7, 7, 7), (1, 2, 2), (3, 3, 3)),
    "odd shortcut": ((3, 7, 5), 2, 3, (1, 1, 1), (2, 2, 2), (0, 0, 0)),
}
TOLERANCE = 2e-6  # of the largest value, float32; 5e-7 was measured


@pytest.mark.parametrize("shape", list(SHAPES))
def test_every_form_equals_pytorch(shape):
    size, channels, out, taps, stride, padding = SHAPES[shape]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, channels)).astype(np.float32)
    kernel = rng.standard_normal((*taps, channels, out)).astype(np.float32)

    tx, tk = (torch.from_numpy(a).double().requires_grad_() for a in (x, kernel))
    ty = torch.nn.functional.conv3d(tx.permute(0, 4, 1, 2, 3), tk.permute(4, 3, 0, 1, 2), None, stride, padding)
    ty = ty.permute(0, 2, 3, 4, 1)
    # Random, not ones: a form that sends gradients to wrong places must fail.
    dy = rng.standard_normal(ty.shape).astype(np.float32)
    ty.backward(torch.from_numpy(dy).double())

    ran = set()
    for convolve in (conv3d.conv3d, *conv3d.FORMS):

        def value_and_gradients(x, kernel, dy, convolve=convolve):
            y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, padding), x, kernel)
            return y, *pull(dy)

        try:
            y, dx, dkernel = jax.jit(value_and_gradients)(x, kernel, dy)
        except ValueError:  # a form may be for some shapes only
            continue
        ran.add(convolve)
        errors = {"value": worst(y, ty), "input": worst(dx, tx.grad), "kernel": worst(dkernel, tk.grad)}
        assert max(errors.values()) < TOLERANCE, (convolve, errors)
    assert {conv3d.conv3d, conv3d.direct} <= ran
    assert (conv3d.pointwise in ran) == (taps == (1, 1, 1))


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_the_forms_chosen_for_other_platforms_fit_every_shape(platform):
    """No form chosen for another platform raises; the results are tested above."""
    for size, channels, out, taps, stride, padding in SHAPES.values():
        x = jax.ShapeDtypeStruct((2, *size, channels), "float32")
        kernel = jax.ShapeDtypeStruct((*taps, channels, out), "float32")
        convolve = functools.partial(conv3d.conv3d, stride=stride, padding=padding, platform=platform)
        y = jax.eval_shape(convolve, x, kernel)
        assert y.shape[1:4] == tuple(
            (n + 2 * p - t) // s + 1 for n, t, s, p in zip(size, taps, stride, padding, strict=True)
        )


def test_the_result_has_the_dtype_of_the_input():
    x, kernel = np.ones((1, 2, 4, 4, 2), "float32"), np.ones((3, 3, 3, 2, 3), "float32")
    for form in set(conv3d.FORMS) - {conv3d.pointwise}:
        y = form(x.astype("bfloat16"), kernel.astype("bfloat16"), (1, 1, 1), (1, 1, 1))
        assert y.dtype == "bfloat16", form
