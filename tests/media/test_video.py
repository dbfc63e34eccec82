from fractions import Fraction

import numpy as np
import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.video import read_frames, read_info, running_time
from tests.media.films import encode, number_of, numbered


@pytest.mark.parametrize("fps", [10, Fraction(24000, 1001), 25, Fraction(30000, 1001), 60])
def test_frames_come_in_order_with_their_times(tmp_path, fps):
    film = encode(tmp_path / "film.mp4", [numbered(i) for i in range(1, 41)], fps, codec="libx264", pix_fmt="yuv420p")
    frames = list(read_frames(film))
    assert [frame.number for frame in frames] == list(range(1, 41))
    assert [number_of(frame.rgb()) for frame in frames] == list(range(1, 41))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(40) / float(fps), atol=1e-3)
    info = read_info(film)
    assert info.fps == fps
    assert info.frames == 40
    assert running_time(film) == pytest.approx(40 / fps)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv444p12le", "gbrp16le", "gray", "gray10le", "bgra"])
def test_any_pixel_format_becomes_rgb(tmp_path, pix_fmt):
    picture = np.full((33, 47, 3), (60, 60, 60) if "gray" in pix_fmt else (200, 90, 30), np.uint8)
    film = encode(tmp_path / "film.mkv", [picture] * 3, pix_fmt=pix_fmt)
    for frame in read_frames(film):
        rgb = frame.rgb()
        assert rgb.dtype == np.uint8
        assert rgb.shape == (33, 47, 3)
        np.testing.assert_allclose(rgb.astype(int), picture, atol=4)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_film_shot_on_its_side_is_turned_upright(tmp_path, turn):
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32] = 255  # white in the upper left
    stored = np.rot90(upright, -turn // 90)  # turning this counterclockwise by `turn` gives the picture back
    film = encode(
        tmp_path / "f.mp4", [stored] * 3, codec="libx264", pix_fmt="yuv420p", rotation=(turn + 180) % 360 - 180
    )
    seen = next(iter(read_frames(film))).rgb()
    assert seen.shape == upright.shape
    assert np.abs(seen.astype(int) - upright).mean() < 5


def test_times_count_from_the_first_frame(tmp_path):
    film = encode(tmp_path / "film.mkv", [numbered(i) for i in range(5)], picture_start_s=2.0)
    assert read_info(film).start_s == pytest.approx(2.0)
    np.testing.assert_allclose([frame.time_s for frame in read_frames(film)], np.arange(5) / 25, atol=1e-3)


def test_what_is_no_film_is_named(tmp_path):
    sound = encode(tmp_path / "sound.wav", sound=np.zeros((1, 1000), np.float32))
    text = tmp_path / "text.mp4"
    text.write_text("not a film")
    for path, reason in ((tmp_path / "missing.mp4", "no film"), (text, "cannot read"), (sound, "no picture")):
        for read in (read_info, lambda path: list(read_frames(path)), running_time):
            with pytest.raises(UserError, match=reason) as caught:
                read(path)
            assert str(path) in str(caught.value)


def test_the_running_time_of_a_cut_file_is_what_is_left(tmp_path):
    whole = encode(tmp_path / "whole.mkv", [numbered(i) for i in range(100)])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames = sum(1 for _ in read_frames(cut))
    assert 30 < frames < 70
    assert running_time(cut) == pytest.approx(frames / 25, abs=0.05)
