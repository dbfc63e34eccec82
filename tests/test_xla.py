"""The flag that keeps convolutions out of YNNPACK, checked in the compiled program."""

import os

import pytest

from avmsnet_jax import xla

FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
COMPILE = """
import {module}
import jax
import jax.numpy as jnp

def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

shapes = jax.ShapeDtypeStruct((4, 56, 56, 64), jnp.float32), jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.float32)
print("__ynn_fusion" in jax.jit(convolve).lower(*shapes).compile().as_text())
"""


def test_convolutions_stay_out_of_ynnpack(python):
    """If the first fails, the flag has stopped working; if the second does, jaxlib no longer needs it."""
    ours = python("-c", COMPILE.format(module="avmsnet_jax"), XLA_FLAGS="", JAX_PLATFORMS="cpu")
    assert (ours.returncode, ours.stdout.strip()) == (0, "False"), ours.stderr
    plain = python("-c", COMPILE.format(module="os"), XLA_FLAGS="", JAX_PLATFORMS="cpu")
    assert plain.stdout.strip() == "True", (
        "jaxlib gives convolutions to Eigen by itself: keep_convolutions_on_eigen can go"
    )


@pytest.mark.parametrize(
    ("before", "after"), [("", FLAG), ("--other=1", f"--other=1 {FLAG}"), (f"{FLAG}_AND_MORE", f"{FLAG}_AND_MORE")]
)
def test_a_flag_that_the_user_has_set_is_left_alone(monkeypatch, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    xla.keep_convolutions_on_eigen()
    assert os.environ["XLA_FLAGS"] == after
