"""A/V-MSNet in JAX/Flax: watch a film, listen to it, score its moments, cut the summary."""

from typing import TYPE_CHECKING, Any

from avmsnet_jax import xla_cpu

xla_cpu.keep_convolutions_on_eigen()  # before the imports below, which may start JAX

from avmsnet_jax.config import Config, ModelConfig  # noqa: E402
from avmsnet_jax.errors import UserError  # noqa: E402
from avmsnet_jax.models.avmsnet import AVMSNet, Output  # noqa: E402

if TYPE_CHECKING:
    from avmsnet_jax.weights.checkpoint import load, save

__all__ = ["AVMSNet", "Config", "ModelConfig", "Output", "UserError", "load", "save"]


def __getattr__(name: str) -> Any:
    # Orbax takes seconds to import: only those who load or save wait for it.
    if name in ("load", "save"):
        from avmsnet_jax.weights import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
