"""Folders of films: with key shots, with labels by frame, with neither."""

import shutil

import av
import pytest

from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.sources.movies import find_films
from tests.data.sources.downloads import film
from tests.media.films import number_of


@pytest.fixture(scope="module")
def a_film(tmp_path_factory):
    return film(tmp_path_factory.mktemp("film") / "a.mkv", 60)


def folder(a_film, root, names, **tables):
    """A folder of films, all the same, and tables by their name without `.csv`; `_` stands for a dot."""
    root.mkdir(parents=True)
    for name in names:
        shutil.copy(a_film, root / name)
    for name, content in tables.items():
        (root / f"{name.replace('_', '.')}.csv").write_text(content)
    return root


def test_labels_by_frame(a_film, tmp_path):
    for content in ("26,1\n27,0\n", "frame,label\r\n26,1\r\n", "\ufeff 26 , 1 \n26,1\n"):
        source = folder(a_film, tmp_path / str(len(content)), ["a.mkv"], a_labels=content)
        (video,) = find_films(source, 0.0).videos
        assert [frame for frame in range(1, 61) if video.label(frame, 0.5)] == [26]
        assert video.split == "train"
        assert video.files == (source / "a.mkv", source / "a.labels.csv")


def test_labels_count_frames_and_key_shots_tell_the_time(a_film, tmp_path):
    """A film whose second half runs at half the speed: 60 frames in the time of 90."""
    source = folder(a_film, tmp_path / "films", [], a_labels="26,1\n", b_keyshots="start_s,end_s\n")
    for name in "abc":
        with av.open(str(a_film)) as whole, av.open(str(source / f"{name}.mkv"), "w") as slower:
            stream = slower.add_stream_from_template(whole.streams.video[0])
            packets = [packet for packet in whole.demux(whole.streams.video[0]) if packet.size]
            for number, packet in enumerate(packets):
                packet.pts = packet.dts = 40 * (number + max(number - 30, 0))
                packet.stream = stream
                slower.mux(packet)
    shown = {
        video.name: [number_of(frame.rgb()) for frame in video.read_frames()]
        for video in find_films(source, 0.0).videos
    }
    assert shown["a"] == list(range(1, 61))
    assert shown["b"] == shown["c"]
    assert shown["b"][:31] == list(range(1, 32))
    assert shown["b"][31:36] == [31, 32, 32, 33, 33]


def test_key_shots_and_labels_and_neither_side_by_side(a_film, tmp_path):
    names = ["a.mkv", "b ü.mkv", "c.mkv", "d.mkv", "e.mkv"]
    source = folder(
        a_film, tmp_path / "films", names, a_keyshots="start_s,end_s\n1,2\n", c_labels="26,1\n", e_labels=""
    )
    manifest = prepare("movies", source, tmp_path / "records", frames=8, frame_size=32)
    assert not manifest["skipped"]
    assert manifest["splits"] == {
        "train": {"videos": 2, "clips": 4, "positives": 3},  # a at 1.0 and 1.96 s, c at frame 26
        "test": {"videos": 1, "clips": 2, "positives": 0},
        "unlabelled": {"videos": 2, "clips": 4, "positives": 0},
    }
    videos = {video.name: video for video in find_films(source, 0.3).videos}
    assert {name: video.split for name, video in videos.items()} == {
        "a": "train",
        "b ü": "unlabelled",
        "c": "train",
        "d": "unlabelled",
        "e": "test",  # the last of the three that were judged
    }
    assert videos["d"].label(26, 1.0) == -1
    assert videos["d"].files == (source / "d.mkv",)


def test_a_single_film_with_labels_is_divided_by_time(a_film, tmp_path):
    source = folder(a_film, tmp_path / "films", ["a.mkv", "b.mkv"], a_labels="26,1\n")
    labelled, other = find_films(source, 0.5).videos
    assert (labelled.split_of(1.0), labelled.split_of(1.3)) == ("train", "test")
    assert (other.split_of(1.0), other.split_of(1.3)) == ("unlabelled", "unlabelled")


def test_nothing_but_films(a_film, tmp_path):
    source = folder(a_film, tmp_path / "films", ["a.mkv", "b.mkv"])
    manifest = prepare("movies", source, tmp_path / "records", frames=8, frame_size=32)
    assert manifest["splits"] == {"unlabelled": {"videos": 2, "clips": 4, "positives": 0}}


def test_films_without_labels_in_the_folders_train_and_test(a_film, tmp_path):
    folder(a_film, tmp_path / "train", ["a.mkv", "b.mkv"], a_keyshots="start_s,end_s\n")
    folder(a_film, tmp_path / "test", ["a.mkv", "b.mkv", "c.mkv"], a_labels="26,1\n")
    shutil.copy(a_film, tmp_path / "d.mkv")
    collection = find_films(tmp_path, 0.3)
    assert [(video.name, video.split) for video in collection.videos] == [
        *[("a", "train"), ("b", "unlabelled"), ("a", "test"), ("c", "unlabelled")]
    ]
    reasons = {item.video: item.reason for item in collection.skipped}
    assert "same name as another film without labels" in reasons.pop("test/b.mkv")
    assert "beside the folders train and test" in reasons.pop("d.mkv")
    assert not reasons


def test_what_belongs_to_nothing_is_named(a_film, tmp_path):
    shots = "start_s,end_s\n"
    source = folder(
        a_film,
        tmp_path / "films",
        ["a.mkv", "a.mp4", "b.mkv", "c.mkv"],
        a_keyshots=shots,
        b_keyshots=shots,
        b_labels="26,1\n",
        c=shots,
        x_keyshots=shots,
        x_labels="",
        c_mkv_keyshots=shots,
    )
    (source / "poster.jpg").write_bytes(b"")
    (source / "notes.txt").write_text("no film")
    (source / ".DS_Store").write_text("")
    collection = find_films(source, 0.0)
    assert [(video.name, video.split) for video in collection.videos] == [("a", "train"), ("c", "unlabelled")]
    reasons = {item.video: item.reason for item in collection.skipped}
    for name, reason in {
        "a.mp4": "same name as a.mkv; rename it",
        "b.mkv": "has both b.keyshots.csv and b.labels.csv; keep one",
        "c.csv": "call it FILM.keyshots.csv or FILM.labels.csv",
        "x.keyshots.csv": "no film called x.* beside it",
        "x.labels.csv": "no film called x.* beside it",
        "c.mkv.keyshots.csv": "no film called c.mkv.* beside it",
    }.items():
        assert reason in reasons.pop(name)
    assert not reasons


@pytest.mark.parametrize(
    ("table", "content", "reason"),
    [
        ("a_labels", "0,1\n", "line 1: there is no frame 0; count the frames from 1"),
        ("a_labels", "26,1\n26,0\n", "line 2: frame 26 is labelled 0, and otherwise before"),
        ("a_labels", "frame,label\nx,1\n", "line 2: 'x,1' is not a frame number"),
        ("a_labels", "start_s,end_s\n1,2\n", "line 1: 'start_s,end_s' is not a frame number"),
        ("a_keyshots", "", "the first line must be start_s,end_s"),
        ("a_keyshots", "1,2\n", "the first line must be start_s,end_s"),
        ("a_keyshots", "frame,label\n26,1\n", "the first line must be start_s,end_s"),
        ("a_keyshots", "start_s,end_s\n\n1;2\n", "line 3: '1;2' is not two numbers; give seconds"),
        ("a_keyshots", "start_s,end_s\n0:10,0:20\n", "line 2: '0:10,0:20' is not two numbers; give seconds"),
        ("a_keyshots", "start_s,end_s\n1,2,3\n", "line 2: '1,2,3' is not two numbers"),
        ("a_keyshots", "start_s,end_s\n2,1\n", "line 2: a key shot must start at 0 or later and end after its start"),
        ("a_keyshots", "start_s,end_s\n-1,1\n", "line 2: a key shot must start at 0 or later"),
        ("a_keyshots", "start_s,end_s\nnan,1\n", "line 2: a key shot must start at 0 or later"),
        ("a_keyshots", "start_s,end_s\n1,1\n", "line 2: a key shot must start at 0 or later"),
    ],
)
def test_tables_that_say_something_else(a_film, tmp_path, table, content, reason):
    source = folder(a_film, tmp_path / "films", ["a.mkv"], **{table: content})
    collection = find_films(source, 0.0)
    assert not collection.videos
    (skipped,) = collection.skipped
    assert skipped.video == "a.mkv"
    assert str(source / f"{table.replace('_', '.')}.csv") in skipped.reason
    assert reason in skipped.reason


def test_labels_of_another_film(tmp_path):
    film(tmp_path / "a.mp4", 60)  # whose header says how many frames there are
    (tmp_path / "a.labels.csv").write_text("26,1\n100,1\n")
    (skipped,) = find_films(tmp_path, 0.0).skipped
    assert "line 2: frame 100 is beyond the video's 60 frames" in skipped.reason
