"""What XLA is told so that this network runs fast: on CPU once for the process, on GPU with each program."""

import importlib.util
import mmap
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

_NAME, _VALUE = "xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
_FIRST, _LATEST_SEEN = (0, 10), (0, 12)  # jaxlib versions: the first that has the flag, and the last that was tried
# On NVIDIA's GPUs XLA takes channels last for 2-D convolutions, but not for 3-D ones, nor has it an option for those
# alone. In float64, which this network is not run in there, cuDNN has none of the kind.
_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_force_conv_nhwc": True}}


def keep_convolutions_on_eigen() -> None:
    """Adds to XLA_FLAGS that YNNPACK is to run matrix products only, unless the user has set that flag.

    jaxlib hands 2-D convolutions on CPU to YNNPACK by default, where they take two to three times as long as in Eigen.
    `jit` could tell XLA as well, but not for a user's own `jax.jit`.
    Without effect once JAX has compiled something.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _NAME not in flags and _is_known():
        os.environ["XLA_FLAGS"] = f"{flags} --{_NAME}={_VALUE}".strip()


def jit(function: Callable[..., Any], platform: str, **options: Any) -> Any:
    """`jax.jit(function, **options)` for what runs the network; not to be called within another `jit`.

    Args:
      function: what to compile.
      platform: what it will run on: "cpu", "gpu" or "tpu" (`mesh.platform`).
      options: those of `jax.jit`.
    """
    import jax  # this module is imported before JAX may start

    return jax.jit(function, compiler_options=_OPTIONS.get(platform), **options)


def _is_known() -> bool:
    """Whether the installed jaxlib has the flag: XLA ends the process at one that it does not know."""
    version = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    if version <= _LATEST_SEEN:
        return version >= _FIRST
    package = importlib.util.find_spec("jaxlib")
    folders = package.submodule_search_locations if package else None
    return any(_holds_flag(path) for folder in folders or () for path in Path(folder).glob("*jax_common*"))


def _holds_flag(library: Path) -> bool:
    """Whether a shared library registers the flag and knows its value: tenths of a second for 350 MB."""
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Flags are registered under a C string; where the name is merely a field of a message, no NUL surrounds it.
        return content.find(b"\0" + _NAME.encode() + b"\0") >= 0 and content.find(_VALUE.encode()) >= 0
