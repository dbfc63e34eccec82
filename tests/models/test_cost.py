"""Unused outputs cost nothing: checked by the computations and inputs of the compiled program."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.models.soundnet import LAYERS
from avmsnet_jax.weights import names

SMALL = {
    "depth": 10,
    "trunk_width": 4,
    "soundnet_width": 4,
    "alm_width": 8,
    "alm_channels": 3,
    "adjust_width": 12,
    "head_width": 20,
    "frame_size": 32,
    "frames": 8,
}


def compile_for(wanted, **change):
    """The forward pass in evaluation mode, compiled for one clip and for what `wanted(output)` returns."""
    config = ModelConfig(**SMALL | change)
    model = names.abstract_model(config)
    model.eval()
    graph, state = nnx.split(model)
    video = jax.ShapeDtypeStruct((1, config.frames, config.frame_size, config.frame_size, 3), jnp.uint8)
    audio = jax.ShapeDtypeStruct((1, config.audio_samples), jnp.float32)

    @jax.jit
    def forward(state, video, audio):
        return wanted(nnx.merge(graph, state)(video, audio))

    return forward.lower(state, video, audio).compile()


def cost(compiled, what="flops"):
    return compiled.cost_analysis()[what]


def arguments(compiled):
    """The number of input tensors of the program: jit drops those that do not affect the result."""
    entry = re.search(r"entry_computation_layout=\{\((.*?)\)->", compiled.as_text(), re.DOTALL)
    return len(re.findall(r"\b(?:f32|u8)\[", entry.group(1)))


def leaves():
    """Parameters and statistics in all, and those of the audio branch."""
    model = names.abstract_model(ModelConfig(**SMALL))
    return tuple(len(jax.tree.leaves(nnx.state(part))) for part in (model, {"s": model.soundnet, "a": model.alm}))


def conv_lengths(samples):
    found = []
    for _, kernel, padding, pool in LAYERS:
        found.append((samples + 2 * padding - kernel) // 2 + 1)
        samples = found[-1] // pool
    return found


@pytest.fixture(scope="module")
def logits_only():
    return compile_for(lambda out: out.logits)


def test_unused_outputs_are_not_computed(logits_only):
    localized = compile_for(lambda out: (out.logits, jnp.linalg.norm(out.localization, axis=-1)))
    assert not re.search(r"(?<!r)sqrt\(", logits_only.as_text())  # normalizations take rsqrt
    places = 4
    assert cost(localized, "transcendentals") == cost(logits_only, "transcendentals") + places  # the roots


def test_the_first_attention_map_needs_only_the_stem(logits_only):
    attention = compile_for(lambda out: out.attention[0])
    assert arguments(attention) == 1 + (1 + 4) + (2 + 2)  # video; stem's kernel and BN; the DAM's two convolutions
    assert cost(attention) < 0.8 * cost(logits_only)


def test_the_visual_only_network_does_not_compute_soundnet(logits_only):
    """The network has SoundNet and ALM, but its program neither reads their parameters nor computes them."""
    every, audio_branch = leaves()
    visual = compile_for(lambda out: out.logits, audiovisual=False)
    assert arguments(logits_only) == every + 2
    assert arguments(visual) == every - audio_branch + 1
    # Its localization is zeros, for which no parameter of the trunk is needed.
    silent = compile_for(lambda out: out.localization, audiovisual=False)
    assert arguments(silent) == 0
    # Multiplications and additions of SoundNet's seven convolutions, the bulk of the difference.
    width, channels, work = SMALL["soundnet_width"], 1, 0
    for (factor, kernel, _, _), steps in zip(LAYERS, conv_lengths(2205 * SMALL["frames"]), strict=True):
        work += 2 * steps * kernel * channels * width * factor
        channels = width * factor
    assert cost(logits_only) - cost(visual) > 0.9 * work
