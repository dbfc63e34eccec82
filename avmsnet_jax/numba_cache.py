"""Numba's on-disk cache of compiled functions."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

from avmsnet_jax.staging import is_private


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled at its first call without the GIL, and cached for other processes in a safe folder.

    Numba executes what it finds in its cache. The package's own folder is as safe as this code, and so is a folder that
    no other user can write to. Without a safe folder (a container may have none), nothing is cached.
    """
    try:
        cached: Any = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no writable folder
        return njit(nogil=True)(function)
    place = Path(cached.stats.cache_path)
    if not (place.is_relative_to(Path(__file__).parent) or is_private(place)):
        return njit(nogil=True)(function)
    save = cached._cache.save_overload

    def save_if_possible(*arguments: Any) -> None:
        with contextlib.suppress(OSError):  # disk full
            save(*arguments)

    cached._cache.save_overload = save_if_possible
    return cached
