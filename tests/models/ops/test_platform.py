"""Programs use the form of each operation for the platform that they are compiled for, or for the named one."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.models.ops.batch_norm import normalize
from avmsnet_jax.models.ops.conv1d import conv1d
from avmsnet_jax.models.ops.conv3d import conv3d
from avmsnet_jax.models.ops.time_mean import time_mean
from avmsnet_jax.weights import names
from tests.conftest import SMALL

X = jax.ShapeDtypeStruct((2, 4, 8, 8, 4), jnp.float32)
CHANNELS = jax.ShapeDtypeStruct((4,), jnp.float32)
WAVE = jax.ShapeDtypeStruct((2, 64, 4), jnp.float32)
# An operation, its arguments, and how a program of each platform is told: a part of its text, and whether it is there.
OPERATIONS = {
    "stem": (
        lambda x, k, platform: conv3d(x, k, (1, 2, 2), (3, 3, 3), platform=platform),
        (X, jax.ShapeDtypeStruct((7, 7, 7, 4, 2), jnp.float32)),
        ("7x7x32x4", {"cpu": True, "cuda": True, "rocm": True, "tpu": False}),  # both frames of a pair: 8 x 4 channels
    ),
    "cube": (
        lambda x, k, platform: conv3d(x, k, (1, 1, 1), (1, 1, 1), platform=platform),
        (X, jax.ShapeDtypeStruct((3, 3, 3, 4, 2), jnp.float32)),
        ("b, 0, 1, 2, f", {"cpu": False, "cuda": True, "rocm": True, "tpu": True}),
    ),
    "sound": (
        lambda x, k, b, platform: conv1d(x, k, b, 2, platform=platform),
        (WAVE, jax.ShapeDtypeStruct((8, 4, 6), jnp.float32), jax.ShapeDtypeStruct((6,), jnp.float32)),
        ("stablehlo.convolution", {"cpu": False, "cuda": True, "rocm": True, "tpu": True}),
    ),
    "batch norm": (
        lambda x, g, b, platform: normalize(x, g, b, platform),
        (X, CHANNELS, CHANNELS),
        ("stablehlo.while", {"cpu": True, "cuda": False, "rocm": False, "tpu": False}),
    ),
    "mean over time": (
        lambda x, platform: time_mean(x, platform=platform),
        (X,),
        ("stablehlo.dot_general", {"cpu": True, "cuda": False, "rocm": False, "tpu": False}),
    ),
}
NAMES = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}


def text(function, arguments, target):
    """The program that JAX lowers a function to for that platform."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(target,)).as_text()


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_programs_use_the_form_of_their_platform_or_of_the_named_one(name, target):
    operation, arguments, (part, there) = OPERATIONS[name]
    assert (part in text(lambda *a: operation(*a, platform=None), arguments, target)) == there[target]
    named = text(lambda *a: operation(*a, platform=NAMES[target]), arguments, "cpu")
    assert (part in named) == there[target]


def test_a_network_with_a_set_platform_traces_only_that_form():
    model = names.abstract_model(ModelConfig(**SMALL))
    video = jax.ShapeDtypeStruct((1, 8, 32, 32, 3), jnp.uint8)
    audio = jax.ShapeDtypeStruct((1, model.config.audio_samples), jnp.float32)

    def program(platform):
        model.set_attributes(platform=platform)
        graphdef, state = nnx.split(model)
        return str(jax.make_jaxpr(lambda s, v, a: nnx.merge(graphdef, s, copy=True)(v, a))(state, video, audio))

    assert "platform_index" in program(None)
    for platform in ("cpu", "gpu", "tpu"):
        assert "platform_index" not in program(platform)
