"""Summarizes films, one after the other or on Apache Beam; a film that fails does not stop the others."""

import csv
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from avmsnet_jax import beam, json_file, storage, unforeseen
from avmsnet_jax.clock import clock
from avmsnet_jax.config import Config, MeshConfig
from avmsnet_jax.data.sources import is_file_name
from avmsnet_jax.errors import UserError, few, printable
from avmsnet_jax.media import captions, films
from avmsnet_jax.media.movie import FFMPEG_VERSION, Movie
from avmsnet_jax.progress import LINES, ProgressLines
from avmsnet_jax.scoring.attention import Attention
from avmsnet_jax.scoring.film import expected_clips, watch
from avmsnet_jax.scoring.scorer import Scorer
from avmsnet_jax.staging import empty, staged, taken, working_place
from avmsnet_jax.summarization import choose, cut, cutlist, editors, explain, report
from avmsnet_jax.summarization import watched as watched_file
from avmsnet_jax.summarization.cutlist import CutList
from avmsnet_jax.summarization.result import Summary
from avmsnet_jax.summarization.watched import Kept
from avmsnet_jax.weights import location

if TYPE_CHECKING:
    from avmsnet_jax.scoring.network import Network

SUMMARY, SCORES, FACTS = "summary.mp4", "scores.csv", "summary.json"
OVERLAY, CLIPS, VTT = "overlay.mp4", "clips", "summary.vtt"
_CLIP = re.compile(r"[0-9]{3,} [0-9]{2,}-[0-9]{2}-[0-9]{2}\.mp4")
_FILES = {
    *(SUMMARY, SCORES, FACTS, OVERLAY, CLIPS, VTT, "report.html"),
    *(cutlist.CUT, cutlist.SEGMENTS, watched_file.WATCHED),
    *(editors.EDL, editors.FCPXML, editors.FCP7, editors.OTIO),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result for one film.

    Attributes:
      film: the film.
      folder: the folder of its summary.
      error: why there is no summary; empty = there is one.
      account: the length of the summary, in words.
      skipped: whether an earlier summary was kept.
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
    """Summarizes films, each into `output/<film stem>/`, which appears when it is complete.

    Args:
      movies: films, and folders of films.
      directory: a checkpoint, as `avmsnet_jax.load` takes it; empty = score by attention, without weights.
      output: the folder for all summaries.
      config: its sections `summarize` and `mesh` are used; the network is the checkpoint's.
      overwrite: replace earlier summaries.
      beam_options: options of an Apache Beam pipeline to run on; None = this process. See `beam`.
      on_film: called with the number of the film, from 1, the number of films, and the result.

    Returns:
      the result for each film.

    Raises:
      UserError: the checkpoint or the configuration is invalid, two films have the same name, or there are no films.
    """
    choose.parse_budget(config.summarize.budget)
    listed = films.listed(movies)
    output = Path(os.path.abspath(output))
    tasks = [(film, output / film.stem) for film in listed]
    source = _source(directory, config)
    one = functools.partial(_attempt, config, source, overwrite)
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


def summarize_by(
    scorer: Scorer, film: Path, output: str | os.PathLike[str], config: Config, *, overwrite: bool = False
) -> Outcome:
    """Summarizes a film by the given scorer; for the other arguments see `summarize`."""
    choose.parse_budget(config.summarize.budget)
    return _attempt(config, scorer, overwrite, (film, Path(os.path.abspath(output)) / film.stem))


def summarize_cut(
    film: Path,
    cut_file: Path,
    output: str | os.PathLike[str],
    config: Config,
    *,
    budget: str = "",
    overwrite: bool = False,
) -> Outcome:
    """Summarizes a film as its `cut.json` says, without scoring it.

    Args:
      film: the film.
      cut_file: the `cut.json`.
      output: the folder for all summaries.
      config: as for `summarize`.
      budget: choose the shots anew, except those that a person kept or dropped; empty = exactly those of the file.
      overwrite: replace an earlier summary.

    Raises:
      UserError: `cut_file` is damaged, of another film or of a newer version.
    """
    found = cutlist.read(cut_file, film)
    if budget:
        found = cutlist.choose_again(found, choose.parse_budget(budget))
    source = CutFile(found, cut_file.absolute().parent)
    return _attempt(config, source, overwrite, (film, Path(os.path.abspath(output)) / film.stem))


def _write_summary(config: Config, source: "Source", film: Path, folder: Path, shown_in: Path) -> Summary:
    """Writes a film's summary and the files that go with it to a new folder.

    Args:
      config: its sections `summarize` and `mesh` are used.
      source: where the scores come from.
      film: the film.
      folder: the folder to create; the caller moves it to its final place.
      shown_in: the final place.

    Raises:
      UserError: the film cannot be read, or the options do not fit it.
    """
    options, cut_list = config.summarize, source.cut if isinstance(source, CutFile) else None
    analysis = _watched(config, source, film, shown_in)
    watched = analysis.watched if cut_list is None else cutlist.scored(cut_list, analysis.watched)
    if options.overlay and max(maps.size for maps in watched.scores.attention) == len(watched.scores.frames):
        raise _without_maps(film)
    text = captions.read(film)
    choice = choose.choose(watched, options, text.cues) if cut_list is None else cutlist.choice_of(cut_list, watched)
    scorer = analysis.scorer if cut_list is None else cut_list.scorer
    facts = _facts(config, source, scorer["name"])
    if text.cues or text.problem:
        facts["captions"] = text.problem or text.source
    summary = Summary(watched.scores, choice.shots, choice.budget_s, choice.length_s, facts)
    kept = [span for span, shot in zip(choice.ranges, choice.shots, strict=True) if shot.chosen]
    folder.mkdir()
    frames = sum(stop - first for first, stop in kept)
    with _bar(f"cutting {printable(film.name)}", frames * (1 + options.clips), "frame") as bar:
        cut.cut(watched, kept, folder / SUMMARY, bar.update, text.cues)
        if options.clips:
            cut.clips(watched, kept, folder / CLIPS, bar.update, text.cues)
    if options.overlay:
        with _bar(f"drawing over {printable(film.name)}", frames, "frame") as bar:
            explain.write_overlay(summary, folder / OVERLAY, bar.update)
    _write_scores(summary, folder / SCORES)
    _write_facts(summary, scorer, folder / FACTS)
    watched_file.write(analysis, folder / watched_file.WATCHED)
    takes = cut.takes(watched, kept)
    editors.write(watched, takes, folder)
    shown = report.Captions(text.cues, cut.summary_cues(text.cues, takes))
    if text.cues:
        captions.write(shown.summary, folder / VTT)
    if cut_list is None:
        budget, timecode = choose.parse_budget(options.budget), watched.timecode.text(0)
        cut_list = cutlist.of_summary(summary, watched.rate, budget, scorer, start_timecode=timecode)
    cutlist.write(cut_list, folder)
    editing = report.Editing.of(cut_list, watched)
    report.write_report(summary, folder, shown_in=shown_in, editing=editing, captions=shown)
    return summary


def _watched(config: Config, source: "Source", film: Path, shown_in: Path) -> Kept:
    """The analysis of a film: that of an earlier summary if it fits, else a new one."""
    cut_list = source.cut if isinstance(source, CutFile) else None
    spacing_s = config.summarize.spacing_s if cut_list is None else cut_list.scorer["spacing_s"]
    film_key, scorer_key = watched_file.film_key(film), _scorer_key(config, source)
    for folder in [source.folder, shown_in] if isinstance(source, CutFile) else [shown_in]:
        kept = watched_file.read(folder / watched_file.WATCHED, film, film_key)
        if kept is not None and cut_list is not None and cutlist.has_clips_of(cut_list, kept.watched):
            return kept
        if kept is not None and scorer_key and kept.scorer_key == scorer_key:
            return kept
    if isinstance(source, CutFile) and config.summarize.overlay:
        raise _without_maps(film)
    scorer = _scorer(config, source)
    with _bar(f"watching {printable(film.name)}", expected_clips(film, spacing_s), "clip") as bar:
        watched = watch(film, scorer, spacing_s=spacing_s, on_clips=bar.update)
    about = {
        "name": scorer.name,
        "learned_from_people": scorer.learned_from_people,
        "spacing_s": spacing_s,
        "clip_frames": scorer.frames,
    }
    return Kept(watched, about, film_key, scorer_key)


def _without_maps(film: Path) -> UserError:
    return UserError(
        f"the cut of {film.name} has no attention maps for --overlay; put cut.json into the summary's folder (beside "
        f"{watched_file.WATCHED}), or leave --overlay out"
    )


def _source(directory: str, config: Config) -> "Weights | Attention":
    """The checkpoint, or the attention scorer; raises UserError if a checkpoint does not exist."""
    soundnet = config.summarize.soundnet
    if directory and soundnet:
        raise UserError("summarize.soundnet is for scores without --checkpoint; leave out one of the two")
    if soundnet:
        location.find(soundnet)  # raises UserError before a film is read
    return Weights.of(directory) if directory else Attention(soundnet=soundnet)


class Weights(NamedTuple):
    """A checkpoint and the state of its files, which distinguishes it from a later one in the same place."""

    directory: str
    state: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The kind of scorer."""
        return "network"

    @classmethod
    def of(cls, directory: str) -> "Weights":
        """The current checkpoint in a directory, to which a running training may write others."""
        found = location.find(directory)
        states = [path.lstat() for path in sorted(found.rglob("*"))]
        return cls(str(found), tuple((state.st_ino, state.st_mtime_ns) for state in states))


class CutFile(NamedTuple):
    """A cut list and the folder that it was in."""

    cut: CutList
    folder: Path


Source = Weights | CutFile | Scorer  # where the scores of a film come from


def _attempt(config: Config, source: Source, overwrite: bool, task: tuple[Path, Path]) -> Outcome:
    """Summarizes one film; returns errors instead of raising them, so that the other films are still summarized."""
    film, folder = task
    try:
        return _summarized(config, source, overwrite, film, folder)
    except UserError as error:
        return Outcome(Path(films.text(film)), folder, error=str(error))
    except Exception as error:
        return Outcome(Path(films.text(film)), folder, error=unforeseen.report(error, folder.parent, film.stem))


def _summarized(config: Config, source: Source, overwrite: bool, film: Path, folder: Path) -> Outcome:
    if not is_file_name(film.stem):
        raise UserError(f"{film} has no name before its suffix, which its summary's folder needs; rename it")
    if taken(folder):
        if not overwrite and _is_summary(folder):
            return Outcome(film, folder, skipped=True)
        _check_replaceable(folder)
    if films.text(film) != str(film):
        raise UserError(f"the name of {films.text(film)} is not UTF-8, which the summary's files need; rename it")
    Movie(film).info()  # fails before the network is loaded, which takes seconds
    with staged(folder) as stage:
        summary = _write_summary(config, source, film, stage, folder)
        if taken(folder):  # checked again, because summarizing takes long
            if not overwrite:
                raise UserError(f"{folder} appeared while {film.name} was watched; move it away, and start again")
            _check_replaceable(folder)
    chosen = sum(shot.chosen for shot in summary.shots)
    lengths = f"{clock(round(summary.length_s))} of {clock(round(summary.scores.duration_s))}"
    captions_note = f"; captions: {summary.facts['captions']}" if "captions" in summary.facts else ""
    return Outcome(film, folder, account=f"{lengths} in {chosen} shot{'s' * (chosen > 1)}{captions_note}")


def _is_summary(folder: Path) -> bool:
    """Whether a folder holds a summary.json of this program."""
    try:
        facts = json_file.read(folder / FACTS, "remove it")
    except (OSError, UserError):
        return False
    return isinstance(facts, dict) and {"film", "shots", "facts"} <= facts.keys()


def _check_replaceable(folder: Path) -> None:
    """Raises UserError if a folder is not a summary, or also holds other files."""
    if folder.is_symlink() or not _is_summary(folder):
        raise UserError(f"{folder} exists and is not a summary; choose another place")
    others = sorted({entry.name for entry in folder.iterdir()} - _FILES)
    clips = folder / CLIPS
    if clips.is_dir() and not clips.is_symlink():
        others += [f"{CLIPS}/{name}" for name in sorted(os.listdir(clips)) if not _CLIP.fullmatch(name)]
    elif os.path.lexists(clips):
        others.append(CLIPS)
    if others:
        raise UserError(
            f"{folder} holds {few(others)} beside the summary, which --overwrite would remove; move that elsewhere"
        )


@functools.lru_cache(maxsize=1)
def _network(weights: Weights, data: int, fsdp: int, batch_size: int) -> "Network":
    from avmsnet_jax.scoring.network import Network  # JAX, for a network only

    return Network.load(weights.directory, MeshConfig(data=data, fsdp=fsdp), batch_size)


def _scorer(config: Config, source: Source) -> Scorer:
    if isinstance(source, CutFile):
        return cutlist.Replay(source.cut)
    if isinstance(source, Weights):
        return _network(source, config.mesh.data, config.mesh.fsdp, config.summarize.batch_size)
    return source


def _scorer_key(config: Config, source: Source) -> str:
    """A fingerprint of everything that determines the scores; empty for a network in memory, and for a cut's scores."""
    options, mesh = config.summarize, config.mesh
    settings: list[Any]
    if isinstance(source, Weights):
        content, settings = _content(source), [mesh.data, mesh.fsdp, options.batch_size, _devices()]
    elif isinstance(source, Attention):
        content = _content(Weights.of(source.soundnet)) if source.soundnet else "no weights"
        settings = [source.frames, source.frame_size]
    else:
        return ""
    if not content:
        return ""
    facts = [watched_file.FORMAT, options.spacing_s, _versions(source.name), content, *settings]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


_MOST_CHECKPOINT_BYTES = 8 * 10**9  # the published network and its optimizer have 1.2 GB


@functools.lru_cache(maxsize=1)
def _content(weights: Weights) -> str:
    """A fingerprint of a checkpoint, the same for a copy elsewhere; empty if its files are far too large."""
    folder, digest = Path(weights.directory), hashlib.sha256()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if sum(path.stat().st_size for path in files) > _MOST_CHECKPOINT_BYTES:  # loading it will report the problem
        return ""
    for path in files:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{os.fsencode(path.relative_to(folder)).hex()} {content}\n".encode())
    return digest.hexdigest()


def _versions(scorer: str) -> str:
    packages = [
        "avmsnet_jax",
        "av",
        *(("jax", "flax") if scorer == "network" else ("numpy", "scipy", "opencv-python-headless")),
    ]
    versions = (f"{name} {importlib.metadata.version(name)}" for name in packages)
    return ", ".join([*versions, f"FFmpeg {FFMPEG_VERSION}"])


def _devices() -> str:
    import jax

    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"


def _facts(config: Config, source: Source, scorer: str) -> dict[str, str]:
    if isinstance(source, CutFile):
        return {"shots": "as in cut.json"}
    options = config.summarize
    shots = {"kts": "KTS on the scorer's features", "scenes": "PySceneDetect"}[options.shots]
    used = {"scores": "attention, not learned from people"}
    if isinstance(source, Attention) and source.soundnet:
        used["SoundNet"] = source.soundnet
    if scorer == "network":
        directory = source.directory if isinstance(source, Weights) else "a network in memory"
        used = {"checkpoint": storage.shown(directory), "devices": _devices()}
    return {
        **used,
        "budget": options.budget,
        "shots": f"{shots}, {options.shortest_shot_s:g} s to {options.longest_shot_s:g} s",
        "clips": f"one every {options.spacing_s:g} s",
        "versions": _versions(scorer),
    }


def _write_scores(summary: Summary, path: Path) -> None:
    scores = summary.scores
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "time_s", "score", *scores.signals])
        rows = zip(scores.frames, scores.times_s, scores.scores, *scores.signals.values(), strict=True)
        for frame, time_s, *values in rows:
            writer.writerow([frame, f"{time_s:.6f}", *(f"{value:.9g}" for value in values)])  # 9 digits hold a float32


def _write_facts(summary: Summary, scorer: dict[str, Any], path: Path) -> None:
    scores = summary.scores
    facts = {
        "film": str(scores.film),
        "scorer": scorer["name"],
        "learned_from_people": scorer["learned_from_people"],
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
    kind = ProgressLines if os.environ.get(LINES) else tqdm
    return kind(desc=name, total=total, unit=unit, disable=kind is tqdm and not sys.stderr.isatty(), leave=False)


def _on_beam(
    tasks: Sequence[tuple[Path, Path]],
    one: Callable[[tuple[Path, Path]], Outcome],
    output: Path,
    options: Sequence[str],
) -> list[Outcome]:
    names = hashlib.sha256("\0".join(os.fsdecode(film) for film, _ in tasks).encode("utf-8", "surrogateescape"))
    try:
        # The same name for the same films, so that the next run removes the remains of a killed one.
        with working_place(output / f"beam_{names.hexdigest()[:8]}", "outcomes") as place:
            empty(place)
            try:
                done = beam.run(options, tasks, functools.partial(_outcome_fields, one), place)
                return [Outcome(*task, **fields) for task, fields in zip(tasks, done, strict=True)]
            finally:
                empty(place)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}; choose another place") from error


def _outcome_fields(one: Callable[[tuple[Path, Path]], Outcome], task: tuple[Path, Path]) -> dict[str, Any]:
    """The fields of a film's outcome that a Beam worker sends back."""
    outcome = one(task)
    return {name: getattr(outcome, name) for name in ("error", "account", "skipped")}
