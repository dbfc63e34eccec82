"""How concentrated viewers' gaze is at each frame of a film, and the key frames that follow from it.

The published data set took its key frames from the same idea (Zhao et al., Human attention based movie summarization,
ICME 2022), by a formula that was not published. The rule here is this project's own. It is the normalized scanpath
saliency between observers (Dorr et al., Variability of eye movements when viewing dynamic natural scenes, Journal of
Vision 2010): each observer is compared with a map that all the others make.

For observer i at frame t, with G a Gaussian over the picture and w one over time:

    F_i(x) = sum over the other observers j and frames u of w(t - u) G(x - position of j at u)
    N_i    = (F_i(position of i at t) - m_i) / s_i
    C(t)   = mean of N_i over the observers who look at the picture at t

m_i and s_i are the mean and standard deviation of the map F_i over all positions that anybody looked at during the
whole film. Viewers look at the center most of the time; measured so, agreeing on the center counts for little.
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage

from avmsnet_jax.numba_cache import compiled

SIGMA_DEG = 1.2  # degrees of visual angle: the fovea, and the accuracy of eye trackers
SIGMA_WIDTH = 0.05  # share of the picture's width, where the geometry is unknown
SIGMA_S = 0.026  # seconds
LEAST_OBSERVERS = 3
SMOOTHING_S = 1.0
KEY_SHARE = 0.15  # of the frames that have a value

_DIVISION_FRAMES = 500_000  # of all divisions that `halves` takes together
_CELLS = 6  # of the table of past positions, for each sigma
_FAR = 60.0  # squared sigmas: the product of two Gaussians so far apart is below 1e-6


@dataclasses.dataclass(frozen=True)
class Concentration:
    """The curve of a film.

    Attributes:
      values: (N,) float64, smoothed and standardized within the film; NaN where fewer than `LEAST_OBSERVERS` looked.
      raw: (N,) float64, the mean normalized scanpath saliency of each frame; NaN likewise.
      observers: (N,) int64, how many looked at the picture.
    """

    values: np.ndarray
    raw: np.ndarray
    observers: np.ndarray


def concentration(positions: np.ndarray, rate: float, aspect: float, sigma: float = SIGMA_WIDTH) -> Concentration:
    """Measures how concentrated gaze is at each frame.

    Args:
      positions: (U, N, 2), where each of U observers looked during each of N frames, shares of the picture's width
        and height; NaN where one did not look.
      rate: frames a second.
      aspect: width of the picture as it is shown, over its height.
      sigma: of the Gaussian over the picture, in widths of the picture.
    """
    places = np.asarray(positions, np.float64) * [1.0, 1.0 / aspect]  # both in widths of the picture
    known = np.isfinite(places).all(axis=2)
    places[~known] = np.nan
    observers = known.sum(axis=0)
    raw = _between_observers(places, rate, 1.0 / aspect, sigma)
    raw[observers < LEAST_OBSERVERS] = np.nan
    return Concentration(_standardized(_smoothed(raw, rate)), raw, observers)


def key_frames(values: np.ndarray, share: float = KEY_SHARE) -> np.ndarray:
    """The frames of highest concentration.

    Args:
      values: (N,) as `Concentration.values`.
      share: of the frames that have a value, 0 to 1.

    Returns:
      (N,) int8: 1 = key, 0 = not, -1 = no value.
    """
    labels = np.where(np.isfinite(values), 0, -1).astype(np.int8)
    valid = np.flatnonzero(labels == 0)
    count = round(share * len(valid))
    labels[valid[np.argsort(-values[valid], kind="stable")[:count]]] = 1
    return labels


def halves(positions: np.ndarray, rate: float, aspect: float, sigma: float = SIGMA_WIDTH, seed: int = 0) -> np.ndarray:
    """The curves of random halves of the observers.

    Args:
      positions: see `concentration`.
      rate: see `concentration`.
      aspect: see `concentration`.
      sigma: see `concentration`.
      seed: of the divisions: ten of a film of half an hour, fewer of a longer one.

    Returns:
      (D, 2, N) float64, the `values` of both halves of D divisions.
    """
    chance = np.random.default_rng(seed)
    count, n_frames, _ = positions.shape
    found = []
    for _ in range(int(np.clip(_DIVISION_FRAMES / max(n_frames, 1), 2, 10))):
        order = chance.permutation(count)
        parts = (np.sort(part) for part in (order[: count // 2], order[count // 2 :]))
        found.append([concentration(positions[part], rate, aspect, sigma).values for part in parts])
    return np.array(found)


def split_half(curves: np.ndarray) -> float:
    """The reliability of a film's curve: how well the curves of two halves of the observers agree.

    The mean correlation over divisions is brought to the full number of observers by the formula of Spearman and Brown,
    2 r / (1 + r). No model can be expected to correlate with the curve by more than its square root.

    Args:
      curves: see `halves`.

    Returns:
      about 0 to 1; NaN where there are too few observers for two halves, or a half's curve is constant.
    """
    found = []
    for pair in curves:
        both = pair[:, np.isfinite(pair).all(axis=0)]
        if both.shape[1] > 2 and both.std(axis=1).min() > 0:
            found.append(float(np.corrcoef(both)[0, 1]))
    if not found:
        return float("nan")
    correlation = float(np.mean(found))
    return 2 * correlation / (1 + correlation) if correlation > -1 else float("nan")


def _between_observers(places: np.ndarray, rate: float, height: float, sigma: float) -> np.ndarray:
    """C(t) of the module's text, (N,); NaN where fewer than two observers look."""
    reach = max(int(np.ceil(3 * SIGMA_S * rate)), 1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / rate / SIGMA_S) ** 2)
    # Means over all positions of the film: of a Gaussian, and of the product of two Gaussians, which is a Gaussian of
    # sigma / sqrt(2) about the midpoint of their centers, times a factor.
    cell = sigma / _CELLS
    single = _table(places, height, cell, sigma)
    product = _table(places, height, cell, sigma / np.sqrt(2))
    return _mean_saliency(np.ascontiguousarray(places.transpose(1, 0, 2)), weights, single, product, cell, sigma)


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
def _mean_saliency(
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


def _smoothed(values: np.ndarray, rate: float) -> np.ndarray:
    """The mean of the known values within a second around each frame."""
    width = max(round(SMOOTHING_S * rate), 1) | 1
    known = np.isfinite(values)
    total = ndimage.uniform_filter1d(np.where(known, values, 0.0), width, mode="constant")
    share = ndimage.uniform_filter1d(known.astype(np.float64), width, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, total / share, np.nan)


def _standardized(values: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(values)]
    if not len(known):
        return values
    return (values - known.mean()) / known.std() if known.std() > 1e-12 else values - known.mean()
