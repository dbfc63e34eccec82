"""The arithmetic of `gaze.concentration`, in a module of its own because Numba and scipy take long to import."""

import math

import numpy as np
from scipy import ndimage

from avmsnet_jax.gaze.concentration import SIGMA_S, SMOOTHING_S
from avmsnet_jax.numba_cache import compiled

_CELLS = 6  # of the table of past positions, for each sigma
_FAR = 60.0  # squared sigmas: the product of two Gaussians so far apart is below 1e-6


def mean_saliency(places: np.ndarray, rate: float, height: float, sigma: float) -> np.ndarray:
    """C(t) of `gaze.concentration`, (N,); NaN where fewer than two observers look."""
    reach = max(int(np.ceil(3 * SIGMA_S * rate)), 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / rate / SIGMA_S) ** 2)
    # Means over all positions of the film: of a Gaussian, and of the product of two Gaussians, which is a Gaussian of
    # sigma / sqrt(2) about the midpoint of their centers, times a factor.
    cell = sigma / _CELLS
    single = _table(places, height, cell, sigma)
    product = _table(places, height, cell, sigma / np.sqrt(2))
    return _mean_of_frames(np.ascontiguousarray(places.transpose(1, 0, 2)), weights, single, product, cell, sigma)


def _table(places: np.ndarray, height: float, cell: float, width: float) -> np.ndarray:
    """For each cell of the picture the mean over all positions of a Gaussian of standard deviation `width` about it."""
    known = np.rint(places[np.isfinite(places).all(axis=2)] / cell).astype(np.intp)
    shape = int(np.ceil(height / cell)) + 2, int(np.ceil(1 / cell)) + 2
    count = np.zeros(shape)
    np.add.at(count, (known[:, 1].clip(0, shape[0] - 1), known[:, 0].clip(0, shape[1] - 1)), 1.0)
    spread = math.sqrt((width / cell) ** 2 - 1 / 12)  # rounding to a cell adds a variance of 1/12
    smooth = ndimage.gaussian_filter(count, spread, mode="constant", truncate=5)
    return smooth * 2 * np.pi * (width / cell) ** 2 / max(len(known), 1)


@compiled
def _mean_of_frames(
    places: np.ndarray, weights: np.ndarray, single: np.ndarray, product: np.ndarray, cell: float, sigma: float
) -> np.ndarray:
    """The mean of N_i for each frame; `places` is (N, U, 2)."""
    n_frames, n_observers, _ = places.shape
    reach = len(weights) // 2
    found = np.full(n_frames, np.nan)
    most = n_observers * len(weights)
    x, y, weight, of = np.empty(most), np.empty(most), np.empty(most), np.empty(most, np.int64)
    for frame in range(n_frames):
        # The positions that contribute to the maps at this frame.
        count = 0
        for near in range(max(frame - reach, 0), min(frame + reach + 1, n_frames)):
            for observer in range(n_observers):
                if np.isfinite(places[near, observer, 0]):
                    x[count], y[count] = places[near, observer]
                    weight[count], of[count] = weights[near - frame + reach], observer
                    count += 1
        # Mean and mean square of all observers' map over the film's positions, and each observer's contribution.
        mean, means = 0.0, np.zeros(n_observers)
        square, squares, own_squares = 0.0, np.zeros(n_observers), np.zeros(n_observers)
        for a in range(count):
            value = weight[a] * _at(single, x[a], y[a], cell)
            mean += value
            means[of[a]] += value
            for b in range(a + 1):
                apart = (x[a] - x[b]) ** 2 + (y[a] - y[b]) ** 2
                if apart > _FAR * sigma**2:
                    continue
                value = weight[a] * weight[b] * math.exp(-apart / (4 * sigma**2))
                value *= _at(product, (x[a] + x[b]) / 2, (y[a] + y[b]) / 2, cell) * (1.0 if a == b else 2.0)
                square += value
                if of[a] == of[b]:
                    own_squares[of[a]] += value
                    squares[of[a]] += 2 * value
                else:
                    squares[of[a]] += value
                    squares[of[b]] += value
        total, looking = 0.0, 0
        for observer in range(n_observers):
            if not np.isfinite(places[frame, observer, 0]):
                continue
            value = 0.0
            for a in range(count):
                if of[a] != observer:
                    apart = (x[a] - places[frame, observer, 0]) ** 2 + (y[a] - places[frame, observer, 1]) ** 2
                    value += weight[a] * math.exp(-apart / (2 * sigma**2))
            # The map of the others is the map of all minus this observer's contribution.
            others = mean - means[observer]
            variance = square - squares[observer] + own_squares[observer] - others**2
            if variance > 0:
                total += (value - others) / math.sqrt(variance)
                looking += 1
        if looking:
            found[frame] = total / looking
    return found


@compiled
def _at(table: np.ndarray, x: float, y: float, cell: float) -> float:
    """The table at a position, interpolated bilinearly."""
    row = min(max(y / cell, 0.0), table.shape[0] - 1.001)
    column = min(max(x / cell, 0.0), table.shape[1] - 1.001)
    top, left = int(row), int(column)
    down, right = row - top, column - left
    upper = table[top, left] * (1 - right) + table[top, left + 1] * right
    lower = table[top + 1, left] * (1 - right) + table[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def smoothed(values: np.ndarray, rate: float) -> np.ndarray:
    """The mean of the known values within a second around each frame."""
    width = max(round(SMOOTHING_S * rate), 1) | 1
    known = np.isfinite(values)
    total = ndimage.uniform_filter1d(np.where(known, values, 0.0), width, mode="constant")
    share = ndimage.uniform_filter1d(known.astype(np.float64), width, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, total / share, np.nan)
