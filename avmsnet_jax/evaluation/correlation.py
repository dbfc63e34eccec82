"""Rank correlation of scores with those of users."""

import numpy as np
from numpy.typing import ArrayLike

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import checks
from avmsnet_jax.ranks import mean_ranks


def kendall_tau(pred: ArrayLike, users: ArrayLike) -> float:
    """Kendall's tau-b between `pred` and each user, averaged over users.

    tau_b = (C - D) / sqrt((C + D + T_p) (C + D + T_u)), with C concordant and D discordant pairs of frames, and T_p or
    T_u pairs tied in `pred` or in the user's scores only (Kendall 1945; for summaries Otani et al., Rethinking the
    Evaluation of Video Summaries, CVPR 2019). If a side is constant, tau is undefined and counts as 0; `constant_pairs`
    counts these cases.

    Args:
      pred: (N,) a score for each frame.
      users: (U, N) each user's score for each frame, or (N,) for one.

    Returns:
      -1 to 1.

    Raises:
      UserError: the lengths differ, an input is empty, or a score is NaN.
    """
    from scipy.stats import kendalltau  # slow to import

    pred, users = _sides(pred, users)
    taus = [
        kendalltau(pred, user).statistic if varies else 0.0
        for user, varies in zip(users, _both_vary(pred, users), strict=True)
    ]
    return float(np.mean(taus))


def spearman_rho(pred: ArrayLike, users: ArrayLike) -> float:
    """Spearman's rho between `pred` and each user, averaged over users.

    Pearson's correlation of the ranks; ties share their mean rank (Spearman 1904; for summaries Otani et al., CVPR
    2019). If a side is constant, rho is undefined and counts as 0; `constant_pairs` counts these cases.

    Args:
      pred: (N,) a score for each frame.
      users: (U, N) each user's score for each frame, or (N,) for one.

    Returns:
      -1 to 1.

    Raises:
      UserError: the lengths differ, an input is empty, or a score is NaN.
    """
    pred, users = _sides(pred, users)
    middle = (len(pred) + 1) / 2
    ours, theirs = mean_ranks(pred) - middle, np.stack([mean_ranks(user) for user in users]) - middle
    sizes = np.sqrt(np.sum(ours**2) * np.sum(theirs**2, axis=1))
    rhos = np.divide(theirs @ ours, sizes, out=np.zeros(len(users)), where=_both_vary(pred, users))
    return float(np.mean(rhos))


def constant_pairs(pred: ArrayLike, users: ArrayLike) -> int:
    """The number of users for whom tau and rho are undefined because the user's scores or `pred` are constant."""
    return int(np.sum(~_both_vary(*_sides(pred, users))))


def _sides(pred: ArrayLike, users: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    pred = checks.finite(pred, "pred", "frames")
    users = checks.finite(np.atleast_2d(users), "users", "users", "frames")
    if users.shape[1] != len(pred) or not users.size:
        raise UserError(f"pred has {len(pred)} scores and users has shape {users.shape}; give (users, {len(pred)})")
    return pred, users


def _both_vary(pred: np.ndarray, users: np.ndarray) -> np.ndarray:
    return (np.ptp(users, axis=1) > 0) & (np.ptp(pred) > 0)
