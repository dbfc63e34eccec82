"""Joins the records of many films into shards of about equal size. It can be interrupted at any time and resumed.

A shard consists of whole files; a file that makes a shard by itself is renamed. The files of a shard are removed once
it is complete, so that the disk needs room for one data set and one shard.
"""

import dataclasses
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from avmsnet_jax import json_file
from avmsnet_jax.data.film import Prepared, finish, open_writer, piece_path
from avmsnet_jax.data.sources import SPLITS
from avmsnet_jax.errors import UserError

PLAN = "plan.json"  # in the working folder
SHARD_BYTES = 200e6
_MOST_SHARDS = 512  # a reader keeps all shards of a split open, and 1024 files is a common limit


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which files go to which shard. Records are numbered across files; paths are relative to the working folder.

    Attributes:
      pieces: (file, records) by split, in order.
      shards: (file, first record, first record of the next shard) by split, in order.
    """

    pieces: dict[str, list[tuple[str, int]]]
    shards: dict[str, list[tuple[str, int, int]]]

    def lengths(self, split: str) -> list[int]:
        """Records of each shard."""
        return [stop - start for _, start, stop in self.shards[split]]

    def save(self, path: Path) -> None:
        """Writes the plan to a file, whole or not at all."""
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        temporary.write_text(json.dumps(dataclasses.asdict(self)))
        os.replace(temporary, path)


def make_plan(films: Sequence[tuple[str, Prepared]], name: Callable[[str, int, int], str]) -> Plan:
    """Assigns the files of films, in order, to shards. The result depends only on the arguments.

    Args:
      films: the folder of each film in the working folder, and its contents.
      name: gives the path of a shard in the working folder, from the split, its number and the number of shards.
    """
    pieces, shards = {}, {}
    for split in SPLITS:
        pieces[split] = [
            (str(piece_path(Path(folder), split, number)), records)
            for folder, film in films
            for number, records in enumerate(film.pieces.get(split, ()))
        ]
        if not pieces[split]:
            del pieces[split]
            continue
        records_in = [records for _, records in pieces[split]]
        record = sum(film.size.get(split, 0) for _, film in films) / sum(records_in)  # bytes
        most = max(SHARD_BYTES, record * sum(records_in) / (_MOST_SHARDS // 2)) / record  # records of a shard
        ends, held = [0], 0
        for records in records_in:
            if held and held + records > most:
                ends.append(ends[-1] + held)
                held = 0
            held += records
        ends.append(ends[-1] + held)
        count = len(ends) - 1
        shards[split] = [(name(split, i, count), ends[i], ends[i + 1]) for i in range(count)]
    return Plan(pieces, shards)


def load_plan(path: Path) -> Plan | None:
    """The plan that `Plan.save` wrote; None if there is none.

    Raises:
      UserError: the file is damaged.
    """
    remedy = "remove it, and the films are packed again"
    try:
        plan = json_file.read(path, remedy)
        return Plan(
            **{
                field: {split: [tuple(item) for item in items] for split, items in plan[field].items()}
                for field in plan
            }
        )
    except FileNotFoundError:
        return None
    except (TypeError, AttributeError):
        raise UserError(f"{path} is damaged; {remedy}") from None


def feasible(place: Path, plan: Plan) -> bool:
    """Whether every shard exists or can be made. A run that was killed while it cleaned up may leave neither."""
    for split, shards in plan.shards.items():
        absent = [(start, stop) for name, start, stop in shards if not (place / name).exists()]
        for path, first, end in _spans(plan.pieces[split]):
            needed = any(start < end and first < stop for start, stop in absent)
            if needed and not (place / path).exists():
                return False
    return True


def pack_shard(place: Path, plan: Plan, split: str, number: int) -> None:
    """Writes one shard, unless it exists, and removes the files that it was made of.

    Shards may be packed in any order, and at the same time.

    Args:
      place: the working folder.
      plan: the files of each shard.
      split: the split.
      number: the number of the shard in the split, from 0.

    Raises:
      OSError: the disk is full, or the folder cannot be written.
    """
    name, start, stop = plan.shards[split][number]
    target = place / name
    held = [(piece, end - first) for piece, first, end in _spans(plan.pieces[split]) if start <= first < stop]
    if not target.exists() and len(held) == 1:
        try:
            os.replace(place / held[0][0], target)
        except FileNotFoundError:  # another Beam worker has renamed it
            if not target.exists():
                raise
    elif not target.exists():
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            writer = open_writer(temporary)
            for piece, records in held:
                for record in _read(place / piece, records):
                    writer.write(record)
            finish(writer, temporary)
            os.replace(temporary, target)
        except Exception:
            if not target.exists():  # else another Beam worker has written the shard and removed its files
                raise
        finally:
            temporary.unlink(missing_ok=True)
    for piece, _ in held:
        (place / piece).unlink(missing_ok=True)


def _spans(pieces: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """(file, first record, first record of the next file)."""
    end = 0
    for path, records in pieces:
        yield path, end, end + records
        end += records


def _read(path: Path, records: int) -> Iterator[Any]:
    reader = ArrayRecordReader(str(path))
    for first in range(0, records, 8):
        yield from reader.read(first, min(first + 8, records))
    reader.close()
