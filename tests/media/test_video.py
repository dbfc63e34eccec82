import gc
import itertools
import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie, VideoInfo
from tests.media.films import encode, number_of, numbered


def shown(path: Path) -> list[int]:
    """The numbers that a film's frames carry, at a constant frame rate."""
    frames = list(Movie(path).frames(constant_rate=True))
    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
    fps = Movie(path).info().fps
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(len(frames)) / float(fps))
    return [number_of(frame.rgb()) for frame in frames]


@pytest.mark.parametrize("fps", [10, Fraction(24000, 1001), 25, Fraction(30000, 1001), 60])
def test_frames_come_in_order_with_their_times(tmp_path, fps):
    film = encode(tmp_path / "film.mp4", [numbered(i) for i in range(1, 41)], fps, codec="libx264", pix_fmt="yuv420p")
    frames = list(Movie(film).frames())
    assert [frame.number for frame in frames] == list(range(1, 41))
    assert [number_of(frame.rgb()) for frame in frames] == list(range(1, 41))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(40) / float(fps), atol=1e-3)
    info = Movie(film).info()
    assert info.fps == fps
    assert info.frames == 40
    assert Movie(film).measured().seconds == pytest.approx(40 / fps)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "webm"])  # mkv and webm round stamps to milliseconds
@pytest.mark.parametrize("fps", [10, Fraction(24000, 1001), 25, Fraction(30000, 1001), Fraction(60000, 1001), 120])
def test_at_a_constant_frame_rate_both_ways_of_counting_agree(tmp_path, suffix, fps):
    codec = {"codec": "libvpx", "pix_fmt": "yuv420p"} if suffix == "webm" else {}
    if suffix == "mp4":
        codec = {"codec": "libx264", "pix_fmt": "yuv420p"}
    film = encode(tmp_path / f"film.{suffix}", [numbered(i) for i in range(1, 61)], fps, **codec)
    assert shown(film) == list(range(1, 61))


def test_a_slightly_wrong_rate_moves_frames_by_at_most_one(tmp_path):
    # The header says 25; the stamps say 25.5. In 8 seconds four frames are too many.
    times = [i / 25.5 for i in range(204)]
    film = encode(tmp_path / "film.mkv", [numbered(i) for i in range(204)], 25, times_s=times)
    assert Movie(film).info().fps == 25
    numbers = shown(film)
    assert abs(len(numbers) - 200) <= 1
    for slot, number in enumerate(numbers):
        assert abs(times[number] - slot / 25) < 1 / 25
    assert sum(b - a != 1 for a, b in itertools.pairwise(numbers)) <= 4


def test_a_variable_frame_rate_is_resampled_to_a_constant_one(tmp_path):
    # 1 s at 25 frames a second, 2 s at 10, a still of 1 s, 1 s at 50: 25 + 20 + 1 + 50 frames in 5 s.
    times = [*np.arange(25) / 25, *(1 + np.arange(20) / 10), 3.0, *(4 + np.arange(50) / 50)]
    film = encode(tmp_path / "film.mp4", [numbered(i) for i in range(96)], 25, times_s=times, codec="libx264",
                  pix_fmt="yuv420p")  # fmt: skip
    fps = Movie(film).info().fps
    assert fps == pytest.approx(96 / 5, rel=0.02)
    numbers = shown(film)
    assert len(numbers) == pytest.approx(96, abs=1)
    assert numbers == sorted(numbers)
    for slot, number in enumerate(numbers):
        follows = times[number + 1] if number + 1 < len(times) else 5.0
        # The frame that is shown at the slot's time, to within a frame.
        assert times[number] - 1 / fps < slot / fps < follows + 1 / fps
    assert [number_of(frame.rgb()) for frame in Movie(film).frames()] == list(range(96))  # as they are decoded
    assert Movie(film).measured().seconds == pytest.approx(5.0, abs=0.1)


def test_gaps_repeat_a_frame_and_the_later_of_two_frames_wins(tmp_path):
    times = [i / 25 for i in range(20)]
    gap = encode(
        tmp_path / "gap.mkv", [numbered(i) for i in range(20)], times_s=times[:10] + [t + 0.2 for t in times[10:]]
    )
    assert shown(gap) == [*range(10), *[9] * 5, *range(10, 20)]
    crowd = [*times[:10], 0.37, 0.38, 0.39, *times[10:17]]
    two = encode(tmp_path / "two.mkv", [numbered(i) for i in range(20)], times_s=crowd)
    numbers = shown(two)
    assert numbers[:9] == list(range(9))
    assert numbers[-6:] == list(range(14, 20))
    assert len(numbers) == 17


def joined(path: Path, *parts: tuple[range, int, float]) -> Path:
    """MPEG-TS files one after the other, as recorders leave them: (numbers, height, start_s) of each."""
    content = b""
    for numbers, height, start_s in parts:
        pictures = [numbered(number, height, 2 * height) for number in numbers]
        encode(path, pictures, codec="mpeg2video", pix_fmt="yuv420p", picture_start_s=start_s)
        content += path.read_bytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("jump", [-5.0, -3000.0, 5 * 3600.0], ids=["back", "far back", "far ahead"])
def test_jumps_of_the_clock_are_ignored(tmp_path, jump):
    film = joined(tmp_path / "film.ts", (range(25), 48, 3600.0), (range(25, 50), 48, 3601.0 + jump))
    assert shown(film) == list(range(50))
    assert Movie(film).measured().seconds == pytest.approx(2.0, abs=0.1)


def test_small_steps_back_of_the_clock_are_followed(tmp_path):
    film = joined(tmp_path / "film.ts", (range(25), 48, 10.0), (range(25, 50), 48, 10.6))
    numbers = shown(film)
    assert numbers[:24] == list(range(24))
    assert numbers[-14:] == list(range(36, 50))  # the second part overlaps the first one by 0.4 s
    assert len(numbers) == 40


def test_a_raw_stream_without_time_stamps_has_a_constant_rate(tmp_path):
    film = encode(tmp_path / "film.h264", [numbered(i) for i in range(30)], codec="libx264", pix_fmt="yuv420p")
    assert shown(film) == list(range(30))


def test_the_tick_rate_of_the_container_is_not_taken_for_a_frame_rate(tmp_path):
    # Without a frame rate of its own, a container that counts milliseconds says 1000 frames a second.
    film = encode(tmp_path / "film.mkv", [numbered(i) for i in range(50)], 1000, times_s=[i / 20 for i in range(50)])
    with av.open(str(film)) as container:
        assert container.streams.video[0].average_rate == 1000
    assert Movie(film).info().fps == pytest.approx(20)
    assert shown(film) == list(range(50))
    assert Movie(film).measured().seconds == pytest.approx(2.5)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p12le", "gbrp16le", "gray", "gray10le", "bgra"])
def test_any_pixel_format_becomes_rgb(tmp_path, pix_fmt):
    picture = np.full((33, 47, 3), (60, 60, 60) if "gray" in pix_fmt else (200, 90, 30), np.uint8)
    film = encode(tmp_path / "film.mkv", [picture] * 3, pix_fmt=pix_fmt)
    for frame in Movie(film).frames():
        rgb = frame.rgb()
        assert rgb.dtype == np.uint8
        assert rgb.shape == (33, 47, 3)
        np.testing.assert_allclose(rgb.astype(int), picture, atol=4)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_rotated_film_is_turned_upright(tmp_path, turn):
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32] = 255  # white in the upper left
    stored = np.rot90(upright, -turn // 90)  # turning this counterclockwise by `turn` gives the picture back
    film = encode(
        tmp_path / "f.mp4", [stored] * 3, codec="libx264", pix_fmt="yuv420p", rotation=(turn + 180) % 360 - 180
    )
    seen = next(iter(Movie(film).frames())).rgb()
    assert seen.shape == upright.shape
    assert np.abs(seen.astype(int) - upright).mean() < 5


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_scaling_fits_the_upright_picture_into_any_size(tmp_path, turn):
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32] = 255
    film = encode(
        tmp_path / "f.mp4",
        [np.rot90(upright, -turn // 90)] * 3,
        codec="libx264",
        pix_fmt="yuv420p",
        rotation=(turn + 180) % 360 - 180,
    )
    seen = next(iter(Movie(film).frames())).scaled(30, 80)
    assert seen.shape == (80, 30, 3)
    assert (seen[:36, :12] > 240).all()
    assert (seen[44:] < 16).all()
    assert (seen[:, 18:] < 16).all()


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "bgr0"])
def test_scaling_is_pillow_s_bicubic_to_within_half_a_level(tmp_path, pix_fmt):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (18, 32, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize((640, 360), Image.Resampling.BICUBIC))
    frame = next(iter(Movie(encode(tmp_path / "film.mkv", [picture] * 2, pix_fmt=pix_fmt)).frames()))
    expected = np.asarray(
        Image.fromarray(np.ascontiguousarray(frame.rgb())).resize((320, 240), Image.Resampling.BICUBIC)
    )
    difference = frame.scaled(320, 240).astype(int) - expected
    assert np.abs(difference).mean() < 0.5
    assert abs(difference.mean()) < 0.05


@pytest.mark.parametrize(("matrix", "number"), [("BT.601", 5), ("BT.709", 1), ("BT.2020", 9), ("untagged", 2)])
@pytest.mark.parametrize("full_range", [False, True])
def test_colors_follow_the_film_s_matrix_and_range(tmp_path, matrix, number, full_range):
    color = np.array([200, 90, 30])
    kr, kb = {"BT.709": (0.2126, 0.0722), "BT.2020": (0.2627, 0.0593)}.get(matrix, (0.299, 0.114))
    luma = kr * color[0] + (1 - kr - kb) * color[1] + kb * color[2]
    chroma = np.array([(color[2] - luma) / (1 - kb), (color[0] - luma) / (1 - kr)]) / 2
    if not full_range:
        luma, chroma = 16 + luma * 219 / 255, chroma * 224 / 255
    planes = [
        np.full((48, 64), luma.round(), np.uint8),
        *(np.full((24, 32), c, np.uint8) for c in (128 + chroma).round()),
    ]
    film = tmp_path / "film.mkv"
    with av.open(str(film), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = number, 2 if full_range else 1
        frame = av.VideoFrame.from_ndarray(
            np.concatenate([plane.reshape(-1, 64) for plane in planes]), format="yuv420p"
        )
        frame.colorspace, frame.color_range = number, 2 if full_range else 1
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        out.mux([*stream.encode(frame), *stream.encode(None)])
    seen = next(iter(Movie(film).frames()))
    np.testing.assert_allclose(seen.rgb().mean(axis=(0, 1)), color, atol=1.5)
    np.testing.assert_allclose(seen.scaled(32, 20).mean(axis=(0, 1)), color, atol=1.5)


def test_an_unknown_color_matrix_is_read_as_bt601(tmp_path):
    film = tmp_path / "film.mkv"
    with av.open(str(film), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace = 8  # YCgCo
        frame = av.VideoFrame.from_ndarray(np.full((72, 64), 128, np.uint8), format="yuv420p")
        frame.colorspace, frame.pts, frame.time_base = 8, 0, Fraction(1, 25)
        out.mux([*stream.encode(frame), *stream.encode(None)])
    for picture in (next(iter(Movie(film).frames())).rgb(), next(iter(Movie(film).frames())).scaled(32, 24)):
        np.testing.assert_allclose(picture.astype(int), 130, atol=2)


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [(Fraction(16, 11), (48, 93)), (Fraction(1, 2), (96, 64)), (None, (48, 64)), (Fraction(20), (48, 64))],
)
def test_nonsquare_pixels_are_made_square(tmp_path, aspect, shape):
    film = encode(tmp_path / "film.mkv", [numbered(27)] * 2, codec="libx264", pix_fmt="yuv420p", pixel_aspect=aspect)
    frame = next(iter(Movie(film).frames()))
    assert frame.rgb().shape == (*shape, 3)
    assert number_of(frame.rgb()) == 27
    assert frame.scaled(320, 240).shape == (240, 320, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (33, 47), (2, 500), (501, 2)])
def test_odd_sizes_are_read(tmp_path, height, width):
    picture = np.full((height, width, 3), (200, 90, 30), np.uint8)
    film = encode(tmp_path / "film.nut", [picture] * 2, codec="rawvideo", pix_fmt="yuv420p")
    frame = next(iter(Movie(film).frames()))
    assert frame.rgb().shape == (height, width, 3)
    for picture in (frame.rgb(), frame.scaled(320, 240)):
        np.testing.assert_allclose(picture.astype(int) - (200, 90, 30), 0, atol=3)


def test_interlaced_frames_are_not_deinterlaced(tmp_path):
    film = tmp_path / "film.mkv"
    combed = np.zeros((48, 64, 3), np.uint8)
    combed[::2] = 255
    with av.open(str(film), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"x264-params": "tff=1", "qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(combed, format="rgb24").reformat(format="yuv444p", threads=1)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    frames = list(Movie(film).frames())
    assert len(frames) == 5
    assert np.abs(frames[2].rgb().astype(int) - combed).max() <= 3


def test_the_size_may_change_midway(tmp_path):
    film = joined(tmp_path / "film.ts", (range(10), 48, 1.0), (range(10, 20), 96, 1.4))
    frames = list(Movie(film).frames(constant_rate=True))
    assert {frame.rgb().shape for frame in frames} == {(48, 96, 3), (96, 192, 3)}
    numbers = [number_of(frame.scaled(320, 240)) for frame in frames]
    # FFmpeg's decoder drops the last frame of the old size, so the one before is repeated.
    assert numbers == [*range(9), 8, *range(10, 20)]


def test_gifs_are_read(tmp_path):
    pictures = [Image.fromarray(numbered(i)) for i in range(1, 9)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=40)
    assert [number_of(frame.scaled(64, 48)) for frame in Movie(tmp_path / "a.gif").frames()] == list(range(1, 9))


def test_times_count_from_the_first_frame(tmp_path):
    film = encode(tmp_path / "film.mkv", [numbered(i) for i in range(5)], picture_start_s=2.0)
    assert Movie(film).info().stamp_s == pytest.approx(2)
    np.testing.assert_allclose([frame.time_s for frame in Movie(film).frames()], np.arange(5) / 25, atol=1e-3)


def test_files_that_are_no_film_are_refused_by_name(tmp_path):
    sound = encode(tmp_path / "sound.wav", sound=np.zeros((1, 1000), np.float32))
    text = tmp_path / "text.mp4"
    text.write_text("not a film")
    for path, reason in ((tmp_path / "missing.mp4", "no film"), (text, "cannot read"), (sound, "no picture")):
        for read in (Movie.info, lambda movie: list(movie.frames()), Movie.measured):
            with pytest.raises(UserError, match=reason) as caught:
                read(Movie(path))
            assert str(path) in str(caught.value)


def test_the_length_of_a_truncated_file_is_what_is_left(tmp_path):
    whole = encode(tmp_path / "whole.mkv", [numbered(i) for i in range(100)])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames = sum(1 for _ in Movie(cut).frames())
    assert 30 < frames < 70
    assert Movie(cut).measured().seconds == pytest.approx(frames / 25, abs=0.05)


@pytest.mark.parametrize("suffix", ["mkv", "avi", "ts", "flv"])
def test_only_the_damaged_frames_are_lost(tmp_path, suffix):
    codec = (
        {"codec": "libx264", "pix_fmt": "yuv420p"}
        if suffix in ("ts", "flv")
        else {"codec": "mpeg4", "pix_fmt": "yuv420p"}
    )
    film = encode(tmp_path / f"film.{suffix}", [numbered(i % 50) for i in range(200)], **codec)
    content = bytearray(film.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content) // 4, len(content) * 3 // 4, 12):
        content[place : place + 20] = rng.bytes(20)
    film.write_bytes(content)
    frames = list(Movie(film).frames())
    assert 50 < len(frames) <= 210
    assert frames[0].scaled(64, 48).shape == (48, 64, 3)


def test_a_truncated_mp4_is_read_to_its_end(tmp_path):
    whole = encode(tmp_path / "whole.mp4", [numbered(i) for i in range(100)], codec="libx264", pix_fmt="yuv420p")
    tail = tmp_path / "tail.mp4"
    tail.write_bytes(whole.read_bytes()[:-200])  # its table is at the end
    with pytest.raises(UserError, match=r"cannot read .*tail\.mp4"):
        Movie(tail).info()
    first = tmp_path / "first.mp4"
    with av.open(str(whole)) as film, av.open(str(first), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(film.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    first.write_bytes(first.read_bytes()[: first.stat().st_size * 2 // 3])
    assert Movie(first).info().frames == 100
    assert 20 < len(list(Movie(first).frames())) < 90


def test_films_without_frames_are_refused(tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    headers = encode(tmp_path / "headers.mkv", [numbered(0)] * 50)
    headers.write_bytes(headers.read_bytes()[:400])
    for film in (empty, headers):
        with pytest.raises(UserError, match=film.name):
            Movie(film).info()


def test_a_cover_does_not_count_as_picture(tmp_path):
    song = tmp_path / "song.m4a"
    Image.fromarray(numbered(1)).save(tmp_path / "cover.png")
    with av.open(str(song), "w", format="mp4") as out, av.open(str(tmp_path / "cover.png")) as cover:
        sound = out.add_stream("aac", rate=22050, layout="mono")
        picture = out.add_stream_from_template(cover.streams.video[0])
        picture.disposition = 0x400  # attached_pic
        packet = next(cover.demux(video=0))
        packet.stream = picture
        out.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 22050
        out.mux([*sound.encode(frame), *sound.encode(None)])
    with pytest.raises(UserError, match="no picture; give a film"):
        Movie(song).info()


def test_any_file_name_is_read(tmp_path):
    film = encode(tmp_path / "film.mkv", [numbered(i) for i in range(5)])
    names = [
        b"film.avi",
        b"film.txt",
        "\u30d5\u30a3\u30eb\u30e0 \u2013 $1 'a'.mp4".encode(),
        b"latin-\xe9.mkv",
        b"-i.mkv",
        b"%d.mkv",
    ]
    for name in names:
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(film.read_bytes())
        assert shown(path) == list(range(5))
    with pytest.raises(UserError, match="there is no film"):
        Movie(tmp_path / os.fsdecode(b"missing-\xe9.mkv")).info()


def test_an_unknown_codec_is_refused_by_name(tmp_path):
    film = encode(tmp_path / "film.mkv", [numbered(i) for i in range(5)])
    film.write_bytes(film.read_bytes().replace(b"V_FFV1", b"V_WHAT"))
    with pytest.raises(UserError, match=r"film\.mkv"):
        Movie(film).info()
    with pytest.raises(UserError, match=r"film\.mkv"):
        list(Movie(film).frames())


def test_a_frame_that_cannot_be_converted_names_the_film(tmp_path):
    frame = next(iter(Movie(encode(tmp_path / "film.mkv", [numbered(0)] * 2)).frames()))
    with pytest.raises(UserError, match=r"cannot convert frame 1 of .*film\.mkv"):
        frame.scaled(100_000, 100_000)


def test_pictures_are_freed_without_a_collection_of_garbage(tmp_path):
    film = encode(tmp_path / "film.mp4", [numbered(i) for i in range(1, 201)], 25, codec="libx264", pix_fmt="yuv420p")
    gc.collect()
    gc.disable()
    try:
        for frame in Movie(film).frames():
            frame.scaled(32, 32)
        assert sum(type(each) is av.VideoFrame for each in gc.get_objects()) < 100
    finally:
        gc.enable()


def test_stopping_early_ends_the_decoding_thread(tmp_path):
    film = encode(tmp_path / "film.mkv", [numbered(i) for i in range(60)])
    before = set(threading.enumerate())
    frames = Movie(film).frames()
    assert next(frames).number == 1
    assert set(threading.enumerate()) - before
    frames.close()
    assert not set(threading.enumerate()) - before
    assert isinstance(Movie(film).info(), VideoInfo)


@pytest.mark.parametrize("hole_bytes", [1_000, 70_000, 3_000_000])
def test_a_hole_of_zeros_in_a_transport_stream_costs_no_frame_beside_it(tmp_path, hole_bytes):
    pictures = [numbered(number) for number in range(1, 61)]
    data = encode(tmp_path / "whole.ts", pictures, codec="libx264", pix_fmt="yuv420p").read_bytes()
    middle = len(data) // 2 // 188 * 188  # between two packets
    (tmp_path / "hole.ts").write_bytes(data[:middle] + bytes(hole_bytes) + data[middle:])
    assert len(list(Movie(tmp_path / "hole.ts").frames())) == 60


def test_pictures_that_stand_for_most_of_an_hour_are_gaps_in_a_film_of_few_pictures_too(tmp_path):
    times = [3000.0 * number for number in range(6)]
    film = encode(
        tmp_path / "slow.mp4",
        [numbered(number) for number in range(6)],
        1,
        codec="mpeg4",
        pix_fmt="yuv420p",
        times_s=times,
    )
    assert Movie(film).info().fps < 0.01
    with pytest.raises(UserError, match=r"slow\.mp4 has 4\.2 hours of gaps"):
        list(Movie(film).frames(constant_rate=True))
