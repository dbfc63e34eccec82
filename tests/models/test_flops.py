"""The count of the network's arithmetic against PyTorch's own counter and against the traced JAX program."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.interpreters import partial_eval

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.models import flops
from avmsnet_jax.weights import names
from tests.conftest import SMALL, SMALL_TRAINING_FLOPS
from tests.models.conftest import TINY
from tests.reference.jax_weights import paths
from tests.reference.torch_network import TorchAVMSNet

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402 - it needs torch

CLIPS = 2
VARIANTS = [
    {},
    SMALL,
    TINY | {"depth": 10, "frames": 8, "shortcut": "A"},
    TINY | {"depth": 18, "audiovisual": False},
    TINY | {"depth": 34, "frames": 24, "frame_size": 48, "dam4": True},
    TINY | {"depth": 50, "frames": 24, "shortcut": "A", "dam4": True, "audiovisual": False},
]
LARGE = [TINY | {"depth": 101, "frames": 40}, {"depth": 152}, {"depth": 200, "frame_size": 224}]
parametrized = pytest.mark.parametrize(
    "change",
    [*VARIANTS, *(pytest.param(change, marks=pytest.mark.soak) for change in LARGE)],
    ids=lambda change: "-".join(f"{change[name]}" for name in change if name not in TINY) or "published",
)


def counted_by_torch(config, *, backward):
    """FLOPs of each module by name, "Global" being everything, for `CLIPS` clips; of shapes, nothing is computed.

    `torch_network` contracts ALM's form with the sound first, as ours does, so nothing has to be taken off.
    """
    with torch.device("meta"):
        network = TorchAVMSNet(config)
        video = torch.zeros(CLIPS, config.frames, config.frame_size, config.frame_size, 3)
        audio = torch.zeros(CLIPS, config.audio_samples)
        with FlopCounterMode(display=False) as counter:
            logits = network(video, audio if config.audiovisual else None).logits
            if backward:
                logits.sum().backward()
    counts = {name: sum(by_kind.values()) for name, by_kind in counter.get_flop_counts().items()}
    return {name.removeprefix("TorchAVMSNet."): count for name, count in counts.items()}


@parametrized
def test_each_layer_of_the_forward_pass_is_what_pytorch_counts(change):
    config = ModelConfig(**change)
    theirs = counted_by_torch(config, backward=False)
    ours = {operation.name: 2 * CLIPS * operation.multiply_adds for operation in flops.operations(config)}
    assert len(ours) == len(flops.operations(config))
    assert CLIPS * flops.forward_flops(config) == sum(ours.values()) == theirs["Global"]
    if config.audiovisual:
        form = ours.pop("alm/form") + ours.pop("alm/maps")
        assert form == theirs["fusion4"] - theirs["fusion4.affine_rgb"] - theirs["fusion4.affine_audio"]
    layers = {
        "/".join(map(str, path[:-1])): name.removesuffix(".weight")
        for name, path in paths(config).items()
        if name.endswith(".weight")
    }
    for name, count in ours.items():
        assert count == theirs[layers[name]], name


@parametrized
def test_a_training_step_is_what_pytorch_counts(change):
    config = ModelConfig(**change)
    assert CLIPS * flops.training_flops(config) == counted_by_torch(config, backward=True)["Global"]


def test_the_small_network_of_other_tests():
    config = ModelConfig(**SMALL, audiovisual=False)
    assert counted_by_torch(config, backward=True)["Global"] == CLIPS * SMALL_TRAINING_FLOPS


def test_the_published_network():
    """The figures of network.md and docs/scaling.md, whose 10.01 G have ALM's form multiplied at each of 49 places."""
    config = ModelConfig()
    multiply_adds = flops.forward_flops(config) / 2
    uncontracted = multiply_adds + (49 - 1) * 64 * 128 * 128
    assert round(multiply_adds / 1e9, 2) == 9.96
    assert round(uncontracted / 1e9, 2) == 10.01
    assert round(flops.training_flops(config) / 1e9, 1) == 53.1


def multiply_adds(jaxpr):
    """Multiplications of all convolutions and matrix products of a traced program, zero padding included."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            left, kernel = (variable.aval for variable in equation.invars)
            outputs, inputs, *_ = equation.params["dimension_numbers"].rhs_spec
            if math.prod(equation.params["lhs_dilation"]) == 1:
                # Each output element takes a product for each element of its filter.
                total += equation.outvars[0].aval.size * kernel.size // kernel.shape[outputs]
            else:
                # The gradient by the input of a strided convolution: zeros lie between the elements, each of which goes
                # into a product for each element of all filters that belongs to its channel.
                total += left.size * kernel.size // kernel.shape[inputs]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval
            total += equation.outvars[0].aval.size * math.prod(left.shape[axis] for axis in contracted)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += multiply_adds(inner)
    return total


@pytest.mark.parametrize("change", [SMALL, SMALL | {"audiovisual": False}], ids=["audiovisual", "visual"])
def test_the_traced_program_has_exactly_the_counted_operations(change):
    config = ModelConfig(**change)
    model = names.abstract_model(config)
    model.train()
    # On a CPU a mean over time is a product, and on both a CPU and a GPU the stem's kernel has zeros that fill it up.
    model.set_attributes(platform="tpu")
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    video = jax.ShapeDtypeStruct((CLIPS, config.frames, config.frame_size, config.frame_size, 3), jnp.uint8)
    audio = jax.ShapeDtypeStruct((CLIPS, config.audio_samples), jnp.float32)

    def forward(params, stats, video, audio):
        return nnx.merge(graphdef, params, stats, copy=True)(video, audio).logits.sum()

    def traced(program):
        jaxpr = jax.make_jaxpr(program)(params, stats, video, audio).jaxpr
        # XLA drops the unused gradient with respect to the sound.
        return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]

    assert 2 * multiply_adds(traced(forward)) == CLIPS * flops.forward_flops(config)
    assert 2 * multiply_adds(traced(jax.value_and_grad(forward))) == CLIPS * flops.training_flops(config)
