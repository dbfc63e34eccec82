"""Records are scored film by film, whatever the batches are."""

import numpy as np
import pytest

from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.scoring.records import score_records
from tests.scoring.stub import Stub


class Ranked(Stub):
    """Scores a clip by the rank of its time in the film."""

    def finish(self, measured):
        ranks = np.argsort(np.argsort(measured["scores"])) / len(measured["scores"])
        return super().finish({"scores": ranks.astype(np.float32)})


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_scores_depend_on_all_clips_of_a_film_and_on_no_other_film(small_config, batch_size):
    records = open_split(small_config.data.dir, "test")
    rows = list(score_records(Ranked(lambda clip: clip.time_s, batch_size=batch_size), records, threads=1))
    assert [(row["video"], row["frame"]) for row in rows] == [(str(r["video"]), int(r["frame"])) for r in records]
    films = {row["video"] for row in rows}
    assert len(films) > 1
    for film in films:
        scores = [row["score"] for row in rows if row["video"] == film]
        assert scores == pytest.approx(np.arange(len(scores)) / len(scores))
