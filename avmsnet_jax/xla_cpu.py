"""One setting of XLA on CPU that halves the time of this network. It has to be made before JAX starts."""

import os
from importlib import metadata

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# jaxlib versions seen to know it. Only those: XLA ends the process at a flag that it does not know.
_KNOWN = ((0, 10), (0, 11), (0, 12))


def keep_convolutions_on_eigen() -> None:
    """Adds to XLA_FLAGS that YNNPACK is to run matrix products only, unless the user has set that flag.

    jaxlib hands 2-D convolutions on CPU to YNNPACK by default, where they take two to three times as long as in Eigen.
    Per-`jit` compiler options would do as well, but not for a user's own `jit`.
    Without effect once JAX has compiled something.
    """
    version = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    flags = os.environ.get("XLA_FLAGS", "")
    if version in _KNOWN and _FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT".strip()
