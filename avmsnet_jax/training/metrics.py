"""`metrics.jsonl` and TensorBoard's files: the metrics of a run, written and read."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avmsnet_jax import hosts, json_file
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import staged

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"
_NOT_ON_TENSORBOARD = {"step", "epoch", "losses", "data_wait_seconds"}


class MetricsWriter:
    """Appends lines to `metrics.jsonl` and their numbers to TensorBoard's files. Only the first process writes.

    Args:
      workdir: where the files are.
      first: steps that are done. Lines beyond it, which a killed run wrote after its last checkpoint, are dropped.

    Attributes:
      earlier: the lines of the run so far.

    Raises:
      UserError: the files cannot be written, or something else is in their place.
    """

    def __init__(self, workdir: Path, first: int):
        self._path, self._writes = workdir / METRICS, hosts.is_first()
        self.earlier: list[dict[str, Any]] = []
        if not self._writes:
            return
        from tensorboardX import SummaryWriter  # takes half a second to import

        with self._writing():
            (workdir / TENSORBOARD).mkdir(exist_ok=True)
            self.earlier = _drop_after(first, self._path)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed in `close`)
            self._board = SummaryWriter(str(workdir / TENSORBOARD), purge_step=first + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Writes a line. Dictionaries in it become groups on TensorBoard; None is left out there."""
        if not self._writes:
            return
        with self._writing():
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for name, value in line.items():
                values = value if isinstance(value, dict) else {"": value}
                for part, number in values.items():
                    if name not in _NOT_ON_TENSORBOARD and number is not None:
                        self._board.add_scalar(f"{name}/{part}" if part else name, number, line["step"])
            self._board.flush()

    def close(self) -> None:
        """Closes the files."""
        if not self._writes:
            return
        with self._writing():
            self._file.close()
            self._board.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error.strerror or error}; make room, and the same command resumes from "
                "the last checkpoint"
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl` without damaged ones; none if there is no file.

    Raises:
      UserError: see `_lines`.
    """
    return [line for line in _lines(path) if line is not None]


def _lines(path: Path) -> list[dict[str, Any] | None]:
    """The lines of a `metrics.jsonl`, None for each that is damaged or was cut short by a kill.

    Raises:
      UserError: `path` is not a regular file, or cannot be read.
    """
    if not os.path.lexists(path):
        return []
    if not path.is_file() or path.is_symlink():
        raise UserError(f"{path} is not a file; remove it, or give another --workdir")
    try:
        return [_parsed(line, path) for line in path.read_bytes().split(b"\n") if line]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; remove it, or give another --workdir") from None


def _parsed(line: bytes, path: Path) -> dict[str, Any] | None:
    try:
        found = json_file.parse(line.decode("utf-8"), str(path), "remove it")
    except (UserError, UnicodeDecodeError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        return None
    # A line is about training steps or about a validation, which may lack all values but the loss.
    rates, losses, validation = found.get("learning_rate"), found.get("losses", []), found.get("validation")
    whole = _are_numbers(rates) and isinstance(found.get("loss"), float | int)
    whole &= isinstance(losses, list) and all(isinstance(loss, float | int) for loss in losses)
    if isinstance(validation, dict) and isinstance(validation.get("loss"), float | int):
        known = {name: value for name, value in validation.items() if value is not None}
        whole |= "average_precision" in validation and _are_numbers(known)
    return found if whole else None


def _are_numbers(values: Any) -> bool:
    """Whether `values` is a dictionary of numbers."""
    return isinstance(values, dict) and all(isinstance(value, float | int) for value in values.values())


def _drop_after(step: int, path: Path) -> list[dict[str, Any]]:
    """Removes lines beyond `step` and damaged lines; returns the others."""
    lines = _lines(path)
    if damaged := lines.count(None):
        count = "a damaged line" if damaged == 1 else f"{damaged} damaged lines"
        print(f"warning: dropped {count} from {path}", file=sys.stderr, flush=True)
    kept = [line for line in lines if line is not None and line["step"] <= step]
    with staged(path) as stage:
        stage.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    return kept
