"""A/V-MSNet in JAX/Flax: watch a film, listen to it, score its moments, cut the summary."""

from avmsnet_jax.config import Config, ModelConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.models.avmsnet import AVMSNet, Output

__all__ = ["AVMSNet", "Config", "ModelConfig", "Output", "UserError"]
