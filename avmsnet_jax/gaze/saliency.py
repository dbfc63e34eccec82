"""How well a map of attention predicts where viewers looked: the field's measures.

Bylinskii et al., What do different evaluation metrics tell us about saliency models?, IEEE TPAMI 2019. A map is (H, W),
any scale; points are (N, 2), x and y as shares of the picture. A map is read at a point by its cell.
"""

import numpy as np
from scipy import ndimage

from avmsnet_jax.ranks import mean_ranks


def nss(saliency: np.ndarray, points: np.ndarray) -> float:
    """Normalized scanpath saliency: the mean at the points of the map with mean 0 and standard deviation 1.

    Returns:
      0 for chance; NaN for a constant map or without points.
    """
    spread = float(np.std(saliency))
    if not len(points) or spread <= _CONSTANT * float(np.abs(saliency).max()):
        return float("nan")
    return float((values_at(saliency, points).mean() - np.mean(saliency)) / spread)


def cc(saliency: np.ndarray, points: np.ndarray, sigma: float) -> float:
    """Pearson's correlation of the map with the density of the points.

    Args:
      saliency: (H, W).
      points: (N, 2).
      sigma: of the Gaussian that makes a density of the points, in widths of the map.

    Returns:
      -1 to 1; NaN where either is constant.
    """
    density = density_of(points, saliency.shape, sigma)
    both = np.stack([np.ravel(saliency), density.ravel()]).astype(np.float64)
    if not len(points) or (both.std(axis=1) <= _CONSTANT * np.abs(both).max(axis=1)).any():
        return float("nan")
    return float(np.corrcoef(both[0], both[1])[0, 1])


def auc_judd(saliency: np.ndarray, points: np.ndarray) -> float:
    """Area under the ROC curve that tells the cells that were looked at from all others.

    Judd, Ehinger, Durand, Torralba, Learning to predict where humans look, ICCV 2009. Each point is a positive, each
    cell without a point a negative. Ties count half, where the authors' code breaks them at random.

    Returns:
      0.5 for chance; NaN without points, or where every cell was looked at.
    """
    rows, columns = _cells(points, saliency.shape)
    free = np.ones(saliency.shape, bool)
    free[rows, columns] = False
    return _auc(saliency[rows, columns], saliency[free])


def auc_shuffled(saliency: np.ndarray, points: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve that tells points from those of other moments.

    Zhang, Tong, Marks, Shan, Cottrell, SUN: a Bayesian framework for saliency, Journal of Vision 2008. Since viewers
    look at the center at all moments, a map of the center alone gets 0.5.

    Args:
      saliency: (H, W).
      points: (N, 2).
      others: (M, 2), where viewers looked at other moments, or in other films.
    """
    return _auc(values_at(saliency, points), values_at(saliency, others))


def center_prior(shape: tuple[int, int], sigma: float = 0.25) -> np.ndarray:
    """A Gaussian about the middle, (H, W): what is known without looking. `sigma` is in widths and heights."""
    down, across = ((np.arange(size) + 0.5) / size - 0.5 for size in shape)
    return np.exp(-(down[:, None] ** 2 + across**2) / (2 * sigma**2))


def values_at(saliency: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) the map at the points."""
    return saliency[_cells(points, saliency.shape)]


def density_of(points: np.ndarray, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """(H, W) the points under a Gaussian of `sigma` widths of the map."""
    count = np.zeros(shape)
    np.add.at(count, _cells(points, shape), 1.0)
    return ndimage.gaussian_filter(count, sigma * shape[1], mode="constant")


_CONSTANT = 1e-7  # of the largest value: what differs by less is rounding


def _cells(points: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    points = np.reshape(points, (-1, 2))
    rows, columns = (np.floor(points[:, 1 - axis] * shape[axis]).astype(np.intp) for axis in (0, 1))
    return rows.clip(0, shape[0] - 1), columns.clip(0, shape[1] - 1)


def _auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The probability that a positive exceeds a negative (Mann and Whitney's U over its largest value)."""
    if not len(positive) or not len(negative):
        return float("nan")
    ranks = mean_ranks(np.concatenate([positive, negative]))[: len(positive)]
    u = ranks.sum() - len(positive) * (len(positive) + 1) / 2
    return float(u / (len(positive) * len(negative)))
