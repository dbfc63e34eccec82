"""One setting of XLA on GPU that makes 3-D convolutions faster. It is given to each program, as a user has others."""

from collections.abc import Callable
from typing import Any

import jax

# On NVIDIA's GPUs XLA takes channels last for 2-D convolutions, but not for 3-D ones, nor has it an option for those
# alone. In float64, which this network is not run in there, cuDNN has none of the kind.
_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_force_conv_nhwc": True}}


def jit(function: Callable[..., Any], **options: Any) -> Any:
    """`jax.jit(function, **options)` for what runs the network; not to be called within another `jit`."""
    return jax.jit(function, compiler_options=_OPTIONS.get(jax.default_backend()), **options)
