"""Reads the arrays of a checkpoint's item, as written by Orbax, from folders that may come from strangers.

Orbax keeps an item's arrays in one key-value store (tensorstore's OCDBT). Each array has a description (Zarr 2) under
`NAME/.zarray`, and its values, in chunks compressed by zstd, under `NAME/0.0`, .... The store's B-tree is in the same
files, between the values.

tensorstore trusts these files: it allocates any shape and decompresses any chunk to any size, until memory runs out. So
tensorstore is used only to look up single values. The sizes of the B-tree's nodes are checked first, and chunks are
decompressed here, up to the size that the shape implies. The caller checks the shapes.
"""

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import tensorstore
import zstandard

from avmsnet_jax import json_file
from avmsnet_jax.regular_file import regular_files

_LIST = "_METADATA"  # Orbax's list of the arrays, JSON
_LIST_BYTES = 2**24  # a network's has 100 kB
# The start of a node: magic, length, version 0, zstd. The last two are varints, which may be padded.
_NODE = re.compile(
    rb"\x0c\xdb(?:\x3a\x2a|\x20\xde|\x12\x34).{8}(?:\x80{1,4}\x00|\x00)(?:\x81\x80{0,3}\x00|\x01)", re.DOTALL
)
_NODE_START_BYTES = 22  # the longest match
_FILE_BYTES = 2**33  # Orbax begins another file at 2 GB
_WINDOW_BYTES = 2**20  # searched at a time; pages of a mapped file would count as memory
_NODE_BYTES = 2**23  # of a decompressed node of the B-tree: tensorstore's own limit
_LEAST_BYTES = 2**12  # a node counts as at least this much, which bounds the time for a file of empty nodes
_NODES_BYTES = 2**26  # of all nodes of an item; a network's have 100 kB
_MOST_CHUNKS = 2**12  # of an array: each device writes its own part
_MOST_RATIO = 100  # of the size of an item's arrays to that of its files; trained weights hardly compress
_UNASKED_BYTES = 2**31  # always allowed, whatever the ratio: the state of the published network may be all zeros

_DTYPES = {np.dtype(code).str: np.dtype(code) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")}
_DTYPES["bfloat16"] = np.dtype(ml_dtypes.bfloat16)


class UnknownFormatError(ValueError):
    """The item is not in the format that this project writes."""


@dataclasses.dataclass(frozen=True)
class Array:
    """The description of an array: its name in the store, its type, and how it is divided into chunks."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    packed: bool

    @property
    def bytes(self) -> int:
        """The size in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def grid(self) -> tuple[int, ...]:
        """How many chunks there are along each axis."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.chunk, strict=True))


class Item:
    """The arrays of one item of a checkpoint.

    Every method raises ValueError if the item is damaged or makes false claims (`UnknownFormatError` if it has another
    format), OSError if it cannot be read, and UserError if `_METADATA` or a description is not JSON.

    Args:
      folder: the item's folder.
      remedy: what the user can do; ends messages of UserErrors.

    Attributes:
      arrays: descriptions by path (`trunk/conv/kernel`).
    """

    def __init__(self, folder: Path, remedy: str):
        files = regular_files(folder)
        listed = _listed(folder, remedy)
        _check_nodes(files)
        self._size = sum(path.stat().st_size for path in files)
        spec = {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{folder}/"},
            "cache_pool": {"total_bytes_limit": 4 * _NODES_BYTES},
        }
        self._store = tensorstore.KvStore.open(spec).result()
        pending = {path: (name, self._store.read(f"{name}/.zarray")) for path, name in listed.items()}
        self.arrays = {
            path: _described(name, _value(future), f"{folder}: {path}", remedy)
            for path, (name, future) in pending.items()
        }

    def read(self) -> dict[str, np.ndarray]:
        """All arrays by path."""
        claimed = sum(array.bytes for array in self.arrays.values())
        if claimed > max(_UNASKED_BYTES, _MOST_RATIO * self._size):
            raise ValueError(f"files of {self._size:,} bytes claim to hold arrays of {claimed:,} bytes")
        return {path: self._read(array) for path, array in self.arrays.items()}

    def _read(self, array: Array) -> np.ndarray:
        if array.chunk == array.shape:
            return self._part(array, (0,) * len(array.shape))
        found = np.empty(array.shape, array.dtype)
        for place in itertools.product(*map(range, array.grid)):
            target = found[tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, array.chunk, strict=True))]
            target[...] = self._part(array, place)[tuple(map(slice, target.shape))]  # the last chunk may be padded
        return found

    def _part(self, array: Array, place: tuple[int, ...]) -> np.ndarray:
        data = _value(self._store.read(f"{array.name}/{'.'.join(map(str, place)) or '0'}"))
        part = np.empty(array.chunk, array.dtype)
        room = part.reshape(-1).view(np.uint8).data
        if array.packed:
            _unpack(data, room)
        elif len(data) == len(room):
            room[:] = data
        else:
            raise ValueError(f"a part of {array.name} has {len(data):,} bytes, not {len(room):,}")
        return part


def _check_nodes(files: list[Path]) -> None:
    """Raises ValueError if the store's B-tree would decompress to more than Orbax ever writes."""
    total = 0
    for path in files:
        if path.stat().st_size > _FILE_BYTES:
            raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, more than Orbax puts into a file")
        at = 0
        with path.open("rb") as file:
            while window := _read_at(file, at, _WINDOW_BYTES):
                node = _NODE.search(window)
                if node is None:
                    at += len(window) - (_NODE_START_BYTES - 1 if len(window) == _WINDOW_BYTES else 0)
                    continue
                size = _unpacked_size(_read_at(file, at + node.end(), _NODE_BYTES))
                total += max(size, _LEAST_BYTES)
                if size > _NODE_BYTES or total > _NODES_BYTES:
                    raise ValueError(f"{path.name} unpacks to more than it can hold")
                at += node.start() + 1  # this one may be a chance match that overlaps a real node


def _read_at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _unpacked_size(data: bytes) -> int:
    """The decompressed size of a zstd frame, counted to just above the limit; above the limit if it is not a frame."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            return len(reader.read(_NODE_BYTES + 1))
    except zstandard.ZstdError:  # among values, a chance match of a node's start comes once in 10^14 bytes
        return _NODE_BYTES + 1


def _unpack(data: bytes, room: memoryview) -> None:
    """Decompresses a zstd frame into `room`, which it must fill exactly."""
    done = 0
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            while done < len(room) and (count := reader.readinto(room[done:])):
                done += count
            if done < len(room) or reader.read(1):
                raise ValueError(f"a part does not unpack to the {len(room):,} bytes that it should have")
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def _listed(folder: Path, remedy: str) -> dict[str, str]:
    """The arrays' names in the store, by path."""
    values = json_file.read(folder / _LIST, remedy, most_bytes=_LIST_BYTES)
    try:
        if values["use_zarr3"] or not values["use_ocdbt"]:
            raise UnknownFormatError("Zarr 3, or a file for each array")
        keys = [[part["key"] for part in entry["key_metadata"]] for entry in values["tree_metadata"].values()]
        if strange := [key for key in keys if not all(re.fullmatch(r"[\w.-]{1,200}", part, re.ASCII) for part in key)]:
            raise ValueError(f"{_LIST} names an array {strange[0]!a}")
        return {"/".join(key): ".".join(key) for key in keys}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{_LIST} is not a list of arrays: {error!r}") from None


def _described(name: str, text: bytes, source: str, remedy: str) -> Array:
    """Reads and checks a `.zarray`."""
    values = json_file.parse(text.decode("utf-8", "replace"), source, remedy)
    try:
        if values["zarr_format"] != 2:
            raise UnknownFormatError(f"Zarr {values['zarr_format']}")
        packing = values["compressor"]
        array = Array(name, tuple(values["shape"]), _DTYPES[values["dtype"]], tuple(values["chunks"]), bool(packing))
        sound = all(type(size) is int for size in (*array.shape, *array.chunk)) and len(array.shape) <= 32
        sound &= (values["order"], values["filters"], values.get("dimension_separator", ".")) == ("C", None, ".")
        sound &= not packing or packing["id"] == "zstd"
        sound &= all(step > 0 for step in array.chunk) and math.prod(array.grid) <= _MOST_CHUNKS
        sound &= all(0 < step <= size for size, step in zip(array.shape, array.chunk, strict=True))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name} is not described: {error!r}") from None
    if not sound:
        raise ValueError(f"{name} is described as {text[:200].decode('utf-8', 'replace')}")
    return array


def _value(future: Any) -> bytes:
    """The value under a key of the store."""
    try:
        found = future.result()
    except ValueError as error:
        if version := re.search(r"supported version is \d+ but received: \d+", str(error)):
            raise UnknownFormatError(version[0]) from None
        raise
    if found.state != "value":
        raise ValueError("values are missing")
    return found.value
