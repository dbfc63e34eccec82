"""TVSum's and SumMe's protocols: how well scores of a video, and the summary they make, agree with its users."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from avmsnet_jax.evaluation.annotations import STRIDE, Judged
from avmsnet_jax.evaluation.correlation import constant_pairs, kendall_tau, spearman_rho
from avmsnet_jax.evaluation.precision_recall import f1_score
from avmsnet_jax.evaluation.score_files import Scored
from avmsnet_jax.evaluation.selection import frame_scores, summary

BUDGET = 0.15  # of a video's frames: the length of a summary in both benchmarks
DRAWS = 100  # of random scores
_CORRELATED_DRAWS = 10  # those of TVSum's that are correlated with 20 users each: on average that gives 0

Values = dict[str, float]


class Measure(NamedTuple):
    """A column of the tables: its heading, and what is measured."""

    heading: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a benchmark is scored.

    Attributes:
      title: the benchmark's name.
      measures: what it measures, by name.
      notes: what a reader might mistake.
    """

    title: str
    measures: dict[str, Measure]
    notes: tuple[str, ...] = ()


_F1_MEAN = Measure("F1, mean", "F1 of the summary with each user's in frames, mean over users")
_F1_MAX = Measure("F1, max", "F1 of the summary with each user's in frames, the greatest over users")

PROTOCOLS = {
    "tvsum": Protocol(
        "TVSum",
        {
            "tau": Measure(
                "tau", "Kendall's tau-b of the scores with each user's scores on every 15th frame, mean over users"
            ),
            "rho": Measure(
                "rho", "Spearman's rho of the scores with each user's scores on every 15th frame, mean over users"
            ),
            "f1_mean": _F1_MEAN,
            "f1_max": _F1_MAX,
        },
    ),
    "summe": Protocol(
        "SumMe",
        {
            "f1_max": _F1_MAX,
            "f1_mean": _F1_MEAN,
            "summary_tau": Measure(
                "tau, summary",
                "Kendall's tau-b of the binary summary with the mean of the users' summaries over all frames: what the "
                "literature reports as SumMe's tau",
            ),
            "summary_rho": Measure(
                "rho, summary",
                "Spearman's rho of the binary summary with the mean of the users' summaries over all frames: what the "
                "literature reports as SumMe's rho",
            ),
            "scores_tau": Measure(
                "tau, scores",
                "Kendall's tau-b of the scores, held from pick to pick, with the mean of the users' summaries over all "
                "frames: not what the literature reports",
            ),
            "scores_rho": Measure(
                "rho, scores",
                "Spearman's rho of the scores, held from pick to pick, with the mean of the users' summaries over all "
                "frames: not what the literature reports",
            ),
        },
        (
            "SumMe's users gave no scores. The literature's tau and rho are those of the summary, with the mean of the "
            "users' summaries; those of the scores with that mean are another quantity.",
        ),
    ),
}

BASELINES = {
    "random": f"scores drawn evenly from 0 to 1 for each pick, mean of {DRAWS} draws ({_CORRELATED_DRAWS} for TVSum's "
    "tau and rho)",
    "uniform": "all moments alike: equal scores, which have no tau and rho, and a summary of pieces as long as the "
    "mean shot at even distances",
    "human": "each user in turn against the others, mean over users",
}


def of_scores(protocol: str, video: Judged, scored: Scored) -> Values:
    """The measures of one video's scores, by name; without shots there is no summary, and no measure of it."""
    frames = frame_scores(scored.scores, scored.picks, video.n_frames)
    chosen = None if video.shots is None else summary(frames, video.shots, BUDGET)
    return _measured(protocol, video, frames, chosen)


def constant(protocol: str, video: Judged, scored: Scored) -> tuple[int, int]:
    """How many correlations of the scores have no value, as a side of them is constant, and how many there are."""
    frames = frame_scores(scored.scores, scored.picks, video.n_frames)
    if protocol == "tvsum" and video.user_scores is not None:
        return constant_pairs(frames[::STRIDE], video.user_scores[:, ::STRIDE]), len(video.user_scores)
    if protocol == "summe" and video.user_summaries is not None:
        return constant_pairs(frames, video.user_summaries.mean(axis=0)), 1
    return 0, 0


def of_random(protocol: str, video: Judged) -> Values:
    """The mean of `of_scores` over random scores; the same whatever other videos are scored."""
    rng = np.random.default_rng(zlib.crc32(video.name.encode()))
    found: dict[str, list[float]] = {}
    for draw in range(DRAWS):
        scored = Scored(video.picks, rng.random(len(video.picks)))
        unscored = dataclasses.replace(video, user_scores=None) if draw >= _CORRELATED_DRAWS else video
        for name, value in of_scores(protocol, unscored, scored).items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def of_uniform(protocol: str, video: Judged) -> Values:
    """The measures of equal scores and of a summary that is spread evenly."""
    return _measured(protocol, video, np.ones(video.n_frames), spread_evenly(video))


def spread_evenly(video: Judged) -> np.ndarray | None:
    """(n_frames,) bool: 15% of the frames in pieces of a shot's mean length, each in the middle of its share."""
    if video.shots is None:
        return None
    pieces = max(round(BUDGET * len(video.shots)), 1)
    total = int(BUDGET * video.n_frames)
    edges = np.arange(pieces + 1) * total // pieces  # of the pieces, one after the other
    middles = (np.arange(pieces) + 0.5) * video.n_frames / pieces
    chosen = np.zeros(video.n_frames, bool)
    for middle, length in zip(middles, np.diff(edges), strict=True):
        first = int(middle - length / 2)
        chosen[first : first + length] = True
    return chosen


def of_humans(protocol: str, video: Judged) -> Values:
    """Each user's scores and summary against the other users', mean over users; empty where there is one user."""
    values: Values = {}
    scores, summaries = video.user_scores, video.user_summaries
    if protocol == "tvsum" and scores is not None and len(scores) > 1:
        picked = scores[:, ::STRIDE]
        if np.ptp(picked, axis=1).astype(bool).sum() > 1:
            values["tau"], values["rho"] = (_among(measure, picked) for measure in (kendall_tau, spearman_rho))
    if summaries is not None and len(summaries) > 1 and summaries.any():
        others = [np.delete(summaries, user, axis=0) for user in range(len(summaries))]
        pairs = list(zip(summaries, others, strict=True))
        values["f1_mean"] = float(np.mean([f1_score(user, rest, "mean") for user, rest in pairs]))
        values["f1_max"] = float(np.mean([f1_score(user, rest, "max") for user, rest in pairs]))
        if protocol == "summe":
            found = [_correlated("summary_", user, rest.mean(axis=0)) for user, rest in pairs]
            values |= {name: float(np.mean([each.get(name, 0.0) for each in found])) for name in max(found, key=len)}
    return values


def _among(measure: Callable[..., float], users: np.ndarray) -> float:
    """The mean of a symmetric measure over all pairs of users."""
    later = len(users) - 1 - np.arange(len(users) - 1)
    return float(np.average([measure(users[user], users[user + 1 :]) for user in range(len(users) - 1)], weights=later))


def _measured(protocol: str, video: Judged, frames: np.ndarray, chosen: np.ndarray | None) -> Values:
    """The measures that have a value, of a score for each frame and of a summary, None = there is none."""
    values: Values = {}
    if protocol == "tvsum" and video.user_scores is not None:
        values |= _correlated("", frames[::STRIDE], video.user_scores[:, ::STRIDE])
    if video.user_summaries is None or not video.user_summaries.any():
        return values
    if chosen is not None:
        values["f1_mean"] = f1_score(chosen, video.user_summaries, "mean")
        values["f1_max"] = f1_score(chosen, video.user_summaries, "max")
    if protocol == "summe":
        mean = video.user_summaries.mean(axis=0)
        if chosen is not None:
            values |= _correlated("summary_", chosen, mean)
        values |= _correlated("scores_", frames, mean)
    return values


def _correlated(prefix: str, pred: np.ndarray, users: np.ndarray) -> Values:
    """Tau and rho; neither where `pred` or every user is constant. A single user that is constant counts as 0."""
    if constant_pairs(pred, users) == len(np.atleast_2d(users)):
        return {}
    return {f"{prefix}tau": kendall_tau(pred, users), f"{prefix}rho": spearman_rho(pred, users)}
