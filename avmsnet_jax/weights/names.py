"""The table that relates every tensor of a published checkpoint to a parameter of ours, in both directions.

Published names are those of the PyTorch network (`layer1.0.conv1.weight`); ours are paths into the model's
state (`trunk/stages/0/0/convs/0/kernel`). A layout such as `"oidhw->dhwio"` says how axes move from the
published tensor to ours; read from right to left it takes ours back.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import jax
import numpy as np
from flax import nnx

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.models.avmsnet import AVMSNet
from avmsnet_jax.models.resnet3d import BLOCKS, expansion
from avmsnet_jax.models.soundnet import LAYERS

# From the published tensor of a module to our parameter and the layout change.
Leaves = dict[str, tuple[str, str]]
_BIAS: Leaves = {"bias": ("bias", "o->o")}
_CONV3D: Leaves = {"weight": ("kernel", "oidhw->dhwio")}
_CONV2D: Leaves = {"weight": ("kernel", "oihw->hwio"), **_BIAS}
_SOUND: Leaves = {"weight": ("kernel", "oi1k->kio"), **_BIAS}
_LINEAR: Leaves = {"weight": ("kernel", "oi->io"), **_BIAS}
_BILINEAR: Leaves = {"weight": ("kernel", "kij->kij"), **_BIAS}
_BN: Leaves = {
    "weight": ("scale", "c->c"),
    "bias": ("bias", "c->c"),
    "running_mean": ("mean", "c->c"),
    "running_var": ("var", "c->c"),
}

# The indices of SoundNet's seven convolutions in the published nn.Sequential; each BN follows its convolution.
SOUNDNET_INDEX = (0, 4, 8, 11, 14, 18, 21)

# The parts that a file may contain or lack as a whole, by the first component of a published name.
PARTS = {
    "trunk": ("conv1", "bn1", "layer1", "layer2", "layer3"),
    "attention": ("score_dsn",),
    "sound": ("soundnet8",),
    "localization": ("fusion4",),
    "head": ("downsamplelayer", "bn3d", "fuselayer", "bn2d", "fc1", "fc2", "fc3"),
    "unused": ("fuse", "fuseav"),
}

# Components that frameworks add to names: DataParallel and DDP, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Tensors that identify a known network, whatever the prefix of its names.
_KNOWN_BY = (
    "conv1.weight",
    "score_dsn.0.side_prep.weight",
    "soundnet8.0.weight",
    "fusion4.affine_rgb.weight",
    "fc1.0.weight",
)

COUNTER = "batch norm's step counter; a fixed momentum never reads it"
SIDE_MAP = "made full-size side maps that never reach the score"
NEVER_CALLED = "the published forward pass never calls it"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the published network.

    Attributes:
      shape: its published shape.
      parameter: the path of our parameter; empty if the network never uses the tensor.
      layout: how its axes move to ours; empty without `parameter`.
      unused: why the network never uses it; empty if it does.
    """

    shape: tuple[int, ...]
    parameter: str = ""
    layout: str = ""
    unused: str = ""


def part(name: str) -> str:
    """The part of `PARTS` that a published name belongs to; empty for a foreign name."""
    first = name.split(".", 1)[0]
    return next((part for part, firsts in PARTS.items() if first in firsts), "")


def bare(key: str) -> str:
    """A tensor's name in a file without the components that frameworks add."""
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def wrappings(keys: Iterable[str]) -> list[str]:
    """The name prefixes of the networks in a file, such as `["model.", "ema."]`; `[""]` for a network without prefix.

    A network without prefix hides the others, which may be there for other purposes.
    """
    found = {}
    for name in map(bare, keys):
        for known in _KNOWN_BY:
            before = name.removesuffix(known)
            if before != name and before[-1:] in ("", ".") and not any(map(part, before.split("."))):
                found[before] = True
    return [""] if "" in found else list(found)


def relayout(array: np.ndarray, layout: str) -> np.ndarray:
    """A view of `array` with its axes permuted: `"oi1k->kio"` drops the axis of size one and reverses the others."""
    source, target = layout.split("->")
    kept = source.replace("1", "")
    array = array.reshape([size for size, axis in zip(array.shape, source, strict=True) if axis != "1"])
    array = array.transpose([kept.index(axis) for axis in target.replace("1", "")])
    return np.expand_dims(array, tuple(i for i, axis in enumerate(target) if axis == "1"))


def reverse(layout: str) -> str:
    """The layout that undoes `layout`."""
    return "->".join(reversed(layout.split("->")))


def abstract_model(config: ModelConfig) -> AVMSNet:
    """A new network with shapes in place of arrays: nothing is computed or allocated."""
    return nnx.merge(*_traced(config), copy=True)


@functools.lru_cache(maxsize=8)
def _traced(config: ModelConfig) -> tuple[Any, Any]:
    """The graph definition and the state of an abstract network. Cached: tracing takes half a second."""
    return nnx.split(nnx.eval_shape(lambda: AVMSNet(config, rngs=cast(nnx.Rngs, _OneKey()))))


class _OneKey:
    """Gives the same key each time, in place of `nnx.Rngs`, whose count of keys would double the time to trace."""

    def __init__(self) -> None:
        self._key = jax.random.key(0)

    def params(self) -> jax.Array:
        return self._key


def parameters(model: AVMSNet) -> nnx.State:
    """The state that a checkpoint contains: parameters and BN statistics."""
    return nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))


def held_by(model: AVMSNet) -> dict[str, Any]:
    """The model's parameters and BN statistics by path: arrays, or their shapes in an abstract model."""
    return {path(key): leaf.get_value() for key, leaf in nnx.to_flat_state(parameters(model))}


def shapes(config: ModelConfig) -> Mapping[str, Any]:
    """The shapes and dtypes of a network's parameters and BN statistics, by path."""
    return held_by(abstract_model(config))


def path(key: tuple[Any, ...]) -> str:
    """An NNX state's key as a path of ours, `trunk/stages/0/0/convs/0/kernel`."""
    return "/".join(map(str, key))


def _modules(config: ModelConfig, held: Mapping[str, Any]) -> Iterator[tuple[str, str, Leaves]]:
    """Every module of the published network in its order: published name, path of ours, leaves."""
    yield "conv1", "trunk/conv", _CONV3D
    yield "bn1", "trunk/bn", _BN
    convolutions = 2 if expansion(config.depth) == 1 else 3
    for stage, blocks in enumerate(BLOCKS[config.depth]):
        for block in range(blocks):
            theirs, ours = f"layer{stage + 1}.{block}", f"trunk/stages/{stage}/{block}"
            for i in range(convolutions):
                yield f"{theirs}.conv{i + 1}", f"{ours}/convs/{i}", _CONV3D
                yield f"{theirs}.bn{i + 1}", f"{ours}/bns/{i}", _BN
            if f"{ours}/shortcut/conv/kernel" in held:
                yield f"{theirs}.downsample.0", f"{ours}/shortcut/conv", _CONV3D
                yield f"{theirs}.downsample.1", f"{ours}/shortcut/bn", _BN
    for i in range(4):
        ours = f"dams/{i}" if i < 3 or config.dam4 else ""
        yield f"score_dsn.{i}.side_prep", ours and f"{ours}/conv", _CONV2D
        yield f"score_dsn.{i}.score_dsn", ours and f"{ours}/score", _CONV2D
        yield f"score_dsn.{i}.upscale_", "", {}
        yield f"score_dsn.{i}.upscale", "", {}
    yield "fuse", "", {}
    yield "fuseav", "", {}
    for layer, index in enumerate(SOUNDNET_INDEX[: len(LAYERS)]):
        yield f"soundnet8.{index}", f"soundnet/convs/{layer}", _SOUND
        yield f"soundnet8.{index + 1}", f"soundnet/bns/{layer}", _BN
    yield "fusion4.affine_rgb", "alm/visual", _LINEAR
    yield "fusion4.affine_audio", "alm/sound", _LINEAR
    yield "fusion4.w_a_rgb", "alm", _BILINEAR
    yield "downsamplelayer", "adjust", {**_CONV3D, **_BIAS}
    yield "bn3d", "adjust_bn", _BN
    yield "fuselayer", "fusion", _CONV2D
    yield "bn2d", "fusion_bn", _BN
    for name in ("fc1", "fc2"):
        yield f"{name}.0", name, _LINEAR
        yield f"{name}.1", f"{name}_bn", _BN
    yield "fc3", "fc3", _LINEAR


def _never_used(name: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The published shapes of a module that our network does not have, by published name."""
    if name in ("fuse", "fuseav"):
        channels = 4 * 16 + (config.alm_channels if name == "fuseav" else 0)  # 16 of each of four attention modules
        return {f"{name}.weight": (1, channels, 1, 1), f"{name}.bias": (1,)}
    _, index, module = name.split(".")
    size = 2 ** (int(index) + 2)
    layer3 = 4 * config.trunk_width * expansion(config.depth)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "upscale_": {f"{name}.weight": (1, 1, size, size)},
        "upscale": {f"{name}.weight": (16, 16, size, size)},
        "side_prep": {f"{name}.weight": (16, layer3, 3, 3), f"{name}.bias": (16,)},
        "score_dsn": {f"{name}.weight": (1, 16, 1, 1), f"{name}.bias": (1,)},
    }
    return shapes[module]


@functools.lru_cache(maxsize=8)
def published(config: ModelConfig) -> Mapping[str, Tensor]:
    """Every tensor of the published network in its order, by name: 371 at depth 50.

    It names each parameter of the model of `config` exactly once.
    """
    held = shapes(config)
    table: dict[str, Tensor] = {}
    for name, ours, leaves in _modules(config, held):
        if not ours:
            reason = SIDE_MAP if ".upscale" in name else NEVER_CALLED
            table |= {key: Tensor(shape, unused=reason) for key, shape in _never_used(name, config).items()}
            continue
        for leaf, (our_leaf, layout) in leaves.items():
            parameter = f"{ours}/{our_leaf}"
            shape = relayout(np.broadcast_to(np.float32(0), held[parameter].shape), reverse(layout)).shape
            table[f"{name}.{leaf}"] = Tensor(shape, parameter, layout)
        if leaves is _BN:
            table[f"{name}.num_batches_tracked"] = Tensor((), unused=COUNTER)
    return table
