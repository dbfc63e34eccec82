"""Reads records, ArrayRecord files of `tf.train.Example`, that may come from strangers.

TFDS would build the decoder from `features.json`, which may name any Python class, so records are decoded here by a
fixed schema. Only the numbers of records per shard are taken from `dataset_info.json`.

An ArrayRecord file is a chain of chunks whose headers give their decompressed sizes
(https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md). A few megabytes of zstd can become
gigabytes, so all headers are checked before a file's first record is decompressed.
"""

import bisect
import itertools
import math
import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf.message import DecodeError

from avmsnet_jax import json_file
from avmsnet_jax.data.clips import SAMPLES_PER_FRAME
from avmsnet_jax.data.manifest import MOST_BYTES, REMEDY, inside, whole
from avmsnet_jax.data.sources import is_file_name
from avmsnet_jax.errors import UserError

# Raised by ArrayRecord and here for shards that are missing, truncated or invalid.
DAMAGE = (RuntimeError, ValueError, OSError, KeyError, IndexError, DecodeError)

_INFO = "dataset_info.json"
_BLOCK, _BLOCK_HEADER, _CHUNK = 65536, 24, struct.Struct("<5Q")
_AROUND = 100_000  # bytes allowed for the other fields of a record: names, numbers, users' scores
_FOOTER = 64  # bytes allowed per record in the index of a file


class Instruction(NamedTuple):
    """The records of a shard to read, as `ArrayRecordDataSource` takes it; then it opens files only when needed."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class Shards:
    """The stored records of one split, by number.

    Attributes:
      folder: where the shards are.
      frames: frames of a clip.
      frame_size: height and width of a frame, pixels.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], lengths: Sequence[int], frames: int, frame_size: int):
        self.folder = folder
        self.frames = frames
        self.frame_size = frame_size
        self._paths = paths
        self._ends = list(itertools.accumulate(lengths))
        self._checked: set[int] = set()
        self._users: int | None = None
        for path, length in zip(paths, lengths, strict=True):
            _check_end(path, max(_FOOTER * length, _AROUND))
        files = [Instruction(str(path), 0, length, length) for path, length in zip(paths, lengths, strict=True)]
        self._source = ArrayRecordDataSource(files)
        if self._ends:
            self._users = len(self[0].get("scores", ()))

    def __len__(self) -> int:
        """The number of records."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The fields of a record, named as in `Records`. Raises one of `DAMAGE` if it is damaged."""
        shard = bisect.bisect_right(self._ends, number)
        if shard not in self._checked:
            unpacked = 3 * self.frames * self.frame_size**2 + 4 * SAMPLES_PER_FRAME * self.frames + _AROUND
            _check_chunks(self._paths[shard], unpacked)
            self._checked.add(shard)
        return self._decoded(self._source[number])

    def _decoded(self, record: bytes) -> dict[str, Any]:
        from tensorflow_datasets.proto import tf_example_pb2  # takes half a second to import

        fields = tf_example_pb2.Example.FromString(record).features.feature

        def array(name: str, dtype: type, *shape: int) -> np.ndarray:
            (content,) = fields[name].bytes_list.value
            return np.frombuffer(content, dtype).reshape(shape)

        def number(name: str, least: int, most: int) -> int:
            (value,) = fields[name].int64_list.value
            return whole(value, least, most)

        names = set(fields)  # looking up a missing key of a protocol buffer map would add it
        if missing := {"clip", "sound", "has_sound", "label", "video", "frame", "time_s", "fps"} - names:
            raise ValueError(f"records have no {min(missing)}")
        (name,) = fields["video"].bytes_list.value
        fps, time_s = array("fps", np.float64).item(), array("time_s", np.float64).item()
        if not 0 < fps < math.inf or not 0 <= time_s < math.inf:
            raise ValueError("a time or frame rate is invalid")
        scores = array("scores", np.float32, -1) if "scores" in names else np.zeros(0, np.float32)
        if self._users not in (None, len(scores)):
            raise ValueError("the number of users differs between records")
        return {
            "clip": array("clip", np.uint8, self.frames, self.frame_size, self.frame_size, 3),
            "sound": array("sound", np.float32, SAMPLES_PER_FRAME * self.frames),
            "has_sound": number("has_sound", 0, 1),
            "label": number("label", -1, 1),
            **({"scores": scores} if len(scores) else {}),
            "video": name.decode(),
            "frame": number("frame", 1, 2**31 - 1),
            "time_s": time_s,
            "fps": fps,
        }


def read_lengths(folder: Path) -> tuple[str, dict[str, list[int]]]:
    """Reads `dataset_info.json`: the prefix of file names, and for each split the number of records in each shard.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = inside(folder, _INFO)
    try:
        info = json_file.read(path, REMEDY, most_bytes=MOST_BYTES)
        splits = {split["name"]: [whole(int(n), 1) for n in split["shardLengths"]] for split in info["splits"]}
        name = info["name"]
        if not splits or not all(splits.values()):
            raise ValueError("no split, or a split without shards")
        if not all(isinstance(part, str) and is_file_name(part) for part in (name, *splits)):
            raise ValueError("a name is not a valid file name")
    except FileNotFoundError:
        raise UserError(f"there is no {path}; prepare the data again") from None
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is of another version or damaged ({error!r}); prepare the data again") from None
    return name, splits


def shard_paths(directory: Path, folder: Path, name: str, split: str, count: int) -> list[Path]:
    """The files of a split. Raises UserError for a link that leads out of the data set."""
    files = [folder / f"{name}-{split}.array_record-{number:05d}-of-{count:05d}" for number in range(count)]
    return [inside(directory, str(file.relative_to(directory))) for file in files]


def _check_end(path: Path, most: int) -> None:
    """Raises OSError or ValueError if an ArrayRecord file is truncated, or its index has more than `most` bytes.

    The last block gives the position of the index: the chunk `00 03 LENGTH LENGTH LENGTH 08 POSITION ...`, with the
    position as a varint.
    """
    if not path.is_file():
        raise OSError(f"there is no {path.name}")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        size = len(content)
        if size < 2 * _BLOCK or size % _BLOCK:
            raise ValueError(f"{path.name} is cut short")
        start = size - _BLOCK
        _, kind, _, unpacked = _chunk(content, start)
        head = start + _BLOCK_HEADER + _CHUNK.size
        place = content[head : head + 20]
        if kind != b"r" or unpacked > 100 or place[:2] != b"\0\x03" or place[5] != 8:
            raise ValueError(f"{path.name} is cut short")
        index = shift = 0
        for byte in place[6:16]:
            index |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if not 0 < index < start or _chunk(content, index)[3] > most:
            raise ValueError(f"{path.name} has no index")


def _check_chunks(path: Path, most: int) -> None:
    """Raises ValueError if a chunk would decompress to more than `most` bytes, or the chain of chunks is broken."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = count = 0
        while place < len(content):
            end, _, _, unpacked = _chunk(content, place)
            count += 1
            if unpacked > max(most, _FOOTER * count):
                raise ValueError(
                    f"a record of {path.name} would have {unpacked:,} bytes, more than the {most:,} allowed"
                )
            place = end


def _chunk(content: mmap.mmap, place: int) -> tuple[int, bytes, int, int]:
    """The chunk at a position: its end, type, number of records and decompressed size in bytes."""
    start = place + (0 if place % _BLOCK else _BLOCK_HEADER)
    room = _BLOCK - start % _BLOCK
    header = content[start : start + min(room, _CHUNK.size)]
    if room < _CHUNK.size:  # a block header interrupts the chunk header
        rest = start + room + _BLOCK_HEADER
        header += content[rest : rest + _CHUNK.size - room]
    if len(header) < _CHUNK.size:
        raise ValueError("a chunk is truncated")
    _, stored, _, kind, unpacked = _CHUNK.unpack(header)
    end = _after(_after(place, _CHUNK.size), stored)
    # A chunk takes at least one byte per record, because positions within it are record numbers.
    return max(end, place + (kind >> 8)), bytes([kind & 255]), kind >> 8, unpacked


def _after(place: int, size: int) -> int:
    """The position `size` bytes further, not counting block headers."""
    if not size:
        return place
    if place % _BLOCK == 0:
        place += _BLOCK_HEADER
    room = _BLOCK - place % _BLOCK
    blocks = -(-max(size - room, 0) // (_BLOCK - _BLOCK_HEADER))
    return place + size + blocks * _BLOCK_HEADER
