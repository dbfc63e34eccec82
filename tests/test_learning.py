"""The whole way from films without labels to a network that learned from a person's corrections, on toy movies."""

import pytest

from avmsnet_jax.config import load
from tests.soak import learn_from_corrections


def test_a_network_trained_on_corrected_cuts_beats_attention_on_films_it_has_not_seen(tmp_path):
    config = load("demo").replace(
        model={"frame_size": 32}, train={"epochs": 6, "batch_size": 8, "checkpoint_every_epochs": 6}
    )
    figures = learn_from_corrections.learn(tmp_path, config, films=8, seconds=40, compare=False)
    assert figures["corrected cuts, F"] > 0.95  # the key shots to the frame
    assert figures["corrected AP"] > figures["attention AP"] + 0.05
    assert figures["attention AP"] > 0.4


@pytest.mark.soak
def test_corrections_teach_more_than_the_cuts_of_attention(tmp_path):
    figures = learn_from_corrections.learn(tmp_path, load("demo"), films=24, seconds=40)
    assert figures["corrected AP"] > max(figures["attention AP"], figures["uncorrected AP"]) + 0.1
    assert figures["corrected F"] > 0.9
