"""A/V-MSNet in PyTorch, written from its description, as the reference for the JAX network.

It shares no code with `avmsnet_jax`. Its `state_dict()` has the names and shapes of the published
checkpoints, the tensors that no forward pass reads included, so a published file loads with `strict=True`.
It is also the side that benchmarks run against, hence written as one would for speed.
"""

import dataclasses
import typing

import torch
from torch import nn
from torch.nn import functional

MEAN = (114.7748, 107.7354, 99.4750)  # ActivityNet, RGB of 0-255
BASIC = {10: (1, 1, 1), 18: (2, 2, 2), 34: (3, 4, 6)}
BOTTLENECK = {50: (3, 4, 6), 101: (3, 4, 23), 152: (3, 8, 36), 200: (3, 24, 36)}
SIDE = 16  # channels between the two convolutions of an attention module


class NetworkConfig(typing.Protocol):
    """The fields used of a configuration, such as `avmsnet_jax.config.ModelConfig`."""

    @property
    def depth(self) -> int: ...
    @property
    def shortcut(self) -> str: ...
    @property
    def audiovisual(self) -> bool: ...
    @property
    def dam4(self) -> bool: ...
    @property
    def frames(self) -> int: ...
    @property
    def frame_size(self) -> int: ...
    @property
    def trunk_width(self) -> int: ...
    @property
    def soundnet_width(self) -> int: ...
    @property
    def alm_width(self) -> int: ...
    @property
    def alm_channels(self) -> int: ...
    @property
    def adjust_width(self) -> int: ...
    @property
    def head_width(self) -> int: ...


@dataclasses.dataclass
class TorchOutput:
    """The network's results for B clips, in PyTorch's layout (B, C, T, H, W).

    Attributes:
      logits: (B,).
      attention: a (B, h, w) map for each attention module applied.
      localization: (B, maps, h, w), ALM's tensor; zeros in the visual-only network.
      activations: with `stages=True` every stage by name, else empty. `stem` and `layer1`-`layer3` are taken
        before the attention that follows them; `fusion` is (B, C, T, h, w).
    """

    logits: torch.Tensor
    attention: list[torch.Tensor]
    localization: torch.Tensor
    activations: dict[str, torch.Tensor]


def conv_bn(channels: int, out: int, kernel: int, stride: int = 1) -> tuple[nn.Conv3d, nn.BatchNorm3d]:
    """A cubic convolution that keeps the size at stride 1, and its normalization."""
    return nn.Conv3d(channels, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm3d(out)


class ResidualBlock(nn.Module):
    """The two kinds of block: `conv2` of a bottleneck has the stride, of a basic block `conv1`."""

    def __init__(self, channels: int, planes: int, stride: int, *, bottleneck: bool, shortcut: str):
        super().__init__()
        self.out, self.stride = planes * (4 if bottleneck else 1), stride
        if bottleneck:
            self.conv1, self.bn1 = conv_bn(channels, planes, 1)
            self.conv2, self.bn2 = conv_bn(planes, planes, 3, stride)
            self.conv3, self.bn3 = conv_bn(planes, self.out, 1)
        else:
            self.conv1, self.bn1 = conv_bn(channels, planes, 3, stride)
            self.conv2, self.bn2 = conv_bn(planes, planes, 3)
        self.bottleneck = bottleneck
        self.reshapes = stride > 1 or self.out != channels
        self.downsample = (
            nn.Sequential(*conv_bn(channels, self.out, 1, stride)) if self.reshapes and shortcut == "B" else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(functional.relu(y, inplace=True)))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.reshapes:  # shortcut A
            x = functional.avg_pool3d(x, 1, self.stride)
            x = functional.pad(x, (0, 0) * 3 + (0, self.out - x.shape[1]))
        y += x
        return functional.relu(y, inplace=True)


class Attention(nn.Module):
    """A DAM. The transposed convolutions once drew side maps and are only kept for the checkpoints' sake."""

    def __init__(self, channels: int, octave: int):
        super().__init__()
        self.side_prep = nn.Conv2d(channels, SIDE, 3, padding=1)
        self.score_dsn = nn.Conv2d(SIDE, 1, 1)
        self.upscale_ = nn.ConvTranspose2d(1, 1, 2 ** (octave + 1), 2**octave, bias=False)
        self.upscale = nn.ConvTranspose2d(SIDE, SIDE, 2 ** (octave + 1), 2**octave, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        score = self.score_dsn(self.side_prep(x.mean(2)))
        attention = score.flatten(1).softmax(1).reshape(score.shape)
        return x * (1 + attention)[:, :, None], attention[:, 0]


class Localization(nn.Module):
    """ALM: a bilinear form between each place and the sound."""

    def __init__(self, visual: int, sound: int, width: int, maps: int):
        super().__init__()
        self.affine_rgb = nn.Linear(visual, width)
        self.affine_audio = nn.Linear(sound, width)
        self.w_a_rgb = nn.Bilinear(width, width, maps)

    def forward(self, frame: torch.Tensor, sound: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = frame.shape
        places = functional.relu(self.affine_rgb(frame.flatten(2).transpose(1, 2)))
        heard = functional.relu(self.affine_audio(sound))
        # nn.Bilinear would repeat the sound at each place and the products with it.
        form = torch.einsum("kij,bj->bki", self.w_a_rgb.weight, heard)
        maps = torch.baddbmm(self.w_a_rgb.bias[:, None], form, places.transpose(1, 2))
        return maps.reshape(batch, -1, height, width)


def soundnet8(width: int) -> nn.Sequential:
    """SoundNet's first seven layers on (B, 1, 1, samples): the waveform is an image of one row."""

    def layer(channels: int, out: int, kernel: int, pool: int = 0) -> list[nn.Module]:
        modules = [
            nn.Conv2d(channels, out, (1, kernel), (1, 2), (0, kernel // 2)),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
        return modules + [nn.MaxPool2d((1, pool))] * (pool > 0)

    return nn.Sequential(
        *layer(1, width, 64, 8),
        *layer(width, 2 * width, 32, 8),
        *layer(2 * width, 4 * width, 16),
        *layer(4 * width, 8 * width, 8),
        *layer(8 * width, 16 * width, 4, 4),
        *layer(16 * width, 32 * width, 4),
        *layer(32 * width, 64 * width, 4, 2),
    )


class TorchAVMSNet(nn.Module):
    """The whole network, for clips of `frames` frames of `frame_size` pixels squared.

    Args:
      config: sizes and variants, as in `avmsnet_jax.config.ModelConfig`.
    """

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        bottleneck = config.depth in BOTTLENECK
        width, growth = config.trunk_width, 4 if bottleneck else 1
        self.conv1 = nn.Conv3d(3, width, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.maxpool = nn.MaxPool3d(3, 2, 1)
        channels = width
        for i, blocks in enumerate((BOTTLENECK if bottleneck else BASIC)[config.depth]):
            layer = nn.Sequential()
            for j in range(blocks):
                stride = 2 if i and not j else 1
                layer.append(
                    ResidualBlock(channels, width << i, stride, bottleneck=bottleneck, shortcut=config.shortcut)
                )
                channels = (width << i) * growth
            setattr(self, f"layer{i + 1}", layer)

        attended = (width, width * growth, 2 * width * growth, 4 * width * growth)
        self.score_dsn = nn.ModuleList(Attention(c, octave) for octave, c in enumerate(attended, 1))
        self.fuse = nn.Conv2d(4 * SIDE, 1, 1)  # this and the next: in the checkpoints, in no forward pass
        self.fuseav = nn.Conv2d(4 * SIDE + config.alm_channels, 1, 1)

        self.soundnet8 = soundnet8(config.soundnet_width)
        self.fusion4 = Localization(channels, 64 * config.soundnet_width, config.alm_width, config.alm_channels)
        self.downsamplelayer = nn.Conv3d(channels, config.adjust_width, 1, (2, 1, 1))
        self.bn3d = nn.BatchNorm3d(config.adjust_width)
        self.fuselayer = nn.Conv2d(config.adjust_width + config.alm_channels, config.adjust_width, 3, padding=1)
        self.bn2d = nn.BatchNorm2d(config.adjust_width)

        steps = (config.frames // 8 + 1) // 2
        features = config.adjust_width * steps * (config.frame_size // 16) ** 2
        hidden = config.head_width
        self.fc1 = nn.Sequential(nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True))
        self.fc2 = nn.Sequential(nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True))
        self.fc3 = nn.Linear(hidden, 1)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.initialize()

    def initialize(self) -> None:
        """The published initial weights; what it leaves alone keeps PyTorch's default."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear | nn.Bilinear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if not isinstance(module, nn.Conv3d):
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.001)
                nn.init.zeros_(module.bias)
        for attention in self.score_dsn:
            nn.init.constant_(attention.score_dsn.bias, -6.0)

    def forward(self, video: torch.Tensor, audio: torch.Tensor | None = None, *, stages: bool = False) -> TorchOutput:
        """Scores clips.

        Args:
          video: (B, frames, size, size, 3) RGB of 0-255, any dtype.
          audio: (B, samples) in +-256, read only by the audio-visual network.
          stages: also return every stage's activations.
        """
        config = self.config
        seen: dict[str, torch.Tensor] = {}
        attention = []

        def keep(name: str, value: torch.Tensor) -> torch.Tensor:
            if stages:
                seen[name] = value
            return value

        def attend(index: int, x: torch.Tensor) -> torch.Tensor:
            x, a = self.score_dsn[index](x)
            attention.append(a)
            return x

        x = (video - self.mean).permute(0, 4, 1, 2, 3)
        x = keep("stem", functional.relu(self.bn1(self.conv1(x)), inplace=True))
        x = keep("layer1", self.layer1(self.maxpool(attend(0, x))))
        x = keep("layer2", self.layer2(attend(1, x)))
        x = keep("layer3", self.layer3(attend(2, x)))
        if config.dam4:
            x = attend(3, x)

        time = x.shape[2]
        if config.audiovisual:
            frame = (x[:, :, max(time // 2 - 1, 0)] + x[:, :, time // 2]) / 2
            sound = keep("soundnet", self.soundnet8(audio[:, None, None]).mean((2, 3)))
            maps = self.fusion4(frame, sound)
        else:
            maps = x.new_zeros(x.shape[0], config.alm_channels, *x.shape[3:])

        x = keep("adjust", self.bn3d(self.downsamplelayer(x)))
        # The fusion convolution is two-dimensional: remaining steps are run as further images, with the clip's map.
        steps = x.shape[2]
        images = torch.cat((x.transpose(1, 2).flatten(0, 1), maps.to(x.dtype).repeat_interleave(steps, 0)), 1)
        x = self.bn2d(self.fuselayer(images))
        x = keep("fusion", x.unflatten(0, (-1, steps)).transpose(1, 2))
        x = keep("fc1", self.fc1(x.flatten(1)))
        x = keep("fc2", self.fc2(x))
        return TorchOutput(self.fc3(x)[:, 0], attention, maps, seen)
