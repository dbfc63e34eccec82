"""TVSum's protocol: correlation of the scores with each user's scores, and F1 of the summary, mean over users.

Correlations are taken on every 15th frame (Otani et al., Rethinking the Evaluation of Video Summaries, CVPR 2019).
"""

from collections.abc import Callable

import numpy as np

from avmsnet_jax.evaluation.annotations import STRIDE, Judged
from avmsnet_jax.evaluation.correlation import constant_pairs, kendall_tau, spearman_rho
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
    values: Values = {}
    if video.user_scores is not None:
        values = correlations("", scores[::STRIDE], video.user_scores[:, ::STRIDE])
    return values | f1_with_users(chosen, video.user_summaries)


def humans(video: Judged) -> Values:
    """The measures of each user against the others, see `Protocol.humans`."""
    values: Values = {}
    if video.user_scores is not None and len(video.user_scores) > 1:
        picked = video.user_scores[:, ::STRIDE]
        if np.ptp(picked, axis=1).astype(bool).sum() > 1:  # else every pair has a constant side
            values = {"tau": _over_pairs(kendall_tau, picked), "rho": _over_pairs(spearman_rho, picked)}
    return values | f1_among_users(video.user_summaries)


def constant(video: Judged, scores: np.ndarray) -> tuple[int, int]:
    """How many correlations have a constant side, see `Protocol.constant`."""
    if video.user_scores is None:
        return 0, 0
    return constant_pairs(scores[::STRIDE], video.user_scores[:, ::STRIDE]), len(video.user_scores)


def _over_pairs(measure: Callable[..., float], users: np.ndarray) -> float:
    """The mean of a symmetric measure over all pairs of users."""
    later = len(users) - 1 - np.arange(len(users) - 1)
    return float(np.average([measure(users[user], users[user + 1 :]) for user in range(len(users) - 1)], weights=later))


PROTOCOL = Protocol(
    title="TVSum",
    measures={
        "tau": Measure(
            "tau", "Kendall's tau-b of the scores with each user's scores on every 15th frame, mean over users"
        ),
        "rho": Measure(
            "rho", "Spearman's rho of the scores with each user's scores on every 15th frame, mean over users"
        ),
        "f1_mean": F1_MEAN,
        "f1_max": F1_MAX,
    },
    measure=measure,
    humans=humans,
    constant=constant,
)
