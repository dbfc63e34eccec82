"""Reads numeric arrays, and cells of them, from MATLAB 5 files, which may be hostile.

The rest of the format (structs, objects, sparse matrices, nested cells) is refused, as annotations do not use it.
Decompression is limited, and sizes that a file claims are checked against its bytes.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from avmsnet_jax.array_file import readable

MOST_BYTES = 200_000_000  # of a decompressed file; the largest of SumMe has 1 MB
MOST_CELLS = 1000  # SumMe has one for each of 18 users

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CELL = 1
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x800

Value = np.ndarray | list[np.ndarray]


def read(path: Path, names: Collection[str], remedy: str) -> dict[str, Value]:
    """Reads variables of a file.

    Args:
      path: the file.
      names: the variables to read.
      remedy: what the user can do about a file that cannot be read; ends each message.

    Returns:
      the variables that the file has: an array, or the list of a cell's arrays in column-major order.

    Raises:
      UserError: the file is missing, damaged or too large, or one of these variables has another type.
    """
    with readable(path, remedy):
        content = path.read_bytes()
        if len(content) < _HEADER or content[126:128] not in (b"IM", b"MI"):
            raise ValueError("it is no MATLAB 5 file")
        order = "<" if content[126:128] == b"IM" else ">"
        if struct.unpack_from(f"{order}H", content, 124)[0] != 0x100:
            raise ValueError("it is no MATLAB 5 file")
        found, room = {}, MOST_BYTES
        for kind, data in _elements(memoryview(content)[_HEADER:], order):
            if kind == _COMPRESSED:
                unpacked = zlib.decompressobj().decompress(data, room + 1)
                room -= len(unpacked)
                if room < 0:
                    raise ValueError(f"unpacked, it has more than {MOST_BYTES / 1e6:.0f} MB")
                kind, data = next(_elements(memoryview(unpacked), order))
            if kind == _MATRIX:
                name, value = _matrix(data, order, names)
                if value is not None:
                    found[name] = value
        return found


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """The type and the content of each element."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("it is cut short")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # a small element: its size, its type and up to four bytes in one word of eight
            kind, size, start, padded = kind & 0xFFFF, kind >> 16, at + 4, 4
            if size > 4:
                raise ValueError("it is damaged")
        else:
            start, padded = at + 8, size if kind == _COMPRESSED else -(-size // 8) * 8
        if start + size > len(data):
            raise ValueError("it is cut short")
        yield kind, data[start : start + size]
        at = start + padded


def _matrix(data: memoryview, order: str, names: Collection[str]) -> tuple[str, Value | None]:
    """A variable's name and its value; the value is None if the name is not in `names`."""
    parts = _elements(data, order)
    head = list(itertools.islice(parts, 3))
    if len(head) < 3:
        raise ValueError("it is damaged")
    flags, sizes, letters = (content for _, content in head)
    name = bytes(letters).decode("latin-1")
    if name not in names:
        return name, None
    flag = struct.unpack_from(f"{order}I", flags)[0]
    shape = tuple(int(size) for size in np.frombuffer(sizes, f"{order}i4"))
    if min(shape, default=-1) < 0:
        raise ValueError(f"{name!r} has no shape")
    if flag & 0xFF == _CELL:
        if math.prod(shape) > MOST_CELLS:
            raise ValueError(f"{name!r} has more than {MOST_CELLS} cells")
        cells = [_matrix(part, order, ("",))[1] for kind, part in parts if kind == _MATRIX]
        numbers = [cell for cell in cells if isinstance(cell, np.ndarray)]
        if len(numbers) != len(cells) or len(cells) != math.prod(shape):
            raise ValueError(f"{name!r} is damaged, or holds cells in cells")
        return name, numbers
    if flag & 0xFF not in _CLASSES or flag & _COMPLEX:
        raise ValueError(f"{name!r} is not made of numbers")
    stored, values = next(parts, (0, b""))
    if stored not in _STORED:
        raise ValueError(f"{name!r} is damaged")
    found = np.frombuffer(values, order + _STORED[stored])
    return name, found.astype(_CLASSES[flag & 0xFF]).reshape(shape, order="F")
