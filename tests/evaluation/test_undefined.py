"""Undefined figures: a dash and the reason in tables, null in JSON, empty in CSV, and a note in plots."""

import csv
import json

import numpy as np
import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import baselines, benchmark_report, comparison, given_scores, movie50
from avmsnet_jax.evaluation.annotations import Judged
from avmsnet_jax.scoring import records
from tests.evaluation.conftest import field_video, write_hdf5

pytestmark = pytest.mark.usefixtures("undrawn")

FIGURES = ("precision", "recall", "fscore")


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(baselines, "DRAWS", 2)


@pytest.fixture
def evaluated(small_config, networks, tmp_path, monkeypatch):
    """Evaluates given clips `{film: [(score, label), ...]}` by movie50's protocol, without a network."""

    def evaluated(films, threshold=0.5):
        clips = [
            {"video": film, "frame": 5 * number + 1, "time_s": 0.5 * number, "score": score, "label": bool(label)}
            for film, rows in films.items()
            for number, (score, label) in enumerate(rows)
        ]
        monkeypatch.setattr(movie50, "score_split", lambda *_: clips)
        monkeypatch.setattr(movie50.Network, "load", lambda *_, **__: None)
        monkeypatch.setattr(movie50.pipeline, "open_split", lambda *_: None)
        config = small_config.replace(eval={"threshold": threshold})
        metrics = movie50.evaluate(config, networks[0], "test", tmp_path / "out")
        assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
        return metrics, (tmp_path / "out" / "report.md").read_text(), movie50.summary(metrics)

    return evaluated


def row(table, name):
    """The cells of the first row of this name in a report."""
    line = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


@pytest.mark.parametrize(
    "films",
    [
        {"a": [(0.9, 0), (0.1, 0)]},
        {"a": [(0.2, 0)], "b": [(0.7, 0), (0.6, 0)]},
        {"a": [(0.1, 0), (0.2, 0), (0.3, 0)]},  # no clip is predicted key either
    ],
)
def test_without_key_clips_all_rows_are_undefined(evaluated, films, tmp_path):
    metrics, report, said = evaluated(films)
    assert [metrics[name] for name in (*FIGURES, "average_precision")] == [None] * 4
    for name in ("model", "random", "uniform"):
        assert [metrics["rows"][name][figure] for figure in FIGURES] == [None] * 3
        assert row(report, name) == ["-"] * 4  # with average precision
    assert metrics["rows"]["model"]["interval"] == dict.fromkeys(FIGURES)
    assert set(metrics["films"].values()) == {None}
    reason = "a key moment, so precision, recall, F and average precision are undefined"
    for text in (report, said, " ".join(metrics["notes"])):
        assert reason in text
        assert "0.000" not in text
    with open(tmp_path / "out" / "videos.csv", newline="") as file:
        assert {line[figure] for line in csv.DictReader(file) for figure in FIGURES} == {""}


def test_without_predicted_clips_only_precision_is_undefined(evaluated):
    metrics, report, said = evaluated({"a": [(0.2, 1), (0.1, 0)], "b": [(0.3, 1), (0.4, 0)]}, threshold=0.75)
    assert [metrics[name] for name in FIGURES] == [None, 0, 0]
    assert row(report, "model")[0] == "-"
    assert metrics["rows"]["random"]["precision"] == 0.5
    assert metrics["average_precision"] == pytest.approx(7 / 12)  # the key clips rank second and third of four
    assert "No score reaches the threshold, so precision is undefined and F is 0" in report
    assert "Precision -, recall 0.000, F 0.000" in said


def test_a_film_without_key_clips_does_not_count_in_the_means(evaluated):
    films = {"a": [(0.9, 1), (0.1, 0)], "b": [(0.8, 0), (0.2, 0)], "c": [(0.6, 0), (0.7, 1)]}
    metrics, report, _ = evaluated(films)
    assert metrics["films"]["average_precision"]["count"] == 2
    assert metrics["films"]["average_precision"]["mean"] == 1
    assert metrics["films"]["fscore"]["mean"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["precision"] == 2 / 4  # the film counts in the pooled figures
    assert "1 of the 3 films have no key moment" in report
    low, high = metrics["rows"]["model"]["interval"]["fscore"]
    assert 0 < low <= high <= 1  # resamples without key clips are left out, not counted as 0


def test_one_film_has_no_interval_and_the_report_says_so(evaluated):
    metrics, report, _ = evaluated({"a": [(0.9, 1), (0.1, 0)]})
    assert metrics["rows"]["model"]["interval"] == dict.fromkeys(FIGURES)
    assert "[95% interval: none, as there is one film]" in report


def test_no_threshold_is_chosen_without_key_clips(small_config, monkeypatch):
    clips = [{"video": "v", "frame": frame, "score": 0.1 * frame, "label": False} for frame in range(4)]
    monkeypatch.setattr(records, "score_split", lambda *_: clips)
    monkeypatch.setattr(records.pipeline, "open_split", lambda *_: None)
    config = small_config.replace(eval={"threshold_split": "train"})
    with pytest.raises(
        UserError, match=r"no clip of eval\.threshold_split=train in .* is a key moment.*choose a split"
    ):
        records.choose_threshold(config, None, 0, [])


def judged(tmp_path, scores, **changes):
    """The report of SumMe's protocol on one video with three users and 20 scores."""
    rng = np.random.default_rng(3)
    path = write_hdf5(tmp_path / "field.h5", {"video_1": field_video(rng, **changes)})
    (tmp_path / "s.json").write_text(json.dumps({"video_1": list(scores)}))
    metrics = given_scores.evaluate([path], tmp_path / "s.json", "summe", None, 0.5, tmp_path / "out")
    return metrics, (tmp_path / "out" / "report.md").read_text()


def of(metrics, row, measure):
    return metrics["rows"][row][measure]["videos"]


def test_equal_scores_have_no_tau_and_rho(tmp_path):
    metrics, report = judged(tmp_path, [0.4] * 20)
    for name in ("model", "uniform"):
        assert of(metrics, name, "scores_tau") is of(metrics, name, "scores_rho") is None
    assert of(metrics, "random", "scores_tau") is not None
    assert "No tau and rho of the scores for 1 of the 1 prediction, as the scores are all equal" in report
    assert row(report, "uniform")[4:] == ["-", "-"]
    assert "uniform: equal scores, which have no tau and rho" in benchmark_report.text(metrics)


def test_users_who_chose_nothing_leave_f1_undefined(tmp_path):
    metrics, report = judged(tmp_path, np.linspace(0, 1, 20), user_summary=np.zeros((3, 300), np.float32))
    for name in ("model", "random", "uniform", "human"):
        assert {of(metrics, name, measure) is None for measure in metrics["measures"]} == {True}
        assert row(report, name) == ["-"] * 6
    assert "No F1 of 1 of the 1 video, as no user chose a frame of it" in report
    assert metrics["fscore"] is None


def test_a_single_user_has_no_human_row(tmp_path):
    chosen = np.zeros((1, 300), np.float32)
    chosen[0, 40:60] = 1
    metrics, report = judged(tmp_path, np.linspace(0, 1, 20), user_summary=chosen)
    assert of(metrics, "human", "f1_max") is None
    assert of(metrics, "model", "f1_max") is not None
    assert "No human row for 1 of the 1 video: there is a single user" in report


def test_a_split_without_videos_leaves_no_mean_over_splits(tmp_path):
    rng = np.random.default_rng(3)
    path = write_hdf5(tmp_path / "field.h5", {f"video_{n}": field_video(rng) for n in (1, 2)})
    scores = {f"video_{n}": np.linspace(0, 1, 20).tolist() for n in (1, 2)}
    (tmp_path / "s.json").write_text(json.dumps([scores, scores]))
    splits = [{"train_keys": ["video_2"], "test_keys": ["video_1"]}, {"train_keys": ["video_1"], "test_keys": []}]
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    arguments = [path], tmp_path / "s.json", "summe", tmp_path / "splits.json", 0.5
    metrics = given_scores.evaluate(*arguments, tmp_path / "out")
    assert metrics["rows"]["model"]["f1_max"]["splits"] is None
    assert of(metrics, "model", "f1_max")["count"] == 1
    assert "A mean over splits has no value where one of the splits tests no video that has one." in metrics["notes"]
    splits[0]["test_keys"] = []
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(UserError, match=r"no split of .*splits\.json tests a video; list some as test_keys"):
        given_scores.evaluate(*arguments, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("protocol", ["tvsum", "summe"])
def test_a_constant_user_counts_as_0_and_is_reported(tmp_path, protocol):
    rng = np.random.default_rng(0)
    scores = rng.integers(1, 6, (3, 300)).astype(np.uint8)
    scores[1] = 3
    video = Judged("v", "v", 300, np.arange(0, 300, 15), user_scores=scores, user_summaries=scores > 3)
    scored = {comparison.ALL: {"v": comparison.Scored(video.picks, rng.random(20))}}
    facts = {"scores": "s.json", "annotations": ["x"], "threshold_from": "eval.threshold", "shots": "none"}
    metrics = comparison.run(
        comparison.Trial(protocol, [video], {}, scored, {comparison.ALL: 0.5}, facts), tmp_path / "out"
    )
    note = "1 of the 3 correlations with a user count as 0, as the user's scores are all equal."
    assert (note in metrics["notes"]) == (protocol == "tvsum")
    if protocol == "tvsum":
        assert of(metrics, "human", "tau") is not None
        assert metrics["constant_pairs"] == {"of": 3, "count": 1}
