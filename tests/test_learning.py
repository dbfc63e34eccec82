"""The whole way from films without labels to a network that learned from a person's corrections, on toy movies."""

import pytest

from tests.soak.learn_from_corrections import learn


def test_a_network_trained_on_corrected_cuts_beats_attention_on_films_it_has_not_seen(tmp_path):
    figures = learn(tmp_path, films=8, seconds=40, epochs=8, compare=False)
    assert figures["attention AP"] > 0.4
    assert figures["corrected cuts, F"] > 0.95  # the key shots to the frame
    assert figures["corrected AP"] > figures["attention AP"] + 0.05


@pytest.mark.soak
def test_corrections_teach_more_than_the_cuts_of_attention(tmp_path):
    figures = learn(tmp_path, films=12, seconds=40, epochs=8)
    assert figures["corrected AP"] > figures["attention AP"] + 0.1
    assert figures["corrected AP"] > figures["uncorrected AP"] + 0.1
