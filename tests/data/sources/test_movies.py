"""Folders of films: with key shots, with labels by frame, with neither."""

import shutil

import av
import pytest

from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.sources.movies import find_films
from avmsnet_jax.errors import UserError
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


def test_films_with_key_shots_with_labels_and_without_may_be_mixed(a_film, tmp_path):
    names = ["a.mkv", "b ü.mkv", "c.mkv", "d.mkv", "e.mkv"]
    source = folder(
        a_film, tmp_path / "films", names, a_keyshots="start_s,end_s\n1,2\n", c_labels="26,1\n", e_labels=""
    )
    manifest = prepare("movies", source, tmp_path / "records", frames=8, frame_size=32)
    assert not manifest["skipped"]
    assert manifest["splits"] == {
        "train": {"videos": 2, "clips": 4, "positives": 2},  # a at 1.0 and 1.96 s
        "test": {"videos": 1, "clips": 2, "positives": 1},  # c at frame 26
        "unlabelled": {"videos": 2, "clips": 4, "positives": 0},
    }
    videos = {video.name: video for video in find_films(source, 0.3).videos}
    assert {name: video.split for name, video in videos.items()} == {
        "a": "train",
        "b ü": "unlabelled",
        "c": "test",  # the last of the three that were judged, e, has no key frame
        "d": "unlabelled",
        "e": "train",
    }
    assert videos["d"].label(26, 1.0) == -1
    assert videos["d"].files == (source / "d.mkv",)


def test_a_single_film_with_labels_is_divided_by_time(a_film, tmp_path):
    source = folder(a_film, tmp_path / "films", ["a.mkv", "b.mkv"], a_labels="26,1\n")
    labeled, other = find_films(source, 0.5).videos
    assert (labeled.split_of(1.0), labeled.split_of(1.3)) == ("train", "test")
    assert (other.split_of(1.0), other.split_of(1.3)) == ("unlabelled", "unlabelled")


def test_films_without_labels_are_unlabelled(a_film, forked, tmp_path):
    source, output = folder(a_film, tmp_path / "films", ["a.mkv", "b.mkv"]), tmp_path / "records"
    sizes = ["--frames=8", "--frame_size=32", "--workers=1"]
    done = forked("prepare_data.py", "--dataset=movies", f"--source={source}", f"--output={output}", *sizes)
    assert done.returncode == 0, done.stderr
    account, remedy = done.stdout.splitlines()
    assert account == f"{output}: unlabelled: 4 clips of 2 films"
    assert remedy == "no film has labels: add FILM.keyshots.csv or --cuts=SUMMARIES, and prepare again to train"
    with pytest.raises(UserError, match=r"it has unlabelled; label films, and prepare again$"):
        open_split(output, "train")


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


def test_tables_without_a_film_are_reported(a_film, tmp_path):
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
        ("a_labels", "26,1\n26,0\n", "line 2: frame 26 is labeled 0, and otherwise before"),
        ("a_labels", "frame,label\nx,1\n", "line 2: 'x,1' is not a frame number"),
        ("a_labels", "start_s,end_s\n1,2\n", "line 1: 'start_s,end_s' is not a frame number"),
        ("a_keyshots", "", "the first line must be start_s,end_s"),
        ("a_keyshots", "1,2\n", "the first line must be start_s,end_s"),
        ("a_keyshots", "frame,label\n26,1\n", "the first line must be start_s,end_s"),
        ("a_keyshots", "start_s,end_s\n\n1;2\n", "line 3: '1;2' is not two numbers; give seconds"),
        ("a_keyshots", "start_s,end_s\n0:0:0:1,0:20\n", "line 2: '0:0:0:1,0:20' is not two numbers; give seconds"),
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


def test_times_and_separators_that_are_read(a_film, tmp_path):
    tables = [
        "start_s,end_s\n0:01,0:02\n",
        "start_s;end_s\n1,0;2,0\n",
        "start_s\tend_s\n1\t2\n",
        " start_s , end_s \n1s,0:00:02.000\n",
        "start_s,end_s\n1000ms,2 s\n",
    ]
    for number, table in enumerate(tables):
        source = folder(a_film, tmp_path / str(number), ["a.mkv"], a_keyshots=table)
        (video,) = find_films(source, 0.0).videos
        assert video.key_shots == ((1.0, 2.0),)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ("0.5,1\n1000,1500\n", 3),  # milliseconds
        ("12,37\n", 2),  # frames
        ("2.4,2.5\n", 2),  # the film lasts 2.4 s
        ("1,3.5\n", 2),
        ("0:10,0:20\n", 2),
        ("1,inf\n", 2),
    ],
)
def test_key_shots_beyond_the_film(a_film, tmp_path, rows, line):
    source = folder(a_film, tmp_path / "films", ["a.mkv", "b.mkv"], a_keyshots=f"start_s,end_s\n{rows}")
    manifest = prepare("movies", source, tmp_path / "records", frames=8, frame_size=32)
    (skipped,) = manifest["skipped"]
    assert skipped["video"] == "a.mkv"
    assert f"{source / 'a.keyshots.csv'}, line {line}: the key shot" in skipped["reason"]
    assert "goes beyond the end of the film at 2.4 s; give times in seconds" in skipped["reason"]
    assert [video["video"] for video in manifest["videos"]] == ["b"]
    with pytest.raises(UserError, match=rf"a\.keyshots\.csv, line {line}: .*--strict"):
        prepare("movies", source, tmp_path / "strict", frames=8, frame_size=32, strict=True)


def test_a_key_shot_may_end_a_little_beyond_the_film(a_film, tmp_path):
    source = folder(a_film, tmp_path / "films", ["a.mkv"], a_keyshots="start_s,end_s\n1.5,3.3\n")
    manifest = prepare("movies", source, tmp_path / "records", frames=8, frame_size=32)
    assert manifest["splits"]["train"]["positives"] + manifest["splits"].get("test", {"positives": 0})["positives"] == 1


def test_doubtful_labels_are_reported(a_film, tmp_path, capsys):
    source = folder(
        a_film,
        tmp_path / "films",
        ["a.mkv", "b.mkv", "c.mkv"],
        a_keyshots="start_s,end_s\n0,2.4\n",
        b_keyshots="start_s,end_s\n",
        c_labels="26,1\n",
    )
    manifest = prepare("movies", source, tmp_path / "records", frames=8, frame_size=32)
    warnings = {warning["video"]: warning["reason"] for warning in manifest["warnings"]}
    assert warnings == {
        "a": "2 of its 2 clips are key, more than half; check its labels",
        "b": "none of its clips is key; check its labels",
    }
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")] == [
        f"warning: {video}: {reason}" for video, reason in warnings.items()
    ]
    (source / "b.keyshots.csv").unlink()
    (source / "a.keyshots.csv").write_text("start_s,end_s\n1,1.5\n")
    assert "warnings" not in prepare("movies", source, tmp_path / "fine", frames=8, frame_size=32)


def test_a_split_without_key_clips_is_reported(a_film, tmp_path):
    folder(a_film, tmp_path / "films" / "train", ["a.mkv"], a_labels="26,1\n")
    folder(a_film, tmp_path / "films" / "test", ["b.mkv"], b_labels="27,1\n")
    manifest = prepare("movies", tmp_path / "films", tmp_path / "records", frames=8, frame_size=32)
    assert [warning.get("split", warning.get("video")) for warning in manifest["warnings"]] == ["b", "test"]


@pytest.mark.parametrize(
    ("key", "tests"),
    [
        ("abcd", "d"),  # as it always was
        ("d", "d"),
        ("ab", "b"),
        ("abc", "c"),
        ("a", "d"),  # the only one with a key clip is for training
        ("", "d"),
    ],
)
def test_the_test_split_gets_a_key_clip(a_film, tmp_path, key, tests):
    labels = {f"{name}_labels": "26,1\n" if name in key else "27,1\n" for name in "abcd"}  # 27 is no clip's
    source = folder(a_film, tmp_path / "films", [f"{name}.mkv" for name in "abcd"], **labels)
    videos = find_films(source, 0.3).videos
    assert [video.name for video in videos if video.split == "test"] == [tests]
    assert [video.name for video in videos] == [*sorted("abcd".replace(tests, "")), tests]


@pytest.mark.parametrize(
    ("key", "tested"),
    [
        ((26, 50, 150), range(126, 176)),  # as it always was: the last 30% of 175 frames begin at frame 123.5
        ((26, 50), range(126, 176)),  # one key moment cannot be in both parts
        ((26, 76), range(76, 128)),
        ((26, 50, 100, 26), range(100, 152)),
    ],
)
def test_the_stretch_for_testing_gets_a_key_clip(tmp_path, key, tested):
    film(tmp_path / "a.mkv", 175)
    (tmp_path / "a.labels.csv").write_text("".join(f"{frame},1\n" for frame in key))
    manifest = prepare("movies", tmp_path, tmp_path / "records", frames=8, frame_size=32)
    centers = [26, 50, 76, 100, 126, 150]
    assert manifest["splits"]["test"]["clips"] == sum(frame in tested for frame in centers)
    assert manifest["splits"]["test"]["positives"] == sum(frame in tested for frame in set(key))


def test_labels_of_another_film(tmp_path):
    film(tmp_path / "a.mp4", 60)  # whose header says how many frames there are
    (tmp_path / "a.labels.csv").write_text("26,1\n100,1\n")
    (skipped,) = find_films(tmp_path, 0.0).skipped
    assert "line 2: frame 100 is beyond the video's 60 frames" in skipped.reason
