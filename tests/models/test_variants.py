"""Every depth, shortcut, clip length and frame size against PyTorch, at tiny widths; bfloat16; the parameter count."""

import json
import math
import pathlib

import jax
import pytest
from flax import nnx

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.models.avmsnet import AVMSNet
from avmsnet_jax.weights import names
from tests.models.conftest import TINY, clips, differences, pair, states, torch_network
from tests.reference.jax_weights import build, paths
from tests.reference.torch_network import TorchAVMSNet

torch = pytest.importorskip("torch")

PUBLISHED_SHAPES = json.loads((pathlib.Path(__file__).parents[1] / "data" / "checkpoint_keys.json").read_text())


@pytest.mark.parametrize(
    "change",
    [
        # The deep ones share blocks of the same shapes, which blockwise compiles once.
        *(pytest.param({"depth": depth}, marks=pytest.mark.soak) for depth in (101, 152, 34)),
        pytest.param({"depth": 50, "frames": 24, "shortcut": "A"}, marks=pytest.mark.soak),
        pytest.param({"depth": 200, "audiovisual": False}, marks=pytest.mark.soak),
        pytest.param({"depth": 50, "dam4": True}, marks=pytest.mark.soak),
        {"depth": 10, "frames": 8, "frame_size": 64, "shortcut": "A"},
        {"depth": 18, "frames": 24, "frame_size": 48, "dam4": True, "audiovisual": False},
    ],
    ids=lambda change: "-".join(f"{value}" for value in change.values()),
)
def test_variant_equals_pytorch(change, blockwise):
    config = ModelConfig(**TINY | change)
    ours, network = pair(config)
    video, audio = clips(config, 2)
    with torch.inference_mode():
        theirs = network(torch.from_numpy(video), torch.from_numpy(audio).double(), stages=True)
    found = differences(ours(video, audio if config.audiovisual else None), theirs)
    assert len([name for name in found if name.startswith("attention")]) == 3 + config.dam4
    assert max(found.values()) < 1e-4, found


def test_bfloat16(blockwise):
    """Activations have 8 bits of mantissa; parameters, batch statistics and what a user is given stay float32.

    A rounding is off by up to 2^-9 of a value. A hundred of them, about two a layer and independent, add up to
    sqrt(100) * 2^-9 = 2%. Measured here: 1.6% of the largest value at worst, and 1.6% for PyTorch's autocast. A softmax
    turns the absolute error of its scores, which reach 14 and so are rounded by up to 3%, into a relative one: 5%
    measured for attention.
    """
    wide, narrow = (ModelConfig(depth=10, frames=8, dtype=dtype, **TINY) for dtype in ("float32", "bfloat16"))
    state = states(wide)
    video, audio = clips(wide, 2)
    with torch.inference_mode():
        theirs = torch_network(wide, state)(torch.from_numpy(video), torch.from_numpy(audio).double(), stages=True)
    model = build(narrow, state)
    ours = model(video, audio)
    assert {value.dtype.name for value in ours.activations.values()} == {"bfloat16"}
    given = (ours.logits, ours.scores, ours.localization, ours.features, *ours.attention)
    assert {value.dtype.name for value in given} == {"float32"}
    for name, error in differences(ours, theirs).items():
        assert error < (0.15 if name.startswith("attention") else 0.04), name

    def after_a_training_step():
        model = AVMSNet(narrow, rngs=nnx.Rngs(0))
        model(video, audio)
        return nnx.state(model)

    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.eval_shape(after_a_training_step))} == {"float32"}


def test_names_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        network = TorchAVMSNet(ModelConfig())
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == PUBLISHED_SHAPES


def test_parameter_count():
    """Ours and those that no forward pass reads make the 144,628,839 of network.md."""
    model = names.abstract_model(ModelConfig())
    ours = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    known = paths(ModelConfig())
    unread = sum(
        math.prod(shape) for name, shape in PUBLISHED_SHAPES.items() if name not in known and "num_batches" not in name
    )
    assert ours + unread == 144_628_839
    assert {name.split(".")[0] for name in set(PUBLISHED_SHAPES) - set(known) if "num_batches" not in name} == {
        "score_dsn",
        "fuse",
        "fuseav",
    }
