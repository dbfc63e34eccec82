"""eval.py on the scores of other models: file formats, HDF5 annotations, and scores that do not fit."""

import csv
import json

import h5py
import numpy as np
import pytest
from scipy import stats

from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import baselines, bootstrap, f1_score, frame_scores, given_scores, plots, summary
from avmsnet_jax.evaluation.annotations import read_annotations
from avmsnet_jax.evaluation.score_files import read_scores
from tests.data.sources.downloads import votes, write_tvsum_mat
from tests.evaluation.conftest import field_video, write_hdf5

pytestmark = pytest.mark.usefixtures("undrawn")

COUNT = 5  # a video for each split


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(baselines, "DRAWS", 2)


@pytest.fixture
def field(tmp_path):
    """TVSum's HDF5 file with videos of 20 users, its .mat file, and a score for every pick."""
    rng = np.random.default_rng(0)
    videos = {f"video_{number}": field_video(rng, users=20) for number in range(1, COUNT + 1)}
    write_tvsum_mat(
        tmp_path / "ydata-tvsum50.mat", {f"id{number}": votes(300, number) for number in range(1, COUNT + 1)}
    )
    paths = [write_hdf5(tmp_path / "field.h5", videos), tmp_path / "ydata-tvsum50.mat"]
    return paths, videos, {key: rng.random(20) for key in videos}


def run(paths, scores, output, protocol="", splits=None):
    return given_scores.evaluate(paths, scores, protocol, splits, 0.5, output)


def lines(output):
    with open(output / "videos.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["row"] == "model"]


def test_several_annotation_files_are_combined(field, tmp_path):
    paths, videos, scores = field
    (tmp_path / "s.json").write_text(json.dumps({key: values.tolist() for key, values in scores.items()}))
    metrics = run(paths, tmp_path / "s.json", tmp_path / "out")
    assert (metrics["protocol"], metrics["shots"], metrics["notes"]) == ("tvsum", "given", [])
    for number, row in enumerate(lines(tmp_path / "out"), start=1):
        held, said = videos[f"video_{number}"], votes(300, number)
        frames = frame_scores(scores[f"video_{number}"], held["picks"], 300)
        chosen = summary(frames, held["change_points"])
        assert row["video"] == f"id{number}"
        assert float(row["f1_mean"]) == pytest.approx(f1_score(chosen, held["user_summary"]))
        tau = np.mean([stats.kendalltau(frames[::15], user[::15]).statistic for user in said])
        assert float(row["tau"]) == pytest.approx(tau)
    only = run(paths[:1], tmp_path / "s.json", tmp_path / "only")
    assert only["rows"]["model"]["tau"]["videos"] is None
    assert "give ydata-tvsum50.mat" in only["notes"][0]


def test_every_file_format_holds_the_same_scores(field, tmp_path):
    paths, videos, scores = field
    listed = {key: values.tolist() for key, values in scores.items()}
    (tmp_path / "one.json").write_text(json.dumps(listed))
    (tmp_path / "splits.json").write_text(json.dumps([listed] * 5))
    with h5py.File(tmp_path / "plain.h5", "w") as plain, h5py.File(tmp_path / "groups.h5", "w") as groups:
        for key, values in scores.items():
            plain[key], groups[f"{key}/score"] = values, values
    for name in ("npy", "csv", "parts"):
        (tmp_path / name).mkdir()
    for key, values in scores.items():
        np.save(tmp_path / "npy" / f"{key}.npy", values)
        rows = [
            f"{pick + 1},{value!r}" for pick, value in zip(videos[key]["picks"].tolist(), values.tolist(), strict=True)
        ]
        (tmp_path / "csv" / f"{key}.csv").write_text("\n".join(["frame,score", *rows]))
    for number in range(5):
        (tmp_path / "parts" / f"split{number}").mkdir()
        (tmp_path / "parts" / f"split{number}" / "epoch.json").write_text(json.dumps(listed))
    judged = read_annotations(paths).videos
    wanted = {video.name: (list(range(0, 300, 15)), listed[video.key]) for video in judged}
    tables = {"one.json": 1, "plain.h5": 1, "groups.h5": 1, "npy": 1, "csv": 1, "splits.json": 5, "parts": 5}
    for name, count in tables.items():
        found = read_scores(tmp_path / name, judged)
        assert len(found) == count, name
        for table in found:
            assert {video: (each.picks.tolist(), each.scores.tolist()) for video, each in table.items()} == wanted, name

    once, five_times = (
        run(paths, tmp_path / name, tmp_path / f"out_{name}")["rows"]["model"]["tau"]["splits"]
        for name in ("one.json", "parts")
    )
    assert once == five_times
    (again,) = read_scores(tmp_path / "out_one.json" / "scores", judged)  # as eval.py wrote them
    for video, (picks, values) in wanted.items():
        assert again[video].picks.tolist() == picks
        assert again[video].scores == pytest.approx(values)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda scores: scores.pop("video_3"), "has no scores of id3; add them"),
        (lambda scores: scores.update(video_3=[0.1] * 19), "there are 19 scores; give 20, one for each pick, or 300"),
        (lambda scores: scores.update(video_3=[float("nan")] * 20), "holds NaN"),
        (lambda scores: scores.update(elsewhere=[0.1]), "no video is called 'elsewhere'"),
        (lambda scores: scores.update(id3=[0.1] * 20), "holds the scores of .* twice"),
    ],
)
def test_scores_that_do_not_fit_are_errors(field, tmp_path, change, word):
    paths, _, scores = field
    listed = {key: values.tolist() for key, values in scores.items()}
    change(listed)
    (tmp_path / "s.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=word):
        run(paths, tmp_path / "s.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_of_several_epochs_are_refused(field, tmp_path):
    (tmp_path / "runs").mkdir()
    for epoch in ("1", "2"):
        (tmp_path / "runs" / f"{epoch}.json").write_text("{}")
    with pytest.raises(UserError, match="keep the one that is to be tested"):
        run(field[0], tmp_path / "runs", tmp_path / "out")


def test_means_over_splits_and_their_interval():
    values = np.array([[1.0, np.nan], [2.0, 4.0], [np.nan, 8.0]])
    found = bootstrap.over_splits(values)
    assert (found["each"], found["mean"]) == ([1.5, 6.0], 3.75)
    assert found["sd"] == pytest.approx(np.std([1.5, 6.0], ddof=1))
    assert bootstrap.over_splits(np.array([[1.0, np.nan]])) is None
    assert bootstrap.over_videos(np.array([np.nan])) is None


def test_bootstrap_interval_equals_scipy():
    values = np.random.default_rng(1).normal(size=40)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=2).confidence_interval
    assert bootstrap.over_videos(values)["interval"] == pytest.approx([theirs.low, theirs.high], abs=0.02)


@pytest.mark.parametrize("broken", ["baselines.of_random", "baselines.of_scores", "plots.judged_curve"])
def test_unexpected_error_on_one_video_does_not_affect_the_others(field, tmp_path, monkeypatch, broken):
    paths, _, scores = field
    (tmp_path / "s.json").write_text(json.dumps({key: values.tolist() for key, values in scores.items()}))
    owner, name = {"baselines": baselines, "plots": plots}[broken.split(".")[0]], broken.split(".")[1]
    real = getattr(owner, name)

    def failing(*arguments):
        names = [getattr(argument, "name", argument) for argument in arguments]
        if any(isinstance(name, str) and name == "video_3" for name in names):
            raise KeyError(8)
        return real(*arguments)

    monkeypatch.setattr(owner, name, failing)
    metrics = run(paths[:1], tmp_path / "s.json", tmp_path / "out")
    assert list(metrics["failed"]) == ["video_3"]
    assert metrics["failed"]["video_3"].startswith("unexpected error: KeyError: 8; the traceback is in ")
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(list((tmp_path / "out" / "plots").iterdir())) == COUNT - (owner is plots)
    figures = metrics["rows"]["random" if name == "of_random" else "model"]["f1_mean"]["videos"]
    assert figures["count"] == COUNT - (owner is baselines)
