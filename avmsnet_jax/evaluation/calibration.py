"""How far scores are probabilities."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import checks


class Calibration(NamedTuple):
    """How far scores are probabilities, in bins of equal width.

    Attributes:
      counts: (bins,) int64, clips in each.
      scores: (bins,) float64, their mean score; 0 where there are none.
      shares: (bins,) float64, the share of them that is key; 0 where there are none.
      error: the mean over clips of how far their bin's score lies from its share, 0-1: the expected calibration error
        (Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015).
    """

    counts: np.ndarray
    scores: np.ndarray
    shares: np.ndarray
    error: float


def calibration(scores: ArrayLike, labels: ArrayLike, bins: int = 10) -> Calibration:
    """What share of the clips with a score is key, for scores in bins [0, 1/bins), ..., [1 - 1/bins, 1].

    Args:
      scores: (N,) numbers in 0-1.
      labels: (N,) 0/1 or bool.
      bins: how many.

    Raises:
      UserError: the lengths differ, a score is not within 0-1, or a label neither 0 nor 1.
    """
    values, key = checks.labelled(scores, labels)
    if len(values) and not 0 <= values.min() <= values.max() <= 1:
        raise UserError(f"scores lie within {values.min():g} to {values.max():g}; calibration is of scores in 0 to 1")
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    counts, total, true = (
        np.bincount(place, weights, bins) for weights in (np.ones(len(values)), values, key.astype(np.float64))
    )
    most = np.maximum(counts, 1)
    error = float(np.abs(total - true).sum() / max(len(values), 1))
    return Calibration(counts.astype(np.int64), total / most, true / most, error)


def wilson_interval(hits: ArrayLike, counts: ArrayLike) -> np.ndarray:
    """The 95% interval of a share of which `hits` of `counts` were seen (Wilson 1927).

    Unlike the normal approximation it stays within 0-1 and is not empty where all or none were hits.

    Args:
      hits: (N,) numbers.
      counts: (N,) numbers, at least 1.

    Returns:
      (N, 2) float64: low, high.
    """
    hits, counts = np.asarray(hits, np.float64), np.asarray(counts, np.float64)
    z = 1.959964  # of the normal distribution, 2.5% lie above it
    middle = (hits + z**2 / 2) / (counts + z**2)
    half = z / (counts + z**2) * np.sqrt(hits * (counts - hits) / counts + z**2 / 4)
    return np.clip(np.stack([middle - half, middle + half], axis=-1), 0, 1)
