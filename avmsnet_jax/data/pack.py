"""The records of many films to shards of even length, so that it can stop at any moment and go on.

A shard appears when it is whole, and a film's file goes when all shards that hold its records are there:
together they need the room of one data set and a shard.
"""

import dataclasses
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from avmsnet_jax.data.film import Prepared, finish, open_writer, piece_path
from avmsnet_jax.data.sources import SPLITS

PLAN = "plan.json"  # where the working place keeps its plan
SHARD_BYTES = 200e6
_MOST_SHARDS = 512  # a reader keeps all shards of a split open, and 1024 files is a common limit


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which records of which files go to which shard; paths are relative to the working place.

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
    """Divides the records evenly; depends on nothing but its arguments.

    Args:
      films: the folder of each film in the working place, and what is in it.
      name: (split, shard, shards) to the path of a shard in the working place.
    """
    pieces, shards = {}, {}
    for split in SPLITS:
        pieces[split] = [
            (str(piece_path(Path(folder), split, number)), records)
            for folder, film in films
            for number, records in enumerate(film.pieces.get(split, ()))
        ]
        total = sum(records for _, records in pieces[split])
        if not total:
            del pieces[split]
            continue
        size = sum(film.size.get(split, 0) for _, film in films)
        n = min(max(round(size / SHARD_BYTES), 1), _MOST_SHARDS, total)
        shards[split] = [(name(split, i, n), total * i // n, total * (i + 1) // n) for i in range(n)]
    return Plan(pieces, shards)


def load_plan(path: Path) -> Plan | None:
    """The plan that `Plan.save` wrote, None where it did not."""
    try:
        plan = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return Plan(
        **{field: {split: [tuple(item) for item in items] for split, items in plan[field].items()} for field in plan}
    )


def feasible(place: Path, plan: Plan) -> bool:
    """Whether each shard is there, or all that it is made of. A run that ended as it tidied up leaves neither."""
    for split, shards in plan.shards.items():
        absent = [(start, stop) for name, start, stop in shards if not (place / name).exists()]
        for path, first, end in _spans(plan.pieces[split]):
            needed = any(start < end and first < stop for start, stop in absent)
            if needed and not (place / path).exists():
                return False
    return True


def pack_shard(place: Path, plan: Plan, split: str, number: int) -> None:
    """Writes one shard, unless it is there, and removes files that no shard needs any more.

    Shards may be packed in any order, and at the same time.

    Args:
      place: the working place.
      plan: what goes where.
      split: which split.
      number: which of its shards, from 0.

    Raises:
      OSError: the place is full, or cannot be written.
    """
    name, start, stop = plan.shards[split][number]
    target = place / name
    held = [piece for piece in _spans(plan.pieces[split]) if piece[1] < stop and start < piece[2]]
    if not target.exists():
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            writer = open_writer(temporary)
            for path, first, end in held:
                for record in _read(place / path, max(start - first, 0), min(stop, end) - first):
                    writer.write(record)
            finish(writer, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    for path, first, end in held:
        if all((place / shard).exists() for shard, a, b in plan.shards[split] if a < end and first < b):
            (place / path).unlink(missing_ok=True)


def _spans(pieces: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """(file, first record, first record of the next file)."""
    end = 0
    for path, records in pieces:
        yield path, end, end + records
        end += records


def _read(path: Path, start: int, stop: int) -> Iterator[Any]:
    reader = ArrayRecordReader(str(path))
    for first in range(start, stop, 32):
        yield from reader.read(first, min(first + 32, stop))
    reader.close()
