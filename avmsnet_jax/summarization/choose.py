"""Finds the shots of a film, moves their edges to unobtrusive places, and chooses the shots of the summary."""

import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from avmsnet_jax import durations, evaluation
from avmsnet_jax.config import SummarizeConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.audio import SAMPLE_RATE
from avmsnet_jax.media.captions import Cue
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.scoring.film import HOP, Watched
from avmsnet_jax.summarization.result import Shot

_STEP = 0.25  # a shot is split where the mean scores before and after differ by this much

# The cost of a cut at a place is the loudness there in decibels, plus or minus the following.
_OWN_CUT_DB = 12  # bonus at a cut of the film itself
_SLIVER_DB = 20  # penalty for leaving a sliver of a neighboring take in a shot
_SLIVER_S = 0.4  # longest sliver
_FAR_DB = 3  # penalty at the border of the window, less in proportion inside
_CUE_DB = 1000  # penalty within a caption: any other place is better
_SILENCE_DB = -60  # of full scale: lower levels count as silence
_AROUND_S = 0.05  # loudness is averaged over this much before and after the cut

# A cut of the film itself: the picture changes by at least the first, and by the second times the local median.
_OWN_CUT, _STANDS_OUT = 0.05, 4

_SCENE_WIDTH = 256  # pixels; PySceneDetect scales wider pictures down to this anyway


@dataclasses.dataclass(frozen=True)
class Budget:
    """The longest summary allowed; exactly one field is set.

    Attributes:
      share: share of the film's length, 0-1.
      seconds: length in seconds.
      shots: number of shots.
    """

    share: float | None = None
    seconds: float | None = None
    shots: int | None = None

    def limit_s(self, duration_s: float) -> float:
        """The longest summary of a film, seconds; infinite if the budget is a number of shots."""
        if self.share is not None:
            return self.share * duration_s
        return math.inf if self.seconds is None else min(self.seconds, duration_s)


def parse_budget(text: str) -> Budget:
    """Reads `0.15`, `15%`, `12shots`, or a duration such as `90s`, `2min` or `1:30`; see `durations.parse`.

    Raises:
      UserError: the text is none of these.
    """
    text = text.strip()
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*(%|shots?|)", text)
    number, unit = (float(match[1]), match[2]) if match else (_duration(text), "s")
    forms = "give a share of the film (0.15 or 15%), a duration (90s, 2min or 1:30) or a number of shots (12shots)"
    if number == 0:
        raise UserError(f"the budget {text} must be more than 0; {forms}")
    if unit == "" and number > 1:
        raise UserError(f"the budget {text} has no unit; {text}% or {text}s?")
    if unit == "%" and number > 100:
        raise UserError(f"the budget {text} is more than the film; give at most 100%")
    if unit == "s" and number > 0:
        return Budget(seconds=number)
    if unit in ("", "%"):
        return Budget(share=number / 100 if unit else number)
    if number % 1 == 0:
        return Budget(shots=int(number))
    raise UserError(f"the budget is {text!r}; {forms}")


def _duration(text: str) -> float:
    """Seconds; NaN for text that is no duration, and for a number without a unit."""
    try:
        return durations.parse(text) if re.search(r"[0-9]\s*[a-z:]", text) else math.nan
    except ValueError:
        return math.nan


@dataclasses.dataclass(frozen=True)
class Choice:
    """A film's shots, some of them chosen.

    Attributes:
      shots: all shots, in order.
      ranges: the decoded frames `[first, last)` of each shot, counted from 0.
      budget_s: the longest summary allowed, seconds; if the budget is a number of shots, the length of the summary.
      length_s: length of the summary, seconds.
    """

    shots: tuple[Shot, ...]
    ranges: tuple[tuple[int, int], ...]
    budget_s: float
    length_s: float


def choose(watched: Watched, config: SummarizeConfig, cues: Sequence[Cue] = ()) -> Choice:
    """Finds the shots of a film and chooses those with the greatest total score within the budget.

    The choice is an exact 0/1 knapsack. A shot's value is the sum of its frames' scores, so that a long shot is worth
    as much as the short shots that it could be split into. (The benchmarks' protocol, `evaluation.select_shots`, takes
    the mean, which favors short shots.) Cuts avoid the captions `cues`.

    Raises:
      UserError: the budget is invalid, the opening to keep exceeds it, or PySceneDetect is needed but not installed.
    """
    budget = parse_budget(config.budget)
    scores, fps = watched.scores, float(watched.rate)
    limit_s = budget.limit_s(scores.duration_s)
    shortest, longest = config.shortest_shot_s, min(config.longest_shot_s, limit_s)
    shortest = min(shortest, longest / 2)
    starts = _clip_starts(scores.frames)
    by_frame = evaluation.frame_scores(scores.scores, starts, scores.n_frames)
    opening = min(round(config.keep_opening_s * fps), scores.n_frames)
    edges = [0, *_shot_starts(watched, config.shots, starts), scores.n_frames]
    edges = _drop_close(edges, shortest * fps, opening)
    edges = _split(edges, by_frame, starts, shortest * fps, longest * fps, opening)
    edges = _move(edges, watched, shortest * fps, config.move_cuts_s, cues)
    bounds = _to_decoded(edges, watched)
    values = _mean_scores(bounds, by_frame, watched)
    chosen = _choose(bounds, values, watched, budget, limit_s, config.keep_opening_s if opening else 0.0)
    if not chosen:
        bounds, values, chosen = _best_moment(bounds, values, by_frame, watched, limit_s)
    return _as_choice(bounds, values, set(chosen), watched, limit_s)


def _clip_starts(frames: np.ndarray) -> np.ndarray:
    """(M,) int64: the first frame (from 0) with the score of each clip, halfway from the clip before."""
    picks = frames - 1
    return np.concatenate([[0], (picks[:-1] + picks[1:] + 1) // 2])


def _shot_starts(watched: Watched, method: str, starts: np.ndarray) -> list[int]:
    """The frames (from 0) that begin a new shot."""
    if method == "kts":
        changes = evaluation.kts(watched.scores.features, max_change_points=len(starts) - 1)
        return [int(frame) for frame in starts[changes]]
    return _scene_cuts(watched.scores.film, float(watched.rate))


def _scene_cuts(film: Path, fps: float) -> list[int]:
    """The frames (from 0, at a constant rate) at which PySceneDetect finds a cut."""
    try:
        import scenedetect
    except ImportError:
        raise UserError(
            "PySceneDetect is not installed; pip install 'avmsnet_jax[scenes]', or leave summarize.shots at kts"
        ) from None
    detector, found = scenedetect.AdaptiveDetector(), []
    for frame in Movie(film).frames(constant_rate=True):
        width, height = frame.shown_size
        scale = min(_SCENE_WIDTH / width, 1)
        picture = frame.scaled(round(width * scale), max(round(height * scale), 1))
        place = scenedetect.FrameTimecode(frame.number - 1, fps)
        found += detector.process_frame(place, np.ascontiguousarray(picture[..., ::-1]))  # as BGR
    return [place.frame_num for place in found]


def _drop_close(edges: Sequence[int], shortest: float, opening: int) -> list[int]:
    """Drops edges that would make a shot shorter than `shortest`; the opening stays a shot of its own."""
    first, last = edges[0], edges[-1]
    fixed = [first, opening] if 0 < opening < last else [first]
    kept = fixed[:]
    for edge in edges[1:-1]:
        if edge - kept[-1] >= shortest and last - edge >= shortest:
            kept.append(edge)
    return [*kept, last]


def _split(
    edges: Sequence[int], by_frame: np.ndarray, starts: np.ndarray, shortest: float, longest: float, opening: int
) -> list[int]:
    """Splits shots where the score changes most, until none is too long or contains a large change of score."""
    total = np.concatenate([[0.0], np.cumsum(by_frame)])
    found, waiting = set(edges), list(itertools.pairwise(edges))
    while waiting:
        first, last = waiting.pop()
        if last - first < 2 * shortest or last <= opening:
            continue
        inner = starts[(starts >= first + shortest) & (starts <= last - shortest)]
        if not len(inner):  # no clip starts within the shot: split it evenly
            parts = math.ceil((last - first) / max(longest, 1))
            found |= {round(first + (last - first) * part / parts) for part in range(1, parts)}
            continue
        before, after = inner - first, last - inner
        left, right = (total[inner] - total[first]) / before, (total[last] - total[inner]) / after
        gain = (left - right) ** 2 * before * after / (last - first)  # reduction of the within-shot sum of squares
        middle = np.abs(before - after) / (last - first)  # breaks ties in favor of the middle
        best = int(np.argmax(gain - 1e-6 * middle))
        if last - first > longest or abs(left[best] - right[best]) >= _STEP:
            edge = int(inner[best])
            found.add(edge)
            waiting += [(first, edge), (edge, last)]
    return sorted(found)


def _move(edges: Sequence[int], watched: Watched, shortest: float, window_s: float, cues: Sequence[Cue]) -> list[int]:
    """Moves each edge to the cheapest place nearby: a cut of the film itself, or a quiet moment, outside captions.

    The cost of a place is its loudness in decibels, adjusted by the constants above.
    """
    fps, n_frames = float(watched.rate), len(watched.change)
    window = round(window_s * fps)
    own = own_cuts(watched.change, fps)
    loudness = loudness_db(watched.loudness, np.arange(n_frames + 1) / fps)
    captioned = np.zeros(n_frames + 1, bool)
    for cue in cues:  # a cut within half a frame of its beginning or end does not split a cue
        captioned[max(math.floor(cue.start_s * fps + 0.5) + 1, 0) : max(math.ceil(cue.end_s * fps - 0.5), 0)] = True
    moved = [edges[0]]
    for edge, following in itertools.pairwise(edges[1:]):
        lowest = max(edge - window, math.ceil(moved[-1] + shortest))
        highest = min(edge + window, math.floor(following - shortest))
        places = np.arange(lowest, highest + 1)
        if not len(places):
            places = np.array([edge])
        away = np.abs(own[:, None] - places).min(axis=0) if len(own) else np.full(len(places), n_frames)
        cost = loudness[places] + _FAR_DB * np.abs(places - edge) / max(window, 1)
        cost += np.where(captioned[places], _CUE_DB, 0)
        cost += np.where(away == 0, -_OWN_CUT_DB, np.where(away < _SLIVER_S * fps, _SLIVER_DB, 0))
        moved.append(int(places[np.argmin(cost)]))
    return [*moved, edges[-1]]


def own_cuts(change: np.ndarray, fps: float) -> np.ndarray:
    """The frames (from 0) at which the film itself cuts."""
    around = 2 * max(round(0.3 * fps), 2) + 1
    usual = ndimage.median_filter(change, around, mode="nearest")
    peak = change >= ndimage.maximum_filter(change, 5, mode="nearest")
    return np.flatnonzero(peak & (change >= _OWN_CUT) & (change >= _STANDS_OUT * usual))


def loudness_db(loudness: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Mean loudness around each time, decibels of full scale, at least `_SILENCE_DB`."""
    if not len(loudness):
        return np.full(len(times_s), float(_SILENCE_DB))
    total = np.concatenate([[0.0], np.cumsum(loudness, dtype=np.float64)])
    first, last = (
        np.clip(np.rint((times_s + side) * SAMPLE_RATE / HOP).astype(int), 0, len(loudness))
        for side in (-_AROUND_S, _AROUND_S)
    )
    mean = (total[last] - total[first]) / np.maximum(last - first, 1)
    return 10 * np.log10(np.maximum(mean, 10 ** (_SILENCE_DB / 10)))


def _to_decoded(edges: Sequence[int], watched: Watched) -> list[int]:
    """Converts edges to numbers of decoded frames; in a gap of the film, several edges may become one."""
    inner = _first_decoded(np.array(edges[1:-1]), watched)
    last = len(watched.times_s)
    return sorted({0, *(int(index) for index in inner if index < last), last})


def _first_decoded(edges: np.ndarray, watched: Watched) -> np.ndarray:
    """The first decoded frame at or after each frame at the constant rate."""
    half = 0.5 / float(watched.rate)
    return np.searchsorted(watched.times_s, edges / float(watched.rate) - half)


def _mean_scores(bounds: Sequence[int], by_frame: np.ndarray, watched: Watched) -> np.ndarray:
    """The mean score of each shot."""
    total = np.concatenate([[0.0], np.cumsum(by_frame)])
    times = np.array([watched.time_of(bound) for bound in bounds])
    slots = np.clip(np.rint(times * float(watched.rate)).astype(int), 0, len(by_frame))
    return (total[slots[1:]] - total[slots[:-1]]) / np.maximum(np.diff(slots), 1)


def _choose(
    bounds: Sequence[int], values: np.ndarray, watched: Watched, budget: Budget, limit_s: float, opening_s: float
) -> list[int]:
    """The indices of the chosen shots, ascending."""
    forced = [0] if opening_s else []
    if budget.shots is not None:
        return choose_shots(values, np.diff(bounds), 0, kept=forced, count=budget.shots)
    weights, capacity = _weights(bounds, watched, limit_s)
    room = capacity - sum(int(weights[number]) for number in forced)
    if room < 0:
        raise UserError(
            f"the opening of {opening_s:g} s alone is longer than the summary of {watched.scores.film.name} may be, "
            f"{limit_s:.1f} s; lower summarize.keep_opening_s or raise the budget"
        )
    return choose_shots(values, weights, capacity, kept=forced)


def choose_shots(
    values: np.ndarray,
    lengths: np.ndarray,
    capacity: int,
    *,
    kept: Sequence[int] = (),
    dropped: Sequence[int] = (),
    count: int | None = None,
) -> list[int]:
    """Chooses the shots with the greatest total score; the report's page does the same (`page/choose.js`).

    Args:
      values: (S,) mean score of each shot.
      lengths: (S,) integers, in any unit.
      capacity: the longest summary, in the same unit.
      kept: indices of shots that are always taken, even if they exceed the budget.
      dropped: indices of shots that are never taken.
      count: take this many shots with the highest scores instead, regardless of their length.

    Returns:
      the indices of the shots, ascending.
    """
    free = np.setdiff1d(np.arange(len(values)), [*kept, *dropped])
    if count is not None:
        best = free[np.argsort(-values[free], kind="stable")][: max(count - len(kept), 0)]
    else:
        room = max(capacity - sum(int(lengths[number]) for number in kept), 0)
        totals = (values[free] + 1e-6) * lengths[free]  # 1e-6: if all scores are 0, there is a summary, too
        best = free[evaluation.knapsack(totals, lengths[free], room)]
    return sorted({*kept, *best.tolist()})


def given_choice(
    edges: Sequence[int], values: Sequence[float], shown: Sequence[bool], watched: Watched, limit_s: float
) -> Choice:
    """The `Choice` of shots that are already chosen.

    Args:
      edges: the first frame of each shot at the constant rate, from 0.
      values: mean score of each shot.
      shown: whether each shot is in the summary.
      watched: the film.
      limit_s: the longest summary allowed, seconds.
    """
    bounds = _to_decoded([*edges, len(watched.change)], watched)
    # Where a film has gaps, a shot may have no decoded frame.
    starts = _first_decoded(np.array(edges), watched)
    shots = [int(np.flatnonzero(starts <= bound)[-1]) for bound in bounds[:-1]]
    chosen = {number for number, shot in enumerate(shots) if shown[shot]}
    return _as_choice(bounds, np.array(values)[shots], chosen, watched, limit_s)


def _weights(bounds: Sequence[int], watched: Watched, limit_s: float) -> tuple[np.ndarray, int]:
    """The length of each shot and the longest summary, in frames, or in 1/100 s if the frame rate varies."""
    if watched.steady:
        return np.diff(bounds), math.floor(limit_s * watched.rate + 1e-6)
    lengths = np.diff([watched.time_of(bound) for bound in bounds])
    return np.ceil(lengths * 100 - 1e-6).astype(np.int64), math.floor(limit_s * 100 + 1e-6)


def _best_moment(
    bounds: Sequence[int], values: np.ndarray, by_frame: np.ndarray, watched: Watched, limit_s: float
) -> tuple[list[int], np.ndarray, list[int]]:
    """Chooses the best moment of the best shot, at least one frame, if every shot exceeds the budget."""
    best = int(np.argmax(values))
    first, last = bounds[best], bounds[best + 1]
    start_s, end_s = watched.time_of(first), watched.time_of(last)
    inside = (watched.scores.times_s >= start_s) & (watched.scores.times_s < end_s)
    peak_s = (start_s + end_s) / 2
    if inside.any():
        peak_s = float(watched.scores.times_s[np.argmax(np.where(inside, watched.scores.scores, -1))])
    begin = int(np.searchsorted(watched.times_s, min(peak_s - limit_s / 2, end_s - limit_s) - 1e-6))
    begin = min(max(begin, first), last - 1)
    stop = begin + 1
    while stop < last and watched.time_of(stop + 1) - watched.time_of(begin) <= limit_s + 1e-6:
        stop += 1
    bounds = sorted({*bounds, begin, stop})
    return bounds, _mean_scores(bounds, by_frame, watched), [bounds.index(begin)]


def _as_choice(bounds: Sequence[int], values: np.ndarray, chosen: set[int], watched: Watched, limit_s: float) -> Choice:
    rate, steady = float(watched.rate), watched.steady
    shots, at, frames_at = [], 0.0, 0
    for number, (first, last) in enumerate(itertools.pairwise(bounds)):
        start_s, end_s = watched.time_of(first), watched.time_of(last)
        begins = (frames_at / rate if steady else at) if number in chosen else None
        slot, end = round(start_s * rate), round(end_s * rate)
        shots.append(
            Shot(start_s, end_s, slot + 1, max(end, slot + 1), float(values[number]), number in chosen, begins)
        )
        if number in chosen:
            at, frames_at = at + end_s - start_s, frames_at + last - first
    length_s = frames_at / rate if steady else at
    ranges = tuple(itertools.pairwise(bounds))
    return Choice(tuple(shots), ranges, length_s if math.isinf(limit_s) else limit_s, length_s)
