import itertools

import numpy as np
import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation.calibration import calibration
from avmsnet_jax.evaluation.precision_recall import chance, precision_recall_curve, precision_recall_f


def by_counting(predicted, labels):
    hits = sum(1 for p, t in zip(predicted, labels, strict=True) if p and t)
    precision = hits / sum(predicted) if any(predicted) else 0.0
    recall = hits / sum(labels) if any(labels) else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def test_every_small_case():
    """All predictions against all labels of up to four clips, including no predictions, no key clips and no clips."""
    for n in range(5):
        for predicted in itertools.product([False, True], repeat=n):
            for labels in itertools.product([False, True], repeat=n):
                found = precision_recall_f(np.array(predicted, bool), np.array(labels, bool))
                assert found == pytest.approx(by_counting(predicted, labels))
                assert all(type(value) is float for value in found)


def test_a_case_computed_by_hand():
    found = precision_recall_f(np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool))
    assert found._asdict() == {"precision": pytest.approx(1 / 3), "recall": 0.5, "fscore": pytest.approx(0.4)}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_chance_follows_its_formulas(share):
    labels = np.arange(100) < 100 * share
    assert chance(labels, 0.5) == pytest.approx((share, 0.5 if share else 0, share / (share + 0.5)))
    assert chance(labels, 1.0) == pytest.approx((share, 1.0 if share else 0, 2 * share / (share + 1)))
    assert chance(labels, 0.0) == (0, 0, 0)


def test_chance_equals_the_mean_of_random_predictions():
    labels = np.random.default_rng(0).random(200_000) < 0.2
    coin = np.random.default_rng(1).random(200_000) < 0.5
    assert precision_recall_f(coin, labels) == pytest.approx(chance(labels, 0.5), abs=0.01)
    assert chance(np.zeros(0, bool), 0.5) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(200))
def test_curve_and_calibration_by_counting(seed):
    """Few distinct scores, so many ties; some cases have no key clip or no clip at all."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 30))
    scores, labels = rng.integers(0, 8, count) / 7, rng.random(count) < rng.choice([0.0, 0.3, 1.0])
    levels, precision, recall = precision_recall_curve(scores, labels)
    assert levels.tolist() == sorted(set(scores.tolist()), reverse=True)
    for level, p, r in zip(levels, precision, recall, strict=True):
        expected = by_counting((scores >= level).tolist(), labels.tolist())
        assert (p, r) == pytest.approx(expected[:2])
    found = calibration(scores, labels, bins=5)
    off = 0.0
    for place in range(5):
        last = place == 4
        inside = [i for i, s in enumerate(scores) if place / 5 <= s and (s < (place + 1) / 5 or (last and s <= 1))]
        assert found.counts[place] == len(inside)
        if inside:
            assert found.scores[place] == pytest.approx(np.mean([scores[i] for i in inside]))
            assert found.shares[place] == pytest.approx(np.mean([labels[i] for i in inside]))
            off += abs(sum(scores[i] - labels[i] for i in inside))
    assert found.error == pytest.approx(off / max(count, 1))


def test_calibration_needs_scores_in_0_to_1():
    with pytest.raises(UserError, match=r"scores lie within 0 to 2; calibration needs scores in 0 to 1"):
        calibration([0, 2], [0, 1])
