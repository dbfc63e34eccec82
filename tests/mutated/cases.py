"""Test cases: good files changed at random, the commands that read them, and what these did wrong."""

import csv
import dataclasses
import functools
import hashlib
import json
import os
import random
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import av

from tests.mutated import files, originals, watch
from tests.mutated import films as film_changes
from tests.mutated.originals import CLIPS, RESULT, Original, made

BATCH = 25  # cases that one process reads, where a command reads several at once

_PREPARE = ("prepare_data.py", "--dataset=movies", "--source=.", f"--output={RESULT}", *CLIPS, "--workers=1")
# What a name may be taken for: URLs, patterns, options, escape sequences.
_NAMES = (
    "http:127.0.0.1:{port}?{n}.mp4",
    "tcp:127.0.0.1:{port}?{n}.mp4",
    "udp:127.0.0.1:{port}?{n}.mp4",
    "Alien: Covenant {n}.mp4",
    "concat:{n}.mp4|{n}.mp4",
    "subfile,,start,0,end,0,,:{n}.mp4",
    "data:,{n}.mp4",
    "pipe:{n}.mp4",
    "%03d{n}.mp4",
    "*?[{n}].mp4",
    "--config={n}.mp4",
    "-{n}.mp4",
    "a\n{n}\x1b[31m.mp4",
    "\u202e{n}.mp4",
)


@dataclasses.dataclass(frozen=True)
class Failure:
    """Something that a command did wrong.

    Attributes:
      case: which one, as the soak takes it: a kind and a number.
      changes: what was done to the files, in words.
      command: to see it again.
      complaints: what is wrong.
    """

    case: str
    changes: str
    command: str
    complaints: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.case}: {self.changes}\n    {self.command}\n" + "\n".join(
            f"    {text}" for text in self.complaints
        )


class Bench:
    """Where cases are made and run.

    Args:
      folder: an empty folder; what fails stays in it.
      traps: see `watch.traps`.
      seed: another one gives other cases.

    Attributes:
      whole: how many results were whole so far; where it stays 0, the changes are too much.
    """

    def __init__(self, folder: Path, traps: watch.Traps, seed: int):
        self.folder, self.traps, self.seed, self.whole = folder, traps, seed, 0
        self.place = made(folder / "originals")
        originals.network(self.place)

    @functools.cached_property
    def films(self) -> list[Path]:
        """A film of each kind."""
        return originals.films(self.place / "kinds_of_film")

    @functools.cache  # noqa: B019 - a bench lives as long as the process
    def originals(self, kind: str) -> list[Original]:
        """The good files of a kind."""
        place = self.place / f"good_{kind}"
        if kind in ("records", "runs") and not (self.place / originals.RECORDS).exists():
            originals.prepared(self.place)
        if kind in ("labels", "scores", "weights"):
            return getattr(originals, kind)(place)
        return getattr(originals, kind)(place, self.place)

    def run(self, kind: str, numbers: Iterable[int]) -> list[Failure]:
        """Runs the cases of a kind that have these numbers."""
        numbers, found = list(numbers), []
        size = BATCH if kind in ("films", "labels") else 1
        for start in range(0, len(numbers), size):
            batch = numbers[start : start + size]
            failures = self._try(kind, batch)
            if failures and len(batch) > 1:  # run each alone, to find the faulty one
                alone = [failure for number in batch for failure in self._try(kind, [number])]
                failures = alone or failures
            found += failures
        return found

    def _try(self, kind: str, numbers: Sequence[int]) -> list[Failure]:
        place = made(self.folder / f"{kind}_{'-'.join(map(str, sorted({numbers[0], numbers[-1]})))}")
        shutil.rmtree(place)
        inside = made(place / "in")
        told = []
        commands: tuple[tuple[str, ...], ...] = ()
        for number in numbers:
            rng = random.Random(f"{kind} {number} {self.seed}")
            if kind == "films":
                told.append(self._make_film(inside, number, rng))
                cut = (
                    "summarize.py",
                    ".",
                    f"--checkpoint={self.folder}/originals/{originals.NETWORK}",
                    f"--output={RESULT}",
                )
                commands = cut, _PREPARE
            elif kind == "labels":
                told.append(self._make_labels(inside, number, rng))
                commands = (_PREPARE,)
            else:
                chosen = rng.choice(self.originals(kind))
                shutil.copytree(chosen.folder, inside, dirs_exist_ok=True)
                told.append(self._change(inside, chosen, rng))
                commands = chosen.commands
        case = f"{kind} {numbers[0]}" + f" to {numbers[-1]}" * (len(numbers) > 1)
        failures = []
        for command in commands:
            line = f"cd {inside} && python {shlex.join([_found(command[0]), *command[1:]])}"
            complaints = self._complaints(place, command)
            if complaints:
                failures.append(Failure(case, "; ".join(told)[:2000], line, tuple(complaints)))
            for name in ("result", "temporary"):
                shutil.rmtree(place / name, ignore_errors=True)
        if not failures:
            shutil.rmtree(place)
        return failures

    def _complaints(self, place: Path, command: Sequence[str]) -> list[str]:
        made(place / "result")
        goes_on = command[0] == "train.py"  # its working folder is what it reads, and writes
        before = {} if goes_on else _state(place / "in")
        ended = watch.run(list(command), place, self.traps)
        complaints = list(ended.complaints)
        if not goes_on and _state(place / "in") != before:
            complaints.append("the files that it was given are not as they were")
        try:
            self.whole += _check(command, ended, place / "result", place / "in")
        except Exception as error:  # any exception means that the result is not whole
            complaints.append(f"{type(error).__name__}: {error}")
        return complaints

    def _address(self, rng: random.Random, number: int) -> str:
        pipe, port = self.traps.pipe, self.traps.port
        here = f"127.0.0.1:{port}"
        return rng.choice(
            (
                f"http://{here}/{number}",
                f"tcp://{here}",
                f"udp://{here}",
                str(pipe),
                f"file:{pipe}",
                f"concat:{pipe}|{pipe}",
                f"subfile,,start,0,end,9,,:{pipe}",
                f"cache:{pipe}",
                os.path.relpath(pipe, self.folder / "films_0" / "in"),
            )
        )

    def _make_film(self, folder: Path, number: int, rng: random.Random) -> str:
        address = self._address(rng, number)
        original = rng.choice(self.films)
        name, data = f"{number:04d}{original.suffix}", original.read_bytes()
        kind = rng.random()
        if kind < 0.1:
            data, what = film_changes.planted_list(rng, address, self.traps.port)
        elif kind < 0.2:
            original = next(film for film in self.films if film.suffix == ".mp4")
            name, data, what = (
                rng.choice(_NAMES).format(port=self.traps.port, n=number),
                original.read_bytes(),
                "renamed",
            )
        else:
            data, what = film_changes.changed(data, original.name, rng, address)
        (folder / name).write_bytes(data)
        return f"{original.name} as {name!r}: {what}"

    def _make_labels(self, folder: Path, number: int, rng: random.Random) -> str:
        (kept,) = (film for film in self.films if film.name == "lossless.mkv")
        shutil.copy(kept, folder / f"{number:04d}.mkv")
        (table,) = rng.choice(self.originals("labels")).folder.iterdir()
        changed = folder / table.name.replace("film", f"{number:04d}")
        shutil.copy(table, changed)
        return f"{changed.name}: {files.change(changed, rng, self._address(rng, number))}"

    def _change(self, folder: Path, original: Original, rng: random.Random) -> str:
        patterns = original.victims
        victims = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
        text = [path for path in victims if path.read_bytes()[:1] in (b"{", b"[")]
        victim = rng.choice(victims + text * (len(victims) // len(text) if text else 0))
        return f"{victim.relative_to(folder)}: {files.change(victim, rng, self._address(rng, 0))}"


def _found(script: str) -> str:
    return script if script == "-m" else str(watch.ROOT / script)


def _state(folder: Path) -> dict[str, str]:
    """What there is, by its path: kind, size, and the bytes of files that are not huge."""
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        text = f"{facts.st_mode} {facts.st_size}"
        if path.is_file() and not path.is_symlink() and facts.st_size < 1e8:
            text += hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = text
    return found


# --- is what it left whole? -----------------------------------------------------------------------


def _check(command: Sequence[str], ended: watch.Ended, result: Path, given: Path) -> int:
    """Raises what reading the result raises, or AssertionError; returns how many whole results there are."""
    script, left = command[0], sorted(path.name for path in result.iterdir())
    several = "." in command or "--source=." in command
    films = [path for path in given.iterdir() if path.suffix != ".csv"]
    lines = ended.errors.splitlines()
    if script == "train.py":
        return int(ended.status == 0)
    if ended.status == 2:
        assert lines, "status 2, and not a word"
        assert several or len(lines) == 1, f"more than a line: {ended.errors[-1000:]!r}"
        assert (several and script == "summarize.py") or not left, f"left behind: {left}"
    elif ended.status == 0:
        assert len(left) == 1, f"status 0, and there is {left}"
    else:  # of which there is a complaint already
        assert not left or several, f"left behind: {left}"
        return 0
    hidden = [str(path) for path in result.rglob(".*") if path.name != ".config"]  # TFDS's, within records
    assert not hidden, f"hidden things are left: {hidden}"
    if several and script == "summarize.py" and len(films) > 1:
        told = re.findall(rf"^\[\d+/{len(films)}\] ", ended.output + ended.errors, re.MULTILINE)
        assert len(told) == len(films), f"of {len(films)} films {len(told)} are spoken of"
    return sum(_whole(script, result / name, len(films)) for name in left)


def _whole(script: str, result: Path, films: int) -> int:
    """How many results there are in what a command left."""
    if script == "summarize.py":
        folders = list(result.iterdir())
        for folder in folders:
            _whole_summary(folder)
        return len(folders)
    if script == "prepare_data.py":
        return _whole_records(result, films)
    if script == "eval.py":
        _whole_results(result)
    elif script == "convert_weights.py" and result.is_dir():
        _whole_checkpoint(result)
    else:
        assert result.stat().st_size > 100, "an empty file"
    return 1


def _whole_summary(folder: Path) -> None:
    with av.open(str(folder / "summary.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)), "no picture in summary.mp4"
    facts = _strict_json(folder / "summary.json")
    assert facts["shots"]
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    assert rows
    assert (folder / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert (folder / "summary.edl").stat().st_size


def _whole_records(folder: Path, films: int) -> int:
    manifest = _strict_json(folder / "manifest.json")
    read, skipped = len(manifest["videos"]), len(manifest["skipped"])
    assert read + skipped == films, f"of {films} films {read} are read and {skipped} skipped"

    def read_all() -> None:
        from avmsnet_jax.data import pipeline

        for name, split in manifest["splits"].items():
            assert sum(1 for _ in pipeline.open_split(folder, name)) == split["clips"]

    _in_a_process(folder, read_all)
    return read


def _whole_results(folder: Path) -> None:
    metrics = _strict_json(folder / "metrics.json")
    assert metrics
    tables = list((folder / "scores").glob("*.csv"))
    for table in tables:
        with open(table, newline="", encoding="utf-8") as file:
            assert [float(row["score"]) for row in csv.DictReader(file)]
    assert (folder / "report.md").stat().st_size


def _whole_checkpoint(folder: Path) -> None:
    _strict_json(folder / "report.json")

    def load() -> None:
        from avmsnet_jax.weights import checkpoint

        checkpoint.restore(folder)

    _in_a_process(folder, load)


def _in_a_process(folder: Path, work: Callable[[], object]) -> None:
    words = folder.parent / ".output", folder.parent / ".errors"
    _, status = os.waitpid(watch.forked(work, words), 0)
    said = words[1].read_text()
    for file in words:
        file.unlink()
    assert status == 0, f"what it left cannot be read: {said[-500:]}"


def _strict_json(path: Path) -> dict:
    """JSON that any program reads: without NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in {path.name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
