"""The network against the published one's outputs and, in the long run, against PyTorch, at the published widths."""

import functools
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from avmsnet_jax.config import ModelConfig
from tests.models.conftest import clips, differences, states, torch_network, worst
from tests.reference.jax_weights import build

torch = pytest.importorskip("torch")

GOLDEN = pathlib.Path(__file__).parents[1] / "data" / "golden.npz"
# What float32 leaves: 4e-6 of a tensor's largest value was measured at worst, against PyTorch in float64.
TOLERANCE = 1e-4


def forward(model, video, audio, level=0):
    """The network's output, compiled at an optimization level of LLVM's; users' programs have level 3."""
    return _forwards(level)(*nnx.split(model), video, audio)


@functools.cache
def _forwards(level):
    options = {"xla_backend_optimization_level": level}
    return jax.jit(
        lambda graph, state, *given: nnx.merge(graph, state)(*given), static_argnums=0, compiler_options=options
    )


@pytest.fixture(scope="module")
def state50():
    return states(ModelConfig())


@pytest.fixture(scope="module")
def published(state50):
    return build(ModelConfig(), state50)


@pytest.fixture(scope="module")
def published_output(published):
    return jax.device_get(forward(published, *clips(ModelConfig(), 2)))


@pytest.mark.parametrize(
    ("depth", "audiovisual"),
    [pytest.param(depth, audio, marks=pytest.mark.soak) for depth in (50, 18) for audio in (True, False)],
)
def test_every_stage_equals_pytorch(depth, audiovisual, state50):
    config = ModelConfig(depth=depth, audiovisual=audiovisual)
    video, audio = clips(config, 2)
    state = states(config, state50)
    ours = forward(build(config, state), video, audio if audiovisual else None, level=3)
    with torch.inference_mode():
        theirs = torch_network(config, state)(torch.from_numpy(video), torch.from_numpy(audio).double(), stages=True)
    found = differences(ours, theirs)
    assert ("soundnet" in found) == audiovisual
    assert worst(ours.features, theirs.activations["layer3"].mean((2, 3, 4))) < TOLERANCE
    assert max(found.values()) < TOLERANCE, found


def test_the_published_networks_outputs(published_output):
    golden, ours = np.load(GOLDEN), published_output
    np.testing.assert_allclose(ours.logits, golden["logit"], rtol=TOLERANCE)
    np.testing.assert_allclose(ours.scores, 1 / (1 + np.exp(-golden["logit"])), rtol=5 * TOLERANCE)
    assert worst(ours.activations["soundnet"], golden["soundnet"]) < TOLERANCE
    assert worst(ours.localization, golden["alm"]) < TOLERANCE
    for i, attention in enumerate(ours.attention):
        assert worst(attention, golden[f"attention{i + 1}"]) < TOLERANCE
        np.testing.assert_allclose(attention.sum((1, 2)), 1, rtol=1e-5)
    names = {"adjust": "bn3d", "fusion": "bn2d"} | {n: n for n in ("layer1", "layer2", "layer3", "fc1", "fc2")}
    for name, published_name in names.items():
        value = ours.activations[name].astype(np.float64)
        np.testing.assert_allclose((value.mean(), value.std()), golden[f"{published_name}_mean_std"], rtol=TOLERANCE)


def test_each_clip_depends_on_its_own_video_and_sound(published):
    """The published network's logits (network.md) depend on the sound, on the video, and on their pairing."""
    video, audio = clips(ModelConfig(), 2)
    silent = forward(published, video, np.zeros_like(audio))
    np.testing.assert_allclose(silent.logits, [-0.30313515, -0.29728727], rtol=TOLERANCE)
    swapped = forward(published, video[::-1], audio)
    np.testing.assert_allclose(swapped.logits, [-4.20438507, -4.11575939], rtol=TOLERANCE)
