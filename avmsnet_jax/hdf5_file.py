"""Reads HDF5 files, which may be hostile: only data within the file itself, and no more than fits into memory.

HDF5 can refer to other files (external and soft links, external storage, virtual data sets) and to filters that are
loaded as plugins. None of these is followed.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from avmsnet_jax.array_file import NUMBERS, readable

MOST_VALUES = 50_000_000  # per data set; scores by 20 users for each frame of a 24-hour film fit
_MOST_SHRUNK = 1100  # upper limit of compression by the allowed filters; deflate reaches 1032
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}


@contextlib.contextmanager
def open_file(path: Path, remedy: str) -> Iterator[h5py.File]:
    """Opens a file; every exception in the block becomes a UserError that names the file and ends with `remedy`."""
    with readable(path, remedy), h5py.File(path, "r") as file:
        yield file


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """A member of a group by name: a group or a data set.

    Raises:
      ValueError: there is no such member, or it is a link.
    """
    link = group.get(name, getlink=True)
    place = repr(f"{group.name}/{name}".lstrip("/"))
    if link is None:
        raise ValueError(f"there is no {place}")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{place} is a link, and links are not followed")
    return group[name]


def array(item: object, kinds: str = NUMBERS) -> np.ndarray:
    """A data set as an array.

    Args:
      item: the data set.
      kinds: NumPy's codes of the allowed dtype kinds.

    Raises:
      ValueError: it is no data set, has another dtype, is too large or larger than the file, or lies in another file.
    """
    if not isinstance(item, h5py.Dataset):
        raise ValueError(f"{_name(item)} is no data set")
    if item.dtype.kind not in kinds:
        raise ValueError(f"{_name(item)} is of type {item.dtype}")
    properties = item.id.get_create_plist()
    if item.is_virtual or properties.get_external_count():
        raise ValueError(f"{_name(item)} lies in another file, which is not read")
    filters = {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}
    if not filters <= _FILTERS:
        raise ValueError(f"{_name(item)} is stored by a filter other than gzip, lzf, shuffle and fletcher32")
    if item.shape is None or max(math.prod(item.shape), math.prod(item.chunks or ())) > MOST_VALUES:
        raise ValueError(f"{_name(item)} has the shape {item.shape}; at most {MOST_VALUES:,} values are read")
    stored = min(item.id.get_storage_size(), item.file.id.get_filesize())
    if item.nbytes > stored * (_MOST_SHRUNK if filters else 1):
        raise ValueError(f"{_name(item)} has the shape {item.shape}, but the file is too small for it")
    return item[()]


def text(item: object) -> str:
    """A data set that is a single string. Raises ValueError as `array`."""
    found = np.asarray(array(item, "OS")).item()
    return found.decode() if isinstance(found, bytes) else str(found)


def references(item: object) -> np.ndarray:
    """A data set of references to others in the same file. Raises ValueError as `array`."""
    if not isinstance(item, h5py.Dataset) or h5py.check_ref_dtype(item.dtype) is not h5py.Reference:
        raise ValueError(f"{_name(item)} holds no references")
    return array(item, "O")


def _name(item: object) -> str:
    return repr(str(getattr(item, "name", None) or "it").lstrip("/"))
