"""Model FLOPs, counted from the configuration without tracing or compiling anything.

Model FLOPs are twice the multiply-adds of convolutions and matrix products. Normalization, activations, pooling,
softmax and sums do not count: they are limited by memory bandwidth, and data sheets rate products. The count is dense:
it includes products with padding, and with ALM's zeros in the visual-only network. Recomputation for activation
checkpointing does not count.
"""

import dataclasses
import math
from collections.abc import Iterator

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.models import dam
from avmsnet_jax.models.resnet3d import BLOCKS, block_plan, expansion
from avmsnet_jax.models.soundnet import FEATURES, LAYERS, lengths


@dataclasses.dataclass(frozen=True)
class Operation:
    """A convolution or a matrix product on one clip.

    Attributes:
      name: the path of its layer in the network. `alm/form` is ALM's kernel times the sound, `alm/maps` the visual
        features times that.
      output: shape of the output, channels last: (T, H, W, C), (H, W, C), (T, C) or (C,).
      summed: the axes that an output element sums products over: kernel taps, if any, and input channels.
      input_gradient: whether training needs the gradient with respect to the input; not so for pixels and sound.
    """

    name: str
    output: tuple[int, ...]
    summed: tuple[int, ...]
    input_gradient: bool = True

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the forward pass."""
        return math.prod(self.output) * math.prod(self.summed)

    @property
    def training_multiply_adds(self) -> int:
        """Multiply-adds of a training step: the gradients of kernel and input each take as many as the forward pass."""
        return (3 if self.input_gradient else 2) * self.multiply_adds


def operations(config: ModelConfig) -> list[Operation]:
    """All convolutions and matrix products of the network, in the order of the forward pass."""
    width, channels = config.trunk_width, config.trunk_width
    size = _after((config.frames, config.frame_size, config.frame_size), 1, 2, 2)
    found = [Operation("trunk/conv", (*size, width), (7, 7, 7, 3), input_gradient=False)]
    found += _dam(0, size, width)
    size = _after(size, 2, 2, 2)  # maximum pooling
    for stage, blocks in enumerate(BLOCKS[config.depth]):
        if stage:
            found += _dam(stage, size, channels)
        planes = width * 2**stage
        out = planes * expansion(config.depth)
        for block in range(blocks):
            name, stride = f"trunk/stages/{stage}/{block}", 2 if stage and not block else 1
            for number, (i, o, k, s) in enumerate(block_plan(channels, planes, stride, config.depth)):
                size = _after(size, s, s, s)
                found.append(Operation(f"{name}/convs/{number}", (*size, o), (k, k, k, i)))
            if config.shortcut == "B" and (stride > 1 or channels != out):
                found.append(Operation(f"{name}/shortcut/conv", (*size, out), (1, 1, 1, channels)))
            channels = out
    if config.dam4:
        found += _dam(3, size, channels)

    steps, *places = size
    if config.audiovisual:
        found += _soundnet(config)
        sound, alm = FEATURES * config.soundnet_width, config.alm_width
        found += [
            Operation("alm/visual", (*places, alm), (channels,)),
            Operation("alm/sound", (alm,), (sound,)),
            Operation("alm/form", (alm, config.alm_channels), (alm,)),
            Operation("alm/maps", (*places, config.alm_channels), (alm,)),
        ]
    steps, wide = -(-steps // 2), config.adjust_width
    return [
        *found,
        Operation("adjust", (steps, *places, wide), (1, 1, 1, channels)),
        Operation("fusion", (steps, *places, wide), (3, 3, wide + config.alm_channels)),
        Operation("fc1", (config.head_width,), (wide * steps * math.prod(places),)),
        Operation("fc2", (config.head_width,), (config.head_width,)),
        Operation("fc3", (1,), (config.head_width,)),
    ]


def forward_flops(config: ModelConfig) -> int:
    """Model FLOPs of a forward pass per clip."""
    return 2 * sum(operation.multiply_adds for operation in operations(config))


def training_flops(config: ModelConfig) -> int:
    """Model FLOPs of a training step per clip: forward pass and gradients."""
    return 2 * sum(operation.training_multiply_adds for operation in operations(config))


def _after(size: tuple[int, ...], *stride: int) -> tuple[int, ...]:
    """T, H, W after a strided convolution with an odd kernel size and SAME padding."""
    return tuple((n - 1) // s + 1 for n, s in zip(size, stride, strict=True))


def _dam(index: int, size: tuple[int, ...], channels: int) -> Iterator[Operation]:
    yield Operation(f"dams/{index}/conv", (*size[1:], dam.WIDTH), (3, 3, channels))
    yield Operation(f"dams/{index}/score", (*size[1:], 1), (1, 1, dam.WIDTH))


def _soundnet(config: ModelConfig) -> Iterator[Operation]:
    channels = 1
    for number, (steps, (factor, kernel, *_)) in enumerate(zip(lengths(config.audio_samples), LAYERS, strict=True)):
        out = factor * config.soundnet_width
        yield Operation(f"soundnet/convs/{number}", (steps, out), (kernel, channels), input_gradient=number > 0)
        channels = out
