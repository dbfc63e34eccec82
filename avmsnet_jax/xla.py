"""Options of XLA that speed up this network: on CPU a flag of the process, on GPU options of each program."""

import os
from collections.abc import Callable
from typing import Any

# XLA aborts the process on an unknown flag; every jaxlib that pyproject.toml allows knows this one.
_NAME, _VALUE = "xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
# On NVIDIA GPUs XLA chooses channels-last for 2-D convolutions but not for 3-D ones, and has no option for 3-D only. In
# float64, which this network does not use there, cuDNN has no such convolutions.
_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_force_conv_nhwc": True}}


def keep_convolutions_on_eigen() -> None:
    """Restricts YNNPACK to matrix products in XLA_FLAGS, unless the user has set that flag.

    By default jaxlib runs 2-D convolutions on CPU in YNNPACK, which takes two to three times as long as Eigen. A flag
    of the process also covers a user's own `jax.jit`. It has no effect once JAX has compiled something.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _NAME not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{_NAME}={_VALUE}".strip()


def jit(function: Callable[..., Any], platform: str, **options: Any) -> Any:
    """`jax.jit(function, **options)` with the platform's compiler options. Do not call the result within a `jit`.

    Args:
      function: the function to compile; it runs the network.
      platform: the platform that it runs on: "cpu", "gpu" or "tpu" (`mesh.platform`).
      options: those of `jax.jit`.
    """
    import jax  # this module is imported before JAX

    return jax.jit(function, compiler_options=_OPTIONS.get(platform), **options)
