"""Calibration: how close scores are to probabilities."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import checks


class Calibration(NamedTuple):
    """Calibration in score bins of equal width.

    Attributes:
      counts: (bins,) int64, the number of clips.
      scores: (bins,) float64, their mean score; 0 for an empty bin.
      shares: (bins,) float64, the share of key clips; 0 for an empty bin.
      error: expected calibration error, 0-1: the mean over clips of |mean score - share of key clips| of their bin
        (Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015).
    """

    counts: np.ndarray
    scores: np.ndarray
    shares: np.ndarray
    error: float


def calibration(scores: ArrayLike, labels: ArrayLike, bins: int = 10) -> Calibration:
    """The share of key clips by score, in the bins [0, 1/bins), ..., [1 - 1/bins, 1].

    Args:
      scores: (N,) numbers in 0-1.
      labels: (N,) 0/1 or bool.
      bins: number of bins.

    Raises:
      UserError: the lengths differ, a score is not within 0-1, or a label neither 0 nor 1.
    """
    values, key = checks.labeled(scores, labels)
    if len(values) and not 0 <= values.min() <= values.max() <= 1:
        raise UserError(f"scores lie within {values.min():g} to {values.max():g}; calibration needs scores in 0 to 1")
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    counts, total, true = (
        np.bincount(place, weights, bins) for weights in (np.ones(len(values)), values, key.astype(np.float64))
    )
    most = np.maximum(counts, 1)
    error = float(np.abs(total - true).sum() / max(len(values), 1))
    return Calibration(counts.astype(np.int64), total / most, true / most, error)
