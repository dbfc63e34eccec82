"""NSS, CC and AUC against plain implementations on random cases, and on cases made by hand."""

import numpy as np
import pytest

from avmsnet_jax.gaze import saliency


def plainly(name, given, points, others):
    """Each measure by its definition, one point and one cell at a time."""
    height, width = given.shape

    def at(point):
        return given[min(int(point[1] * height), height - 1), min(int(point[0] * width), width - 1)]

    if name == "nss":
        normal = (given - given.mean()) / given.std()
        return sum(normal[min(int(y * height), height - 1), min(int(x * width), width - 1)] for x, y in points) / len(
            points
        )
    if name == "auc_judd":
        looked = {(min(int(y * height), height - 1), min(int(x * width), width - 1)) for x, y in points}
        negative = [given[r, c] for r in range(height) for c in range(width) if (r, c) not in looked]
    else:
        negative = [at(point) for point in others]
    wins = [(at(point) > value) + 0.5 * (at(point) == value) for point in points for value in negative]
    return np.mean(wins) if wins else np.nan


def density(points, shape, sigma):
    """The points' cells under a Gaussian of `sigma` widths, one point and one cell at a time."""
    height, width = shape
    reach = int(4 * sigma * width + 0.5)
    bell = {offset: np.exp(-0.5 * (offset / (sigma * width)) ** 2) for offset in range(-reach, reach + 1)}
    total, found = sum(bell.values()), np.zeros(shape)
    for x, y in points:
        row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
        for r in range(height):
            for c in range(width):
                found[r, c] += bell.get(r - row, 0) * bell.get(c - column, 0) / total**2
    return found


def test_random_cases_equal_the_plain_implementation():
    chance = np.random.default_rng(0)
    for _ in range(250):
        shape = tuple(chance.integers(2, 9, 2))
        given = np.round(chance.gamma(1.0, 1.0, shape), 1)  # with ties
        points, others = chance.uniform(0, 1, (chance.integers(1, 6), 2)), chance.uniform(0, 1, (7, 2))
        if given.std() == 0:
            continue
        assert saliency.nss(given, points) == pytest.approx(plainly("nss", given, points, others))
        assert saliency.auc_shuffled(given, points, others) == pytest.approx(plainly("", given, points, others))
        found = saliency.auc_judd(given, points)
        expected = plainly("auc_judd", given, points, others)
        assert found == pytest.approx(expected, nan_ok=True)
        expected = np.corrcoef(given.ravel(), density(points, shape, 0.1).ravel())[0, 1]
        assert saliency.cc(given, points, 0.1) == pytest.approx(expected)


def test_a_map_of_where_viewers_look_scores_higher_than_its_mirror_image():
    right = np.zeros((9, 16))
    right[2:4, 12:14] = 1
    points = np.array([[0.8, 0.3], [0.85, 0.28], [0.78, 0.35]])
    elsewhere = np.random.default_rng(0).uniform(0, 1, (500, 2))
    assert saliency.nss(right, points) > 4
    assert saliency.nss(right[:, ::-1], points) < 0
    assert saliency.auc_judd(right, points) > 0.95
    assert saliency.cc(right, points, 0.05) > 0.8 > 0 > saliency.cc(right[:, ::-1], points, 0.05)
    assert saliency.auc_shuffled(right, points, elsewhere) > 0.95


def test_a_map_of_the_center_is_at_chance_in_shuffled_auc():
    chance = np.random.default_rng(0)
    points, others = (0.5 + 0.15 * chance.standard_normal((4000, 2)) for _ in range(2))
    prior = saliency.center_prior((18, 32))
    assert saliency.auc_judd(prior, points) > 0.75
    assert saliency.auc_shuffled(prior, points, others) == pytest.approx(0.5, abs=0.02)


def test_undefined_measures_are_nan():
    flat, points = np.full((4, 4), 0.3), np.array([[0.5, 0.5]])
    none = np.zeros((0, 2))
    assert np.isnan(saliency.nss(flat, points))
    assert np.isnan(saliency.cc(flat, points, 0.1))
    assert np.isnan(saliency.nss(np.eye(4), none))
    assert np.isnan(saliency.auc_judd(np.eye(4), none))
    assert np.isnan(saliency.auc_shuffled(np.eye(4), points, none))
    assert saliency.auc_judd(flat, points) == 0.5
