"""The files of many films to shards of about even size, so that it can stop at any moment and go on.

A shard is made of whole files; one that is a shard by itself only gets its name. A shard appears when it is whole, and
then the files that it was made of go: together they need the room of one data set and a shard.
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

PLAN = "plan.json"  # where the working place keeps its plan
SHARD_BYTES = 200e6
_MOST_SHARDS = 512  # a reader keeps all shards of a split open, and 1024 files is a common limit


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which files go to which shard, by the numbers of their records; paths are relative to the working place.

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
    """Joins the files of films, in order, to shards; depends on nothing but its arguments.

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
    """The plan that `Plan.save` wrote, None where it did not.

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
    held = [(piece, end - first) for piece, first, end in _spans(plan.pieces[split]) if start <= first < stop]
    if not target.exists() and len(held) == 1:
        try:
            os.replace(place / held[0][0], target)
        except FileNotFoundError:  # another worker of Beam's was faster
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
            if not target.exists():  # else another worker of Beam's was faster, and has removed what was read
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
