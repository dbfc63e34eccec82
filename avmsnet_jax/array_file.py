"""Reads NumPy files of numbers, which may be hostile or damaged.

Sizes are checked against the file before memory is allocated, and pickles are never loaded.
"""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from avmsnet_jax.errors import UserError

MOST_BYTES = 500_000_000  # per file; float64 scores by 20 users for each frame of a 36-hour film fit
NUMBERS = "fiub"  # NumPy's codes of the numeric dtype kinds
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy(path: Path, remedy: str) -> np.ndarray:
    """Reads a .npy file of numbers.

    Args:
      path: the file.
      remedy: what the user can do about a file that cannot be read; ends each message.

    Raises:
      UserError: the file is missing, damaged, larger than `MOST_BYTES`, or holds anything but numbers.
    """
    with readable(path, remedy), open(path, "rb") as file:
        found = _read_array(file, path.stat().st_size)
        if found is None:
            raise ValueError("it holds no numbers")
        return found


def read_npz(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """Reads the arrays of numbers in a .npz file, by name; other arrays are left out.

    Raises:
      UserError: as `read_npy`.
    """
    with readable(path, remedy), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > MOST_BYTES:
            raise ValueError(f"its arrays have more than {MOST_BYTES / 1e6:.0f} MB")
        found = {}
        for member in members:
            with archive.open(member) as file:
                if (array := _read_array(file, member.file_size)) is not None:
                    found[member.filename.removesuffix(".npy")] = array
        return found


@contextlib.contextmanager
def readable(path: Path, remedy: str) -> Iterator[None]:
    """Turns every exception of the block into a UserError, because libraries raise many types for a damaged file.

    Raises:
      UserError: the file is missing, no regular file or larger than `MOST_BYTES`, or the block raises an exception.
    """
    try:
        if not path.exists():
            raise FileNotFoundError("there is no such file")
        if not path.is_file():
            raise ValueError("it is not a file")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES / 1e6:.0f} MB")
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"cannot read {path} ({reason}); {remedy}") from None


def _read_array(file: IO[bytes], size: int) -> np.ndarray | None:
    """The array in a file of `size` bytes; None if its dtype is not numeric."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy format is not supported")
    shape, columns_first, dtype = _HEADERS[version](file)
    if dtype.kind not in NUMBERS:
        return None
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed > size - file.tell():
        raise ValueError(f"its header promises an array of shape {shape}, but the file is shorter")
    return np.frombuffer(file.read(needed), dtype).reshape(shape, order="F" if columns_first else "C")
