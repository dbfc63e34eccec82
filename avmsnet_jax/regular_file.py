"""Refuses files that could block a reader forever."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from avmsnet_jax.errors import UserError

_OTHERS = (
    (stat.S_ISFIFO, "a pipe; save it to a file first"),
    (stat.S_ISSOCK, "a socket; save what it sends to a file first"),
    (stat.S_ISCHR, "a device; save it to a file first"),
    (stat.S_ISBLK, "a device; save it to a file first"),
)


def check(path: str | os.PathLike[str]) -> None:
    """Refuses pipes, sockets and devices without opening them. Folders pass, because opening one fails at once.

    Raises:
      FileNotFoundError: nothing is there.
      UserError: the path is a pipe, a socket or a device, or cannot be resolved.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path)) from None
    except OSError as error:
        raise UserError(f"cannot read {os.fspath(path)}: {error.strerror}; rename it, or check the path") from None
    for is_kind, words in _OTHERS:
        if is_kind(mode):
            raise UserError(f"{os.fspath(path)} is {words}")


def regular_files(folder: Path) -> list[Path]:
    """The files in a folder and its subfolders.

    Raises:
      ValueError: there is a link, which could lead anywhere, or a pipe or a device, which could block.
      OSError: it cannot be read.
    """
    found = []
    for path in (folder, *_entries(folder)):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise ValueError(f"{path.name} is a link; cp -rL makes a copy that has none")
        if stat.S_ISREG(mode):
            found.append(path)
        elif not stat.S_ISDIR(mode):
            raise ValueError(f"{path.name} is neither a file nor a folder")
    return found


def _entries(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(place) / name
