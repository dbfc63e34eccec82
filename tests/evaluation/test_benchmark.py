"""eval.py on small TVSum and SumMe records; the figures are recomputed from the written score files."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from avmsnet_jax import config as config_lib
from avmsnet_jax.data.manifest import read_manifest
from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import baselines, benchmark, best_threshold
from tests.conftest import one_line
from tests.evaluation.conftest import TVSUM

pytestmark = pytest.mark.usefixtures("undrawn")

FILES = {"metrics.json", "report.md", "videos.csv", "scores", "plots", "precision_recall.png", "calibration.png"}


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(baselines, "DRAWS", 4)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scores_of(path: Path, n_frames: int) -> np.ndarray:
    """A score for each frame; each row's score is held until the next row."""
    held, rows = {int(row["frame"]) - 1: float(row["score"]) for row in table(path)}, []
    for frame in range(n_frames):
        before = [pick for pick in held if pick <= frame]
        rows.append(held[max(before) if before else min(held)])
    return np.array(rows)


def f1(a, b) -> float:
    return 2 * np.sum(a & b) / max(np.sum(a) + np.sum(b), 1)


def test_one_fold_of_tvsum(judged_config, judged_records, networks, tmp_path):
    config = judged_config("tvsum", fold=3)
    assert baselines.protocol_of(config) == "tvsum"
    metrics = benchmark.evaluate(config, networks[:1], "tvsum", "test", tmp_path / "out")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == FILES
    assert metrics == json.loads((out / "metrics.json").read_text())
    name = TVSUM[3]
    assert [path.name for path in (out / "scores").iterdir()] == [f"{name}.csv"]
    records = list(open_split(config.data.dir, "test", fold=3))
    rows = table(out / "scores" / f"{name}.csv")
    assert [(int(row["frame"]), int(row["label"])) for row in rows] == [(r["frame"], r["label"]) for r in records]
    frames = scores_of(out / "scores" / f"{name}.csv", 150)
    said = np.load(judged_records["tvsum"] / json.loads((judged_records["tvsum"] / "manifest.json").read_text())[
        "annotations"][name])["user_scores"]  # fmt: skip
    tau = np.mean([stats.kendalltau(frames[::15], user[::15]).statistic for user in said])
    rho = np.mean([stats.spearmanr(frames[::15], user[::15]).statistic for user in said])
    model, human = metrics["rows"]["model"], metrics["rows"]["human"]
    assert model["tau"]["videos"] == {"count": 1, "mean": pytest.approx(tau), "sd": None, "interval": None}
    assert model["rho"]["videos"]["mean"] == pytest.approx(rho)
    taus = [stats.kendalltau(a[::15], b[::15]).statistic for i, a in enumerate(said) for b in np.delete(said, i, 0)]
    assert human["tau"]["videos"]["mean"] == pytest.approx(np.mean(taus))
    assert metrics["rows"]["uniform"]["tau"]["videos"] is None  # undefined for constant scores
    called = [float(row["score"]) >= 0.5 for row in rows]
    hits = sum(c and row["label"] == "1" for c, row in zip(called, rows, strict=True))
    assert metrics["precision"] == (pytest.approx(hits / sum(called)) if any(called) else None)
    assert (metrics["num_clips"], metrics["threshold"], metrics["folds"]) == (29, 0.5, {"fold 3": [name]})
    assert metrics["shots"].startswith("KTS on the scorer's features")
    for word in ("# TVSum", "| model |", "| random |", "| uniform |", "| human |", networks[0]):
        assert word in (out / "report.md").read_text()


def test_the_attention_scorer_without_and_beside_a_checkpoint(judged_config, networks, tmp_path):
    config = judged_config("tvsum", fold=3)
    alone = benchmark.evaluate(config, [], "tvsum", "test", tmp_path / "alone")
    assert list(alone["rows"]) == ["attention", "random", "uniform", "human"]
    assert {path.name for path in (tmp_path / "alone").iterdir()} == FILES
    frames = scores_of(tmp_path / "alone" / "scores" / f"{TVSUM[3]}.csv", 150)
    said = np.load(Path(config.data.dir) / read_manifest(config.data.dir).annotations[TVSUM[3]])
    tau = np.mean([stats.kendalltau(frames[::15], user[::15]).statistic for user in said["user_scores"]])
    assert alone["rows"]["attention"]["tau"]["videos"]["mean"] == pytest.approx(tau)
    beside = benchmark.evaluate(config, networks[:1], "tvsum", "test", tmp_path / "beside")
    assert list(beside["rows"]) == ["model", "attention", "random", "uniform", "human"]
    assert beside["rows"]["attention"]["tau"] == alone["rows"]["attention"]["tau"]
    assert [row["row"] for row in table(tmp_path / "beside" / "videos.csv")] == list(beside["rows"])
    for word in ("| attention |", "not learned from people"):
        assert word in (tmp_path / "alone" / "report.md").read_text()
        assert word in (tmp_path / "beside" / "report.md").read_text()


@pytest.mark.soak
def test_a_checkpoint_for_each_fold_each_with_its_own_threshold(judged_config, networks, tmp_path):
    config = judged_config("tvsum")
    config = config.replace(eval={"threshold_split": "train"})
    chosen = [networks[fold % 2] for fold in range(5)]
    metrics = benchmark.evaluate(config, chosen, "tvsum", "test", tmp_path / "out")
    scored = {
        fold: [path.stem for path in (tmp_path / "out" / "scores" / f"fold_{fold}").iterdir()] for fold in range(5)
    }
    assert scored == {fold: [name] for fold, name in enumerate(TVSUM)}
    assert metrics["rows"]["attention"]["tau"]["videos"]["count"] == 5
    lines = [row for row in table(tmp_path / "out" / "videos.csv") if row["row"] == "model"]
    assert [(row["video"], row["split"]) for row in lines] == [(name, f"fold {i}") for i, name in enumerate(TVSUM)]
    taus = [float(row["tau"]) for row in lines]
    splits = metrics["rows"]["model"]["tau"]["splits"]
    assert splits["each"] == pytest.approx(taus)
    assert (splits["mean"], splits["sd"]) == (pytest.approx(np.mean(taus)), pytest.approx(np.std(taus, ddof=1)))
    assert splits["interval"][0] <= splits["mean"] <= splits["interval"][1]
    assert metrics["num_clips"] == 5 * 29
    # Recompute the threshold: score the training videos of a fold and choose the best.
    benchmark.evaluate(judged_config("tvsum", fold=1), chosen[1:2], "tvsum", "train", tmp_path / "train")
    rows = [row for path in (tmp_path / "train" / "scores").iterdir() for row in table(path)]
    best, _ = best_threshold([float(row["score"]) for row in rows], [int(row["label"]) for row in rows])
    assert metrics["threshold"]["fold 1"] == pytest.approx(best, rel=1e-8)
    assert metrics["threshold_from"] == "split train"


def test_kts_failures_on_two_videos_do_not_affect_the_others(judged_config, networks, tmp_path, monkeypatch):
    errors = [KeyError(8), UserError("features holds NaN")]

    def failing(features, most):
        if errors:
            raise errors.pop(0)
        return np.arange(3, len(features), 3)  # shots short enough for a summary

    monkeypatch.setattr(benchmark, "kts", failing)
    metrics = benchmark.evaluate(judged_config("tvsum"), networks[:1], "tvsum", "whole", tmp_path / "out")
    assert list(metrics["failed"]) == TVSUM[:2]
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    model = metrics["rows"]["model"]
    assert (model["tau"]["videos"]["count"], model["f1_mean"]["videos"]["count"]) == (5, 3)
    assert metrics["shots"].endswith("for 3 of 5 videos")
    assert not [note for note in metrics["notes"] if "shots are not known" in note]


def test_summe_with_its_own_shots(judged_config, networks, tmp_path, downloads):
    config = judged_config("summe")
    metrics = benchmark.evaluate(config, networks[:1], baselines.protocol_of(config), "whole", tmp_path / "out")
    assert (metrics["protocol"], metrics["shots"], metrics["num_videos"]) == ("summe", "given", 2)
    assert "what the literature reports" in metrics["measures"]["summary_tau"]
    assert "not what the literature reports" in metrics["measures"]["scores_tau"]
    lines = {(row["video"], row["row"]): row for row in table(tmp_path / "out" / "videos.csv")}
    for name, count in (("Air_Force_One", 90), ("Base jumping", 120)):
        frames = scores_of(tmp_path / "out" / "scores" / f"{name}.csv", count)
        people = np.zeros((3, count), bool)
        for user in range(3):
            people[user, 10 + 2 * user : 20 + 2 * user] = people[user, 40:42] = True
        # The shots are 0-29 and 30-end: both are longer than 15% of the frames, so the summary is empty.
        row = lines[name, "model"]
        assert float(row["f1_max"]) == float(row["f1_mean"]) == 0
        assert row["summary_tau"] == ""
        mean = people.mean(0)
        assert float(row["scores_tau"]) == pytest.approx(stats.kendalltau(frames, mean).statistic)
        assert float(row["scores_rho"]) == pytest.approx(stats.spearmanr(frames, mean).statistic)
        pairs = [[f1(a, b) for j, b in enumerate(people) if j != i] for i, a in enumerate(people)]
        assert float(lines[name, "human"]["f1_max"]) == pytest.approx(np.mean([max(each) for each in pairs]))
        assert float(lines[name, "human"]["f1_mean"]) == pytest.approx(np.mean(pairs))
    assert metrics["rows"]["human"]["scores_tau"]["videos"] is None


def test_labels_of_films_count_as_a_single_user(small_config, networks, tmp_path):
    metrics = benchmark.evaluate(small_config, networks[:1], "summe", "test", tmp_path / "out")
    assert metrics["rows"]["human"]["f1_max"] == {"videos": None, "splits": None}
    rows = {path.stem: table(path) for path in (tmp_path / "out" / "scores").iterdir()}
    assert len(rows) == 2
    for name, clips in rows.items():
        labels = np.zeros(50)
        for clip in clips:
            labels[int(clip["frame"]) - 1 :] = int(clip["label"])
        frames = scores_of(tmp_path / "out" / "scores" / f"{name}.csv", 50)
        line = next(
            row for row in table(tmp_path / "out" / "videos.csv") if (row["video"], row["row"]) == (name, "model")
        )
        assert float(line["scores_tau"]) == pytest.approx(stats.kendalltau(frames, labels).statistic)


def test_videos_of_the_training_fold_are_refused(judged_config, networks, tmp_path):
    """Fold 0 trains on all videos but the first."""
    run = tmp_path / "run"
    shutil.copytree(networks[0], run / "checkpoints" / "7")
    (run / "config.json").write_text(config_lib.dumps(judged_config("tvsum", fold=0)))
    for split, fold in (("test", 1), ("whole", 0)):
        with pytest.raises(UserError, match=r"was trained on fold 0, with .* which would be tested; set"):
            benchmark.evaluate(judged_config("tvsum", fold=fold), [str(run)], "tvsum", split, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    metrics = benchmark.evaluate(judged_config("tvsum", fold=0), [str(run)], "tvsum", "test", tmp_path / "out")
    assert metrics["checkpoint"] == [str(run / "checkpoints" / "7")]


def test_the_threshold_split_must_not_overlap_the_tested_clips(judged_config, networks, tmp_path):
    config = judged_config("tvsum", fold=0)
    for split, checkpoints in (("test", networks[:1]), ("whole", [])):
        config = config.replace(eval={"threshold_split": split})
        with pytest.raises(UserError, match="that are to be judged by the threshold"):
            benchmark.evaluate(config, checkpoints, "tvsum", "test", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("checkpoints", "split", "word"),
    [
        (2, "test", "2 checkpoints are given, and .* has 5 folds"),
        (1, "unlabelled", "has no split 'unlabelled'"),
    ],
)
def test_invalid_checkpoints_and_splits_are_errors(judged_config, networks, tmp_path, checkpoints, split, word):
    with pytest.raises(UserError, match=word):
        benchmark.evaluate(judged_config("tvsum"), networks[:checkpoints], "tvsum", split, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
def test_batch_size_and_number_of_devices_do_not_change_figures(
    forked, networks, judged_records, small_records, tmp_path
):
    """Bit-identical for every batch size; the number of simulated CPU devices may change the last bit of a score."""
    (tmp_path / "program.py").write_text(
        "import sys, pathlib\n"
        "from avmsnet_jax.config import Config, DataConfig, EvalConfig\n"
        "from avmsnet_jax.evaluation import baselines, movie50, benchmark\n"
        "baselines.DRAWS = 2\n"
        "network, films, tvsum, output, sizes = sys.argv[1:]\n"
        "for size in map(int, sizes.split(',')):\n"
        "    settings = EvalConfig(batch_size=size)\n"
        "    config = Config(data=DataConfig(dir=films, threads=1), eval=settings)\n"
        "    movie50.evaluate(config, network, 'test', pathlib.Path(output, f'films_{size}'))\n"
        "    config = Config(data=DataConfig(dir=tvsum, threads=1), eval=settings)\n"
        "    benchmark.evaluate(config, [network], 'tvsum', 'test', pathlib.Path(output, f'tvsum_{size}'))\n"
    )
    for devices, sizes in (1, "1,7"), (8, "64"):
        arguments = [networks[0], small_records, judged_records["tvsum"], tmp_path / str(devices), sizes]
        done = forked("-m", "tests.virtual_devices", devices, tmp_path / "program.py", *arguments)
        assert done.returncode == 0, done.stderr
    for kind, clips in (("films", 18), ("tvsum", 29)):
        first = tmp_path / "1" / f"{kind}_1"
        names = [path.relative_to(first) for path in first.rglob("*") if path.suffix in (".json", ".csv", ".md")]
        assert len(names) >= 4
        for run in ("1/{}_1", "1/{}_7", "8/{}_64"):
            metrics = json.loads((tmp_path / run.format(kind) / "metrics.json").read_text())
            assert metrics["num_clips"] == clips
        for name in names:
            assert (tmp_path / "1" / f"{kind}_7" / name).read_bytes() == (first / name).read_bytes(), name
            if name.parts[0] == "scores":
                ours, theirs = (table(tmp_path / run.format(kind) / name) for run in ("1/{}_1", "8/{}_64"))
                assert [(row["frame"], row["label"]) for row in ours] == [
                    (row["frame"], row["label"]) for row in theirs
                ]
                scores = [[float(row["score"]) for row in rows] for rows in (ours, theirs)]
                np.testing.assert_allclose(*scores, atol=1e-6)


def test_missing_options_are_errors_of_one_line(forked, tmp_path, downloads):
    mat = downloads / "tvsum" / "ydata-tvsum50-matlab" / "matlab" / "ydata-tvsum50.mat"
    assert "--annotations is missing" in one_line(forked("eval.py", "--scores=s.json", f"--output={tmp_path / 'out'}"))
    assert "movie50 tests a checkpoint" in one_line(
        forked("eval.py", f"--annotations={mat}", "--protocol=movie50", f"--output={tmp_path / 'out'}")
    )
    done = forked("eval.py", f"--annotations={mat}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "human" in done.stdout
    assert "No summary and no F1 of 5 videos, as the shots are not known" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "report.md", "videos.csv"}
