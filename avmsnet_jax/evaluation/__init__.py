"""How good scores are: shots and summaries from scores, and their agreement with people, by the field's protocols.

from avmsnet_jax import evaluation

changes = evaluation.kts(features, max_change_points=len(features) - 1)
shots = evaluation.shots(changes, picks, n_frames)
chosen = evaluation.summary(evaluation.frame_scores(scores, picks, n_frames), shots)
evaluation.f1_score(chosen, user_summaries, reduce="max")
"""

from avmsnet_jax.evaluation.calibration import Calibration, calibration
from avmsnet_jax.evaluation.correlation import constant_pairs, kendall_tau, spearman_rho
from avmsnet_jax.evaluation.f1 import f1_score
from avmsnet_jax.evaluation.knapsack import knapsack
from avmsnet_jax.evaluation.kts import kts
from avmsnet_jax.evaluation.precision_recall import (
    Agreement,
    average_precision,
    best_threshold,
    precision_recall_curve,
    precision_recall_f,
)
from avmsnet_jax.evaluation.selection import frame_scores, select_shots, shot_scores, shots, summary

__all__ = [
    "Agreement",
    "Calibration",
    "average_precision",
    "best_threshold",
    "calibration",
    "constant_pairs",
    "f1_score",
    "frame_scores",
    "kendall_tau",
    "knapsack",
    "kts",
    "precision_recall_curve",
    "precision_recall_f",
    "select_shots",
    "shot_scores",
    "shots",
    "spearman_rho",
    "summary",
]
