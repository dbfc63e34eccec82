"""The persistent compilation cache of the commands, so that the next start need not compile again."""

import os
import sys
import tempfile
from pathlib import Path

from avmsnet_jax import cores
from avmsnet_jax.staging import is_private

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",  # below this, compiling is as fast as reading the cache
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(10**9),  # bytes; a step of the published network takes 1 MB on CPU
    # XLA's own caches on GPU have no size limit, and would make the folder's name a part of each program's key.
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
}

_enabled = False


def enable_cache() -> None:
    """Makes JAX keep compiled programs in `$XDG_CACHE_HOME/avmsnet_jax/` or `~/.cache/avmsnet_jax/`.

    Call it before JAX is imported: JAX reads these settings from the environment then. It does nothing if the user has
    set JAX's cache folder (even to an empty name), if the folder cannot be written, or if other users could write
    there: programs in it are executed.

    JAX's cache key covers versions, devices, XLA_FLAGS and CPU features, but not the number of cores that XLA:CPU
    divides loops among. A program compiled for another number would be slower and may round differently, so each
    number of cores has its own folder.
    """
    global _enabled
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
                    f"warning: compiled programs are not cached, because other users can write to {each}; "
                    "remove it, and make the folders above it writable by you only",
                    file=sys.stderr,
                )
                return
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
        _remove_unfinished(folder)
    except OSError:
        return
    for name, value in {_FOLDER: str(folder), **_SETTINGS}.items():
        os.environ.setdefault(name, value)
    _enabled = True


def _remove_unfinished(folder: Path) -> None:
    """Removes entries without an access-time file, left by a killed process.

    A single such entry keeps JAX from adding others.
    """
    for entry in folder.glob("*-cache"):
        if not entry.with_name(entry.name.removesuffix("cache") + "atime").exists():
            entry.unlink(missing_ok=True)


def disable_cache() -> None:
    """Undoes `enable_cache` in multi-process training; each process calls it before anything is compiled.

    Only the first process would write, to a folder that the others may not see. On GPU all processes share the search
    for the fastest kernels, so all have to compile, and none may take its program from a cache.
    """
    if _enabled:
        import jax

        jax.config.update("jax_enable_compilation_cache", False)
