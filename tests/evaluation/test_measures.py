"""Correlations, F1, precision and recall against scipy and against plain implementations of their formulas."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import (
    average_precision,
    best_threshold,
    constant_pairs,
    f1_score,
    kendall_tau,
    precision_recall_f,
    spearman_rho,
)

CASES = settings(max_examples=250, deadline=None, derandomize=True, database=None)


def tau_by_pairs(a, b):
    both = only_a = only_b = agree = 0
    for i in range(len(a)):
        for j in range(i):
            da, db = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
            agree += da * db
            only_a += da != 0
            only_b += db != 0
    both = math.sqrt(only_a * only_b)
    return agree / both if both else 0.0


@st.composite
def sides(draw):
    """Predictions and users with many ties, constant scores, and continuous scores."""
    n, users = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def scores(kind):
        return rng.normal(size=n) if kind == "floats" else rng.integers(0, kind, n).astype(float)

    kinds = st.sampled_from([1, 2, 4, "floats"])
    return scores(draw(kinds)), np.array([scores(draw(kinds)) for _ in range(users)])


@CASES
@given(sides())
def test_correlations_equal_scipy_and_the_formula(case):
    pred, users = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of constant input and returns NaN
        taus = [stats.kendalltau(pred, user).statistic for user in users]
        rhos = [stats.spearmanr(pred, user).statistic if len(pred) > 1 else math.nan for user in users]
    assert kendall_tau(pred, users) == pytest.approx(np.nan_to_num(taus).mean(), abs=1e-12)
    assert kendall_tau(pred, users) == pytest.approx(np.mean([tau_by_pairs(pred, user) for user in users]), abs=1e-12)
    assert spearman_rho(pred, users) == pytest.approx(np.nan_to_num(rhos).mean(), abs=1e-12)
    assert constant_pairs(pred, users) == np.isnan(taus).sum() == np.isnan(rhos).sum()


def test_correlations_by_hand():
    assert kendall_tau([1, 2, 3], [[1, 2, 3], [3, 2, 1], [1, 1, 1]]) == 0
    assert kendall_tau([1, 2, 3], [1, 2, 3]) == spearman_rho([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert kendall_tau([1, 2, 3], [[1, 2, 3], [5, 5, 5]]) == pytest.approx(0.5)  # the constant user counts as 0
    assert spearman_rho([1, 2, 3], [[1, 2, 3], [5, 5, 5]]) == pytest.approx(0.5)
    assert constant_pairs([1, 2, 3], [[1, 2, 3], [5, 5, 5]]) == 1
    assert constant_pairs([7, 7, 7], [[1, 2, 3], [5, 5, 5]]) == 2
    assert spearman_rho([0.1] * 3, [[0.1, 0.2, 0.3]]) == 0  # no rounding tolerance: 0.1 + 0.1 + 0.1 != 0.3 in float64


@CASES
@given(st.integers(0, 10), st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 1.0]))
def test_f1_by_counting(frames, users, seed, share):
    rng = np.random.default_rng(seed)
    summary, people = rng.random(frames) < share, rng.random((users, frames)) < rng.choice([0.0, 0.5])
    each = []
    for person in people:
        hits = sum(bool(a and b) for a, b in zip(summary, person, strict=True))
        precision, recall = hits / max(sum(summary), 1), hits / max(sum(person), 1)
        each.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert f1_score(summary, people) == pytest.approx(np.mean(each))
    assert f1_score(summary.astype(float), people.astype(np.uint8), reduce="max") == pytest.approx(max(each))


def test_f1_by_hand():
    users = [[1, 1, 0, 0], [0, 0, 0, 1]]
    assert f1_score([1, 0, 0, 0], users, reduce="max") == pytest.approx(2 / 3)
    assert f1_score([1, 0, 0, 0], users) == pytest.approx(1 / 3)
    assert f1_score([0, 0, 0, 0], users) == f1_score([0, 0], [[0, 0]]) == 0
    assert f1_score([1, 0], [1, 0]) == 1


@CASES
@given(st.integers(0, 10), st.sampled_from([1, 3, 100]), st.integers(0, 2**32), st.sampled_from([0.0, 0.4, 1.0]))
def test_precision_curve_by_every_threshold(clips, levels, seed, share):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, levels, clips) / np.float32(levels), rng.random(clips) < share
    area, before, best = 0.0, 0.0, (0.0, 0.0)
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = precision_recall_f(scores >= threshold, labels)
        area += (found.recall - before) * found.precision
        before = found.recall
        best = max(best, (found.fscore, threshold), key=lambda pair: pair[0])
    assert average_precision(scores, labels) == pytest.approx(area)
    if not labels.any():
        with pytest.raises(UserError, match="no clip of these is key"):
            best_threshold(scores, labels)
        return
    threshold, agreement = best_threshold(scores, labels)
    assert agreement == precision_recall_f(scores >= threshold, labels)
    assert agreement.fscore == pytest.approx(best[0])
    assert threshold == max(  # ties go to the highest threshold
        level for level in scores.tolist() if precision_recall_f(scores >= level, labels).fscore >= best[0] - 1e-12
    )


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: kendall_tau([1, 2], [[1, 2, 3]]), r"pred has 2 scores and users has shape \(1, 3\)"),
        (lambda: spearman_rho([], np.zeros((2, 0))), "give"),
        (lambda: spearman_rho([1], np.zeros((0, 1))), "give"),
        (lambda: kendall_tau([1, math.nan], [[1, 2]]), "pred holds NaN"),
        (lambda: spearman_rho([1, 2], [[1, math.nan]]), "users holds NaN"),
        (lambda: constant_pairs([[1, 2]], [[1, 2]]), r"pred has shape \(1, 2\); give \(frames,\)"),
        (lambda: f1_score([1, 0], [[1, 0, 0]]), "2 frames"),
        (lambda: f1_score([0.3, 0], [[1, 0]]), "0 and 1"),
        (lambda: f1_score([1, 0], [[1, 2]]), "user_summaries holds other values"),
        (lambda: f1_score([1, 0], [[1, 0]], reduce="median"), '"mean" or "max"'),
        (lambda: average_precision([1, 2], [1]), "one label for each score"),
        (lambda: best_threshold([1, math.nan], [1, 0]), "NaN"),
    ],
)
def test_invalid_input_is_an_error(call, word):
    with pytest.raises(UserError, match=word):
        call()
