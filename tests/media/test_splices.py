"""Recordings joined end to end: sound and picture stay in sync, whatever their clocks are."""

from pathlib import Path

import av
import numpy as np
import pytest

from avmsnet_jax.media.movie import Movie
from tests.media.films import encode

FPS, RATE = 25, 24000
WRAP_S = 2**33 / 90000


def recording(
    path: Path, picture_s: float = 2.0, sound_s: float = 1.6, start_s: float = 10.0, *, codec: str = "mpeg2video"
) -> bytes:
    """A film that is white from 0.4 s to 0.48 s of each second, with a tone of 0.08 s that begins there, too."""
    times = np.arange(round(picture_s * FPS)) / FPS
    pictures = [np.full((32, 48, 3), 255 * (0.39 < time % 1 < 0.47), np.uint8) for time in times]
    heard = np.arange(round(sound_s * RATE)) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 1000 * heard) * ((heard % 1 >= 0.4) & (heard % 1 < 0.48))
    sound = {} if not sound_s else {"sound": tone.astype(np.float32)[None], "sound_start_s": start_s}
    mpeg = path.suffix == ".mpg"
    encode(
        path, pictures, FPS, codec=codec, pix_fmt="yuv420p", picture_start_s=start_s, sample_rate=RATE,
        sound_codec="mp2" if mpeg else "aac", sound_format="s16" if mpeg else "fltp",
        **(sound if not (mpeg and sound) else {**sound, "sound": (32767 * tone).astype(np.int16)[None]}),
    )  # fmt: skip
    return path.read_bytes()


def rises(loud: np.ndarray, step_s: float) -> list[float]:
    """The times at which a lasting signal begins, seconds."""
    times = np.flatnonzero(loud) * step_s
    return [float(time) for before, time in zip([-1.0, *times], times, strict=False) if time - before > 0.3]


def assert_in_sync(film: Path, flashes: int, beeps: int) -> None:
    fps = float(Movie(film).info().fps)
    seen = [frame.scaled(8, 8).mean() > 128 for frame in Movie(film).frames(constant_rate=True)]
    waveform = Movie(film).whole_waveform()
    assert waveform is not None
    shown, heard = rises(np.array(seen), 1 / fps), rises(np.abs(waveform) > 0.1, 1 / 22050)
    heard = [time for time in heard if time < len(seen) / fps]
    assert (len(shown), len(heard)) == (flashes, beeps)
    for time in heard:
        assert min(abs(time - other) for other in shown) < 1 / fps


Parts = list[tuple[float, float, float]]  # seconds of picture, of sound, and when the clock begins

JOINED: dict[str, tuple[Parts, int]] = {
    "sound shorter": ([(2, 1.6, 10)] * 4, 8),
    "sound longer": ([(2, 2.7, 10)] * 3, 6),
    "a clock ten minutes ahead": ([(2, 1.8, 10), (2, 2, 610)], 4),
    "a clock that goes back and ahead": ([(2, 1.7, 400), (3, 2.6, 10), (2, 2.3, 9000)], 7),
    "sound that goes on by accident": ([(3, 1.5, 10), (3, 3, 11.52)], 5),
    "no sound in the middle": ([(2, 1.6, 10), (2, 0, 10), (2, 1.6, 10)], 4),
    "a clock that begins again": ([(2, 1.6, WRAP_S - 1), (2, 1.6, 300)], 4),
    "a clock that begins again in each": ([(2, 1.6, WRAP_S - 1)] * 3, 6),
}


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
@pytest.mark.parametrize("kind", JOINED)
def test_the_sound_follows_the_picture_where_recordings_are_joined(tmp_path, kind, suffix):
    parts, beeps = JOINED[kind]
    if suffix == "mpg" and any(start > 20000 for *_, start in parts):
        pytest.skip("FFmpeg writes no such clock into a program stream")
    film = tmp_path / f"film.{suffix}"
    film.write_bytes(b"".join(recording(tmp_path / f"part.{suffix}", *part) for part in parts))
    picture_s = sum(part[0] for part in parts)
    assert_in_sync(film, round(picture_s), beeps)
    assert Movie(film).measured().frames == len(list(Movie(film).frames())) == round(picture_s * FPS)
    assert Movie(film).measured().seconds == pytest.approx(picture_s, abs=0.05)


def test_recordings_with_frames_out_of_order_lose_none(tmp_path):
    film = tmp_path / "film.ts"
    film.write_bytes(recording(tmp_path / "part.ts", 3, 2.7, codec="libx264") * 4)
    assert_in_sync(film, 12, 12)
    assert len(list(Movie(film).frames(constant_rate=True))) == 300


def test_one_stream_written_twice_into_an_flv_is_read_twice(tmp_path):
    part = recording(tmp_path / "part.flv", start_s=0, codec="libx264")
    (tmp_path / "film.flv").write_bytes(part + part[13:])  # without the second header
    assert_in_sync(tmp_path / "film.flv", 4, 4)


def in_other_container(source: Path, target: Path, later_s: float) -> Path:
    """Copies the packets, the second half of both tracks `later_s` later."""
    with av.open(str(source)) as film, av.open(str(target), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in film.streams}
        for packet in film.demux():
            if packet.dts is None:
                continue
            if packet.pts * packet.time_base >= 1:
                packet.pts += round(later_s / packet.time_base)
                packet.dts += round(later_s / packet.time_base)
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    return target


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_gap_is_kept_in_formats_that_are_not_for_streaming(tmp_path, suffix):
    recording(tmp_path / "part.mkv", 2, 2, 0)
    film = in_other_container(tmp_path / "part.mkv", tmp_path / f"film.{suffix}", 30)
    assert Movie(film).measured().seconds == pytest.approx(32, abs=1)
    seen = [frame.time_s for frame in Movie(film).frames() if frame.scaled(8, 8).mean() > 128]
    heard = rises(np.abs(Movie(film).whole_waveform()) > 0.1, 1 / 22050)
    assert [seen[0], seen[-1]] == pytest.approx([0.4, 31.44], abs=0.01)
    assert heard == pytest.approx([0.4, 31.4], abs=0.02)


def test_a_still_picture_over_continuing_sound_is_no_new_recording(tmp_path):
    film = tmp_path / "film.ts"
    picture = np.zeros((32, 48, 3), np.uint8)
    sound = np.zeros((1, 30 * RATE), np.float32)
    times = [*(i / FPS for i in range(50)), *(26 + i / FPS for i in range(50))]
    encode(
        film, [picture] * 100, FPS, codec="libx264", pix_fmt="yuv420p", times_s=[10 + time for time in times],
        sound=sound, sound_start_s=10, sound_codec="aac", sound_format="fltp", sample_rate=RATE,
    )  # fmt: skip
    assert Movie(film).measured().seconds == pytest.approx(28, abs=0.1)
