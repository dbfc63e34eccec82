"""What XLA is told so that this network runs fast: on CPU once for the process, on GPU with each program."""

import os
from collections.abc import Callable
from importlib import metadata
from typing import Any

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# jaxlib versions seen to know it. Only those: XLA ends the process at a flag that it does not know.
_KNOWN = ((0, 10), (0, 11), (0, 12))
# On NVIDIA's GPUs XLA takes channels last for 2-D convolutions, but not for 3-D ones, nor has it an option for those
# alone. In float64, which this network is not run in there, cuDNN has none of the kind.
_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_force_conv_nhwc": True}}


def keep_convolutions_on_eigen() -> None:
    """Adds to XLA_FLAGS that YNNPACK is to run matrix products only, unless the user has set that flag.

    jaxlib hands 2-D convolutions on CPU to YNNPACK by default, where they take two to three times as long as in Eigen.
    `jit` could tell XLA as well, but not for a user's own `jax.jit`.
    Without effect once JAX has compiled something.
    """
    version = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    flags = os.environ.get("XLA_FLAGS", "")
    if version in _KNOWN and _FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT".strip()


def jit(function: Callable[..., Any], platform: str, **options: Any) -> Any:
    """`jax.jit(function, **options)` for what runs the network; not to be called within another `jit`.

    Args:
      function: what to compile.
      platform: what it will run on: "cpu", "gpu" or "tpu" (`mesh.platform`).
      options: those of `jax.jit`.
    """
    import jax  # this module is imported before JAX may start

    return jax.jit(function, compiler_options=_OPTIONS.get(platform), **options)
