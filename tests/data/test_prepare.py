import dataclasses
import json
import os
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.io.wavfile
import tensorflow_datasets as tfds
from PIL import Image

from avmsnet_jax.commands import prepare as prepare_command
from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.records import Movies
from avmsnet_jax.data.sources import movies, summe
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie
from tests.data.sources.downloads import write_summe
from tests.media.films import encode, number_of, numbered

FRAMES = Movie.frames


def folder_of(films: Path, target: Path, *names: str) -> Path:
    """A new folder with some of the films."""
    target.mkdir(parents=True)
    for name in names:
        for file in films.glob(f"{name}.*"):
            shutil.copy(file, target)
    return target


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def assert_same_but_source(one: Path, two: Path) -> None:
    """The same files of the same bytes, save for the path that the manifest names."""
    ours, theirs = files_of(one), files_of(two)
    manifests = [json.loads(files.pop("manifest.json")) | {"source": ""} for files in (ours, theirs)]
    assert manifests[0] == manifests[1]
    assert ours == theirs


def clips_of(directory: Path, split: str) -> list[tuple[str, int, int]]:
    """(video, frame, label) of every record."""
    return [(str(r["video"]), int(r["frame"]), int(r["label"])) for r in open_split(directory, split)]


def publish(film: Path, root: Path, split: str, labels: dict[int, int]) -> None:
    """Writes a film as the published layout, frames lossless."""
    name = film.stem
    for kind in ("video_frames", "video_audio", "annotations"):
        (root / kind / "Movie50" / name).mkdir(parents=True)
    (root / "fold_lists").mkdir(exist_ok=True)
    count = 0
    for frame in Movie(film).frames():
        count = frame.number
        Image.fromarray(frame.rgb()).save(root / "video_frames" / "Movie50" / name / f"{count}.jpg", "PNG")
    waveform = Movie(film).whole_waveform()
    if waveform is not None:
        scipy.io.wavfile.write(root / "video_audio" / "Movie50" / name / f"{name}.wav", 22050, waveform)
    rows = "".join(f"{frame},{label}\n" for frame, label in labels.items())
    (root / "annotations" / "Movie50" / name / f"{name}.csv").write_text(rows)
    for each in ("train", "test"):
        with open(root / "fold_lists" / f"Movie50_list_{each}_fps.txt", "a") as file:
            file.write(f"{name} {count} {float(Movie(film).info().fps)!r}\n" if each == split else "")


def test_a_clip_is_key_if_its_label_frame_lies_in_a_key_shot(films, tmp_path):
    manifest = prepare("movies", films, tmp_path / "records")
    # a: frames 26, 50, 76, 100 are at 1.0, 1.96, 3.0 and 3.96 s, and the shot is [1, 3).
    # c: frames 26 and 50 are at 2.5 and 4.9 s, and the shots are [0, 2) and [4, 4.9).
    assert clips_of(tmp_path / "records", "train") == [
        *[("a", 26, 1), ("a", 50, 1), ("a", 76, 0), ("a", 100, 0)],
        *[("b", 26, 0), ("b", 50, 0), ("b", 76, 0)],
    ]
    assert clips_of(tmp_path / "records", "test") == [("c", 26, 0), ("c", 50, 0)]
    assert manifest["splits"] == {
        "train": {"videos": 2, "clips": 7, "positives": 2},
        "test": {"videos": 1, "clips": 2, "positives": 0},
    }
    assert [(v["video"], v["frames"], v["has_sound"]) for v in manifest["videos"]] == [
        ("a", 110, True),
        ("b", 90, False),
        ("c", 60, True),
    ]
    assert json.loads((tmp_path / "records" / "manifest.json").read_text()) == manifest


def test_a_record_holds_what_the_film_shows(films, tmp_path):
    prepare("movies", films, tmp_path / "records")
    records = open_split(tmp_path / "records", "train")
    waveform = Movie(films / "a.mkv").whole_waveform()
    record = records[1]
    assert [number_of(picture) for picture in record["clip"]] == list(range(43, 59))
    assert record["clip"].shape == (16, 112, 112, 3)
    start, stop = int(42 / 25 * 22050 - 441), int(57 / 25 * 22050 + 441) + 1
    middle = 256 * np.hanning(stop - start) * waveform[start:stop]
    offset = 17640 - (stop - start) // 2
    np.testing.assert_allclose(record["sound"][offset : offset + stop - start], middle, atol=1e-4)
    assert np.count_nonzero(record["sound"]) <= stop - start
    assert (record["time_s"], record["fps"], record["has_sound"]) == (49 / 25, 25, True)
    assert not records[4]["has_sound"]
    assert not records[4]["sound"].any()
    assert records[4]["time_s"] == 25 / float(Movie(films / "b.mkv").info().fps)


def test_folders_train_and_test_decide(films, tmp_path):
    folder_of(films, tmp_path / "source" / "train", "c")
    folder_of(films, tmp_path / "source" / "test", "a", "b")
    shutil.copy(films / "a.mkv", tmp_path / "source")
    manifest = prepare("movies", tmp_path / "source", tmp_path / "records")
    assert {name for name, _, _ in clips_of(tmp_path / "records", "train")} == {"c"}
    assert {name for name, _, _ in clips_of(tmp_path / "records", "test")} == {"a", "b"}
    assert [skipped["video"] for skipped in manifest["skipped"]] == ["a.mkv"]


def test_the_end_of_a_single_film_is_for_testing(films, tmp_path):
    source = folder_of(films, tmp_path / "source", "a")  # 4.4 s
    prepare("movies", source, tmp_path / "records")
    assert [frame for _, frame, _ in clips_of(tmp_path / "records", "train")] == [26, 50, 76]  # 3.0 s
    assert [frame for _, frame, _ in clips_of(tmp_path / "records", "test")] == [100]  # 3.96 s; 70% is 3.08 s
    prepare("movies", source, tmp_path / "half", test_fraction=0.5)
    assert [frame for _, frame, _ in clips_of(tmp_path / "half", "test")] == [76, 100]
    prepare("movies", source, tmp_path / "none", test_fraction=0)
    assert len(open_split(tmp_path / "none", "train")) == 4
    with pytest.raises(UserError, match="no split 'test'; it has train"):
        open_split(tmp_path / "none", "test")


def test_the_published_layout_gives_the_same_records(films, tmp_path):
    prepare("movies", films, tmp_path / "from_films")
    for name, split, n_frames in (("a", "train", 110), ("b", "train", 90), ("c", "test", 60)):
        info = Movie(films / f"{name}.mkv").info()
        shots = movies.read_key_shots(films / f"{name}.keyshots.csv")
        times = {frame: (frame - 1) / float(info.fps) for frame in range(1, n_frames + 1)}
        labels = {frame: int(any(start <= t < end for start, end in shots)) for frame, t in times.items()}
        publish(films / f"{name}.mkv", tmp_path / "layout", split, labels)
    prepare("movie50", tmp_path / "layout", tmp_path / "from_layout")
    for split in ("train", "test"):
        ours, theirs = open_split(tmp_path / "from_films", split), open_split(tmp_path / "from_layout", split)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert a.keys() == b.keys()
            # The one is scaled by FFmpeg, the other by Pillow: other coefficients of the same filter.
            assert np.abs(a["clip"].astype(int) - b["clip"]).mean() < 0.5
            for field in a.keys() - {"clip"}:
                np.testing.assert_array_equal(a[field], b[field], err_msg=field)


def test_what_is_missing_from_the_published_layout(films, tmp_path):
    for name in ("a", "c"):
        publish(films / f"{name}.mkv", tmp_path / "whole", "train", {26: 1})
    frames, labels = Path("video_frames/Movie50"), Path("annotations/Movie50/c/c.csv")
    for what, path, reason in (
        ("frame", frames / "c" / "33.jpg", "there is no frame .*33.jpg"),
        ("broken", frames / "c" / "33.jpg", "cannot read the frame .*33.jpg"),
        ("folder", frames / "c", "no folder of frames .*c"),
        ("labels", labels, "cannot read the labels .*c.csv"),
    ):
        root = tmp_path / what
        shutil.copytree(tmp_path / "whole", root)
        if what == "broken":
            (root / path).write_bytes(b"no picture")
        else:
            shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()
        manifest = prepare("movie50", root, tmp_path / f"{what}_records")
        assert [video["video"] for video in manifest["videos"]] == ["a"]
        (skipped,) = manifest["skipped"]
        assert skipped["video"] == "c"
        with pytest.raises(UserError, match=reason):
            raise UserError(skipped["reason"])
        assert {name for name, _, _ in clips_of(tmp_path / f"{what}_records", "train")} == {"a"}
    shutil.rmtree(tmp_path / "whole" / "video_audio")
    manifest = prepare("movie50", tmp_path / "whole", tmp_path / "silent")
    assert [video["has_sound"] for video in manifest["videos"]] == [False, False]
    assert clips_of(tmp_path / "silent", "train") == [
        *[("a", 26, 1), ("a", 50, 0), ("a", 76, 0), ("a", 100, 0)],
        *[("c", 26, 1), ("c", 50, 0)],
    ]


@pytest.mark.parametrize("row", ["x,1", "26", "26,2", "26,1,1", "frame,label"])
def test_a_row_that_is_no_label_is_named(films, tmp_path, row):
    publish(films / "c.mkv", tmp_path / "layout", "train", {26: 1})
    with open(tmp_path / "layout/annotations/Movie50/c/c.csv", "a") as file:
        file.write(row + "\n")
    with pytest.raises(UserError, match=r"c\.csv, line 2"):
        prepare("movie50", tmp_path / "layout", tmp_path / "records")


def test_fold_lists(films, tmp_path):
    with pytest.raises(UserError, match=r"cannot read the fold list .*must be the folder that holds video_frames"):
        prepare("movie50", films, tmp_path / "records")
    film = tmp_path / "a film.mkv"
    shutil.copy(films / "c.mkv", film)
    publish(film, tmp_path / "layout", "test", {26: 1})
    prepare("movie50", tmp_path / "layout", tmp_path / "records")
    assert clips_of(tmp_path / "records", "test") == [("a film", 26, 1), ("a film", 50, 0)]
    (tmp_path / "layout/fold_lists/Movie50_list_train_fps.txt").write_text("c sixty 25\n")
    with pytest.raises(UserError, match=r"Movie50_list_train_fps\.txt, line 1: 'c sixty 25'"):
        prepare("movie50", tmp_path / "layout", tmp_path / "again")


def test_one_bad_film_does_not_stop_the_others(films, tmp_path):
    source = folder_of(films, tmp_path / "source", "a", "c")
    (source / "broken.mp4").write_text("no film")
    (source / "broken.keyshots.csv").write_text("start_s,end_s\n")
    shutil.copy(films / "b.mkv", source / "nobody_judged.mkv")
    shutil.copy(films / "b.mkv", source / "badly.mkv")
    (source / "badly.keyshots.csv").write_text("start_s,end_s\n3,1\n")
    (source / "alone.keyshots.csv").write_text("start_s,end_s\n")
    encode(source / "short.mkv", [numbered(1)] * 20)
    (source / "short.keyshots.csv").write_text("start_s,end_s\n")
    encode(source / "deaf.wav", sound=np.zeros((1, 1000), np.float32)).rename(source / "deaf.mkv")
    (source / "deaf.keyshots.csv").write_text("start_s,end_s\n")
    (source / ".hidden").write_text("")
    manifest = prepare("movies", source, tmp_path / "records")
    assert [video["video"] for video in manifest["videos"]] == ["a", "c", "nobody_judged"]
    assert manifest["splits"]["unlabelled"] == {"videos": 1, "clips": 3, "positives": 0}
    reasons = {skipped["video"]: skipped["reason"] for skipped in manifest["skipped"]}
    for video, reason in {
        "broken.mp4": "cannot read",
        "badly.mkv": "line 2",
        "alone.keyshots.csv": "no film",
        "short": "20 frames hold no clip; the first one needs frames up to 33",
        "deaf.mkv": "no picture",
    }.items():
        assert reason in reasons.pop(video)
    assert not reasons


def test_a_film_that_breaks_midway_leaves_no_clips(films, tmp_path, monkeypatch):
    source = folder_of(films, tmp_path / "source", "a", "c")

    monkeypatch.setattr(Movie, "frames", breaking("a", UserError("a.mkv: broken from here on")))
    manifest = prepare("movies", source, tmp_path / "records")
    assert manifest["skipped"] == [{"video": "a", "reason": "a.mkv: broken from here on"}]
    assert clips_of(tmp_path / "records", "test") == [("c", 26, 0), ("c", 50, 0)]
    assert not [name for name in files_of(tmp_path / "records") if "staged" in name]


def breaking(film: str, error: BaseException):
    """`Movie.frames`, which raises `error` at frame 80 of one film."""

    def breaks(movie, **settings):
        for frame in FRAMES(movie, **settings):
            if movie.path.stem == film and frame.number == 80:
                raise error
            yield frame

    return breaks


def test_an_unexpected_error_fails_only_its_film(films, tmp_path, monkeypatch):
    source = folder_of(films, tmp_path / "source", "a", "c")
    monkeypatch.setattr(Movie, "frames", breaking("a", ZeroDivisionError("fps\nis 0")))
    manifest = prepare("movies", source, tmp_path / "records")
    (skipped,) = manifest["skipped"]
    (log,) = tmp_path.glob("a.error.*.log")
    assert skipped["reason"] == f"unexpected error: ZeroDivisionError: fps is 0; the traceback is in {log}"
    assert "in breaks" in log.read_text()


def test_an_interruption_before_the_first_film_leaves_nothing(films, tmp_path, monkeypatch):
    source = folder_of(films, tmp_path / "source", "a", "c")
    monkeypatch.setattr(Movie, "frames", breaking("a", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        prepare("movies", source, tmp_path / "new" / "records")
    assert not (tmp_path / "new").exists()


def test_finished_films_are_not_read_again(films, tmp_path, monkeypatch, capfd):
    prepare("movies", films, tmp_path / "undisturbed")
    source = folder_of(films, tmp_path / "source", "a", "b", "c")
    (tmp_path / "new").mkdir()
    output = tmp_path / "new" / "records"
    monkeypatch.setattr(Movie, "frames", breaking("b", KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt, match="1 finished film is kept: the same command goes on"):
        prepare("movies", source, output)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".records.partial"]
    monkeypatch.setattr(Movie, "frames", breaking("a", UserError("read again")))
    capfd.readouterr()
    manifest = prepare("movies", source, output)
    assert not manifest["skipped"]
    assert "1 of 3 films are finished already" in capfd.readouterr().err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["records"]
    assert_same_but_source(output, tmp_path / "undisturbed")


@pytest.mark.parametrize("change", ["settings", "film", "key shots", "gone"])
def test_changed_films_are_read_again(films, tmp_path, monkeypatch, change):
    source, settings = folder_of(films, tmp_path / "source", "a", "b", "c"), {"frame_size": 32}
    with monkeypatch.context() as patch:
        patch.setattr(Movie, "frames", breaking("b", KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            prepare("movies", source, tmp_path / "records", **settings)
    match change:
        case "settings":
            settings = {"frame_size": 48}
        case "film":
            shutil.copy(films / "b.mkv", source / "a.mkv")
        case "key shots":
            (source / "a.keyshots.csv").write_text("start_s,end_s\n2,3\n")
        case "gone":
            (source / "a.mkv").unlink()
    prepare("movies", source, tmp_path / "records", **settings)
    prepare("movies", source, tmp_path / "undisturbed", **settings)
    assert files_of(tmp_path / "records") == files_of(tmp_path / "undisturbed")


def test_a_source_without_usable_films_is_an_error(films, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(
        UserError, match=r"nothing in .*source could be prepared \(it is empty\); --source must hold films"
    ):
        prepare("movies", source, tmp_path / "records")
    (source / "a.mkv").write_text("no film")
    with pytest.raises(UserError, match=r"could be prepared \(a\.mkv: cannot read .*a\.mkv"):
        prepare("movies", source, tmp_path / "records")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_invalid_arguments_are_refused(films, tmp_path):
    output = tmp_path / "records"
    for settings, reason in (
        ({"frames": 12}, "multiple of 8"),
        ({"frame_size": 100}, "multiple of 16"),
        ({"spacing": 0}, "--spacing is 0"),
        ({"test_fraction": 1.0}, "--test_fraction is 1.0"),
    ):
        with pytest.raises(UserError, match=reason):
            prepare("movies", films, output, **settings)
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        prepare("movies", tmp_path / "nowhere", output)
    film = films / "a.mkv"
    with pytest.raises(UserError, match=r"--source=.*a\.mkv is a file; give the folder that holds it"):
        prepare("movies", film, output)
    with pytest.raises(UserError, match=r"--output=.*a\.mkv is a file; give a folder"):
        prepare("movies", films, film)
    output.mkdir()
    (output / "precious").write_text("mine")
    with pytest.raises(UserError, match="records exists already; remove it, or choose another --output"):
        prepare("movies", films, output)
    assert files_of(tmp_path) == {"records/precious": b"mine"}


def test_the_same_films_give_the_same_bytes(films, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()  # an empty folder is no obstacle
        prepare("movies", films, tmp_path / name, frames=8, frame_size=32, spacing=10)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_records_are_spread_over_shards_in_order(films, tmp_path, monkeypatch):
    prepare("movies", films, tmp_path / "one", frames=8, frame_size=32, spacing=5)
    monkeypatch.setattr("avmsnet_jax.data.pack.SHARD_BYTES", 600_000)
    monkeypatch.setattr("avmsnet_jax.data.film.PIECE_BYTES", 500_000)
    prepare("movies", films, tmp_path / "many", frames=8, frame_size=32, spacing=5)
    shards = [name for name in files_of(tmp_path / "many") if "-train.array_record" in name]
    assert len(shards) > 2
    ours, theirs = open_split(tmp_path / "one", "train"), open_split(tmp_path / "many", "train")
    for a, b in zip(ours, theirs, strict=True):
        for field in a:
            np.testing.assert_array_equal(a[field], b[field])


def test_tfds_users_load_it_by_name(films, tmp_path):
    builder = tfds.builder("movies", data_dir=tmp_path, file_format="array_record")
    assert isinstance(builder, Movies)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=films))
    again = tfds.builder("movies", data_dir=tmp_path, file_format="array_record")
    assert again.info.splits["train"].num_examples == 7
    assert again.as_data_source("test")[0]["video"] == b"c"


def test_folds_are_records_of_the_split_all(tmp_path):
    frames = {"Air Force": 90, "100% Ä": 60, "c": 120, "d": 70}
    source = write_summe(tmp_path / "source", frames)
    folds = [
        {"train_keys": ["video_3", "video_1"], "test_keys": ["video_4"]},
        {"train_keys": ["video_4", "video_3"], "test_keys": ["video_1"]},
    ]
    (tmp_path / "splits.json").write_text(json.dumps(folds))
    manifest = prepare("summe", source, tmp_path / "records", splits=tmp_path / "splits.json")
    names = [str(record["video"]) for record in open_split(tmp_path / "records", "whole")]
    builder = tfds.builder_from_directory(tmp_path / "records" / manifest["records"])
    assert builder.info.metadata["folds"] == manifest["folds"]
    for fold, spans in zip(folds, manifest["folds"], strict=True):
        for split in ("train", "test"):
            members = [list(frames)[int(key.removeprefix("video_")) - 1] for key in fold[f"{split}_keys"]]
            wanted = [name for name in names if name in members]
            assert [names[index] for span in spans[split] for index in range(*span)] == wanted
            read = builder.as_data_source("+".join(f"whole[{a}:{b}]" for a, b in spans[split]))
            assert [record["video"].decode() for record in read] == wanted
    assert len(manifest["folds"][1]["train"]) == 1  # neighbors are joined


def test_what_users_said_is_kept(tmp_path):
    frames = {"Air Force": 90, "100% Ä": 60, "hid:den": 60, "n" * 150: 40}
    source = write_summe(tmp_path / "source", frames)
    manifest = prepare("summe", source, tmp_path / "records")
    assert set(manifest["annotations"]) == set(frames)
    assert {video["video"]: video["users"] for video in manifest["videos"]}.keys() == set(frames)
    for video in summe.find_videos(source).videos:
        with np.load(tmp_path / "records" / manifest["annotations"][video.name]) as kept:
            assert kept.files == list(video.annotations())
            for name, array in video.annotations().items():
                np.testing.assert_array_equal(kept[name], array)
    prepare("summe", source, tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(tmp_path / "records")


def test_tfds_users_load_summe_by_name(tmp_path):
    source = write_summe(tmp_path / "source", {"a": 60, "b": 90})
    builder = tfds.builder("summe", data_dir=tmp_path / "tfds", file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=source))
    again = tfds.builder("summe", data_dir=tmp_path / "tfds", file_format="array_record")
    assert [record["video"] for record in again.as_data_source("whole")] == [b"a"] * 2 + [b"b"] * 3
    assert len(again.info.metadata["folds"]) == len(builder.folds)


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_fails_at_the_first_film_that_would_be_skipped(films, tmp_path, workers):
    source = folder_of(films, tmp_path / "source", "a", "b")
    (source / "zz.mkv").write_text("no film")  # which is known before any other is read
    output = tmp_path / "records"
    with pytest.raises(UserError, match=r"zz\.mkv would be skipped: cannot read .*\(--strict\)$"):
        prepare("movies", source, output, strict=True, workers=workers)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    encode(source / "zz.mkv", [numbered(1)] * 20)
    (source / "zz.keyshots.csv").write_text("start_s,end_s\n")
    with pytest.raises(
        UserError, match=r"zz would be skipped: too short.*\(--strict\); .* kept: the same command goes on"
    ):
        prepare("movies", source, output, strict=True, workers=workers)
    (source / "zz.mkv").unlink()
    (source / "zz.keyshots.csv").unlink()
    prepare("movies", source, output, strict=True)
    assert [path.name for path in tmp_path.iterdir() if path != source] == ["records"]


def test_a_film_that_goes_missing_before_it_is_read(films, tmp_path, monkeypatch):
    source, find = folder_of(films, tmp_path / "source", "a", "c"), Movies.find

    def find_and_lose(self, folder):
        found = find(self, folder)
        (folder / "a.mkv").unlink()
        return found

    monkeypatch.setattr(Movies, "find", find_and_lose)
    manifest = prepare("movies", source, tmp_path / "records")
    (skipped,) = manifest["skipped"]
    assert skipped["video"] == "a"
    assert "there is no film" in skipped["reason"]


def test_of_films_with_one_name_the_first_is_taken(films, tmp_path, monkeypatch):
    find = Movies.find

    def find_twice(self, folder):
        found = find(self, folder)
        return dataclasses.replace(
            found, videos=[*found.videos, dataclasses.replace(found.videos[0], path=films / "b.mkv")]
        )

    monkeypatch.setattr(Movies, "find", find_twice)
    manifest = prepare("movies", films, tmp_path / "records")
    assert manifest["skipped"] == [{"video": "a", "reason": "another video of this name is in the split 'train'"}]
    assert clips_of(tmp_path / "records", "train")[0] == ("a", 26, 1)


def test_packing_needs_the_room_of_one_data_set_and_a_shard(films, tmp_path, monkeypatch):
    settings = {"frames": 8, "frame_size": 32, "spacing": 5}
    prepare("movies", films, tmp_path / "one", **settings)
    monkeypatch.setattr("avmsnet_jax.data.pack.SHARD_BYTES", 150_000)
    monkeypatch.setattr("avmsnet_jax.data.film.PIECE_BYTES", 300_000)
    sizes = []
    real = os.replace

    def measured(here, there):
        sizes.append(sum(len(data) for data in files_of(tmp_path / ".many.partial").values()))
        real(here, there)

    monkeypatch.setattr(os, "replace", measured)
    prepare("movies", films, tmp_path / "many", **settings)
    many = files_of(tmp_path / "many")
    shards = [len(data) for name, data in many.items() if ".array_record" in name]
    assert len(shards) > 5
    pieces = 70_000  # each file of records is a multiple of 64 KiB, and at least that
    assert max(sizes) < sum(map(len, many.values())) + 3 * max(shards) + pieces
    for split in ("train", "test"):
        for a, b in zip(open_split(tmp_path / "one", split), open_split(tmp_path / "many", split), strict=True):
            for field in a:
                np.testing.assert_array_equal(a[field], b[field])


def test_invalid_arguments_for_the_data_set_are_refused(films, tmp_path):
    with pytest.raises(UserError, match="--workers is 0; it must be at least 1"):
        prepare("movies", films, tmp_path / "records", workers=0)
    with pytest.raises(UserError, match="--splits is for summe and tvsum; leave it out for movies"):
        prepare("movies", films, tmp_path / "records", splits="splits.json")
    assert not list(tmp_path.iterdir())


def test_the_command(films, forked, tmp_path):
    output = tmp_path / "records"
    sizes = ["--frames=8", "--frame_size=32", "--workers=1"]
    done = forked("prepare_data.py", "--dataset=movies", f"--source={films}", f"--output={output}", *sizes)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{output}: train: 7 clips of 2 films, 28.6% key, test: 2 clips of 1 film, 0.0% key\n"
    assert done.stderr.splitlines() == [
        "[1/3] a: 4 clips, 2 key",
        "[2/3] b: 3 clips, 0 key",
        "[3/3] c: 2 clips, 0 key",
        "warning: b: none of its clips is key; check its labels",
        "warning: c: none of its clips is key; check its labels",
        "warning: split test: none of its clips is key, so nothing can be learned or tested with it; label more films",
    ]
    assert open_split(output, "train")[0]["clip"].shape == (8, 32, 32, 3)


def test_the_command_explains_a_mistake_in_one_line(forked, tmp_path):
    output = tmp_path / "records"
    done = forked("prepare_data.py", "--dataset=kinetics", f"--source={tmp_path}", f"--output={output}")
    assert done.returncode == 2
    assert done.stderr == "prepare_data.py: --dataset is 'kinetics'; choose movies, movie50, summe, tvsum or gaze\n"
    assert done.stdout == ""


def test_text_files_beside_a_film_are_not_films(films, tmp_path):
    """FFmpeg plays any text as a film of a terminal, whatever its name."""
    source = folder_of(films, tmp_path / "source", "a")
    for name in ("a.asc", "README.txt", "a.nfo", "b.mp4"):
        (source / name).write_text("What this folder holds.\n" * 40)
    manifest = prepare("movies", source, tmp_path / "records")
    assert [(video["video"], sum(video["clips"].values())) for video in manifest["videos"]] == [("a", 4)]
    assert {skipped["video"] for skipped in manifest["skipped"]} == {"b.mp4"}  # the others are not called films


def test_a_link_cannot_be_the_output(films, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with pytest.raises(UserError, match="link is a link or a mounted place; choose a folder inside it"):
        prepare("movies", films, tmp_path / "link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]


def test_nothing_is_left_in_the_temporary_folder(films, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    prepare("movies", folder_of(films, tmp_path / "source", "a"), tmp_path / "records")
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("error", [KeyError(8), MemoryError(), RecursionError("too deep")])
def test_the_command_exits_2_after_an_unexpected_error(films, tmp_path, monkeypatch, capsys, error):
    source = folder_of(films, tmp_path / "source", "a", "c")
    monkeypatch.setattr(Movie, "frames", breaking("a", error))
    arguments = ["--dataset=movies", f"--source={source}", f"--output={tmp_path / 'records'}", "--workers=1"]
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        prepare_command.run()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert f"{tmp_path / 'records'}: test: " in said.out or "train: " in said.out
    (log,) = tmp_path.glob("a.error.*.log")
    assert f"skipped a: unexpected error: {type(error).__name__}" in said.err
    assert str(log) in said.err
    assert said.err.splitlines()[-1].startswith("prepare_data.py: 1 film skipped because of an unexpected error")


def joined_stream(path: Path, pictures: int) -> Path:
    """Two recordings of so many frames in one file; its header knows of the first one's length only."""
    part = encode(
        path, [numbered(i) for i in range(pictures)], codec="mpeg2video", pix_fmt="yuv420p", picture_start_s=9
    )
    path.write_bytes(part.read_bytes() * 2)
    return path


@pytest.mark.parametrize(("last", "refused"), [(120, False), (160, True)])
def test_labels_are_checked_against_the_frames_in_the_file(tmp_path, last, refused):
    films = tmp_path / "films"
    films.mkdir()
    joined_stream(films / "film.ts", 60)
    rows = "".join(f"{number},{number % 2}\n" for number in range(1, last + 1))
    (films / "film.labels.csv").write_text("frame,label\n" + rows)
    collection = movies.find_films(films, 0.2)
    assert bool(collection.skipped) == refused
    if refused:
        assert "beyond the video's 120 frames" in collection.skipped[0].reason
    else:
        assert Movie(films / "film.ts").info().frames < 100
        assert len(collection.videos[0].labels) == 120


def from_the_middle(source: Path, target: Path, start_s: float) -> Path:
    """Copies a film from the key frame before `start_s`; an edit list leaves out what comes before that time."""
    with av.open(str(source)) as film, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.pts -= round(start_s / packet.time_base)
                packet.dts -= round(start_s / packet.time_base)
                packet.stream = stream
                out.mux(packet)
    return target


def test_splits_ignore_frames_outside_the_edit_list(tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    whole = encode(tmp_path / "whole.mp4", [numbered(i) for i in range(1, 201)], codec="libx264", pix_fmt="yuv420p")
    film = from_the_middle(whole, films / "film.mp4", 4.0)
    (films / "film.keyshots.csv").write_text("start_s,end_s\n0,1\n3.5,4\n")
    assert [number_of(frame.rgb()) for frame in Movie(film).frames()] == list(range(101, 201))
    assert Movie(film).info().frames == 200
    (video,) = movies.find_films(films, 0.25).videos
    assert video.test_from_s == pytest.approx(3.0)
    prepare("movies", films, tmp_path / "records", frames=8, frame_size=16, spacing=5, test_fraction=0.25)
    assert {frame for _, frame, _ in clips_of(tmp_path / "records", "test")} >= {76, 80, 86, 90}


@pytest.mark.parametrize("fps", [1, Fraction(2, 5)])
def test_no_two_clips_of_a_film_with_few_pictures_share_a_frame(tmp_path, fps):
    films = tmp_path / "films"
    films.mkdir()
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, (1, round(20 / fps) * 8000)).astype(np.float32)
    encode(films / "film.mkv", [numbered(i) for i in range(20)], fps, sound=sound, sample_rate=8000)
    prepare("movies", films, tmp_path / "records", frames=8, frame_size=16, spacing=1)
    frames = [int(record["frame"]) for record in open_split(tmp_path / "records", "unlabelled")]
    assert frames == list(range(4, 17))
