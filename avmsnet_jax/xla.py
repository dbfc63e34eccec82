"""Options of XLA that make this network fast: on CPU once per process, on GPU with each program."""

import importlib.util
import mmap
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

_NAME, _VALUE = "xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
_FIRST, _LATEST_SEEN = (0, 10), (0, 12)  # jaxlib versions: the first with the flag, and the last that was tried
# On NVIDIA GPUs XLA chooses channels-last for 2-D convolutions but not for 3-D ones, and has no option for 3-D only. In
# float64, which this network does not use there, cuDNN has no such convolutions.
_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_force_conv_nhwc": True}}


def keep_convolutions_on_eigen() -> None:
    """Restricts YNNPACK to matrix products in XLA_FLAGS, unless the user has set that flag.

    By default jaxlib runs 2-D convolutions on CPU in YNNPACK, which takes two to three times as long as Eigen. A flag
    of the process also covers a user's own `jax.jit`. It has no effect once JAX has compiled something.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _NAME not in flags and _is_known():
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


def _is_known() -> bool:
    """Whether the installed jaxlib has the flag: XLA aborts the process on an unknown flag."""
    version = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    if version <= _LATEST_SEEN:
        return version >= _FIRST
    package = importlib.util.find_spec("jaxlib")
    folders = package.submodule_search_locations if package else None
    return any(_holds_flag(path) for folder in folders or () for path in Path(folder).glob("*jax_common*"))


def _holds_flag(library: Path) -> bool:
    """Whether a shared library registers the flag and knows its value; takes tenths of a second for 350 MB."""
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Flags are registered by a C string, between NULs; the name also occurs without them, as a message's field.
        return content.find(b"\0" + _NAME.encode() + b"\0") >= 0 and content.find(_VALUE.encode()) >= 0
