"""Agreement of scores with labels."""

from typing import NamedTuple

import numpy as np


class Agreement(NamedTuple):
    """Precision, recall and their harmonic mean F, each in 0-1; 0, never NaN, where nothing was predicted or true."""

    precision: float
    recall: float
    fscore: float


def precision_recall_f(predicted: np.ndarray, labels: np.ndarray) -> Agreement:
    """Agreement of `predicted` (N,) bool with `labels` (N,) bool, pooled over all N (the published Movie50 test)."""
    true = int(np.sum(predicted & labels))
    return _agreement(true, int(np.sum(predicted)), int(np.sum(labels)))


def chance(labels: np.ndarray, rate: float) -> Agreement:
    """What is expected of calling each clip a key moment with probability `rate`, whatever it shows.

    Precision is then the share of key moments, recall is `rate`; F is taken of these two.

    Args:
      labels: (N,) bool.
      rate: 0-1. At 1 every clip is called a key moment, which is the best that guessing can do for F.
    """
    return _agreement(rate * float(np.sum(labels)), rate * len(labels), float(np.sum(labels)))


def _agreement(true: float, predicted: float, positive: float) -> Agreement:
    precision = true / predicted if predicted else 0.0
    recall = true / positive if positive else 0.0
    return Agreement(precision, recall, 2 * precision * recall / (precision + recall) if true else 0.0)
