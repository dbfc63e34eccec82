"""Unusual and broken folders in the published layout."""

import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.sources.published import FrameFile, find_videos
from avmsnet_jax.errors import UserError
from tests.media.films import numbered

N_FRAMES = 40


def write_video(root: Path, name: str = "v", n_frames: int = N_FRAMES, rows: str = "26,1\n") -> None:
    frames, sound, table = (root / kind / "Movie50" / name for kind in ("video_frames", "video_audio", "annotations"))
    for folder in (frames, sound, table):
        folder.mkdir(parents=True)
    for number in range(1, n_frames + 1):
        Image.fromarray(numbered(number)).save(frames / f"{number}.jpg")
    wavfile.write(sound / f"{name}.wav", 8000, np.full(8000 * n_frames // 25, 1000, np.int16))
    (table / f"{name}.csv").write_text(rows, encoding="utf-8")


def write_lists(root: Path, train: str = f"v {N_FRAMES} 25\n", test: str = "", encoding: str = "utf-8") -> None:
    folder = root / "fold_lists"
    folder.mkdir(exist_ok=True)
    (folder / "Movie50_list_train_fps.txt").write_text(train, encoding=encoding)
    (folder / "Movie50_list_test_fps.txt").write_text(test, encoding=encoding)


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "layout"
    write_video(root)
    write_lists(root)
    return root


def frames_of(root: Path) -> Path:
    return root / "video_frames" / "Movie50" / "v"


def csv_of(root: Path) -> Path:
    return root / "annotations" / "Movie50" / "v" / "v.csv"


@pytest.mark.parametrize(
    "content",
    [
        "26,1\n27,0\n",
        "26,1",
        "26,1\r\n27,0\r\n",
        "26,1\r27,0\r",
        "\ufeff26,1\n",
        " 26 , 1 \n27\t,\t0\n",
        "\n26,1\n\n  ,  \n   \n",
        "26.0,1.0\n",
        "frame,label\n26,1\n",
        "frame;label\n26;1\n",
        "26\t1\n27\t0\n",
        "26,0;1,0\n",
        "26,1\n26,1\n",
        '"26","1"\n',
        f"26,1\n{N_FRAMES},0\n{N_FRAMES + 1},1\n",
        f"{N_FRAMES},0\n26,1\n",
    ],
)
def test_valid_tables_of_labels_are_read(layout, content):
    csv_of(layout).write_bytes(content.encode())
    (video,) = find_videos(layout, "Movie50").videos
    assert [frame for frame in range(1, N_FRAMES + 1) if video.label(frame, 0)] == [26]


def test_a_video_without_rows_has_no_key_frame(layout):
    csv_of(layout).write_text("")
    (video,) = find_videos(layout, "Movie50").videos
    assert not any(video.label(frame, 0) for frame in range(1, N_FRAMES + 1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("26,1\n0,1\n", "line 2: there is no frame 0; count the frames from 1"),
        ("-3,1\n", "line 1: there is no frame -3"),
        ("26,1\n\n42,0\n", "line 3: frame 42 is beyond the video's 40 frames"),
        ("26,1\n27,0\n26,0\n", "line 3: frame 26 is labeled 0, and otherwise before; keep one row"),
        ("x,1\n", "line 1: 'x,1' is not a frame number, a comma, and 0 or 1"),
        ("26,1\nframe,label\n", "line 2: 'frame,label' is not"),
        ("26|1\n", "line 1: '26|1' is not"),
        ("26,1\n27;0\n", "line 2: '27;0' is not"),
        ("x" * 200_000 + ",1\n", "no table (field larger than field limit (131072))"),
        ("1" * 5000 + ",1\n", "line 1: '1111"),
        ("26,1,\n", "line 1: '26,1,' is not"),
        ("26,2\n", "line 1: '26,2' is not"),
        ("26.5,1\n", "line 1: '26.5,1' is not"),
        ("26,nan\n", "line 1: '26,nan' is not"),
        ("nan,1\n", "line 1: 'nan,1' is not"),
        ("inf,1\n", "line 1: 'inf,1' is not"),
        (b"\xff\xfe2\x006\x00,\x001\x00", "not a table in UTF-8; write it as text"),
        ("26,\0\n", "line 1: "),
        (None, "No such file or directory"),
    ],
)
def test_invalid_tables_of_labels_are_refused(layout, content, reason):
    if content is None:
        csv_of(layout).unlink()
    else:
        csv_of(layout).write_bytes(content if isinstance(content, bytes) else content.encode())
    collection = find_videos(layout, "Movie50")
    assert not collection.videos
    (skipped,) = collection.skipped
    assert skipped.video == "v"
    assert str(csv_of(layout)) in skipped.reason
    assert reason in skipped.reason


def test_lists_as_editors_write_them(tmp_path):
    for name in ("v", "ein Film, 2. Teil", "映画"):
        write_video(tmp_path, name)
    train = "v 40 25\r\n\r\n  ein Film, 2. Teil\t40   29.97 \r\n   \r\n映画 40 2.5e1"
    write_lists(tmp_path, train, encoding="utf-8-sig")
    videos = find_videos(tmp_path, "Movie50").videos
    assert [(video.name, video.fps) for video in videos] == [("v", 25), ("ein Film, 2. Teil", 29.97), ("映画", 25)]
    assert [len(list(video.read_frames())) for video in videos] == [40] * 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("v 40", "is not: video n_frames fps"),
        ("40 25", "is not: video n_frames fps"),
        ("v,40,25", "is not: video n_frames fps"),
        ("v 40.5 25", "is not: video n_frames fps"),
        ("v forty 25", "is not: video n_frames fps"),
        ("v 40 25fps", "is not: video n_frames fps"),
        ("v 0 25", "needs at least 1 frame"),
        ("v -40 25", "needs at least 1 frame"),
        ("v 40 0", "more than 0 frames a second"),
        ("v 40 -25", "more than 0 frames a second"),
        ("v 40 nan", "more than 0 frames a second"),
        ("v 40 inf", "more than 0 frames a second"),
        ("v 40 1e999", "more than 0 frames a second"),
        ("../v 40 25", "must be the plain name of its folder"),
        ("a/v 40 25", "must be the plain name of its folder"),
        ("a\\v 40 25", "must be the plain name of its folder"),
        (".. 40 25", "must be the plain name of its folder"),
        ("/etc 40 25", "must be the plain name of its folder"),
        ("v 40 25\nv 40 25", "v is in Movie50_list_train_fps.txt, line 2 as well; list a video once"),
    ],
)
def test_invalid_lines_of_a_list_are_refused(layout, line, reason):
    write_lists(layout, "\n" + line + "\n")
    with pytest.raises(UserError) as caught:
        find_videos(layout, "Movie50")
    assert reason in str(caught.value)
    assert f"{layout / 'fold_lists' / 'Movie50_list_train_fps.txt'}, line {2 + line.count(chr(10))}" in str(
        caught.value
    )


def test_lists_that_cannot_be_used(layout):
    write_lists(layout, test="v 40 25\n")
    with pytest.raises(UserError, match=r"test_fps\.txt, line 1: v is in Movie50_list_train_fps\.txt, line 1 as well"):
        find_videos(layout, "Movie50")
    write_lists(layout, "v\u00e9 40 25", encoding="latin-1")
    with pytest.raises(UserError, match=r"cannot read the fold list .*train_fps\.txt: not UTF-8"):
        find_videos(layout, "Movie50")
    write_lists(layout, "")
    with pytest.raises(UserError, match="no film is in it"):
        prepare("movie50", layout, layout.parent / "records")
    (layout / "fold_lists" / "Movie50_list_test_fps.txt").unlink()
    with pytest.raises(UserError, match=r"cannot read the fold list .*test_fps\.txt: No such file"):
        find_videos(layout, "Movie50")


def rename_all(frames: Path, form: str) -> None:
    for path in list(frames.iterdir()):
        path.rename(frames / form.format(int(path.stem)))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no folder", "there is no folder of frames {frames}"),
        ("empty", "{frames} holds no frames 1.jpg, 2.jpg, ... (the folder is empty)"),
        ("padded", "{frames} holds no frames 1.jpg, 2.jpg, ... (found '000001.png')"),
        ("upper case", "{frames} holds no frames 1.jpg, 2.jpg, ... (found '1.JPG')"),
        ("from 0", "there is no frame {frames}/40.jpg"),
        ("hole", "there is no frame {frames}/7.jpg, though the fold list promises 40 frames (1 are missing)"),
        ("first", "there is no frame {frames}/1.jpg"),
        ("many", "there is no frame {frames}/38.jpg, though the fold list promises 40 frames (3 are missing)"),
    ],
)
def test_missing_frames_skip_their_video(layout, what, reason):
    frames = frames_of(layout)
    missing = {"hole": [7], "first": [1], "many": [38, 39, 40]}.get(what, [])
    for number in missing:
        (frames / f"{number}.jpg").unlink()
    if what in ("no folder", "empty"):
        shutil.rmtree(frames)
    if what == "empty":
        frames.mkdir()
    if what == "padded":
        rename_all(frames, "{:06d}.png")
    if what == "upper case":
        rename_all(frames, "{}.JPG")
    if what == "from 0":
        (frames / "40.jpg").rename(frames / "0.jpg")
        (frames / "39.jpg").unlink()
    if what == "from 0":
        reason = "there is no frame {frames}/39.jpg"
    (skipped,) = find_videos(layout, "Movie50").skipped
    assert reason.format(frames=frames) in skipped.reason


def test_a_frame_that_is_missing_at_the_end_is_not_needed(layout):
    (frames_of(layout) / "40.jpg").unlink()
    (video,) = find_videos(layout, "Movie50").videos
    assert [frame.number for frame in video.read_frames()] == list(range(1, 40))


def test_frames_beyond_those_of_the_list_are_left_alone(layout):
    Image.fromarray(numbered(41)).save(frames_of(layout) / "41.jpg")
    (frames_of(layout) / "Thumbs.db").write_bytes(b"")
    (video,) = find_videos(layout, "Movie50").videos
    assert [frame.number for frame in video.read_frames()] == list(range(1, 41))


def test_pictures_are_recognized_by_content(tmp_path):
    gray = np.tile(np.linspace(0, 255, 320).astype(np.uint8), (240, 1))
    color = np.stack([gray, gray[:, ::-1], np.full_like(gray, 77)], axis=-1)
    alpha = np.concatenate([color, np.zeros_like(gray)[..., None]], axis=-1)
    for name, picture, form, expected in (
        ("png", Image.fromarray(color), "PNG", color),
        ("bmp", Image.fromarray(color), "BMP", color),
        ("alpha", Image.fromarray(alpha, "RGBA"), "PNG", color),
        ("gray", Image.fromarray(gray), "JPEG", np.stack([gray] * 3, axis=-1)),
        ("cmyk", Image.fromarray(color).convert("CMYK"), "JPEG", color),
        ("palette", Image.fromarray(gray).convert("P"), "PNG", np.stack([gray] * 3, axis=-1)),
        ("16 bit", Image.fromarray(gray.astype(np.uint16) * 257), "PNG", np.stack([gray] * 3, axis=-1)),
    ):
        path = tmp_path / f"{name}.jpg"
        picture.save(path, form, quality=100)
        read = FrameFile(1, path).scaled(320, 240)
        assert (read.shape, read.dtype) == ((240, 320, 3), np.uint8)
        assert np.abs(read.astype(int) - expected).max() <= (6 if form == "JPEG" else 0), name


@pytest.mark.parametrize("content", ["cut", "empty", "text", "folder", "missing", "cut png"])
def test_pictures_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "1.jpg"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    if content.startswith("cut"):
        picture.save(path, "PNG" if content == "cut png" else "JPEG")
        path.write_bytes(path.read_bytes()[:1000])
    elif content == "folder":
        path.mkdir()
    elif content != "missing":
        path.write_text("" if content == "empty" else "no picture")
    with pytest.raises(UserError, match=r"frame .*1\.jpg.*; extract the video again"):
        FrameFile(1, path).scaled(320, 240)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n0 0 64 48 rectfill\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("kind", ["eps", "pdf", "wmf", "svg", "fits"])
def test_pictures_cannot_start_other_programs(tmp_path, monkeypatch, kind):
    (tmp_path / "bin").mkdir()
    for program in ("gs", "gswin64c", "convert"):
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    contents = {
        "eps": EPS,
        "pdf": b"%PDF-1.4\n" + EPS,
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(100),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "fits": b"SIMPLE  =                    T" + bytes(3000),
    }
    (tmp_path / "1.jpg").write_bytes(contents[kind])
    with pytest.raises(UserError, match=r"cannot read the frame .*1\.jpg: cannot identify image file"):
        FrameFile(1, tmp_path / "1.jpg").scaled(320, 240)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (65_000, 1_300), (100_000, 100_000)])
def test_pictures_of_far_too_many_pixels(tmp_path, width, height):
    Image.new("1", (8, 8)).save(tmp_path / "1.jpg", "PNG")
    content = (tmp_path / "1.jpg").read_bytes()
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:29]
    (tmp_path / "1.jpg").write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:])
    with pytest.raises(UserError, match=r"cannot read the frame .*1\.jpg: .*pixels.*; extract the video again"):
        FrameFile(1, tmp_path / "1.jpg").scaled(320, 240)


@pytest.mark.parametrize("count", [10**9, 999_999_999_999, 10**320])
def test_a_list_that_promises_far_too_many_frames(layout, count):
    write_lists(layout, f"v {count} 25\n")
    (skipped,) = find_videos(layout, "Movie50").skipped
    assert f"41.jpg, though the fold list promises {count} frames ({count - N_FRAMES} are missing)" in skipped.reason


@pytest.mark.parametrize("table", ["annotations/Movie50/v/v.csv", "fold_lists/Movie50_list_test_fps.txt"])
def test_pipes_are_not_opened_as_tables(layout, table):
    (layout / table).unlink()
    os.mkfifo(layout / table)
    with pytest.raises(UserError, match="is a pipe"):
        prepare("movie50", layout, layout.parent / "records", strict=True)


def test_frames_may_change_their_size(layout, tmp_path):
    for number in range(20, 41, 2):
        Image.fromarray(numbered(number, 60, 33)).save(frames_of(layout) / f"{number}.jpg")
    manifest = prepare("movie50", layout, tmp_path / "records", frames=8, frame_size=32)
    assert manifest["splits"]["train"]["clips"] == 1


@pytest.mark.parametrize(
    ("content", "heard"), [("missing", False), ("no samples", False), ("empty", None), ("text", None), ("cut", True)]
)
def test_sound_that_is_missing_or_broken(layout, tmp_path, content, heard):
    wav = layout / "video_audio" / "Movie50" / "v" / "v.wav"
    write_video(layout, "w")
    write_lists(layout, "v 40 25\nw 40 25\n")
    if content == "missing":
        wav.unlink()
    elif content == "no samples":
        wavfile.write(wav, 8000, np.zeros(0, np.int16))
    elif content == "cut":
        wav.write_bytes(wav.read_bytes()[:-501])
    else:
        wav.write_text("" if content == "empty" else "no sound")
    manifest = prepare("movie50", layout, tmp_path / "records", frames=8, frame_size=32)
    if heard is None:
        (skipped,) = manifest["skipped"]
        assert skipped["video"] == "v"
        assert f"{wav} is empty" in skipped["reason"] or f"cannot read {wav}" in skipped["reason"]
    else:
        assert not manifest["skipped"]
        assert manifest["videos"][0]["has_sound"] == heard


def test_an_unexpected_error_fails_only_its_video(layout):
    write_video(layout, "w")
    too_long = "n" * 300  # for a file name: the system refuses to look for it
    write_lists(layout, f"{too_long} 40 25\nv {N_FRAMES} 25\n", f"w {N_FRAMES} 25\n")
    collection = find_videos(layout, "Movie50")
    assert [video.name for video in collection.videos] == ["v", "w"]
    (skipped,) = collection.skipped
    assert skipped.video == too_long
    assert "File name too long" in skipped.reason
