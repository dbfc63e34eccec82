"""Ranks of numbers, as by scipy.stats.rankdata but without its import, which takes a second."""

import numpy as np


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """(N,) float64: the rank of each value, from 1; equal values share the mean of their ranks.

    If any value is NaN, all ranks are NaN.
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return np.full(len(values), np.nan) if np.isnan(values).any() else ranks
