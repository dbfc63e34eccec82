"""Precision, recall and F of clips, at one threshold and at all."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import checks


class Agreement(NamedTuple):
    """Precision, recall and their harmonic mean F, each in 0-1; 0 where they are undefined, see `reported`."""

    precision: float
    recall: float
    fscore: float


def reported(found: Agreement, predicted: float, positive: float) -> dict[str, float | None]:
    """`found` as a report gives it: None for undefined figures.

    Without key clips all three are undefined: recall is 0/0, and precision and F are 0 for any prediction. If no clip
    is predicted key, precision is undefined (0/0) and F = 2 TP / (predicted + positive) is 0.

    Args:
      found: the agreement.
      predicted: how many clips are predicted key.
      positive: how many are.
    """
    values: dict[str, float | None] = {**found._asdict()}
    if not positive:
        return dict.fromkeys(values)
    return values if predicted else values | {"precision": None}


def precision_recall_f(predicted: np.ndarray, labels: np.ndarray) -> Agreement:
    """Agreement of `predicted` (N,) bool with `labels` (N,) bool, over all N together (the published Movie50 test)."""
    true = int(np.sum(predicted & labels))
    return _agreement(true, int(np.sum(predicted)), int(np.sum(labels)))


def chance(labels: np.ndarray, rate: float) -> Agreement:
    """The expected agreement of predicting each clip key with probability `rate`, independently of its content.

    Precision is the share of key clips, recall is `rate`, and F is their harmonic mean.

    Args:
      labels: (N,) bool.
      rate: 0-1. At 1 every clip is predicted key, the guess with the best F.
    """
    return _agreement(rate * float(np.sum(labels)), rate * len(labels), float(np.sum(labels)))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision: the sum of (R_n - R_(n-1)) P_n over the distinct scores in descending order.

    P_n and R_n are precision and recall of the clips whose score is at least the n-th. Equal scores count together, so
    the order of clips does not matter. This is scikit-learn's definition.

    Args:
      scores: (N,) numbers.
      labels: (N,) 0/1 or bool.

    Returns:
      0-1; 0 if no clip is key.

    Raises:
      UserError: the lengths differ, a score is NaN, or a label neither 0 nor 1.
    """
    _, true, predicted = _sweep(scores, labels)
    if not len(true) or not true[-1]:
        return 0.0
    return float(np.sum(np.diff(true, prepend=0) / true[-1] * true / predicted))


def precision_recall_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall at every distinct threshold.

    Args:
      scores: (N,) numbers.
      labels: (N,) 0/1 or bool.

    Returns:
      (L,) float64 each: the distinct scores in descending order, and precision and recall of the clips at or above
      each (recall 0 if no clip is key).

    Raises:
      UserError: see `average_precision`.
    """
    levels, true, predicted = _sweep(scores, labels)
    positive = max(int(true[-1]), 1) if len(true) else 1
    return levels, true / np.maximum(predicted, 1), true / positive


def best_threshold(scores: ArrayLike, labels: ArrayLike) -> tuple[float, Agreement]:
    """The threshold with the greatest F on these clips, which should be validation clips, never test clips.

    Args:
      scores: (N,) numbers.
      labels: (N,) 0/1 or bool, at least one of them 1.

    Returns:
      the threshold, which is one of the scores (a clip is predicted key if score >= threshold; ties go to the highest),
      and its agreement on these clips.

    Raises:
      UserError: no clip is key, or see `average_precision`.
    """
    levels, true, predicted = _sweep(scores, labels)
    if not len(true) or not true[-1]:
        raise UserError(
            "no clip of these is key, so every threshold is as good as another; choose it on a part that has key clips"
        )
    best = int(np.argmax(2 * true / (predicted + true[-1])))
    return float(levels[best]), _agreement(int(true[best]), int(predicted[best]), int(true[-1]))


def _sweep(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct scores in descending order, and the numbers of key clips and of all clips at or above each."""
    values, key = checks.labeled(scores, labels)
    levels, level_of = np.unique(-values, return_inverse=True)
    true, predicted = (np.cumsum(np.bincount(level_of[part], minlength=len(levels))) for part in (key, key | True))
    return -levels, true, predicted


def _agreement(true: float, predicted: float, positive: float) -> Agreement:
    precision = true / predicted if predicted else 0.0
    recall = true / positive if positive else 0.0
    return Agreement(precision, recall, 2 * precision * recall / (precision + recall) if true else 0.0)
