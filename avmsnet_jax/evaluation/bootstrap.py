"""Means over videos and over splits, with bootstrap confidence intervals."""

from collections.abc import Callable
from typing import Any

import numpy as np

RESAMPLES = 10_000
_BLOCK = 1_000  # resamples at once


def resampled(count: int, statistic: Callable[[np.ndarray], np.ndarray]) -> list[float] | None:
    """The 95% confidence interval [low, high] of a statistic of videos by the percentile bootstrap (Efron 1979).

    Videos are resampled with replacement 10,000 times from a fixed seed. A single video and an undefined statistic have
    no interval: None.

    Args:
      count: number of videos.
      statistic: maps (R, count) float64, how often each video was drawn in each of R resamples, to (R,); NaN where the
        statistic is undefined.
    """
    if count < 2:
        return None
    rng = np.random.default_rng(0)
    found = [
        statistic(rng.multinomial(count, np.full(count, 1 / count), _BLOCK).astype(np.float64))
        for _ in range(RESAMPLES // _BLOCK)
    ]
    values = np.concatenate(found)
    if np.isnan(values).all():
        return None
    return [float(edge) for edge in np.nanpercentile(values, [2.5, 97.5])]


def over_videos(values: np.ndarray) -> dict[str, Any] | None:
    """Statistics of one number per video.

    Args:
      values: (V,) float64, NaN for videos without a value.

    Returns:
      `count` of the videos with a value, their `mean`, `sd` (with n - 1; None for one video) and the `interval` of the
      mean (see `resampled`); None if no video has a value.
    """
    held = values[~np.isnan(values)]
    if not len(held):
        return None
    return {
        "count": len(held),
        "mean": float(held.mean()),
        "sd": float(held.std(ddof=1)) if len(held) > 1 else None,
        "interval": resampled(len(held), lambda draws: draws @ held / len(held)),
    }


def over_splits(values: np.ndarray) -> dict[str, Any] | None:
    """Statistics of one number per video and split: the mean over splits of the mean over videos.

    Splits that share videos are not independent, so the interval resamples videos, each in all its splits at once.

    Args:
      values: (V, F) float64, NaN where a split does not test the video.

    Returns:
      `each` split's mean over its videos, their `mean`, `sd` over splits (with n - 1; None for one split) and the
      `interval` of the mean; None if a split has no value.
    """
    held = ~np.isnan(values)
    if not held.any(axis=0).all():
        return None
    filled, weight = np.where(held, values, 0.0), held.astype(np.float64)
    each = filled.sum(axis=0) / weight.sum(axis=0)

    def mean_of_means(draws: np.ndarray) -> np.ndarray:
        counts = draws @ weight
        means = np.divide(draws @ filled, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
        drawn = ~np.isnan(means)  # splits without a drawn video do not count
        total = np.where(drawn, means, 0.0).sum(axis=1)
        return np.divide(total, drawn.sum(axis=1), out=np.full(len(draws), np.nan), where=drawn.any(axis=1))

    tested = held.any(axis=1)
    filled, weight = filled[tested], weight[tested]
    return {
        "each": each.tolist(),
        "mean": float(each.mean()),
        "sd": float(each.std(ddof=1)) if len(each) > 1 else None,
        "interval": resampled(len(filled), mean_of_means),
    }
