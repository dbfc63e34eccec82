"""The visual trunk: a 3D-ResNet without its last stage."""

import jax
import jax.numpy as jnp
from flax import nnx

from avmsnet_jax.models.ops.batch_norm import BatchNorm
from avmsnet_jax.models.ops.conv3d import Conv3d
from avmsnet_jax.models.ops.recompute import recomputed

BLOCKS = {
    10: (1, 1, 1),
    18: (2, 2, 2),
    34: (3, 4, 6),
    50: (3, 4, 6),
    101: (3, 4, 23),
    152: (3, 8, 36),
    200: (3, 24, 36),
}


def expansion(depth: int) -> int:
    """Output channels of a block over its planes: 4 for bottlenecks (depth 50 and more), else 1."""
    return 4 if depth >= 50 else 1


def block_plan(channels: int, planes: int, stride: int, depth: int) -> list[tuple[int, int, int, int]]:
    """The convolutions of a residual block: channels in, channels out, size of the cubic kernel, stride."""
    if expansion(depth) == 1:
        return [(channels, planes, 3, stride), (planes, planes, 3, 1)]
    return [(channels, planes, 1, 1), (planes, planes, 3, stride), (planes, planes * expansion(depth), 1, 1)]


class Shortcut(nnx.Module):
    """What joins a block's input to its output where the shape changes: type B, 1x1x1 convolution and BN."""

    def __init__(self, channels: int, out: int, stride: int, *, dtype: str, rngs: nnx.Rngs):
        self.conv = Conv3d(channels, out, (1, 1, 1), (stride,) * 3, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(out)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


def subsample_and_pad(x: jax.Array, stride: int, out: int) -> jax.Array:
    """Shortcut A: every `stride`-th sample, with zeros for the channels that `x` (B, T, H, W, C) lacks."""
    x = x[:, ::stride, ::stride, ::stride]
    return jnp.pad(x, ((0, 0),) * 4 + ((0, out - x.shape[-1]),))


class Block(nnx.Module):
    """A residual block: basic (3x3x3, 3x3x3) or bottleneck (1x1x1, 3x3x3 with the stride, 1x1x1)."""

    def __init__(
        self, channels: int, planes: int, stride: int, *, depth: int, shortcut: str, dtype: str, rngs: nnx.Rngs
    ):
        self.out, self.stride = planes * expansion(depth), stride
        plan = block_plan(channels, planes, stride, depth)
        self.convs = nnx.List(
            Conv3d(i, o, (k, k, k), (s, s, s), (k // 2,) * 3, dtype=dtype, rngs=rngs) for i, o, k, s in plan
        )
        self.bns = nnx.List(BatchNorm(o) for _, o, _, _ in plan)
        changes = stride != 1 or channels != self.out
        self.shortcut = (
            Shortcut(channels, self.out, stride, dtype=dtype, rngs=rngs) if changes and shortcut == "B" else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            y = bn(conv(y))
            if i + 1 < len(self.convs):
                y = nnx.relu(y)
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif x.shape != y.shape:
            x = subsample_and_pad(x, self.stride, self.out)
        return nnx.relu(y + x)


class ResNet3D(nnx.Module):
    """The parts of the trunk. AVMSNet calls them in turn, as attention modules sit between.

    Shapes at the published sizes: `stem` 16x112x112x3 -> 16x56x56x64, `pool.cubes` -> 8x28x28x64,
    `stages[0]` -> 8x28x28x256, `stages[1]` -> 4x14x14x512, `stages[2]` -> 2x7x7x1024 (depth 50).
    """

    def __init__(self, depth: int, shortcut: str, width: int, *, dtype: str, rngs: nnx.Rngs):
        self.conv = Conv3d(3, width, (7, 7, 7), (1, 2, 2), (3, 3, 3), dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(width)
        stages, channels = [], width
        for index, blocks in enumerate(BLOCKS[depth]):
            planes = width * 2**index
            stage = []
            for block in range(blocks):
                stride = 2 if index > 0 and block == 0 else 1
                stage.append(Block(channels, planes, stride, depth=depth, shortcut=shortcut, dtype=dtype, rngs=rngs))
                channels = stage[-1].out
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)
        self.recompute = False  # what training sets by train.remat: blocks are computed again in the backward pass
        self.platform: str | None = None  # see AVMSNet

    def stem(self, x: jax.Array) -> jax.Array:
        """Convolution, BN, ReLU on mean-free frames (B, T, H, W, 3)."""
        return nnx.relu(self.bn(self.conv(x)))

    def stage(self, index: int, x: jax.Array) -> jax.Array:
        """The blocks of layer `index + 1`."""
        for block in self.stages[index]:
            x = recomputed(block, x, platform=self.platform) if self.recompute else block(x)
        return x
