import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.sources import folds, summe
from avmsnet_jax.data.sources.judged import key_frames
from avmsnet_jax.errors import UserError
from tests.data.sources.downloads import chosen, write_summe, write_summe_mat

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """Three videos; in order of their names the one with the small letter is last."""
    frames = {"Base jumping": 60, "Jümps": 70, "car": 80}
    return write_summe(tmp_path_factory.mktemp("summe"), frames)


def test_summaries_and_segments_are_kept(download):
    collection = summe.find_videos(download)
    assert [video.name for video in collection.videos] == ["Base jumping", "Jümps", "car"]
    assert not collection.skipped
    video, scores = collection.videos[1], chosen(70).T
    kept = video.annotations()
    np.testing.assert_array_equal(kept["user_score"], scores)
    np.testing.assert_array_equal(kept["user_summary"], scores > 0)
    np.testing.assert_array_equal(kept["gt_score"], (scores > 0).mean(axis=0))
    np.testing.assert_array_equal(kept["change_points"], [[0, 29], [30, 69]])
    np.testing.assert_array_equal(kept["segments"][2:4], [[1, 0.4, 0.6], [1, 1.6, 1.68]])
    assert (kept["n_frames"], kept["fps"]) == (70, 25)
    # Users 0, 1 and 2 chose frames 11-20, 13-22 and 15-24, and all of them 41 and 42; 10 frames are a summary.
    np.testing.assert_array_equal(video.scores(11), [1, 0, 0])
    np.testing.assert_array_equal(video.scores(42), [1, 1, 1])
    assert [frame for frame in range(1, 71) if video.label(frame, 0)] == [*range(15, 21), 41, 42]
    assert {path.name for path in video.files} == {"Jümps.mp4", "Jümps.mat", "segmentations.json"}


def test_the_records_hold_the_summaries(download, tmp_path):
    manifest = prepare("summe", download, tmp_path / "records", frames=8, frame_size=32)
    assert manifest["splits"]["whole"]["videos"] == 3
    for record in open_split(tmp_path / "records", "whole"):
        said = chosen(80)[record["frame"] - 1] > 0
        np.testing.assert_array_equal(record["scores"][:3], said)
        assert np.isnan(record["scores"][3:]).all()


def test_segmentations_give_the_order(download, tmp_path):
    source = tmp_path / "download"
    shutil.copytree(download, source)
    listed = json.loads((source / "segmentations.json").read_text())
    listed = {"video_1": listed["video_3"], "video_2": listed["video_1"]}
    (source / "segmentations.json").write_text(json.dumps(listed))
    videos = summe.find_videos(source).videos
    assert [video.name for video in videos] == ["car", "Base jumping", "Jümps"]
    assert "change_points" not in videos[2].annotations()
    (source / "segmentations.json").unlink()
    videos = summe.find_videos(source).videos
    assert [video.name for video in videos] == ["Base jumping", "Jümps", "car"]
    assert all("change_points" not in video.annotations() for video in videos)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", ""),
        ("[" * 100_000, ""),
        ('{"video_1": {"video_name": "car", "segments": [{"start": 0, "end": 1e999}]}}', "cannot read"),
        ("[]", None),
        ('{"video_2": {}}', "cannot read"),
        ('{"video_1": {"video_name": "car"}}', "cannot read"),
        ('{"video_1": {"video_name": "car", "segments": [{"start": 0, "end": "x"}]}}', "cannot read"),
    ],
)
def test_segmentations_that_say_something_else(download, tmp_path, content, reason):
    source = tmp_path / "download"
    shutil.copytree(download, source)
    (source / "segmentations.json").write_text(content)
    if reason is None:
        assert len(summe.find_videos(source).videos) == 3
        return
    with pytest.raises(UserError, match=rf"{reason}.*segmentations\.json .*mend or remove it"):
        summe.find_videos(source)


@pytest.mark.parametrize("spans", [[(0, 29), (30, 80)], [(0, 29), (20, 79)], [(-1, 79)], [(5, 3)], []])
def test_shots_that_do_not_lie_in_the_video(download, tmp_path, spans):
    source = tmp_path / "download"
    shutil.copytree(download, source)
    segments = [{"start": start, "end": end} for start, end in spans]
    (source / "segmentations.json").write_text(json.dumps({"video_1": {"video_name": "car", "segments": segments}}))
    collection = summe.find_videos(source)
    assert [video.name for video in collection.videos] == ["Base jumping", "Jümps"]
    assert "segmentations.json: the shots of car do not lie in its 80 frames" in collection.skipped[0].reason


def broken(path: Path, how: str) -> None:
    if how == "cut":
        path.write_bytes(path.read_bytes()[:900])
    elif how == "text":
        path.write_text("no MATLAB")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "fields":
        scipy.io.savemat(path, {"x": 1})
    elif how == "users":
        write_summe_mat(path, chosen(80, users=19))
    elif how == "transposed":
        write_summe_mat(path, chosen(80), user_score=chosen(80).T)
    elif how == "frames":
        write_summe_mat(path, chosen(80), nFrames=79)
    elif how == "segments":
        write_summe_mat(path, chosen(80), segments=np.array([[1.0, 2.0, 3.0]]))
    elif how == "negative":
        write_summe_mat(path, chosen(80), user_score=-chosen(80).astype(np.int8))


@pytest.mark.parametrize(
    "how", ["cut", "text", "empty", "fields", "users", "transposed", "frames", "segments", "negative"]
)
def test_a_broken_annotation_leaves_its_video_out(download, tmp_path, how):
    source = tmp_path / "download"
    shutil.copytree(download, source)
    broken(source / "GT" / "car.mat", how)
    collection = summe.find_videos(source)
    assert [video.name for video in collection.videos] == ["Base jumping", "Jümps"]
    (skipped,) = collection.skipped
    assert skipped.video == "car"
    assert f"cannot read {source / 'GT' / 'car.mat'} (" in skipped.reason
    assert skipped.reason.endswith("unpack SumMe.zip again")
    assert all("car" not in (*fold["train"], *fold["test"]) for fold in collection.folds)


def test_what_is_missing(download, tmp_path):
    with pytest.raises(UserError, match=r"no GT/\*\.mat below .*SumMe\.zip"):
        summe.find_videos(tmp_path)
    with pytest.raises(UserError, match="check the path"):
        summe.read_annotation(tmp_path / "a.mat")
    source = tmp_path / "download"
    shutil.copytree(download, source)
    (source / "videos" / "car.mp4").unlink()
    (source / "GT" / "Jümps.mat").unlink()
    reasons = {item.video: item.reason for item in summe.find_videos(source).skipped}
    assert "no film called car.*" in reasons["car"]
    assert "there is no GT/Jümps.mat" in reasons["Jümps"]


def test_all_real_annotations_are_read():
    root = SHARED / "summe"
    if not root.exists():
        pytest.skip(f"there is no {root}: the real annotations are not at hand")
    annotations = {path.stem: summe.read_annotation(path) for path in sorted((root / "GT").glob("*.mat"))}
    assert len(annotations) == 25
    shots = summe.read_segmentations(root / "segmentations.json")
    assert list(shots) == list(annotations)  # both orders agree
    assert {len(item.user_score) for item in annotations.values()} == {15, 16, 17, 18}
    assert sum(len(item.user_score) for item in annotations.values()) == 390
    assert sum(item.user_score.shape[1] for item in annotations.values()) == 109_820
    assert annotations["Excavators river crossing"].user_score.max() == 18  # numbers of segments, whole
    means, most = [], []
    for name, item in annotations.items():
        said = item.user_summary.astype(float)
        np.testing.assert_allclose(item.gt_score, said.mean(axis=0))
        assert (said.mean(axis=1) < 0.16).all()
        first, last = shots[name].T
        np.testing.assert_array_equal(first, [0, *(last[:-1] + 1)])
        assert last[-1] + 1 == said.shape[1]
        assert 0 < key_frames(item.user_summary).mean() <= 0.15
        f1 = 2 * said @ said.T / (said.sum(axis=1)[:, None] + said.sum(axis=1))
        others = f1[~np.eye(len(f1), dtype=bool)].reshape(len(f1), -1)
        means.append(others.mean())
        most.append(others.max(axis=1).mean())
    # How far people agree, as evaluation.md has it.
    assert (round(np.mean(means), 3), round(np.mean(most), 3)) == (0.311, 0.543)


@pytest.mark.parametrize(("dataset", "videos", "tests"), [("tvsum", 50, 10), ("summe", 25, 5)])
def test_the_real_splits(dataset, videos, tests):
    path = SHARED / "splits" / f"{dataset}_splits.json"
    if not path.exists():
        pytest.skip(f"there is no {path}: the splits of the field are not at hand")
    listed = folds.read_splits(path, [str(number) for number in range(videos)])
    assert [(len(fold["train"]), len(fold["test"])) for fold in listed] == [(videos - tests, tests)] * 5
    assert len({name for fold in listed for name in fold["test"]}) == {"tvsum": 34}.get(dataset, 18)
