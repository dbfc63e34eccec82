"""A/V-MSNet: scores how important a clip is from its frames and sound."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.models import init
from avmsnet_jax.models.alm import ALM
from avmsnet_jax.models.dam import DAM
from avmsnet_jax.models.ops import pool
from avmsnet_jax.models.ops.batch_norm import BatchNorm
from avmsnet_jax.models.ops.conv3d import Conv3d
from avmsnet_jax.models.ops.product import dot_general
from avmsnet_jax.models.resnet3d import ResNet3D, expansion
from avmsnet_jax.models.soundnet import FEATURES, SoundNet

ACTIVITYNET_MEAN = (114.7748, 107.7354, 99.4750)  # RGB, of 0-255


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """The results of a forward pass. Under `jit`, unused ones are not computed.

    Attributes:
      logits: (B,) float32.
      attention: a (B, h, w) float32 map for each attention module (DAM); each sums to 1.
      localization: (B, h, w, alm_channels) float32, the output of the audio localization module (ALM). Its norm over
        channels is the sound-localization map. Zeros in the visual-only network.
      features: (B, C) float32, layer3 averaged over time and space; C = 1024 at depth 50.
      activations: the output of each stage by name, in the compute dtype.
    """

    logits: jax.Array
    attention: tuple[jax.Array, ...]
    localization: jax.Array
    features: jax.Array
    activations: dict[str, jax.Array]

    @property
    def scores(self) -> jax.Array:
        """(B,) float32 in 0-1, the importance of each clip."""
        return jax.nn.sigmoid(self.logits)


class AVMSNet(nnx.Module):
    """The network.

    Args:
      config: depth, widths and the size of a clip.
      rngs: for the initial weights.

    Example:
      model = AVMSNet(ModelConfig(depth=18), rngs=nnx.Rngs(0))
      model.eval()
      out = model(video, audio)   # (B, 16, 112, 112, 3) uint8, (B, 35280) float32 in +-256
      out.scores                  # (B,)

    The visual-only network (`audiovisual=False`) has the parameters of SoundNet and ALM, too, without using them, so
    that every checkpoint fits every variant.

    Some operations have a form for each platform. By default all forms are traced, and the compiler takes the one for
    its platform. `model.set_attributes(platform="gpu")` ("cpu", "gpu" or "tpu") traces only that form, and uses it on
    any platform.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype, width = config.dtype, config.trunk_width
        channels = expansion(config.depth)
        layer1, layer2, layer3 = (width * factor * channels for factor in (1, 2, 4))
        self.trunk = ResNet3D(config.depth, config.shortcut, width, dtype=dtype, rngs=rngs)
        attended = (width, layer1, layer2) + ((layer3,) if config.dam4 else ())
        self.dams = nnx.List(DAM(c, dtype=dtype, rngs=rngs) for c in attended)
        self.soundnet = SoundNet(config.soundnet_width, dtype=dtype, rngs=rngs)
        sound = FEATURES * config.soundnet_width
        self.alm = ALM(layer3, sound, config.alm_width, config.alm_channels, dtype=dtype, rngs=rngs)
        self.adjust = Conv3d(layer3, config.adjust_width, (1, 1, 1), (2, 1, 1), use_bias=True, dtype=dtype, rngs=rngs)
        self.adjust_bn = BatchNorm(config.adjust_width)
        self.fusion = nnx.Conv(
            config.adjust_width + config.alm_channels,
            config.adjust_width,
            (3, 3),
            padding=1,
            dtype=dtype,
            kernel_init=init.conv2d,
            rngs=rngs,
        )
        self.fusion_bn = BatchNorm(config.adjust_width)
        steps = -(-config.frames // 16)  # the trunk divides time by 8, `adjust` by 2
        flat = config.adjust_width * steps * (config.frame_size // 16) ** 2

        linear = functools.partial(
            nnx.Linear, dtype=dtype, kernel_init=init.kaiming_fan_out, dot_general=dot_general, rngs=rngs
        )
        # 70% of the published network's parameters: training with mesh.fsdp shards the rows.
        self.fc1 = linear(flat, config.head_width, kernel_metadata={"out_sharding": ("fsdp",), "eager_sharding": False})
        self.fc1_bn = BatchNorm(config.head_width)
        self.fc2 = linear(config.head_width, config.head_width)
        self.fc2_bn = BatchNorm(config.head_width)
        self.fc3 = linear(config.head_width, 1)

    def __call__(self, video: jax.Array, audio: jax.Array | None = None) -> Output:
        """Scores clips.

        Args:
          video: (B, frames, frame_size, frame_size, 3) RGB, uint8 or float in 0-255.
          audio: (B, samples) float32 in +-256, 35280 samples for 16 frames; the visual-only network needs none.

        Raises:
          UserError: the network is configured for another shape, or needs audio.
        """
        config = self.config
        self._check(video, audio)
        seen: dict[str, jax.Array] = {}
        attention = []

        def attend(index: int, x: jax.Array) -> jax.Array:
            x, a = self.dams[index](x)
            attention.append(a)
            return x

        # The shapes are those of the published network at depth 50.
        x = (jnp.asarray(video, jnp.float32) - jnp.array(ACTIVITYNET_MEAN)).astype(config.dtype)
        seen["stem"] = x = self.trunk.stem(x)  # (B, 16, 56, 56, 64)
        x = pool.cubes(attend(0, x))  # (B, 8, 28, 28, 64)
        seen["layer1"] = x = self.trunk.stage(0, x)  # (B, 8, 28, 28, 256)
        seen["layer2"] = x = self.trunk.stage(1, attend(1, x))  # (B, 4, 14, 14, 512)
        seen["layer3"] = x = self.trunk.stage(2, attend(2, x))  # (B, 2, 7, 7, 1024)
        if config.dam4:
            x = attend(3, x)

        middle = x.shape[1] // 2  # ALM sees the mean of the two middle time steps
        places = (x[:, max(middle - 1, 0)] + x[:, middle]) / 2  # (B, 7, 7, 1024)
        if config.audiovisual:
            assert audio is not None
            seen["soundnet"] = sound = self.soundnet(audio)  # (B, 1024)
            localization = self.alm(places, sound)  # (B, 7, 7, 64)
        else:
            localization = jnp.zeros((*places.shape[:3], config.alm_channels), config.dtype)

        seen["adjust"] = adjusted = self.adjust_bn(self.adjust(x))  # (B, 1, 7, 7, 512)
        batch, steps, height, width, _ = adjusted.shape
        heard = jnp.broadcast_to(localization[:, None], (batch, steps, *localization.shape[1:]))
        joined = jnp.concatenate([adjusted, heard.astype(adjusted.dtype)], axis=-1)  # (B, 1, 7, 7, 576)
        fused = self.fusion(joined.reshape(batch * steps, height, width, -1))
        seen["fusion"] = fused = self.fusion_bn(fused.reshape(batch, steps, height, width, -1))  # (B, 1, 7, 7, 512)

        flat = fused.transpose(0, 4, 1, 2, 3).reshape(batch, -1)  # (B, 25088), in the order of the published weights
        seen["fc1"] = flat = nnx.relu(self.fc1_bn(self.fc1(flat)))  # (B, 4096)
        seen["fc2"] = flat = nnx.relu(self.fc2_bn(self.fc2(flat)))  # (B, 4096)
        return Output(
            logits=self.fc3(flat)[:, 0].astype(jnp.float32),
            attention=tuple(attention),
            localization=localization.astype(jnp.float32),
            features=jnp.mean(x.astype(jnp.float32), axis=(1, 2, 3)),
            activations=seen,
        )

    def _check(self, video: jax.Array, audio: jax.Array | None) -> None:
        """Raises UserError for inputs that the network does not take."""
        config = self.config
        expected = (config.frames, config.frame_size, config.frame_size, 3)
        if video.ndim != 5 or video.shape[1:] != expected:
            raise UserError(
                f"video has shape {video.shape}; this network takes (clips, {', '.join(map(str, expected))})"
            )
        if config.audiovisual and audio is None:
            raise UserError("this is an audio-visual network: give it audio (clips, samples) with the video")
