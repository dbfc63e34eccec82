import json
import shutil

import pytest

from avmsnet_jax.data.sources import folds, tvsum
from avmsnet_jax.errors import UserError
from tests.data.sources.downloads import votes, write_tvsum, write_tvsum_mat

SPLITS = [
    {"train_keys": ["video_2", "video_3"], "test_keys": ["video_1"]},
    {"train_keys": [], "test_keys": ["video_3"]},
]


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    return write_tvsum(tmp_path_factory.mktemp("tvsum"), {"c": 40, "a": 40, "b": 40})


def test_a_file_says_which_videos_are_for_what(download, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(SPLITS), encoding="utf-8-sig")
    expected = [{"train": ("a", "b"), "test": ("c",)}, {"train": (), "test": ("b",)}]
    assert list(tvsum.find_videos(download, path).folds) == expected
    prefixed = [{name: [f"../data/eccv16.h5/{key}" for key in keys] for name, keys in fold.items()} for fold in SPLITS]
    path.write_text(json.dumps(prefixed))
    assert list(tvsum.find_videos(download, path).folds) == expected


def test_the_file_may_lie_among_the_others(download, tmp_path):
    source = tmp_path / "download"
    shutil.copytree(download, source)
    (source / "splits").mkdir()
    (source / "splits" / "tvsum_splits.json").write_text(json.dumps(SPLITS))
    (source / "splits" / "summe_splits.json").write_text("[]")
    assert tvsum.find_videos(source).folds[0]["test"] == ("c",)
    (source / "TVSum_split_2.JSON").write_text(json.dumps(SPLITS[1:]))
    with pytest.raises(UserError, match=r"several splits, .*TVSum_split_2.JSON and .*tvsum_splits.json; .*--splits"):
        tvsum.find_videos(source)
    assert len(tvsum.find_videos(source, source / "TVSum_split_2.JSON").folds) == 1


def test_without_a_file_five_folds_test_every_video_once(tmp_path):
    names = [f"v{number}" for number in range(12)]
    found = folds.find_folds(None, [], names, set(names) - {"v7"}, "tvsum")
    assert [fold["test"] for fold in found] == [
        ("v0", "v5", "v10"),
        ("v1", "v6", "v11"),
        ("v2",),  # v7 is not there
        ("v3", "v8"),
        ("v4", "v9"),
    ]
    for fold in found:
        assert sorted((*fold["train"], *fold["test"])) == sorted(set(names) - {"v7"})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no json", "holds no splits; write a JSON list"),
        ("[]", "holds no splits"),
        ("{}", "holds no splits"),
        ("3", "holds no splits"),
        ('{"train_keys": [], "test_keys": []}', "holds no splits"),
        ('[{"train_keys": ["video_1"]}]', "holds no splits"),
        ('[{"train_keys": 1, "test_keys": []}]', "holds no splits"),
        ('[{"train_keys": ["video_1"], "test_keys": ["video_4"]}]', "split 1: there is no 'video_4'; .* to video_3"),
        ('[{"train_keys": ["video_1"], "test_keys": ["video_01"]}]', "split 1: there is no 'video_01'"),
        ('[{"train_keys": ["video_1"], "test_keys": [2]}]', "split 1: there is no '2'"),
        ('[{"train_keys": ["video_1"], "test_keys": ["video_1"]}]', "split 1: video_1 is listed twice"),
        ('[{"train_keys": ["video_1", "video_1"], "test_keys": []}]', "split 1: video_1 is listed twice"),
        (b"\xff\xfe\x00\x01", "holds no splits"),
    ],
)
def test_a_file_that_says_something_else(tmp_path, content, reason):
    write_tvsum_mat(tmp_path / "ydata-tvsum50.mat", {name: votes(40) for name in "cab"})
    path = tmp_path / "splits.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=reason) as caught:
        tvsum.find_videos(tmp_path)
    assert str(path) in str(caught.value)
    with pytest.raises(UserError, match=r"cannot read the splits .*nowhere"):
        tvsum.find_videos(tmp_path, tmp_path / "nowhere")
