"""The visual trunk: a 3D ResNet without its last stage."""

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
    """The ratio of a block's output channels to its planes: 4 for bottlenecks (depth 50 and more), else 1."""
    return 4 if depth >= 50 else 1


def block_plan(channels: int, planes: int, stride: int, depth: int) -> list[tuple[int, int, int, int]]:
    """The convolutions of a residual block: channels in, channels out, size of the cubic kernel, stride."""
    if expansion(depth) == 1:
        return [(channels, planes, 3, stride), (planes, planes, 3, 1)]
    return [(channels, planes, 1, 1), (planes, planes, 3, stride), (planes, planes * expansion(depth), 1, 1)]


class Shortcut(nnx.Module):
    """Shortcut B, where the shape changes: 1x1x1 convolution and BN."""

    def __init__(self, channels: int, out: int, stride: int, *, dtype: str, rngs: nnx.Rngs):
        self.conv = Conv3d(channels, out, (1, 1, 1), (stride,) * 3, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(out)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.bn(self.conv(x))


def subsample_and_pad(x: jax.Array, stride: int, out: int) -> jax.Array:
    """Shortcut A, where the shape changes: every `stride`-th sample of `x` (B, T, H, W, C), channels zero-padded."""
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
    """The stem and the stages of the trunk. AVMSNet calls them in turn, with attention modules between.

    Shapes at the published sizes, depth 50:

      stem:        16 x 112 x 112 x 3 -> 16 x 56 x 56 x 64    7x7x7 convolution, stride 1x2x2
      pool.cubes:  -> 8 x 28 x 28 x 64                        3x3x3 maximum, stride 2
      stages[0]:   -> 8 x 28 x 28 x 256                       3 bottlenecks
      stages[1]:   -> 4 x 14 x 14 x 512                       4 bottlenecks, the first with stride 2
      stages[2]:   -> 2 x 7 x 7 x 1024                        6 bottlenecks, the first with stride 2
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
        self.recompute = False  # activation checkpointing of the blocks, which train.remat turns on
        self.platform: str | None = None  # see AVMSNet

    def stem(self, x: jax.Array) -> jax.Array:
        """Convolution, BN and ReLU of frames (B, T, H, W, 3) with the mean subtracted."""
        return nnx.relu(self.bn(self.conv(x)))

    def stage(self, index: int, x: jax.Array) -> jax.Array:
        """The blocks of layer `index + 1`."""
        for block in self.stages[index]:
            x = recomputed(block, x, platform=self.platform) if self.recompute else block(x)
        return x
