"""Each execution form of the 3-D convolution against PyTorch's conv3d: values and both gradients."""

import jax
import numpy as np
import pytest

from avmsnet_jax.models import conv3d
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
# 343 slices and their gradients take half a minute to compile: the even stem stands for both.
SLOW = {("odd stem", "im2col")}
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
    # Not all ones: a form that hands gradients to the wrong places must not pass.
    dy = rng.standard_normal(ty.shape).astype(np.float32)
    ty.backward(torch.from_numpy(dy).double())

    ran = set()
    for form in ("", *conv3d.FORMS):
        if (shape, form) in SLOW:
            continue

        def value_and_gradients(x, kernel, dy, form=form):
            y, pull = jax.vjp(lambda x, kernel: conv3d.conv3d(x, kernel, stride, padding, form=form), x, kernel)
            return y, *pull(dy)

        try:
            y, dx, dkernel = jax.jit(value_and_gradients)(x, kernel, dy)
        except ValueError:  # a form may be for some shapes only
            continue
        ran.add(form)
        errors = {"value": worst(y, ty), "input": worst(dx, tx.grad), "kernel": worst(dkernel, tk.grad)}
        assert max(errors.values()) < TOLERANCE, (form, errors)
    assert {"", "direct"} <= ran
    assert ("pointwise" in ran) == (taps == (1, 1, 1))


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_the_form_chosen_elsewhere_fits_every_shape(backend, monkeypatch):
    """No form that another backend would be given raises; what it gives is tested above."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    for size, channels, out, taps, stride, padding in SHAPES.values():
        x = jax.ShapeDtypeStruct((2, *size, channels), "float32")
        kernel = jax.ShapeDtypeStruct((*taps, channels, out), "float32")
        y = jax.eval_shape(lambda x, k, s=stride, p=padding: conv3d.conv3d(x, k, s, p), x, kernel)
        assert y.shape[1:4] == tuple(
            (n + 2 * p - t) // s + 1 for n, t, s, p in zip(size, taps, stride, padding, strict=True)
        )


def test_the_result_keeps_the_inputs_type():
    x, kernel = np.ones((1, 2, 4, 4, 2), "float32"), np.ones((3, 3, 3, 2, 3), "float32")
    for form in conv3d.FORMS:
        if form == "pointwise":
            continue
        y = conv3d.conv3d(x.astype("bfloat16"), kernel.astype("bfloat16"), padding=(1, 1, 1), form=form)
        assert y.dtype == "bfloat16", form
