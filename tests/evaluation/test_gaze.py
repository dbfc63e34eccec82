"""Scores and attention maps judged by gaze, on records of films whose viewers look at known places."""

import json
import shutil

import numpy as np
import pytest

from avmsnet_jax.config import Config, DataConfig, EvalConfig
from avmsnet_jax.data import clips as clips_lib
from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.sources.gaze import Setting
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import gaze, movie50
from tests.gaze import writers
from tests.media.films import encode, numbered

pytestmark = pytest.mark.usefixtures("undrawn")

SECONDS = 40


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of a film in train/ and one in test/; in every second block of 4 s six viewers look at one place."""
    folder = tmp_path_factory.mktemp("watched")
    film = encode(folder / "film.mkv", [numbered(number, height=36) for number in range(1, 25 * SECONDS + 1)])
    for split, name, first in (("train", "a", 0), ("test", "b", 6)):
        (folder / "films" / split / f"{name}.gaze").mkdir(parents=True)
        shutil.copy(film, folder / "films" / split / f"{name}.mkv")
        observers = {f"viewer{number}": writers.simulated(seed=first + number) for number in range(6)}
        writers.plain(folder / "films" / split / f"{name}.gaze", observers)
    prepare("gaze", folder / "films", folder / "records", frames=8, frame_size=32, gaze=Setting(key_share=0.5))
    return folder / "records"


@pytest.fixture
def config(records):
    return Config(data=DataConfig(dir=str(records), threads=1), eval=EvalConfig(batch_size=16))


def spot(x, y, size=28, sigma=0.08):
    """A map (size, size) with its peak at x, y."""
    down, across = np.mgrid[0:size, 0:size] / size + 0.5 / size
    return np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * sigma**2)).astype(np.float16)


def test_folders_named_train_and_test_are_the_splits(records):
    assert [str(open_split(records, split)[0]["video"]) for split in ("train", "test")] == ["a", "b"]


def test_without_a_checkpoint_the_attention_scorer_is_judged(config, tmp_path):
    metrics = movie50.evaluate(config, "", "test", tmp_path / "out")
    assert list(metrics["rows"]) == ["attention", "random", "uniform", "human"]
    assert metrics["checkpoint"] is None
    assert list(metrics["saliency"]) == ["all clips", "key clips"]
    assert list(metrics["saliency"]["all clips"]) == ["attention", "center"]
    human = metrics["rows"]["human"]
    assert human["fscore"] > 0.8
    assert 0.8 < human["correlation"] <= 1
    report = (tmp_path / "out" / "report.md").read_text()
    assert "the attention scorer, no checkpoint" in report
    assert "| center |" in report
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "Attention maps against gaze" in movie50.summary(metrics)


def test_every_attention_module_of_a_network_is_judged(config, networks, tmp_path):
    metrics = movie50.evaluate(config, networks[0], "test", tmp_path / "out")
    assert list(metrics["rows"]) == ["model", "attention", "random", "uniform", "human"]
    assert list(metrics["saliency"]["key clips"]) == ["DAM 1", "DAM 2", "DAM 3", "attention", "center"]
    for figures in metrics["saliency"]["all clips"].values():
        assert set(figures) == {"nss", "cc", "auc_judd", "auc_shuffled"}
        assert -1 <= figures["cc"]["mean"] <= 1
        assert 0 <= figures["auc_judd"]["mean"] <= 1


def test_a_map_of_where_viewers_look_beats_the_center(records):
    """Reads the film's gaze clip by clip; the target is that of `writers.simulated`."""
    viewers = gaze.of_records(str(records))
    held = []
    for record in open_split(records, "test"):
        now = float(record["time_s"])
        if now // 4 % 2:
            x, y = 0.5 + 0.3 * np.sin(now // 1 / 3), 0.5 + 0.3 * np.cos(now // 1 / 5)
            maps = {"right": spot(x, y), "mirrored": spot(1 - x, y), "center": gaze.center_map()}
            row = {"video": "b", "frame": int(record["frame"])}
            held.append(row | {"judged": gaze.judge(viewers, row, maps)})
    found = {name: {key: value["mean"] for key, value in each.items()} for name, each in gaze.summarized(held).items()}
    assert found["right"]["nss"] > 2 > 1 > found["center"]["nss"]
    assert found["right"]["cc"] > 0.5 > found["center"]["cc"]
    assert found["right"]["auc_judd"] > 0.9
    assert found["right"]["auc_shuffled"] > 0.85 > found["center"]["auc_shuffled"]
    assert found["mirrored"]["nss"] < found["right"]["nss"]


def test_points_are_those_of_the_frames_of_a_clip(records):
    viewers = gaze.of_records(str(records))
    positions = viewers.of("b").positions
    for record in open_split(records, "test"):
        frame = int(record["frame"])
        (center,) = [each for each in range(25, 25 * SECONDS, 25) if clips_lib.label_frame(each) == frame]
        wanted = [positions[:, number - 1] for number in clips_lib.frame_list(center, 8)]
        wanted = np.concatenate([each[np.isfinite(each[:, 0])] for each in wanted])
        found = viewers.points("b", frame)
        assert sorted(map(tuple, found)) == sorted(map(tuple, wanted))


def test_correlation_follows_the_curve(records):
    viewers = gaze.of_records(str(records))
    curve = viewers.of("b").curve
    clips = [{"video": "b", "frame": frame} for frame in range(26, 900, 25)]
    same = [clip | {"score": curve[clip["frame"] - 1]} for clip in clips]
    assert gaze.correlation(viewers, same) == pytest.approx(1)
    assert gaze.correlation(viewers, [clip | {"score": -clip["score"]} for clip in same]) == pytest.approx(-1)
    assert gaze.correlation(viewers, [clip | {"score": 0.5} for clip in clips]) is None


def test_halves_that_agree_are_a_perfect_human_row(records, tmp_path):
    changed = copied(records, tmp_path, lambda kept: kept | {"halves": kept["halves"][:, [0, 0]]})
    clips = [{"video": "b", "frame": frame} for frame in range(26, 900, 25)]
    human = gaze.human(gaze.of_records(str(changed)), clips)
    assert human == pytest.approx(dict.fromkeys(("precision", "recall", "fscore", "correlation"), 1.0))


def copied(records, tmp_path, change):
    """The records with what is kept of film b changed."""
    shutil.copytree(records, tmp_path / "records")
    manifest = json.loads((tmp_path / "records" / "manifest.json").read_text())
    place = tmp_path / "records" / manifest["annotations"]["b"]
    np.savez_compressed(place, **change(dict(np.load(place))))
    return tmp_path / "records"


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: {name: values for name, values in kept.items() if name != "gaze"},
        lambda kept: kept | {"gaze": kept["gaze"][:, :10]},
        lambda kept: kept | {"halves": kept["halves"][:, 0]},
        lambda kept: kept | {"sigma": np.array(0.0)},
        lambda kept: kept | {"aspect": np.array(np.nan)},
        lambda kept: kept | {"key_share": np.arange(3)},
    ],
)
def test_damaged_gaze_is_an_error_of_one_line(records, tmp_path, change):
    changed = copied(records, tmp_path, change)
    with pytest.raises(UserError, match=r"b\.npz does not hold the gaze of a film's viewers; prepare the data again"):
        gaze.of_records(str(changed)).of("b")


def test_records_without_gaze_have_no_viewers(small_config):
    assert gaze.of_records(small_config.data.dir) is None
