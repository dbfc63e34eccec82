"""From scores to a summary: scores of frames and of shots, and the choice of shots within a budget."""

import numpy as np
from numpy.typing import ArrayLike

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import checks
from avmsnet_jax.evaluation.knapsack import knapsack


def frame_scores(scores: ArrayLike, picks: ArrayLike, n_frames: int) -> np.ndarray:
    """A score for each frame: that of the last pick at or before it.

    Frames before the first pick get the first score. Public code gives them 0; in the field's files the first pick is
    frame 0, so this makes no difference.

    Args:
      scores: (P,) numbers, P at least 1.
      picks: (P,) the frames they belong to, ascending, in 0..n_frames - 1.
      n_frames: number of frames of the video.

    Returns:
      (n_frames,) float64.

    Raises:
      UserError: the shapes differ, or `picks` are not as described.
    """
    scores, picks = checks.finite(scores, "scores", "picks"), _picks(picks, n_frames)
    if scores.shape != picks.shape:
        raise UserError(f"got {len(scores)} scores for {len(picks)} picks; give one score for each pick")
    return scores[np.maximum(np.searchsorted(picks, np.arange(n_frames), side="right") - 1, 0)]


def shots(change_points: ArrayLike, picks: ArrayLike, n_frames: int) -> np.ndarray:
    """The shots between change points.

    Args:
      change_points: (m,) as `kts` returns them: the samples that begin a new shot, ascending, in 1..P - 1.
      picks: (P,) the frame of each sample, ascending, in 0..n_frames - 1.
      n_frames: number of frames of the video.

    Returns:
      (m + 1, 2) int64, first and last frame of each shot, both inclusive, like `change_points` in the field's HDF5
      files. They cover all frames: the first begins at 0, the last ends at n_frames - 1.

    Raises:
      UserError: the change points or picks are not as described.
    """
    changes, picks = checks.whole(change_points, "change_points", "changes"), _picks(picks, n_frames)
    if len(changes) and (changes[0] < 1 or changes[-1] >= len(picks) or (np.diff(changes) < 1).any()):
        raise UserError(f"change_points are not ascending within 1..{len(picks) - 1}; give samples, as kts does")
    starts = np.concatenate([[0], picks[changes]])
    return np.stack([starts, np.append(starts[1:], n_frames) - 1], axis=1)


def shot_scores(frame_scores: ArrayLike, shots: ArrayLike) -> np.ndarray:
    """The value of each shot: the mean score of its frames.

    Args:
      frame_scores: (n_frames,).
      shots: (S, 2) first and last frame, both inclusive, in ascending order; gaps are allowed.

    Returns:
      (S,) float64.

    Raises:
      UserError: a shot is empty, overlaps the one before it, or goes beyond the frames.
    """
    scores = checks.finite(frame_scores, "frame_scores", "frames")
    shots = checks.shots(shots, len(scores))
    return np.array([scores[first : last + 1].mean() for first, last in shots], np.float64)


def select_shots(frame_scores: ArrayLike, shots: ArrayLike, budget: float = 0.15) -> np.ndarray:
    """The shots of the best summary: `knapsack` over their mean scores and lengths.

    The capacity is int(budget x n_frames); some public code counts frames only up to the end of the last shot.

    Args:
      frame_scores: (n_frames,).
      shots: (S, 2) first and last frame, both inclusive, one after the other.
      budget: the longest summary as a share of the video, 0-1.

    Returns:
      (k,) int64, rows of `shots`, ascending.

    Raises:
      UserError: see `shot_scores`; the budget is not within 0-1.
    """
    if not 0 <= budget <= 1:
        raise UserError(f"the budget is {budget}; give a share of the video, 0 to 1")
    values = shot_scores(frame_scores, shots)
    shots = np.asarray(shots)
    return knapsack(values, shots[:, 1] - shots[:, 0] + 1, int(budget * np.size(frame_scores)))


def summary(frame_scores: ArrayLike, shots: ArrayLike, budget: float = 0.15) -> np.ndarray:
    """(n_frames,) bool: the frames of the shots that `select_shots` chooses."""
    chosen = np.asarray(shots)[select_shots(frame_scores, shots, budget)]
    frames = np.zeros(np.size(frame_scores), bool)
    for first, last in chosen.astype(np.int64):
        frames[first : last + 1] = True
    return frames


def _picks(picks: ArrayLike, n_frames: int) -> np.ndarray:
    picks = checks.whole(picks, "picks", "picks")
    if not len(picks) or picks[0] < 0 or picks[-1] >= n_frames or (np.diff(picks) < 1).any():
        raise UserError(f"picks are not ascending frames within 0..{n_frames - 1}; give at least one, each once")
    return picks
