"""From scores to frames, shots and a summary; the knapsack against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import frame_scores, knapsack, kts, select_shots, shot_scores, shots, summary


def best_by_trying(values, weights, capacity):
    """The best choice by brute force; ties go to the choice without the last item in which they differ."""
    choices = [c for k in range(len(values) + 1) for c in itertools.combinations(range(len(values)), k)]
    fitting = [c for c in choices if sum(weights[i] for i in c) <= capacity and all(values[i] > 0 for i in c)]
    greatest = max(sum(values[i] for i in c) for c in fitting)
    equal = [c for c in fitting if sum(values[i] for i in c) == greatest]
    return min(equal, key=lambda c: sum(2**i for i in c))


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(
    # Multiples of 1/4 have exact sums, so ties are exact.
    st.lists(st.tuples(st.integers(-4, 12), st.integers(0, 9)), max_size=9),
    st.integers(0, 40),
)
def test_knapsack_equals_brute_force(items, capacity):
    values, weights = [quarters / 4 for quarters, _ in items], [weight for _, weight in items]
    found = knapsack(values, weights, capacity)
    assert found.dtype == np.int64
    assert tuple(found.tolist()) == best_by_trying(values, weights, capacity)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 300)), max_size=9), st.floats(0, 1))
def test_knapsack_of_random_floats(items, share):
    values, weights = [value for value, _ in items], [weight for _, weight in items]
    capacity = int(share * sum(weights))
    found = knapsack(values, weights, capacity)
    assert sum(weights[i] for i in found) <= capacity
    best = best_by_trying(values, weights, capacity)
    assert sum(values[i] for i in found) == pytest.approx(sum(values[i] for i in best), rel=1e-12)


def test_knapsack_of_a_film_equals_an_integer_program_solver():
    rng = np.random.default_rng(0)
    values, weights = rng.random(150), rng.integers(20, 400, 150)
    capacity = int(0.15 * weights.sum())
    found = knapsack(values, weights, capacity)
    solved = milp(
        -values, integrality=np.ones(150), bounds=(0, 1), constraints=LinearConstraint(weights[None], ub=capacity)
    )
    assert weights[found].sum() <= capacity
    assert values[found].sum() >= -solved.fun - 1e-9


def test_knapsack_keeps_fractions():
    """Truncated to integers, the first item would have value 0."""
    assert knapsack([0.9, 0.5, 0.3], [5, 3, 3], 6).tolist() == [0]
    assert knapsack([0.5, 0.4, 0.3], [5, 3, 3], 6).tolist() == [1, 2]


def test_knapsack_edge_cases():
    assert knapsack([], [], 5).tolist() == []
    assert knapsack([1, 2], [0, 0], 0).tolist() == [0, 1]
    assert knapsack([1, 2], [3, 4], 2).tolist() == []
    assert knapsack([0, -1], [0, 0], 2).tolist() == []
    assert knapsack([1, 1], [1, 1], 1).tolist() == [0]
    assert knapsack([1, 1], [1, 1], 10**15).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "weights", "capacity", "word"),
    [
        ([1, 2], [1], 1, "one weight for each value"),
        ([np.nan], [1], 1, "values holds NaN"),
        ([1], [1.5], 1, "weights holds fractions"),
        ([1], [-1], 1, "at least 0"),
        ([1], [1], -1, "at least 0"),
        ([1], [1], 0.5, "whole"),
        ([[1]], [[1]], 1, r"give \(items,\)"),
    ],
)
def test_invalid_knapsack_input_is_an_error(values, weights, capacity, word):
    with pytest.raises(UserError, match=word):
        knapsack(values, weights, capacity)


def test_scores_are_held_until_the_next_pick():
    assert frame_scores([0.5, 0.25, 1], [0, 3, 4], 7).tolist() == [0.5, 0.5, 0.5, 0.25, 1, 1, 1]
    assert frame_scores([0.5, 1], [2, 3], 5).tolist() == [0.5, 0.5, 0.5, 1, 1]
    assert frame_scores(np.arange(4, dtype=np.float32), np.arange(4), 4).tolist() == [0, 1, 2, 3]


def test_change_points_become_shots():
    assert shots([2, 3], [0, 15, 30, 45], 50).tolist() == [[0, 29], [30, 44], [45, 49]]
    assert shots([], [7], 50).tolist() == [[0, 49]]
    assert shots([1], [10, 20], 30).tolist() == [
        [0, 19],
        [20, 29],
    ]  # frames before the first pick belong to the first shot


def test_from_features_to_a_summary():
    """Three scenes, one of them important: the summary of a third of the film is that scene."""
    features = np.repeat(np.eye(3), 10, axis=0)
    picks = np.arange(30) * 15
    found = shots(kts(features, 29), picks, 450)
    assert found.tolist() == [[0, 149], [150, 299], [300, 449]]
    scores = frame_scores(np.repeat([0.2, 0.9, 0.3], 10), picks, 450)
    assert select_shots(scores, found, 0.34).tolist() == [1]
    assert np.flatnonzero(summary(scores, found, 0.34)).tolist() == list(range(150, 300))
    assert not summary(scores, found).any()  # 67 frames: all shots are longer


@pytest.mark.parametrize("seed", range(20))
def test_a_summary_is_the_best_within_its_length(seed):
    rng = np.random.default_rng(seed)
    frames = int(rng.integers(60, 400))
    starts = np.concatenate([[0], np.sort(rng.choice(np.arange(1, frames), 8, replace=False))])
    boundaries = np.stack([starts, np.append(starts[1:], frames) - 1], axis=1)
    scores = rng.random(frames)
    means = [np.mean([scores[frame] for frame in range(first, last + 1)]) for first, last in boundaries]
    assert shot_scores(scores, boundaries) == pytest.approx(means)
    chosen = best_by_trying(means, (boundaries[:, 1] - boundaries[:, 0] + 1).tolist(), int(0.15 * frames))
    expected = np.zeros(frames, bool)
    for shot in chosen:
        expected[boundaries[shot, 0] : boundaries[shot, 1] + 1] = True
    found = summary(scores, boundaries)
    assert found.dtype == bool
    assert found.tolist() == expected.tolist()


def test_frames_in_no_shot_count_for_the_capacity_only():
    scores = np.ones(100)
    assert select_shots(scores, [[0, 4], [50, 59]]).tolist() == [0, 1]
    assert summary(scores, [[0, 4], [50, 59]]).sum() == 15
    assert not summary(scores, np.zeros((0, 2), int)).any()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: frame_scores([1, 2], [0], 5), "one score for each pick"),
        (lambda: frame_scores([1, 2], [0, 5], 5), r"0\.\.4"),
        (lambda: frame_scores([1, 2], [3, 3], 5), "ascending"),
        (lambda: frame_scores([], [], 5), "at least one"),
        (lambda: frame_scores([np.nan], [0], 5), "NaN"),
        (lambda: shots([0], [0, 1], 5), r"1\.\.1"),
        (lambda: shots([2], [0, 1], 5), "as kts does"),
        (lambda: shots([1.5], [0, 1], 5), "fractions"),
        (lambda: shot_scores([1, 2], [[0, 2]]), "beyond the 2 frames"),
        (lambda: shot_scores([1, 2], [[1, 0]]), "empty or overlap"),
        (lambda: shot_scores([1, 2], [[0, 1], [1, 1]]), "overlap"),
        (lambda: shot_scores([1, 2], [[0, 1, 2]]), r"\(shots, 2\)"),
        (lambda: summary([1, 2], [[0, 1]], 15), "0 to 1"),
    ],
)
def test_invalid_input_is_an_error(call, word):
    with pytest.raises(UserError, match=word):
        call()
