import itertools

import numpy as np
import pytest

from avmsnet_jax.evaluation.metrics import chance, precision_recall_f


def by_counting(predicted, labels):
    hits = sum(1 for p, t in zip(predicted, labels, strict=True) if p and t)
    precision = hits / sum(predicted) if any(predicted) else 0.0
    recall = hits / sum(labels) if any(labels) else 0.0
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def test_every_small_case():
    """All predictions of up to four clips against all labels, none predicted, none true and no clip among them."""
    for n in range(5):
        for predicted in itertools.product([False, True], repeat=n):
            for labels in itertools.product([False, True], repeat=n):
                found = precision_recall_f(np.array(predicted, bool), np.array(labels, bool))
                assert found == pytest.approx(by_counting(predicted, labels))
                assert all(type(value) is float for value in found)


def test_by_name_and_by_hand():
    found = precision_recall_f(np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool))
    assert found._asdict() == {"precision": pytest.approx(1 / 3), "recall": 0.5, "fscore": pytest.approx(0.4)}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_chance_follows_its_formulas(share):
    labels = np.arange(100) < 100 * share
    assert chance(labels, 0.5) == pytest.approx((share, 0.5 if share else 0, share / (share + 0.5)))
    assert chance(labels, 1.0) == pytest.approx((share, 1.0 if share else 0, 2 * share / (share + 1)))
    assert chance(labels, 0.0) == (0, 0, 0)


def test_chance_is_what_a_coin_gets():
    labels = np.random.default_rng(0).random(200_000) < 0.2
    coin = np.random.default_rng(1).random(200_000) < 0.5
    assert precision_recall_f(coin, labels) == pytest.approx(chance(labels, 0.5), abs=0.01)
    assert chance(np.zeros(0, bool), 0.5) == (0, 0, 0)
