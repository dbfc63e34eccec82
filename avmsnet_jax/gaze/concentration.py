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

import numpy as np

SIGMA_DEG = 1.2  # degrees of visual angle: the fovea, and the accuracy of eye trackers
SIGMA_WIDTH = 0.05  # share of the picture's width, where the geometry is unknown
SIGMA_S = 0.026  # seconds
LEAST_OBSERVERS = 3
SMOOTHING_S = 1.0
KEY_SHARE = 0.15  # of the frames that have a value

_DIVISION_FRAMES = 500_000  # of all divisions that `halves` takes together


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
    from avmsnet_jax.gaze import between_observers  # Numba and scipy: half a second that only gaze needs

    places = np.asarray(positions, np.float64) * [1.0, 1.0 / aspect]  # both in widths of the picture
    known = np.isfinite(places).all(axis=2)
    places[~known] = np.nan
    observers = known.sum(axis=0)
    raw = between_observers.mean_saliency(places, rate, 1.0 / aspect, sigma)
    raw[observers < LEAST_OBSERVERS] = np.nan
    return Concentration(_standardized(between_observers.smoothed(raw, rate)), raw, observers)


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


def _standardized(values: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(values)]
    if not len(known):
        return values
    return (values - known.mean()) / known.std() if known.std() > 1e-12 else values - known.mean()
