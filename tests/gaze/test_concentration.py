"""The rule against a plain implementation, and on simulated viewers whose attention is known."""

import numpy as np
import pytest

from avmsnet_jax.gaze import concentration as gaze


def map_at(where: np.ndarray, others: np.ndarray, weights: np.ndarray, sigma: float) -> np.ndarray:
    apart = np.square(others - where[:, None]).sum(axis=-1)
    return (np.exp(-apart / (2 * sigma**2)) * weights).sum(axis=1)


def plainly(positions: np.ndarray, rate: float, aspect: float, sigma: float) -> np.ndarray:
    """C(t) by the definition: the map of the others at each position of the film, its mean and standard deviation."""
    places = positions * [1, 1 / aspect]
    everywhere = places[np.isfinite(places).all(axis=2)]
    frames = np.arange(places.shape[1])
    found = np.full(len(frames), np.nan)
    for frame in frames:
        over_time = np.exp(-0.5 * ((frames - frame) / rate / gaze.SIGMA_S) ** 2)
        over_time[np.abs(frames - frame) > np.ceil(3 * gaze.SIGMA_S * rate)] = 0
        values = []
        for observer in range(len(places)):
            here = places[observer, frame]
            others = np.delete(places, observer, axis=0)
            known = np.isfinite(others).all(axis=2)

            weights = np.broadcast_to(over_time, known.shape)[known]
            if np.isfinite(here).all() and known.any():
                film = map_at(everywhere, others[known], weights, sigma)
                if film.std():
                    values.append((map_at(here[None], others[known], weights, sigma)[0] - film.mean()) / film.std())
        found[frame] = np.mean(values) if values else np.nan
    return found


def viewers(count: int, seconds: float, rate: float = 25, spread: float = 0.015, seed: int = 0):
    """Viewers who look at one target in every second block of 4 s, and each elsewhere in between.

    Returns:
      positions (count, N, 2), and which frames are concentrated (N,).
    """
    chance = np.random.default_rng(seed)
    n_frames = round(seconds * rate)
    times = np.arange(n_frames) / rate
    together = (times // 4) % 2 == 1
    held = (times // 0.4).astype(int)  # a fixation lasts 0.4 s
    elsewhere = np.clip(0.5 + 0.2 * chance.standard_normal((count, held[-1] + 1, 2)), 0, 1)[:, held]
    target = 0.5 + 0.25 * np.stack([np.sin(times / 3), np.cos(times / 5)], axis=1)
    positions = np.where(together[:, None], target, elsewhere) + spread * chance.standard_normal((count, n_frames, 2))
    positions[chance.random((count, n_frames)) < 0.08] = np.nan
    return positions, together


def f_of(labels: np.ndarray, truth: np.ndarray) -> float:
    return 2 * ((labels == 1) & truth).sum() / ((labels == 1).sum() + truth.sum())


@pytest.mark.parametrize(
    ("count", "rate", "seed"), [(3, 20, 0), (5, 12, 1), pytest.param(9, 20, 2, marks=pytest.mark.soak)]
)
def test_the_concentration_curve_follows_its_definition(count, rate, seed):
    positions, _ = viewers(count, seconds=6, rate=rate, seed=seed)
    expected = plainly(positions, rate, 16 / 9, 0.06)
    found = gaze.concentration(positions, rate, 16 / 9, 0.06).raw
    known = np.isfinite(found)
    assert known.sum() > 60
    np.testing.assert_allclose(found[known], expected[known], atol=0.02 * np.nanstd(expected))


@pytest.mark.parametrize(("count", "least"), [(20, 0.9), (8, 0.75)])
@pytest.mark.parametrize("seed", [3, 4])
def test_frames_that_viewers_agree_on_are_key(count, least, seed):
    positions, together = viewers(count, seconds=120, spread=0.02, seed=seed)
    curve = gaze.concentration(positions, 25, 16 / 9)
    assert f_of(gaze.key_frames(curve.values, together.mean()), together) >= least


def test_agreement_on_the_center_counts_for_less_than_on_a_place_of_its_own():
    chance = np.random.default_rng(0)
    positions = 0.5 + 0.02 * chance.standard_normal((10, 2000, 2))
    positions[:, 1000:1100] += 0.3
    raw = gaze.concentration(positions, 25, 1.5).raw
    assert raw[1005:1095].min() > 2 * raw[:990].max()


def test_scattered_viewers_leave_a_curve_without_reliability():
    positions, _ = viewers(10, seconds=60)
    chance = np.random.default_rng(0)
    scattered = chance.uniform(0.1, 0.9, (10, 150, 2)).repeat(10, axis=1)
    assert abs(gaze.split_half(gaze.halves(scattered, 25, 16 / 9))) < 0.35
    assert gaze.split_half(gaze.halves(positions, 25, 16 / 9)) > 0.8


def test_moments_with_too_few_observers_have_no_value():
    positions, _ = viewers(5, seconds=20)
    positions[2:, 100:200] = np.nan
    curve = gaze.concentration(positions, 25, 16 / 9)
    assert np.isnan(curve.values[100:200]).all()
    assert (curve.observers[100:200] <= 2).all()
    labels = gaze.key_frames(curve.values)
    assert (labels[100:200] == -1).all()
    assert set(labels) == {-1, 0, 1}


def test_the_order_of_observers_and_a_mirrored_picture_change_nothing():
    positions, _ = viewers(6, seconds=20)
    curve = gaze.concentration(positions, 25, 16 / 9).values
    mirrored = positions[::-1] * [-1, 1] + [1, 0]
    np.testing.assert_allclose(gaze.concentration(mirrored, 25, 16 / 9).values, curve, atol=0.05)


def test_a_film_without_gaze_samples_is_no_error():
    curve = gaze.concentration(np.full((4, 50, 2), np.nan), 25, 16 / 9)
    assert np.isnan(curve.values).all()
    assert (gaze.key_frames(curve.values) == -1).all()
