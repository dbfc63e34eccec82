"""Toy movies without labels are summarized, corrected by a person, and used to train a network."""

import functools

import pytest

from avmsnet_jax.data import pipeline
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.summarization import reviewed
from avmsnet_jax.toy import movies
from tests.soak import learn_from_corrections as loop


def test_records_of_corrected_cuts_have_the_labels_of_the_key_shots(tmp_path):
    films, summaries = tmp_path / "films", tmp_path / "summaries"
    movies.render(films, films=2, seconds=12, seed=0)
    sizes = {"frame_size": 32, "test_fraction": 0.0}
    prepare("movies", films, tmp_path / "wanted", **sizes)
    truth = loop.hide_labels(films)
    loop.make_cuts(films, summaries)
    assert loop.look_through(films, summaries, None) < 0.9  # attention does not cut as the key shots do
    assert loop.look_through(films, summaries, truth) > 0.9
    prepare("movies", films, tmp_path / "found", **sizes, elsewhere=functools.partial(reviewed.key_shots, summaries))
    wanted, found = (
        [(str(record["video"]), int(record["frame"]), int(record["label"])) for record in opened]
        for opened in (pipeline.open_split(tmp_path / name, "train") for name in ("wanted", "found"))
    )
    assert found == wanted
    assert sum(label for *_, label in found) == 2


@pytest.mark.soak
def test_corrections_teach_more_than_attention_and_its_cuts(tmp_path):
    figures = loop.learn(tmp_path, films=12, seconds=40, epochs=8)
    assert figures["corrected cuts, F"] > 0.95  # the key shots to the frame
    assert figures["corrected AP"] > figures["attention AP"] + 0.1
    assert figures["corrected AP"] > figures["uncorrected AP"] + 0.1
