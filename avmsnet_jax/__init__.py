"""A/V-MSNet in JAX/Flax: watch a film, listen to it, score its moments, cut the summary."""

import importlib
from typing import TYPE_CHECKING, Any

from avmsnet_jax import xla

xla.keep_convolutions_on_eigen()  # before anything below can start JAX

from avmsnet_jax.config import Config, ModelConfig  # noqa: E402
from avmsnet_jax.errors import UserError  # noqa: E402

if TYPE_CHECKING:
    from avmsnet_jax.api import score, summarize
    from avmsnet_jax.models.avmsnet import AVMSNet, Output
    from avmsnet_jax.training.loop import train
    from avmsnet_jax.weights.checkpoint import load, save

__all__ = [
    "AVMSNet",
    "Config",
    "ModelConfig",
    "Output",
    "UserError",
    "load",
    "save",
    "score",
    "summarize",
    "train",
]

# Imported on first use: JAX, Flax and Orbax take seconds, which --help and a mistyped flag should not cost.
_LAZY = {
    "AVMSNet": "models.avmsnet",
    "Output": "models.avmsnet",
    "load": "weights.checkpoint",
    "save": "weights.checkpoint",
    "score": "api",
    "summarize": "api",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"avmsnet_jax.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
