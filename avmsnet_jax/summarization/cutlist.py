"""cut.json: the shots of a film and which of them are in its summary, for people and programs to edit."""

import csv
import dataclasses
import itertools
import json
import math
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax import json_file
from avmsnet_jax.clock import clock
from avmsnet_jax.data.clips import Clip
from avmsnet_jax.errors import UserError
from avmsnet_jax.media import films
from avmsnet_jax.media.frame import Frame
from avmsnet_jax.scoring.film import Watched
from avmsnet_jax.scoring.scorer import ClipScores, Measured
from avmsnet_jax.summarization import choose
from avmsnet_jax.summarization.choose import Budget, Choice
from avmsnet_jax.summarization.result import Summary

CUT, SEGMENTS = "cut.json", "segments.csv"
VERSION = 1
_MOST_CLIP_FRAMES = 256
STATES = ("chosen", "left", "kept", "dropped")
_REMEDY = "save it again from the report, or summarize the film again"


@dataclasses.dataclass(frozen=True)
class CutShot:
    """A shot of the film.

    Attributes:
      first_frame: number of its first frame, from 1.
      last_frame: number of its last frame.
      score: mean score of its frames.
      state: `chosen` or `left` by the program, `kept` or `dropped` by a person.
    """

    first_frame: int
    last_frame: int
    score: float
    state: str

    @property
    def shown(self) -> bool:
        """Whether the shot is in the summary."""
        return self.state in ("chosen", "kept")


@dataclasses.dataclass(frozen=True)
class CutList:
    """What `cut.json` holds.

    Attributes:
      film: path, size (bytes), duration_s, rate ("num/den"), n_frames, width, height, start_timecode.
      scorer: name, learned_from_people, spacing_s (between clips), clip_frames (of each).
      budget: the longest summary allowed.
      clips: frame, time_s, score and, from the attention scorer, signals of each scored clip.
      shots: all shots, in order, without gaps.
      reviewed: whether a person has looked through the cut, so that its shots count as labels.
    """

    film: dict[str, Any]
    scorer: dict[str, Any]
    budget: Budget
    clips: tuple[dict[str, Any], ...]
    shots: tuple[CutShot, ...]
    reviewed: bool = False

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return Fraction(self.film["rate"])

    @property
    def limit_s(self) -> float:
        """The longest summary, seconds; infinite if the budget is a number of shots."""
        return self.budget.limit_s(self.film["duration_s"])

    def as_json(self) -> dict[str, Any]:
        """The file's content; times are derived from frames."""
        rate = float(self.rate)
        shots = [
            {
                "first_frame": shot.first_frame,
                "last_frame": shot.last_frame,
                "start_s": round((shot.first_frame - 1) / rate, 6),
                "end_s": round(shot.last_frame / rate, 6),
                "score": shot.score,
                "state": shot.state,
            }
            for shot in self.shots
        ]
        budget = {name: value for name, value in dataclasses.asdict(self.budget).items() if value is not None}
        parts = {"film": self.film, "scorer": self.scorer, "budget": budget, "clips": list(self.clips)}
        return {"version": VERSION, "reviewed": self.reviewed, **parts, "shots": shots}


def of_summary(
    summary: Summary, rate: Fraction, budget: Budget, scorer: dict[str, Any], *, start_timecode: str = "00:00:00:00"
) -> CutList:
    """The cut list of a new summary; for its arguments see `CutList`."""
    scores = summary.scores
    edges = [round(shot.start_s * rate) for shot in summary.shots] + [scores.n_frames]
    shots = tuple(
        CutShot(first + 1, stop, shot.score, "chosen" if shot.chosen else "left")
        for (first, stop), shot in zip(itertools.pairwise(edges), summary.shots, strict=True)
        if stop > first
    )
    clips: list[dict[str, Any]] = [
        {"frame": int(frame), "time_s": round(float(time_s), 6), "score": float(f"{score:.9g}")}
        for frame, time_s, score in zip(scores.frames, scores.times_s, scores.scores, strict=True)
    ]
    for name, levels in scores.signals.items():
        for clip, level in zip(clips, levels.tolist(), strict=True):
            clip.setdefault("signals", {})[name] = round(level, 4)
    film = {
        "path": films.text(scores.film.absolute()),
        "size": scores.film.stat().st_size,
        "duration_s": scores.duration_s,
        "rate": f"{rate.numerator}/{rate.denominator}",
        "n_frames": scores.n_frames,
        "width": scores.width,
        "height": scores.height,
        "start_timecode": start_timecode,
    }
    return CutList(film, scorer, budget, tuple(clips), shots)


def choose_again(cut: CutList, budget: Budget) -> CutList:
    """Chooses among the same shots anew within another budget; those that a person kept or dropped stay so."""
    cut = dataclasses.replace(cut, budget=budget)
    lengths = np.array([shot.last_frame - shot.first_frame + 1 for shot in cut.shots], np.int64)
    values = np.array([shot.score for shot in cut.shots])
    limit = cut.limit_s * float(cut.rate)
    chosen = choose.choose_shots(
        values,
        lengths,
        int(lengths.sum()) if math.isinf(limit) else math.floor(limit + 1e-6),
        kept=[index for index, shot in enumerate(cut.shots) if shot.state == "kept"],
        dropped=[index for index, shot in enumerate(cut.shots) if shot.state == "dropped"],
        count=budget.shots,
    )
    shots = tuple(
        shot
        if shot.state in ("kept", "dropped")
        else dataclasses.replace(shot, state="chosen" if index in set(chosen) else "left")
        for index, shot in enumerate(cut.shots)
    )
    return dataclasses.replace(cut, shots=shots)


class Replay:
    """A `Scorer` that returns the scores in a cut list, so that a film can be cut again without scoring it."""

    frame_size, batch_size = 8, 16

    def __init__(self, cut: CutList):
        self.name, self.learned_from_people = cut.scorer["name"], cut.scorer["learned_from_people"]
        self.frames = cut.scorer["clip_frames"]
        self._clips = sorted(cut.clips, key=lambda clip: clip["frame"])
        self._known = np.array([clip["frame"] for clip in self._clips])

    def picture(self, frame: Frame, size: int) -> np.ndarray:
        """A black picture, as `measure` does not use pictures."""
        return np.zeros((size, size, 3), np.uint8)

    def measure(self, batch: Sequence[Clip]) -> Measured:
        """The index of the nearest known clip, for each clip."""
        return {"nearest": np.array([np.argmin(np.abs(self._known - clip.frame)) for clip in batch])}

    def finish(self, measured: Measured) -> ClipScores:
        """The scores and signals of the known clips, with blank maps."""
        clips = [self._clips[number] for number in measured["nearest"]]
        blank = np.zeros((len(clips), 1, 1), np.float16)
        return ClipScores(
            scores=np.array([clip["score"] for clip in clips], np.float32),
            features=np.zeros((len(clips), 1), np.float32),
            attention=(blank + 1,),
            localization=blank,
            signals={
                name: np.array([clip.get("signals", {}).get(name, 0) for clip in clips], np.float32)
                for name in self._clips[0].get("signals", {})
            },
        )


def has_clips_of(cut: CutList, watched: Watched) -> bool:
    """Whether the film's clips are the scored clips of the cut list."""
    return sorted(clip["frame"] for clip in cut.clips) == watched.scores.frames.tolist()


def scored(cut: CutList, watched: Watched) -> Watched:
    """The film with the scores of the cut list, if the clips are the same; blank maps if the scores differ."""
    if not has_clips_of(cut, watched):
        return watched
    scores, found = watched.scores, Replay(cut).finish({"nearest": np.arange(len(cut.clips))})
    if not np.array_equal(found.scores, scores.scores):
        scores = dataclasses.replace(scores, attention=found.attention, localization=found.localization)
    return dataclasses.replace(watched, scores=dataclasses.replace(scores, scores=found.scores, signals=found.signals))


def choice_of(cut: CutList, watched: Watched) -> Choice:
    """The choice of shots that a cut list makes, in its film.

    Raises:
      UserError: the film's frames differ from those of the cut list, or no shot is in the summary.
    """
    scores = watched.scores
    if (scores.n_frames, watched.rate) != (cut.film["n_frames"], cut.rate):
        raise UserError(
            f"{scores.film} has {scores.n_frames} frames at {watched.rate} a second, the cut is of "
            f"{cut.film['n_frames']} at {cut.rate}; {_REMEDY}"
        )
    if not any(shot.shown for shot in cut.shots):
        raise UserError(f"the cut of {scores.film} has no shot in the summary; keep at least one")
    return choose.given_choice(
        [shot.first_frame - 1 for shot in cut.shots],
        [shot.score for shot in cut.shots],
        [shot.shown for shot in cut.shots],
        watched,
        cut.limit_s,
    )


def write(cut: CutList, folder: Path) -> None:
    """Writes `cut.json` and `segments.csv`, the stretches of the film that the summary shows."""
    write_cut(cut, folder / CUT)
    with open(folder / SEGMENTS, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["start", "end", "name"])
        writer.writerows([start, end, clock(float(start))] for start, end in stretches_s(cut))


def write_cut(cut: CutList, path: Path) -> None:
    """Writes `cut.json` alone."""
    path.write_text(json.dumps(cut.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def stretches_s(cut: CutList) -> list[tuple[str, str]]:
    """Start and end of each stretch that the summary shows without a cut, seconds with six decimals."""
    found: list[tuple[int, int]] = []
    for shot in cut.shots:
        if shot.shown and found and found[-1][1] == shot.first_frame - 1:
            found[-1] = found[-1][0], shot.last_frame
        elif shot.shown:
            found.append((shot.first_frame - 1, shot.last_frame))
    return [(f"{float(first / cut.rate):.6f}", f"{float(stop / cut.rate):.6f}") for first, stop in found]


def read(path: Path, film: Path) -> CutList:
    """Reads the cut list of a film.

    Raises:
      UserError: the file is missing, damaged, of a newer version, or of another film.
    """
    cut = load(path)
    if film.stat().st_size != cut.film["size"]:
        raise UserError(
            f"{path} is the cut of {cut.film['path']} ({cut.film['size']:,} bytes), and {film} has "
            f"{film.stat().st_size:,}; give the film that it was made from"
        )
    return cut


def load(path: Path) -> CutList:
    """Reads a cut list of any film; raises as `read`."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the {CUT} in it")
    if path.name == "summary.json":
        raise UserError(f"{path} is summary.json; give {CUT}")
    try:
        found = json_file.read(path, _REMEDY)
    except FileNotFoundError:
        raise UserError(f"no cut at {path}; give the cut.json of a summary") from None
    return checked(found, str(path))


def checked(found: Any, source: str) -> CutList:
    """Checks a cut list that was parsed from JSON; `source` names it in messages.

    Raises:
      UserError: it is no cut list, or one of a newer version.
    """
    version = found.get("version") if isinstance(found, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise UserError(f"{source} has version {version}, and this program reads up to {VERSION}; update avmsnet_jax")
    try:
        if version != VERSION:
            raise ValueError("it has no version")
        return _parsed(found)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{source} is damaged or no cut list ({what}); {_REMEDY}") from None


def _parsed(found: dict[str, Any]) -> CutList:
    """Raises KeyError, TypeError, ValueError or OverflowError for what `cut.schema.json` does not allow."""
    film, scorer = found["film"], found["scorer"]
    for name in ("size", "n_frames", "width", "height"):
        _whole(film[name], f"film.{name}")
    _number(film["duration_s"], "film.duration_s", positive=True)
    if not re.fullmatch(r"[1-9][0-9]{0,11}/[1-9][0-9]{0,11}", film["rate"]):
        raise ValueError("film.rate is not a fraction")
    if not isinstance(film["path"], str) or not isinstance(film["start_timecode"], str):
        raise TypeError("film.path or film.start_timecode is no text")
    if scorer["name"] not in ("network", "attention") or not isinstance(scorer["learned_from_people"], bool):
        raise ValueError("scorer.name or scorer.learned_from_people has an unknown value")
    _number(scorer["spacing_s"], "scorer.spacing_s", positive=True)
    if not 2 <= _whole(scorer["clip_frames"], "scorer.clip_frames") <= _MOST_CLIP_FRAMES:
        raise ValueError(f"scorer.clip_frames is {scorer['clip_frames']}")
    for clip in found["clips"]:
        _whole(clip["frame"], "the frame of a clip")
        _number(clip["score"], "the score of a clip")
        for name, level in clip.get("signals", {}).items():
            _number(level, f"the signal {name[:40]!r} of a clip")
    if not found["clips"]:
        raise ValueError("it has no clips")
    reviewed = found.get("reviewed", False)
    if not isinstance(reviewed, bool):
        raise ValueError("reviewed is neither true nor false")
    shots = tuple(_shot(shot) for shot in found["shots"])
    edges = [0, *(shot.last_frame for shot in shots)]
    if not shots or edges[-1] != film["n_frames"]:
        raise ValueError("the shots do not cover the film")
    if any(shot.first_frame != before + 1 for shot, before in zip(shots, edges, strict=False)):
        raise ValueError("the shots leave a gap, or overlap")
    return CutList(film, scorer, _budget(found["budget"]), tuple(found["clips"]), shots, reviewed)


def _shot(found: dict[str, Any]) -> CutShot:
    first, last = _whole(found["first_frame"], "first_frame"), _whole(found["last_frame"], "last_frame")
    if last < first:
        raise ValueError("a shot ends before it begins")
    if found["state"] not in STATES:
        raise ValueError(f"the state of a shot is none of {', '.join(STATES)}")
    return CutShot(first, last, _number(found["score"], "the score of a shot"), found["state"])


def _budget(found: dict[str, Any]) -> Budget:
    if len(found) != 1 or not found.keys() <= {"share", "seconds", "shots"}:
        raise ValueError("the budget is none of share, seconds and shots")
    if "shots" in found:
        return Budget(shots=_whole(found["shots"], "budget.shots"))
    if "share" in found:
        return Budget(share=_number(found["share"], "budget.share", positive=True))
    return Budget(seconds=_number(found["seconds"], "budget.seconds", positive=True))


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is no whole number of at least 1")
    return value


def _number(value: Any, name: str, *, positive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is no number")
    if value <= 0 if positive else value < 0:
        raise ValueError(f"{name} is {value}")
    return float(value)
