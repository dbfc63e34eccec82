import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.sources import tvsum
from avmsnet_jax.data.sources.judged import key_frames
from avmsnet_jax.errors import UserError
from tests.data.sources.downloads import film, votes, write_tvsum, write_tvsum_mat
from tests.media.films import number_of

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
NAMES = ["zz-z_1", "-aB_c2", "mm", "nn", "oo", "pp"]


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """Six videos, whose order is not that of their names."""
    return write_tvsum(tmp_path_factory.mktemp("tvsum"), {name: 60 + 10 * i for i, name in enumerate(NAMES)})


def test_every_user_s_scores_are_kept(download):
    collection = tvsum.find_videos(download)
    assert [video.name for video in collection.videos] == NAMES
    assert {video.split for video in collection.videos} == {"whole"}
    assert not collection.skipped
    video, scores = collection.videos[2], votes(80, seed=2)
    np.testing.assert_array_equal(video.scores(51), scores[:, 50])
    assert video.scores(51).dtype == np.float32
    kept = video.annotations()
    np.testing.assert_array_equal(kept["user_scores"], scores)
    assert kept["user_scores"].dtype == np.uint8
    np.testing.assert_array_equal(kept["gt_score"], scores.mean(axis=0))
    assert (kept["n_frames"], kept["fps"], kept["category"], kept["title"]) == (80, 25, "VT", "Škoda mm")
    assert [number_of(frame.rgb()) for frame in video.read_frames()] == list(range(1, 81))
    assert {path.name for path in video.files} == {"mm.mp4", "ydata-tvsum50.mat"}


def test_videos_can_be_pickled_for_other_processes(download):
    video = tvsum.find_videos(download).videos[0]
    before = [video.label(frame, 0) for frame in range(1, 61)]
    again = pickle.loads(pickle.dumps(video))
    assert [again.label(frame, 0) for frame in range(1, 61)] == before
    assert len(pickle.dumps(video)) < 20 * 60 + 4096  # one video's scores, once


def test_the_records_hold_the_scores(download, tmp_path):
    manifest = prepare("tvsum", download, tmp_path / "records", frames=8, frame_size=32)
    records = open_split(tmp_path / "records", "whole")
    assert manifest["splits"]["whole"]["videos"] == 6
    for record in records:
        index = NAMES.index(str(record["video"]))
        scores = votes(60 + 10 * index, seed=index)
        np.testing.assert_array_equal(record["scores"], scores[:, record["frame"] - 1])
        assert record["label"] == key_frames(scores)[record["frame"] - 1]


def test_key_frames_are_those_that_users_valued_most():
    rng = np.random.default_rng(0)
    for n_frames in (1, 7, 100, 101):
        for users, most in ((1, 2), (20, 6), (20, 2)):
            given = rng.integers(0, most, (users, n_frames))
            mean = given.mean(axis=0)
            for frame, is_key in enumerate(key_frames(given)):
                as_high = np.count_nonzero(np.isclose(mean, mean[frame]) | (mean > mean[frame]))
                is_best = bool(np.isclose(mean[frame], mean.max())) and mean.max() > mean.min()
                assert is_key == (as_high <= 0.15 * n_frames or is_best)
    twenty = np.arange(20)[None]
    assert key_frames(twenty).nonzero()[0].tolist() == [17, 18, 19]
    assert not key_frames(np.full((20, 50), 3)).any()
    assert key_frames(np.array([[1, 5, 5, 5, 1]])).tolist() == [False, True, True, True, False]  # the best, though 60%


def test_films_are_found_under_any_suffix_in_any_folder(download, tmp_path):
    source = tmp_path / "my files"
    shutil.copytree(download / "ydata-tvsum50-matlab", source / "a b" / "matlab")
    (source / "linked").symlink_to(download / "ydata-tvsum50-video", target_is_directory=True)
    (source / "linked_again").symlink_to(source, target_is_directory=True)
    shutil.copy(film(tmp_path / "x.mkv", 60), source / "zz-z_1.webm")
    (source / "thumbnail").mkdir()
    for name in NAMES:
        Image.new("RGB", (64, 48)).save(source / "thumbnail" / f"{name}.jpg")
    (source / ".Trash").mkdir()
    (source / ".Trash" / "mm.mp4").write_bytes(b"thrown away")
    (source / "__MACOSX").mkdir()
    (source / "__MACOSX" / "._mm.mp4").write_bytes(b"resource fork")
    (source / "._ydata-tvsum50.mat").write_bytes(b"resource fork")
    collection = tvsum.find_videos(source)
    assert not collection.skipped
    assert [video.path.suffix for video in collection.videos] == [".mp4"] * 6
    (source / "linked").unlink()
    assert [video.path for video in tvsum.find_videos(source).videos] == [source / "zz-z_1.webm"]


def test_videos_that_are_missing_or_broken_are_left_out_of_the_folds(download, tmp_path):
    source = tmp_path / "download"
    shutil.copytree(download, source)
    films = source / "ydata-tvsum50-video" / "video"
    (films / "mm.mp4").unlink()
    (films / "nn.mp4").write_bytes(b"no film")
    collection = tvsum.find_videos(source)
    assert [video.name for video in collection.videos] == ["zz-z_1", "-aB_c2", "oo", "pp"]
    reasons = {item.video: item.reason for item in collection.skipped}
    assert "no film called mm.*" in reasons["mm"]
    assert "cannot read" in reasons["nn"]
    assert "nn.mp4" in reasons["nn"]
    assert collection.folds[0] == {"train": ("-aB_c2", "oo"), "test": ("zz-z_1", "pp")}
    assert collection.folds[2] == {"train": ("zz-z_1", "-aB_c2", "oo", "pp"), "test": ()}


@pytest.mark.parametrize(("n_frames", "kept"), [(100, 100), (98, 98), (103, 100), (90, None), (110, None)])
def test_a_film_may_differ_by_a_few_frames_from_what_was_judged(tmp_path, n_frames, kept):
    write_tvsum_mat(tmp_path / "ydata-tvsum50.mat", {"a": votes(100)})
    film(tmp_path / "a.mp4", n_frames)
    (video,) = tvsum.find_videos(tmp_path).videos
    if kept is None:
        with pytest.raises(UserError, match=r"a\.mp4 has (only 90|at least 104) frames, but users judged 100; give"):
            list(video.read_frames())
    else:
        assert len(list(video.read_frames())) == kept


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user_anno": votes(60)[:19]}, r"a: the scores are \(19, 60\), not those of 20 users and 60 frames"),
        ({"user_anno": votes(60).T}, r"a: the scores are \(60, 20\)"),
        ({"nframes": 59}, r"not those of 20 users and 59 frames"),
        ({"gt_score": np.ones((1, 50))}, "a: the scores are"),
        ({"user_anno": votes(60) + 1}, "a: there are scores other than 1 to 5"),
        ({"user_anno": np.full((20, 60), np.nan)}, "a: there are scores other than 1 to 5"),
        ({"user_anno": np.full((20, 60), 1.5)}, "a: there are scores other than 1 to 5"),
        ({"video": "../a"}, "no name of a file"),
        ({"video": "b"}, "two videos of one name"),
    ],
)
def test_annotations_that_do_not_agree(tmp_path, changes, reason):
    path = tmp_path / "ydata-tvsum50.mat"
    write_tvsum_mat(path, {"a": votes(60), "b": votes(60)}, **changes)
    with pytest.raises(UserError, match=reason) as caught:
        tvsum.find_videos(tmp_path)
    assert str(path) in str(caught.value)
    assert "again" in str(caught.value)


def test_annotations_that_cannot_be_read(download, tmp_path):
    with pytest.raises(UserError, match=r"no ydata-tvsum50\.mat below .*; unpack ydata-tvsum50-matlab\.zip"):
        tvsum.find_videos(tmp_path)
    path = tmp_path / "ydata-tvsum50.mat"
    with pytest.raises(UserError, match="check the path"):
        tvsum.read_annotations(path)
    whole = (download / "ydata-tvsum50-matlab" / "matlab" / "ydata-tvsum50.mat").read_bytes()
    for content in (b"", b"MATLAB 5.0 MAT-file", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot read .*ydata-tvsum50\.mat .*again"):
            tvsum.read_annotations(path)
    with h5py.File(path, "w") as file:
        file.create_group("tvsum50")
    with pytest.raises(UserError, match=r"cannot read .*ydata-tvsum50\.mat"):
        tvsum.read_annotations(path)


def test_all_real_annotations_are_read():
    path = SHARED / "tvsum" / "ydata-tvsum50.mat"
    if not path.exists():
        pytest.skip(f"there is no {path}: the real annotations are not at hand")
    annotations = tvsum.read_annotations(path)
    assert len(annotations) == 50
    assert {item.user_scores.shape[0] for item in annotations} == {20}
    assert sum(item.n_frames for item in annotations) == 352_353
    assert [item.name for item in annotations[:2]] == ["AwmHb44_ouw", "98MoyGZKHXc"]
    assert [item.n_frames for item in annotations[:2]] == [10597, 4688]
    categories = [item.category for item in annotations]
    assert {categories.count(category) for category in set(categories)} == {5}  # ten categories, five videos each
    assert annotations[3].title == "ŠKODA Tips How to Repair Your Tyre"
    for item in annotations:
        np.testing.assert_array_equal(item.gt_score, item.user_scores.mean(axis=0))
        # At most a summary's length, and hardly less.
        assert 0.1 < key_frames(item.user_scores).mean() <= 0.15
    # How far people agree (Spearman), as evaluation.md has it: it takes users and frames the right way round to get.
    agreements = []
    for item in annotations:
        correlations = np.corrcoef(scipy.stats.rankdata(item.user_scores[:, ::15], axis=1))
        agreements.append(correlations[~np.eye(20, dtype=bool)].mean())
    assert round(np.mean(agreements), 5) == 0.20422
