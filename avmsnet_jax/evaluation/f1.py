"""F1 of a summary with the users' summaries."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import checks


def f1_score(summary: ArrayLike, user_summaries: ArrayLike, reduce: Literal["mean", "max"] = "mean") -> float:
    """F1 between a summary and each user's, 2 |A and B| / (|A| + |B|) in frames; then the mean or maximum over users.

    The mean over users is TVSum's protocol, the maximum SumMe's (Zhang et al., Video Summarization with Long Short-Term
    Memory, ECCV 2016). An empty summary scores 0, even against an empty one. Public code silently cuts or
    pads summaries of different lengths; here they are an error.

    Args:
      summary: (N,) 0/1 or bool, one for each frame.
      user_summaries: (U, N) 0/1 or bool, or (N,) for one user.
      reduce: "mean" or "max" over users.

    Returns:
      0-1.

    Raises:
      UserError: the lengths differ, there is no user, a value is neither 0 nor 1, or `reduce` is invalid.
    """
    chosen = checks.binary(summary, "summary", "frames")
    users = checks.binary(np.atleast_2d(user_summaries), "user_summaries", "users", "frames")
    if users.shape[1] != len(chosen) or not len(users):
        raise UserError(
            f"summary has {len(chosen)} frames and user_summaries has shape {users.shape}; give (users, {len(chosen)})"
        )
    if reduce not in ("mean", "max"):
        raise UserError(f'reduce is {reduce!r}; give "mean" or "max"')
    both = 2 * np.sum(users & chosen, axis=1)
    either = np.sum(users, axis=1) + np.sum(chosen)
    scores = both / np.maximum(either, 1)
    return float(scores.mean() if reduce == "mean" else scores.max())
