"""SoundNet's features in summaries by attention."""

import csv
import dataclasses

import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.summarization.run import summarize
from tests.scoring.test_attention import save_network
from tests.summarization.test_run import CONFIG, facts_of, film


def with_soundnet(path):
    return dataclasses.replace(CONFIG, summarize=dataclasses.replace(CONFIG.summarize, soundnet=str(path)))


def columns(folder):
    with open(folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_soundnet_changes_the_novelty_of_a_film_that_was_summarized_without(tmp_path):
    path, out = film(tmp_path / "film.mkv"), tmp_path / "out"
    save_network(tmp_path / "weights")
    summarize([path], "", out, CONFIG)
    plain = columns(out / "film")
    (outcome,) = summarize([path], "", out, with_soundnet(tmp_path / "weights"), overwrite=True)
    assert not outcome.error
    found = columns(out / "film")
    assert found["novelty"] != plain["novelty"]
    assert found["motion"] == plain["motion"]
    assert facts_of(out / "film")["facts"]["SoundNet"] == str(tmp_path / "weights")


def test_a_soundnet_that_is_not_there_or_not_used_is_an_error_before_any_film_is_watched(tmp_path):
    path, weights, out = film(tmp_path / "film.mkv"), tmp_path / "weights", tmp_path / "out"
    save_network(weights)
    with pytest.raises(UserError, match=r"no checkpoint at .*nowhere"):
        summarize([path], "", out, with_soundnet(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"summarize\.soundnet is for scores without --checkpoint"):
        summarize([path], str(weights), out, with_soundnet(weights))
    assert not out.exists()
