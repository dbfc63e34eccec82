"""eval.py with movie50's protocol: a checkpoint and records, and the files in --output."""

import csv
import json

import numpy as np
import pytest
from flax import nnx

import avmsnet_jax
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.data.clips import Clip
from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import movie50
from avmsnet_jax.evaluation.movie50 import evaluate, file_name
from avmsnet_jax.scoring.attention import Attention
from avmsnet_jax.scoring.network import Network
from avmsnet_jax.scoring.records import score_records
from tests.conftest import one_line

pytestmark = pytest.mark.usefixtures("compiled_before")
VIDEOS = {"100% für Ältere", "a film, with spaces"}


@pytest.fixture(scope="module")
def threshold(small_run, small_config):
    """The median of the scores, so that clips lie on both sides of it."""
    return float(np.median([clip["score"] for clip in scores(small_run, small_config, 4)]))


@pytest.fixture(scope="module")
def done(forked, small_config_file, small_run, threshold, tmp_path_factory):
    output = tmp_path_factory.mktemp("eval") / "made" / "results"
    arguments = ["--config", small_config_file, "--checkpoint", small_run, "--output", output]
    process = forked("eval.py", *arguments, f"--config.eval.threshold={threshold!r}")
    assert (process.returncode, process.stderr) == (0, ""), process.stderr
    return process, output


@pytest.fixture
def config(small_config):
    return small_config


def scores(run, config, batch_size, split="test"):
    model = avmsnet_jax.load(run)
    records = open_split(config.data.dir, split, model.config)
    mesh = mesh_lib.make_mesh(config.mesh)
    return list(score_records(Network(model, mesh, batch_size, fixed_groups=True), records, threads=2))


def tables(output):
    return {path.stem: list(csv.DictReader(path.open(newline=""))) for path in (output / "scores").iterdir()}


def test_the_written_files(done):
    _, output = done
    assert {path.name for path in output.iterdir()} >= {"metrics.json", "scores"}
    assert {path.name for path in (output / "scores").iterdir()} == {f"{video}.csv" for video in VIDEOS}
    assert [path.name for path in output.parent.iterdir()] == ["results"]  # no partial output remains
    for path in (output / "scores").iterdir():
        assert path.read_text().splitlines()[0] == "frame,score,label"


def test_every_clip_has_a_row_with_its_own_label(done, small_config):
    records = list(open_split(small_config.data.dir, "test"))
    expected = {(str(r["video"]), int(r["frame"])): int(r["label"]) for r in records}
    rows = [(video, int(row["frame"]), int(row["label"])) for video, table in tables(done[1]).items() for row in table]
    assert len(rows) == len(records) == 18
    assert {(video, frame): label for video, frame, label in rows} == expected
    for table in tables(done[1]).values():
        frames = [int(row["frame"]) for row in table]
        assert frames == sorted(frames)


def test_the_figures_equal_those_counted_from_the_score_files(done, threshold):
    """Recounted from the score files of all videos."""
    process, output = done
    rows = [row for table in tables(output).values() for row in table]
    key = [row["label"] == "1" for row in rows]
    called = [float(row["score"]) >= threshold for row in rows]
    hits = sum(k and c for k, c in zip(key, called, strict=True))
    metrics = json.loads((output / "metrics.json").read_text())
    precision, recall, share = hits / sum(called), hits / sum(key), sum(key) / len(key)
    assert 0 < sum(called) < len(rows)
    assert metrics["precision"] == pytest.approx(precision)
    assert metrics["recall"] == pytest.approx(recall)
    assert metrics["fscore"] == pytest.approx(2 * precision * recall / (precision + recall) if hits else 0)
    assert metrics["threshold"] == threshold
    assert (metrics["num_clips"], metrics["num_key_clips"], metrics["num_predicted"]) == (18, sum(key), sum(called))
    assert metrics["chance"]["coin"] == {
        "precision": pytest.approx(share),
        "recall": 0.5,
        "fscore": pytest.approx(share / (share + 0.5)),
    }
    assert metrics["chance"]["every_clip"] == {
        "precision": pytest.approx(share),
        "recall": 1.0,
        "fscore": pytest.approx(2 * share / (share + 1)),
    }
    assert metrics["split"] == "test"
    for figure in (precision, recall, share):
        assert f"{figure:.3f}" in process.stdout


def test_the_attention_row_is_recomputed(done, small_config, threshold):
    """Each film's clips in one call of the attention scorer, without batches."""
    rows, scorer = [], Attention(8, 32)
    for video in VIDEOS:
        film = [record for record in open_split(small_config.data.dir, "test") if str(record["video"]) == video]
        names = ("frame", "time_s", "clip", "sound", "has_sound")
        measured = scorer.measure([Clip(**{name: record[name] for name in names}) for record in film])
        found = scorer.finish(measured).scores
        rows += [(score >= threshold, bool(record["label"])) for score, record in zip(found, film, strict=True)]
    hits, called, key = sum(c and k for c, k in rows), sum(c for c, _ in rows), sum(k for _, k in rows)
    attention = json.loads((done[1] / "metrics.json").read_text())["rows"]["attention"]
    assert attention["precision"] == pytest.approx(hits / called)
    assert attention["recall"] == pytest.approx(hits / key)
    assert "attention" in (done[1] / "report.md").read_text()
    assert "attention" in done[0].stdout


def test_the_attention_scorer_is_evaluated_without_a_checkpoint(forked, small_config_file, done, tmp_path):
    process = forked("eval.py", "--config", small_config_file, "--output", tmp_path / "out")
    assert (process.returncode, process.stderr) == (0, ""), process.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(metrics["rows"]) == ["attention", "random", "uniform", "human"]
    assert metrics["fscore"] == metrics["rows"]["attention"]["fscore"]
    assert metrics["rows"]["attention"]["average_precision"] == pytest.approx(
        json.loads((done[1] / "metrics.json").read_text())["rows"]["attention"]["average_precision"]
    )
    assert set(tables(tmp_path / "out")) == VIDEOS
    assert "not learned from people" in (tmp_path / "out" / "report.md").read_text()


def test_scores_equal_the_network_output(done, small_run, small_config):
    """One clip at a time by calling the model directly."""
    model = avmsnet_jax.load(small_run)
    record = open_split(small_config.data.dir, "test")[10]
    [row] = [row for row in tables(done[1])[str(record["video"])] if int(row["frame"]) == record["frame"]]
    score = nnx.jit(lambda model, *clip: model(*clip).scores)(model, record["clip"][None], record["sound"][None])[0]
    assert float(row["score"]) == pytest.approx(float(score), abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_every_clip_is_scored_once_for_any_batch_size(small_run, small_config, batch_size, done):
    """18 clips: the last batch of 7 has 4 clips, the last batch of 4 has 2."""
    found = scores(small_run, small_config, batch_size)
    names = [(clip["video"], clip["frame"]) for clip in found]
    assert len(names) == len(set(names)) == 18
    table = {(video, int(row["frame"])): float(row["score"]) for video, rows in tables(done[1]).items() for row in rows}
    np.testing.assert_allclose([clip["score"] for clip in found], [table[name] for name in names], atol=1e-6)


def test_a_step_of_a_run_is_evaluated_on_another_split(small_run, config, tmp_path):
    metrics = evaluate(config, str(small_run / "checkpoints" / "4"), "train", tmp_path / "out")
    assert (metrics["split"], metrics["num_clips"]) == ("train", 18)
    assert set(tables(tmp_path / "out")) == {"one", "two"}


def test_results_are_never_overwritten(small_run, config, tmp_path, forked, small_config_file):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    arguments = ["--config", small_config_file, "--checkpoint", small_run, "--output", tmp_path / "out"]
    line = one_line(forked("eval.py", *arguments))
    assert line == (
        f"eval.py: {tmp_path / 'out'} exists and is not an empty directory; choose another --output or remove it"
    )
    with pytest.raises(UserError, match="exists and is not an empty directory"):
        evaluate(config, str(small_run), "test", tmp_path / "out" / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [("mine.txt", "mine")]


def test_an_empty_output_directory_is_used(small_run, config, tmp_path):
    (tmp_path / "out").mkdir()
    evaluate(config, str(small_run), "test", tmp_path / "out")
    assert set(tables(tmp_path / "out")) == VIDEOS


def test_invalid_input_is_refused_and_leaves_no_files(small_run, small_config, tmp_path):
    for settings, checkpoint, split, message in [
        ({}, "/none", "test", "no checkpoint at /none: no such directory"),
        ({}, str(tmp_path), "test", f"no checkpoint in {tmp_path}"),
        ({}, str(small_run), "dev", "has no split 'dev'; it has test, train"),
        ({"data.dir": ""}, str(small_run), "test", "no records given; set --config.data.dir"),
        ({"data.dir": "/none"}, str(small_run), "test", "there is no folder of records /none"),
        ({"mesh.data": 64}, str(small_run), "test", "mesh.data is 64, but there are"),
    ]:
        config = small_config
        for name, value in settings.items():
            section, field = name.split(".")
            config = config.replace(**{section: {field: value}})
        with pytest.raises(UserError) as caught:
            evaluate(config, checkpoint, split, tmp_path / "made" / "out")
        assert message in str(caught.value)
        assert list(tmp_path.iterdir()) == []


def test_unwritable_output_fails_before_scoring(small_run, config, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("scored")

    monkeypatch.setattr("avmsnet_jax.evaluation.movie50.score_split", never)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/out: "):
        evaluate(config, str(small_run), "test", tmp_path / "file" / "out")


def test_file_names_of_videos_are_safe_and_distinct():
    videos = ["plain", "a/b", "a%2Fb", "a%252Fb", "a%b", "100%", "../up", "/root", "ü", "with space", "..", "a\\b"]
    names = [file_name(video) for video in videos]
    assert len(set(names)) == len(videos)
    assert not [name for name in names if "/" in name]
    assert [name for name, video in zip(names, videos, strict=True) if name != video] == [
        *("a%2Fb", "a%252Fb", "a%25252Fb", "..%2Fup", "%2Froot")
    ]


def test_failing_plot_does_not_affect_other_films(small_run, config, tmp_path, monkeypatch):
    def draw(rows, threshold, context, path, attention):
        if rows[0]["video"] == "a film, with spaces":
            raise ValueError("unforeseen")
        path.parent.mkdir(exist_ok=True)
        path.touch()

    monkeypatch.setattr(movie50, "score_curve", draw)
    metrics = movie50.evaluate(config, str(small_run), "test", tmp_path / "out")
    assert list(metrics["failed"]) == ["a film, with spaces"]
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(list((tmp_path / "out" / "scores").iterdir())) == 2
    assert [path.stem for path in (tmp_path / "out" / "plots").iterdir()] == ["100% für Ältere"]


def test_nan_scores_are_an_error(small_run, small_config):
    """Finite weights can give NaN scores: here by a negative variance."""
    model = avmsnet_jax.load(small_run)
    model.fc2_bn.var[...] = model.fc2_bn.var[...] * 0 - 1
    records = open_split(small_config.data.dir, "test", model.config)
    mesh = mesh_lib.make_mesh(small_config.mesh)
    with pytest.raises(UserError, match="the network's scores are NaN or infinite"):
        list(score_records(Network(model, mesh, 4, fixed_groups=True), records, threads=2))
