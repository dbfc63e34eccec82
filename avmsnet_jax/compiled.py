"""What XLA compiled for a command is there at its next start, in a folder of the user's."""

import functools
import glob
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avmsnet_jax import cores
from avmsnet_jax.staging import is_private

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",  # what takes less is compiled as soon as it is read
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(10**9),  # bytes; a step of the published network takes 1 MB on CPU
    # Nothing bounds those of XLA itself on GPU, and with them the folder's name would be part of each program's key.
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
}
_FAILED = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.*)': (\w+): ", re.DOTALL)

BEGAN = time.time()  # this start, in seconds since 1970
_kept: Path | None = None  # where `keep` keeps, if it does


def keep() -> None:
    """Makes JAX keep what it compiles in `$XDG_CACHE_HOME/avmsnet_jax/` or `~/.cache/avmsnet_jax/`.

    Not if the user has set JAX's cache himself, be it to none, and not if that folder cannot be written, or if others
    could write there: what is in it is run. To be called before JAX is imported, which reads its settings from the
    environment then.

    JAX's key for a program has in it the versions, the devices, XLA_FLAGS and what the CPU can do, but not the number
    of cores that XLA:CPU divides loops among. On more cores such a program would be slow, and it need not round as one
    that is compiled there: each number has a folder of its own.
    """
    global _kept
    caches = os.environ.get("XDG_CACHE_HOME", "") or os.path.expanduser("~/.cache")
    if _FOLDER in os.environ or not os.path.isabs(caches):
        return
    number = os.environ.get("NPROC") or cores.count()  # as XLA counts them
    folder = Path(caches) / "avmsnet_jax" / f"compiled_{number}_cores"
    try:
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, exist_ok=True)
            if not is_private(each):
                print(
                    f"warning: compiled programs are not kept, as others could change what is in {each}; "
                    "remove it, and close the folders above it to others",
                    file=sys.stderr,
                )
                return
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
    except OSError:
        return
    for name, value in {_FOLDER: str(folder), **_SETTINGS}.items():
        os.environ.setdefault(name, value)
    warnings.showwarning = functools.partial(_mend, folder, warnings.showwarning)
    _kept = folder


def keep_nothing_of_several() -> None:
    """To be called by each of several processes: undoes `keep`, before anything is compiled.

    Only the first would write, in a folder that the others may not see. A process that finds a program must not leave
    those alone that have to compile it, as on GPU they divide the search for the fastest kernels among them.
    """
    if _kept is not None:
        import jax

        jax.config.update("jax_enable_compilation_cache", False)


def folder() -> Path | None:
    """Where `keep` keeps, or None where nothing is kept there."""
    import jax

    return _kept if jax.config.values["jax_enable_compilation_cache"] else None


def _mend(folder: Path, show: Callable[..., None], message: Any, category: Any, *place: Any) -> None:
    """`warnings.showwarning`, save that what is wrong with the folder is put right in silence.

    JAX goes on after it and compiles. But an entry that a killed process left half-written it would neither use nor
    write again, and one that lacks its time of use keeps it from writing any other.
    """
    failed = _FAILED.match(str(message))
    if failed is None:
        show(message, category, *place)
        return
    what, program, error = failed.groups()
    if error == "Timeout":  # too many at once
        return
    for entry in folder.glob(f"{glob.escape(program)}-*-cache" if what == "reading" else "*-cache"):
        used = entry.with_name(entry.name.removesuffix("cache") + "atime")
        if what == "reading" or not used.exists():
            entry.unlink(missing_ok=True)
            used.unlink(missing_ok=True)
