"""Films to summaries, one after the other or on Apache Beam; what goes wrong with one of them costs no other."""

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import jax
from tqdm import tqdm

from avmsnet_jax import json_file, unforeseen
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.clock import clock
from avmsnet_jax.config import Config, MeshConfig
from avmsnet_jax.data import beam
from avmsnet_jax.data.sources import is_file_name
from avmsnet_jax.errors import UserError, printable
from avmsnet_jax.media import films, video
from avmsnet_jax.staging import empty, staged, taken, working_place
from avmsnet_jax.summarize import choose, cut, cutlist, explain, report, score, timeline
from avmsnet_jax.summarize.cutlist import CutList
from avmsnet_jax.summarize.result import Summary
from avmsnet_jax.weights import checkpoint

SUMMARY, SCORES, FACTS = "summary.mp4", "scores.csv", "summary.json"
OVERLAY = "overlay.mp4"
_FILES = {SUMMARY, SCORES, FACTS, OVERLAY, timeline.EDL, timeline.OTIO, cutlist.CUT, cutlist.SEGMENTS, "report.html"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a film.

    Attributes:
      film: the film.
      folder: where its summary is, or would be.
      error: why there is none; empty = there is.
      account: how long it is, in words.
      skipped: whether there was a summary already, which stays.
    """

    film: Path
    folder: Path
    error: str = ""
    account: str = ""
    skipped: bool = False


def summarize(
    movies: Sequence[str | os.PathLike[str]],
    directory: str,
    output: str | os.PathLike[str],
    config: Config,
    *,
    overwrite: bool = False,
    beam_options: Sequence[str] | None = None,
    on_film: Callable[[int, int, Outcome], Any] = lambda number, count, outcome: None,
) -> list[Outcome]:
    """Summarizes films, each into `output/<film stem>/`, which appears when it is whole.

    Args:
      movies: films, and folders of films.
      directory: a checkpoint, as `avmsnet_jax.load` takes it.
      output: the folder for all summaries.
      config: the sections `summarize` and `mesh` are used; the network is the checkpoint's own.
      overwrite: replace earlier summaries.
      beam_options: options of an Apache Beam pipeline that does the work instead; see `data.beam`.
      on_film: called with the number of the film, from 1, how many there are, and what became of it.

    Returns:
      what became of each film.

    Raises:
      UserError: what concerns no single film: the checkpoint, the configuration, two films of one name, no films.
    """
    choose.parse_budget(config.summarize.budget)
    listed = films.listed(movies)
    output = Path(os.path.abspath(output))
    tasks = [(film, output / film.stem) for film in listed]
    one = functools.partial(_attempt, config, _Weights.of(directory), overwrite)
    if beam_options is not None:
        outcomes = _on_beam(tasks, one, output, beam_options)
        for number, outcome in enumerate(outcomes, start=1):
            on_film(number, len(tasks), outcome)
        return outcomes
    outcomes = []
    for task in tasks:
        outcomes.append(one(task))
        on_film(len(outcomes), len(tasks), outcomes[-1])
    return outcomes


def summarize_cut(
    film: Path,
    cut_file: Path,
    output: str | os.PathLike[str],
    config: Config,
    *,
    budget: str = "",
    overwrite: bool = False,
) -> Outcome:
    """Summarizes a film by its `cut.json`, without any scorer.

    Args:
      film: the film.
      cut_file: says which shots the summary has.
      output: the folder for all summaries.
      config: as for `summarize`.
      budget: chooses the shots anew, but for those that a person kept or dropped; empty = exactly those of the file.
      overwrite: replace an earlier summary.

    Raises:
      UserError: `cut_file` is damaged, of another film or of a newer version.
    """
    found = cutlist.read(cut_file, film)
    if budget:
        found = cutlist.choose_again(found, choose.parse_budget(budget))
    return _attempt(config, found, overwrite, (film, Path(os.path.abspath(output)) / film.stem))


def summarize_film(
    film: Path,
    network: score.Network | cutlist.Replay,
    config: Config,
    folder: Path,
    facts: dict[str, str],
    shown_in: Path,
    follow: CutList | None = None,
) -> Summary:
    """Writes one film's summary, with all that goes with it, to a folder that does not exist yet.

    Args:
      film: the film.
      network: what looks at it.
      config: of which `summarize` is used.
      folder: to create; the caller sees to it that nobody takes it for finished before it is.
      facts: of the run, for the report.
      shown_in: what `folder` will be called when it is finished.
      follow: shots that are chosen already.

    Raises:
      UserError: the film cannot be read, or has no place for what is asked.
    """
    options = config.summarize
    spacing_s = options.spacing_s if follow is None else follow.scorer["spacing_s"]
    with _bar(f"watching {printable(film.name)}", score.expected_clips(film, spacing_s), "clip") as bar:
        watched = score.watch(
            film,
            network,
            frames=network.frames,
            frame_size=network.frame_size,
            batch_size=network.batch_size,
            spacing_s=spacing_s,
            on_clips=bar.update,
        )
    choice = choose.choose(watched, options) if follow is None else cutlist.follow(follow, watched)
    kept = [span for span, shot in zip(choice.ranges, choice.shots, strict=True) if shot.chosen]
    folder.mkdir()
    with _bar(f"cutting {printable(film.name)}", sum(stop - first for first, stop in kept), "frame") as bar:
        cut.cut(watched, kept, folder / SUMMARY, bar.update)
    summary = Summary(watched.scores, choice.shots, choice.budget_s, choice.length_s, facts)
    _write_scores(summary, folder / SCORES)
    _write_facts(summary, folder / FACTS)
    takes = cut.takes(watched, kept)
    timeline.write_edl(watched, takes, folder / timeline.EDL)
    timeline.write_otio(watched, takes, folder / timeline.OTIO)
    if follow is None:
        scorer = {"name": "network", "learned_from_people": True}
        scorer |= {"spacing_s": spacing_s, "clip_frames": network.frames}
        budget, timecode = choose.parse_budget(options.budget), watched.timecode.text(0)
        follow = cutlist.of_summary(summary, watched.rate, budget, scorer, start_timecode=timecode)
        with _bar(f"drawing over {printable(film.name)}", sum(stop - first for first, stop in kept), "frame") as bar:
            explain.write_overlay(summary, folder / OVERLAY, bar.update)
    cutlist.write(follow, folder)
    report.write_report(summary, folder, shown_in=shown_in, editing=report.Editing.of(follow, watched))
    return summary


class _Weights(NamedTuple):
    """A checkpoint, and what is different of another that is written to the same place."""

    directory: str
    state: tuple[Any, ...]

    @classmethod
    def of(cls, directory: str) -> "_Weights":
        """The checkpoint that a directory stands for now: a training run that goes on will have others."""
        found = checkpoint.find(directory)
        states = [path.lstat() for path in sorted(found.rglob("*"))]
        return cls(str(found), tuple((state.st_ino, state.st_mtime_ns) for state in states))


def _attempt(config: Config, weights: _Weights | CutList, overwrite: bool, task: tuple[Path, Path]) -> Outcome:
    """Summarizes one film. Whatever goes wrong with it, others can still be summarized."""
    film, folder = task
    try:
        return _summarized(config, weights, overwrite, film, folder)
    except UserError as error:
        return Outcome(Path(_shown(film)), folder, error=str(error))
    except Exception as error:
        return Outcome(Path(_shown(film)), folder, error=unforeseen.report(error, folder.parent, film.stem))


def _summarized(config: Config, weights: _Weights | CutList, overwrite: bool, film: Path, folder: Path) -> Outcome:
    if not is_file_name(film.stem):
        raise UserError(f"{film} has no name before its suffix, which its summary's folder needs; rename it")
    if taken(folder):
        if not overwrite and _is_summary(folder):
            return Outcome(film, folder, skipped=True)
        _check_replaceable(folder)
    if not _is_text(film):
        raise UserError(f"the name of {_shown(film)} is not UTF-8, which the summary's files need; rename it")
    video.read_info(film)  # before the network is read, which takes seconds
    with staged(folder) as stage:
        if isinstance(weights, CutList):
            facts = {"shots": "as in cut.json"}
            summary = summarize_film(film, cutlist.Replay(weights), config, stage, facts, folder, weights)
        else:
            network = _network(weights, config.mesh.data, config.mesh.fsdp, config.summarize.batch_size)
            summary = summarize_film(film, network, config, stage, _facts(config, weights.directory), folder)
        if taken(folder):  # by now: watching takes long
            if not overwrite:
                raise UserError(f"{folder} appeared while {film.name} was watched; move it away, and start again")
            _check_replaceable(folder)
    chosen = sum(shot.chosen for shot in summary.shots)
    lengths = f"{clock(round(summary.length_s))} of {clock(round(summary.scores.duration_s))}"
    return Outcome(film, folder, account=f"{lengths} in {chosen} shot{'s' * (chosen > 1)}")


def _is_summary(folder: Path) -> bool:
    """Whether a folder has a summary's own account in it."""
    try:
        facts = json_file.read(folder / FACTS, "remove it")
    except (OSError, UserError):
        return False
    return isinstance(facts, dict) and {"film", "shots", "facts"} <= facts.keys()


def _check_replaceable(folder: Path) -> None:
    """Raises UserError where a folder is no summary, or holds something of the user's."""
    if folder.is_symlink() or not _is_summary(folder):
        raise UserError(f"{folder} exists already; it is no summary: choose another place")
    if others := sorted({entry.name for entry in folder.iterdir()} - _FILES):
        raise UserError(
            f"{folder} holds {checkpoint.few(others)} beside the summary, which --overwrite would remove; "
            "move that elsewhere"
        )


def _is_text(path: Path) -> bool:
    return _shown(path) == str(path)


def _shown(path: Path) -> str:
    """A path that can be printed: names of files need not be in any encoding."""
    return os.fsencode(path).decode("utf-8", "replace")


@functools.lru_cache(maxsize=1)
def _network(weights: _Weights, data: int, fsdp: int, batch_size: int) -> score.Network:
    mesh = mesh_lib.make_mesh(MeshConfig(data=data, fsdp=fsdp))
    return score.Network(checkpoint.load(weights.directory, finite=True), mesh, batch_size)


def _facts(config: Config, directory: str) -> dict[str, str]:
    options, devices = config.summarize, jax.devices()
    shots = {"kts": "KTS on the network's features", "scenes": "PySceneDetect"}[options.shots]
    return {
        "checkpoint": directory,
        "budget": options.budget,
        "shots": f"{shots}, {options.shortest_shot_s:g} s to {options.longest_shot_s:g} s",
        "clips": f"one every {options.spacing_s:g} s",
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "versions": ", ".join(
            [
                *(f"{name} {importlib.metadata.version(name)}" for name in ("avmsnet_jax", "jax", "flax", "av")),
                f"FFmpeg {av.ffmpeg_version_info}",
            ]
        ),
    }


def _write_scores(summary: Summary, path: Path) -> None:
    scores = summary.scores
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "time_s", "score"])
        for frame, time_s, value in zip(scores.frames, scores.times_s, scores.scores, strict=True):
            writer.writerow([frame, f"{time_s:.6f}", f"{value:.9g}"])  # nine digits hold a float32


def _write_facts(summary: Summary, path: Path) -> None:
    scores = summary.scores
    facts = {
        "film": str(scores.film),
        "duration_s": scores.duration_s,
        "fps": scores.fps,
        "budget_s": summary.budget_s,
        "length_s": summary.length_s,
        "shots": [
            {
                "start": shot.start_s,
                "end": shot.end_s,
                "score": shot.score,
                "first_frame": shot.first_frame,
                "last_frame": shot.last_frame,
                "summary_start": shot.summary_start_s,
            }
            for shot in summary.shots
            if shot.chosen
        ],
        "facts": summary.facts,
    }
    path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _bar(name: str, total: int, unit: str) -> "tqdm[Any]":
    return tqdm(desc=name, total=total, unit=unit, disable=not sys.stderr.isatty(), leave=False)


def _on_beam(
    tasks: Sequence[tuple[Path, Path]],
    one: Callable[[tuple[Path, Path]], Outcome],
    output: Path,
    options: Sequence[str],
) -> list[Outcome]:
    named = hashlib.sha256("\0".join(os.fsdecode(film) for film, _ in tasks).encode("utf-8", "surrogateescape"))
    try:
        # Of the same films by name, so that the next run removes what a killed one left.
        with working_place(output / f"beam_{named.hexdigest()[:8]}", "words") as place:
            empty(place)
            try:
                beam.run(options, list(enumerate(tasks)), functools.partial(_leave_word, one, place), place)
                return [_outcome(place, number, task) for number, task in enumerate(tasks)]
            finally:
                empty(place)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}; choose another place") from error


def _outcome(place: Path, number: int, task: tuple[Path, Path]) -> Outcome:
    """What a Beam worker left word of."""
    try:
        word = json.loads((place / str(number)).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no Beam worker left word in {place}; all workers need to see films and output") from None
    return Outcome(*task, **word)


def _leave_word(one: Callable[[tuple[Path, Path]], Outcome], place: Path, item: tuple[int, tuple[Path, Path]]) -> None:
    number, task = item
    if (place / str(number)).exists():  # Beam may give a film again
        return
    outcome = one(task)
    unfinished = place / f".{number}.{secrets.token_hex(4)}"
    unfinished.write_text(
        json.dumps({name: getattr(outcome, name) for name in ("error", "account", "skipped")}), encoding="utf-8"
    )
    os.replace(unfinished, place / str(number))
