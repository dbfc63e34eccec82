"""Finds the shots of a film, chooses those of its summary, and moves cuts to where they disturb least."""

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

_STEP = 0.25  # a shot is divided where the mean score changes by this much

# The cost of a place to cut is its loudness in decibels, plus or minus the following.
_OWN_CUT_DB = 12  # bonus of the film's own cuts
_SLIVER_DB = 20  # penalty of places that leave a sliver of a neighboring take in a shot
_SLIVER_S = 0.4  # what counts as a sliver
_FAR_DB = 3  # penalty at the edge of the window, in proportion within it
_CUE_DB = 1000  # penalty of places within a caption: any other place is better
_SILENCE_DB = -60  # of full scale: lower levels count as silence
_AROUND_S = 0.05  # loudness is averaged over this much before and after the cut

# The film's own cuts: the picture changes by at least the first, and by the second times the median around it.
_OWN_CUT, _STANDS_OUT = 0.05, 4

_SCENE_WIDTH = 256  # pixels, of the pictures that PySceneDetect gets: it scales larger ones down to it itself


@dataclasses.dataclass(frozen=True)
class Budget:
    """The longest summary allowed: one of the three is set.

    Attributes:
      share: of the film's length, 0-1.
      seconds: length.
      shots: number of shots.
    """

    share: float | None = None
    seconds: float | None = None
    shots: int | None = None

    def limit_s(self, duration_s: float) -> float:
        """The longest summary of a film, seconds; infinite where the number of shots is limited."""
        if self.share is not None:
            return self.share * duration_s
        return math.inf if self.seconds is None else min(self.seconds, duration_s)


def parse_budget(text: str) -> Budget:
    """Reads `0.15`, `15%`, `12shots`, or a duration such as `90s`, `2min` or `1:30`; see `durations.parse`.

    Raises:
      UserError: it is none of these.
    """
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*(%|shots?|)\s*", text)
    if match and match[2].startswith("shot"):
        if float(match[1]) >= 1 and float(match[1]) % 1 == 0:
            return Budget(shots=int(float(match[1])))
    elif match:
        share = float(match[1]) / 100 if match[2] else float(match[1])
        if 0 < share <= 1:
            return Budget(share=share)
    elif (seconds := _duration(text)) > 0:
        return Budget(seconds=seconds)
    raise UserError(
        f"the budget is {text!r}; give a share of the film (0.15 or 15%), a duration (90s, 2min or 1:30) or a number "
        "of shots (12shots)"
    )


def _duration(text: str) -> float:
    """Seconds; 0 for text that is no duration, and for a bare number, which would need a unit."""
    try:
        return durations.parse(text) if re.search(r"[0-9]\s*[a-z:]", text) else 0.0
    except ValueError:
        return 0.0


@dataclasses.dataclass(frozen=True)
class Choice:
    """A film's shots, some of them chosen.

    Attributes:
      shots: all shots, in order.
      ranges: `[first, last)` of the decoded frames of each, counted from 0.
      budget_s: longest summary that was allowed, seconds; where shots are counted, the length of the summary.
      length_s: length of the summary, seconds.
    """

    shots: tuple[Shot, ...]
    ranges: tuple[tuple[int, int], ...]
    budget_s: float
    length_s: float


def choose(watched: Watched, config: SummarizeConfig, cues: Sequence[Cue] = ()) -> Choice:
    """Finds the shots of a film and chooses those with the greatest total score within the budget.

    The choice is exact, a 0/1 knapsack. A shot's value is the sum of its frames' scores, so that a long shot is worth
    as much as the short ones that it could be divided into. (The benchmarks' protocol, `evaluation.select_shots`, takes
    the mean, which prefers short shots whatever their scores are.) Cuts avoid the captions `cues`.

    Raises:
      UserError: the budget cannot be read, the opening to keep does not fit, or PySceneDetect is asked for and not
        installed.
    """
    budget = parse_budget(config.budget)
    scores, fps = watched.scores, float(watched.rate)
    limit_s = budget.limit_s(scores.duration_s)
    shortest, longest = config.shortest_shot_s, min(config.longest_shot_s, limit_s)
    shortest = min(shortest, longest / 2)
    starts = _clip_starts(scores.frames)
    by_frame = evaluation.frame_scores(scores.scores, starts, scores.n_frames)
    opening = min(round(config.keep_opening_s * fps), scores.n_frames)
    edges = [0, *_beginnings(watched, config.shots, starts), scores.n_frames]
    edges = _far_apart(edges, shortest * fps, opening)
    edges = _divided(edges, by_frame, starts, shortest * fps, longest * fps, opening)
    edges = _moved(edges, watched, shortest * fps, config.move_cuts_s, cues)
    bounds = _decoded(edges, watched)
    values = _values(bounds, by_frame, watched)
    chosen = _chosen(bounds, values, watched, budget, limit_s, config.keep_opening_s if opening else 0.0)
    if not chosen:
        bounds, values, chosen = _trimmed(bounds, values, by_frame, watched, limit_s)
    return _choice(bounds, values, set(chosen), watched, limit_s)


def _clip_starts(frames: np.ndarray) -> np.ndarray:
    """(M,) int64: the first frame (from 0) that takes the score of each clip, halfway from the clip before."""
    picks = frames - 1
    return np.concatenate([[0], (picks[:-1] + picks[1:] + 1) // 2])


def _beginnings(watched: Watched, method: str, starts: np.ndarray) -> list[int]:
    """The frames (from 0) that begin a new shot."""
    if method == "kts":
        changes = evaluation.kts(watched.scores.features, max_change_points=len(starts) - 1)
        return [int(frame) for frame in starts[changes]]
    return _scenes(watched.scores.film, float(watched.rate))


def _scenes(film: Path, fps: float) -> list[int]:
    """The frames (from 0, on the grid that scores are on) at which PySceneDetect sees the picture cut."""
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


def _far_apart(edges: Sequence[int], shortest: float, opening: int) -> list[int]:
    """Drops edges that would make a shot shorter than `shortest`; the opening is a shot of its own."""
    first, last = edges[0], edges[-1]
    fixed = [first, opening] if 0 < opening < last else [first]
    kept = fixed[:]
    for edge in edges[1:-1]:
        if edge - kept[-1] >= shortest and last - edge >= shortest:
            kept.append(edge)
    return [*kept, last]


def _divided(
    edges: Sequence[int], by_frame: np.ndarray, starts: np.ndarray, shortest: float, longest: float, opening: int
) -> list[int]:
    """Adds edges where the score changes most, until no shot is too long or has a large change of score within."""
    total = np.concatenate([[0.0], np.cumsum(by_frame)])
    found, waiting = set(edges), list(itertools.pairwise(edges))
    while waiting:
        first, last = waiting.pop()
        if last - first < 2 * shortest or last <= opening:
            continue
        inner = starts[(starts >= first + shortest) & (starts <= last - shortest)]
        if not len(inner):  # no clip starts within the shot: divide it evenly
            parts = math.ceil((last - first) / max(longest, 1))
            found |= {round(first + (last - first) * part / parts) for part in range(1, parts)}
            continue
        before, after = inner - first, last - inner
        left, right = (total[inner] - total[first]) / before, (total[last] - total[inner]) / after
        gain = (left - right) ** 2 * before * after / (last - first)  # reduction of the within-shot sum of squares
        middle = np.abs(before - after) / (last - first)  # of equal gains, the edge nearest to the middle
        best = int(np.argmax(gain - 1e-6 * middle))
        if last - first > longest or abs(left[best] - right[best]) >= _STEP:
            edge = int(inner[best])
            found.add(edge)
            waiting += [(first, edge), (edge, last)]
    return sorted(found)


def _moved(edges: Sequence[int], watched: Watched, shortest: float, window_s: float, cues: Sequence[Cue]) -> list[int]:
    """Moves each edge to the cheapest place nearby: one of the film's own cuts, or a quiet moment, outside captions.

    The cost of a place is its loudness in decibels, changed by the constants above.
    """
    fps, n_frames = float(watched.rate), len(watched.change)
    window = round(window_s * fps)
    own = own_cuts(watched.change, fps)
    loudness = loudness_db(watched.loudness, np.arange(n_frames + 1) / fps)
    captioned = np.zeros(n_frames + 1, bool)
    for cue in cues:  # a cut where a cue begins or ends, to half a frame, leaves it whole
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
    """Loudness around each time, decibels of full scale, at least `_SILENCE_DB`."""
    if not len(loudness):
        return np.full(len(times_s), float(_SILENCE_DB))
    total = np.concatenate([[0.0], np.cumsum(loudness, dtype=np.float64)])
    first, last = (
        np.clip(np.rint((times_s + side) * SAMPLE_RATE / HOP).astype(int), 0, len(loudness))
        for side in (-_AROUND_S, _AROUND_S)
    )
    mean = (total[last] - total[first]) / np.maximum(last - first, 1)
    return 10 * np.log10(np.maximum(mean, 10 ** (_SILENCE_DB / 10)))


def _decoded(edges: Sequence[int], watched: Watched) -> list[int]:
    """The edges as numbers of decoded frames; in a gap of the film, several edges may become one."""
    inner = _decoded_first(np.array(edges[1:-1]), watched)
    last = len(watched.times_s)
    return sorted({0, *(int(index) for index in inner if index < last), last})


def _decoded_first(edges: np.ndarray, watched: Watched) -> np.ndarray:
    """The first decoded frame at or after each frame of the grid."""
    half = 0.5 / float(watched.rate)
    return np.searchsorted(watched.times_s, edges / float(watched.rate) - half)


def _values(bounds: Sequence[int], by_frame: np.ndarray, watched: Watched) -> np.ndarray:
    """The mean score of each shot."""
    total = np.concatenate([[0.0], np.cumsum(by_frame)])
    times = np.array([watched.time_of(bound) for bound in bounds])
    slots = np.clip(np.rint(times * float(watched.rate)).astype(int), 0, len(by_frame))
    return (total[slots[1:]] - total[slots[:-1]]) / np.maximum(np.diff(slots), 1)


def _chosen(
    bounds: Sequence[int], values: np.ndarray, watched: Watched, budget: Budget, limit_s: float, opening_s: float
) -> list[int]:
    """The numbers of the chosen shots."""
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
    """Chooses the shots of the greatest total score; the report's page chooses alike (`page/choose.js`).

    Args:
      values: (S,) mean score of each shot.
      lengths: (S,) whole numbers, in any unit.
      capacity: the longest summary, in the same unit.
      kept: shots to take in any case, even if they exceed the budget.
      dropped: shots never to take.
      count: take this many shots of the highest scores instead, whatever their length.

    Returns:
      the shots, ascending.
    """
    free = np.setdiff1d(np.arange(len(values)), [*kept, *dropped])
    if count is not None:
        best = free[np.argsort(-values[free], kind="stable")][: max(count - len(kept), 0)]
    else:
        room = max(capacity - sum(int(lengths[number]) for number in kept), 0)
        held = (values[free] + 1e-6) * lengths[free]  # a film of zeros has a summary, too
        best = free[evaluation.knapsack(held, lengths[free], room)]
    return sorted({*kept, *best.tolist()})


def follow(
    edges: Sequence[int], values: Sequence[float], shown: Sequence[bool], watched: Watched, limit_s: float
) -> Choice:
    """Shots that are chosen already.

    Args:
      edges: the first frame of each shot on the grid, from 0.
      values: mean score of each.
      shown: whether the summary has it.
      watched: the film.
      limit_s: the longest summary that was allowed, seconds.
    """
    bounds = _decoded([*edges, len(watched.change)], watched)
    # Where a film has gaps, a shot may have no decoded frame.
    starts = _decoded_first(np.array(edges), watched)
    shots = [int(np.flatnonzero(starts <= bound)[-1]) for bound in bounds[:-1]]
    chosen = {number for number, shot in enumerate(shots) if shown[shot]}
    return _choice(bounds, np.array(values)[shots], chosen, watched, limit_s)


def _weights(bounds: Sequence[int], watched: Watched, limit_s: float) -> tuple[np.ndarray, int]:
    """The length of each shot and of the summary, in frames; in hundredths of a second at a varying frame rate."""
    if watched.steady:
        return np.diff(bounds), math.floor(limit_s * watched.rate + 1e-6)
    lengths = np.diff([watched.time_of(bound) for bound in bounds])
    return np.ceil(lengths * 100 - 1e-6).astype(np.int64), math.floor(limit_s * 100 + 1e-6)


def _trimmed(
    bounds: Sequence[int], values: np.ndarray, by_frame: np.ndarray, watched: Watched, limit_s: float
) -> tuple[list[int], np.ndarray, list[int]]:
    """The best moment of the best shot, at least a frame: used where every shot is longer than the budget."""
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
    return bounds, _values(bounds, by_frame, watched), [bounds.index(begin)]


def _choice(bounds: Sequence[int], values: np.ndarray, chosen: set[int], watched: Watched, limit_s: float) -> Choice:
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
