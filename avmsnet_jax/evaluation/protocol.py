"""What TVSum's and SumMe's protocols have in common."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from avmsnet_jax.evaluation.annotations import Judged
from avmsnet_jax.evaluation.correlation import constant_pairs, kendall_tau, spearman_rho
from avmsnet_jax.evaluation.f1 import f1_score

BUDGET = 0.15  # length of a summary, as a share of the video's frames

Values = dict[str, float]  # by measure; a measure without a value is left out


class Measure(NamedTuple):
    """A column of the tables."""

    heading: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a benchmark is evaluated.

    Attributes:
      title: the benchmark's name.
      measures: by name.
      measure: the measures of a video, given (n_frames,) scores and the (n_frames,) bool summary made of them, None
        if the shots are not known.
      humans: the measures of each user against the others, mean over users; empty for a single user.
      constant: how many correlations of (n_frames,) scores have no value because a side is constant, and how many
        correlations there are.
      notes: what a reader might mistake.
    """

    title: str
    measures: dict[str, Measure]
    measure: Callable[[Judged, np.ndarray, np.ndarray | None], Values]
    humans: Callable[[Judged], Values]
    constant: Callable[[Judged, np.ndarray], tuple[int, int]]
    notes: tuple[str, ...] = ()


F1_MEAN = Measure("F1, mean", "F1 of the summary with each user's in frames, mean over users")
F1_MAX = Measure("F1, max", "F1 of the summary with each user's in frames, the greatest over users")


def f1_with_users(chosen: np.ndarray | None, summaries: np.ndarray | None) -> Values:
    """F1 of a summary with those of the users; empty if either is missing or no user chose a frame."""
    if chosen is None or summaries is None or not summaries.any():
        return {}
    return {"f1_mean": f1_score(chosen, summaries, "mean"), "f1_max": f1_score(chosen, summaries, "max")}


def f1_among_users(summaries: np.ndarray | None) -> Values:
    """`f1_with_users` of each user's summary with the others', mean over users; empty for a single user."""
    if summaries is None or len(summaries) < 2 or not summaries.any():
        return {}
    pairs = [(user, np.delete(summaries, index, axis=0)) for index, user in enumerate(summaries)]
    return {
        "f1_mean": float(np.mean([f1_score(user, others, "mean") for user, others in pairs])),
        "f1_max": float(np.mean([f1_score(user, others, "max") for user, others in pairs])),
    }


def correlations(prefix: str, pred: np.ndarray, users: np.ndarray) -> Values:
    """Tau and rho, or nothing if `pred` or every user is constant. Otherwise a constant user counts as 0."""
    if constant_pairs(pred, users) == len(np.atleast_2d(users)):
        return {}
    return {f"{prefix}tau": kendall_tau(pred, users), f"{prefix}rho": spearman_rho(pred, users)}
