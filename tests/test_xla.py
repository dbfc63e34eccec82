"""The setting that keeps convolutions out of YNNPACK, seen in what XLA compiles."""

from importlib import metadata
from pathlib import Path

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


@pytest.fixture
def set_flags(monkeypatch):
    """XLA_FLAGS as a version of jaxlib leaves them."""

    def set_flags(version, before=""):
        monkeypatch.setattr(metadata, "version", lambda _: version)
        monkeypatch.setenv("XLA_FLAGS", before)
        xla.keep_convolutions_on_eigen()
        return xla.os.environ["XLA_FLAGS"]

    return set_flags


@pytest.mark.parametrize(
    ("version", "set_"), [("0.9.2", False), ("0.10.0", True), ("0.12.1", True), ("0.13.0", True), ("1.0.0.dev5", True)]
)
def test_a_version_not_seen_yet_is_asked_for_the_flag(set_flags, version, set_):
    assert set_flags(version) == (FLAG if set_ else "")
    assert set_flags(version, "--other=1") == (f"--other=1 {FLAG}" if set_ else "--other=1")
    assert set_flags(version, f"{FLAG}_AND_MORE") == f"{FLAG}_AND_MORE"


@pytest.mark.parametrize(
    "content",
    [
        b"nothing",
        b"\0xla_cpu_experimental_ynn_fusion_type\0 without the value",
        b"\n$xla_cpu_experimental_ynn_fusion_type\x18 LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",  # a field, but no flag
        b"\0xla_cpu_experimental_ynn_fusion_type_2\0LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    ],
)
def test_a_later_version_without_the_flag_is_left_alone(set_flags, monkeypatch, tmp_path, content):
    """XLA ends the process at a flag that it does not know."""
    (tmp_path / "libjax_common.so").write_bytes(content)
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(xla.importlib.util, "find_spec", lambda _: spec)
    assert set_flags("0.13.0") == ""
    Path(tmp_path / "libjax_common.so").unlink()
    assert set_flags("0.13.0") == ""
