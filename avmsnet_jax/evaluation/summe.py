"""SumMe's protocol: F1 of the summary with the nearest user's, and correlations with the mean of the users' summaries.

SumMe's users gave no scores. The literature correlates the binary summary with the mean of the users' summaries.
"""

import numpy as np

from avmsnet_jax.evaluation.annotations import Judged
from avmsnet_jax.evaluation.correlation import constant_pairs
from avmsnet_jax.evaluation.protocol import (
    F1_MAX,
    F1_MEAN,
    Measure,
    Protocol,
    Values,
    correlations,
    f1_among_users,
    f1_with_users,
)


def measure(video: Judged, scores: np.ndarray, chosen: np.ndarray | None) -> Values:
    """The measures of a video's scores and summary, see `Protocol.measure`."""
    if video.user_summaries is None or not video.user_summaries.any():
        return {}
    values, mean = f1_with_users(chosen, video.user_summaries), video.user_summaries.mean(axis=0)
    if chosen is not None:
        values |= correlations("summary_", chosen, mean)
    return values | correlations("scores_", scores, mean)


def humans(video: Judged) -> Values:
    """The measures of each user against the others, see `Protocol.humans`."""
    values, summaries = f1_among_users(video.user_summaries), video.user_summaries
    if not values or summaries is None:
        return {}
    found = [
        correlations("summary_", user, np.delete(summaries, index, axis=0).mean(axis=0))
        for index, user in enumerate(summaries)
    ]
    return values | {name: float(np.mean([each.get(name, 0.0) for each in found])) for name in max(found, key=len)}


def constant(video: Judged, scores: np.ndarray) -> tuple[int, int]:
    """How many correlations have a constant side, see `Protocol.constant`."""
    if video.user_summaries is None:
        return 0, 0
    return constant_pairs(scores, video.user_summaries.mean(axis=0)), 1


PROTOCOL = Protocol(
    title="SumMe",
    measures={
        "f1_max": F1_MAX,
        "f1_mean": F1_MEAN,
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
    measure=measure,
    humans=humans,
    constant=constant,
    notes=(
        "SumMe's users gave no scores. The literature's tau and rho are those of the summary, with the mean of the "
        "users' summaries; those of the scores with that mean are another quantity.",
    ),
)
