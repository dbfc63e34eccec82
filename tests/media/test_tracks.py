"""The choice among several video and audio tracks."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie
from tests.media.films import number_of, numbered

DEFAULT, ATTACHED, THUMBNAILS = 0x1, 0x400, 0x400 | 0x800


def write(path: Path, pictures: list[tuple[str, list[int], float, int]], sounds: list[tuple[str, float, int]]) -> Path:
    """A film of several tracks: (codec, numbers, frames a second, disposition) and (codec, hertz, disposition)."""
    packets = []
    with av.open(str(path), "w") as out:
        streams = []
        for codec, _, fps, disposition in pictures:
            video = out.add_stream(codec, rate=Fraction(fps).limit_denominator(100))
            video.width, video.height = 64, 48
            video.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
            video.disposition = disposition
            streams.append(video)
        for codec, _, disposition in sounds:
            sound = out.add_stream(codec, rate=24000, layout="mono")
            sound.disposition = disposition
            streams.append(sound)
        for video, (_, numbers, _, _) in zip(streams, pictures, strict=False):
            for index, number in enumerate(numbers):
                frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24").reformat(format=video.pix_fmt)
                frame.pts, frame.time_base = index, 1 / video.codec_context.framerate
                packets += video.encode(frame)
            packets += video.encode(None)
        for sound, (_, hertz, _) in zip(streams[len(pictures) :], sounds, strict=True):
            tone = (0.5 * np.sin(2 * np.pi * hertz * np.arange(24000) / 24000)).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 24000, 0, Fraction(1, 24000)
            packets += [*sound.encode(frame), *sound.encode(None)]
        out.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def shown(path: Path) -> list[int]:
    return [number_of(frame.rgb()) for frame in Movie(path).frames()]


def pitch(path: Path) -> float:
    waveform = Movie(path).whole_waveform()[4000:20000]
    return float(np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * 22050 / len(waveform))


FILM = ("mpeg4", list(range(1, 51)), 25, 0)


@pytest.mark.parametrize(
    ("suffix", "cover"),
    [
        ("mkv", ("mjpeg", [999], 25, DEFAULT)),
        ("mov", ("png", [999], 25, DEFAULT)),
        ("mp4", ("mjpeg", [999], 1, DEFAULT)),
        ("mp4", ("png", [999], 25, ATTACHED | DEFAULT)),
        ("mkv", ("mjpeg", [999, 998, 997], 1, DEFAULT)),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_covers_and_slide_shows_are_not_the_picture(tmp_path, suffix, cover, first):
    tracks = [cover, FILM] if first else [FILM, cover]
    assert shown(write(tmp_path / f"film.{suffix}", tracks, [])) == FILM[1]


def test_the_default_video_track_is_used(tmp_path):
    other = ("mpeg4", list(range(101, 151)), 25, DEFAULT)
    assert shown(write(tmp_path / "film.mkv", [FILM, other], [])) == other[1]


def test_a_video_track_without_a_decoder_is_passed_over(tmp_path):
    film = write(tmp_path / "film.mkv", [("ffv1", list(range(101, 151)), 25, DEFAULT), FILM], [])
    film.write_bytes(film.read_bytes().replace(b"V_FFV1", b"V_WHAT"))
    assert shown(film) == FILM[1]


def test_a_song_with_a_cover_has_no_picture(tmp_path):
    song = write(tmp_path / "song.mp4", [("mjpeg", [1], 25, ATTACHED)], [("aac", 440, DEFAULT)])
    with pytest.raises(UserError, match="no picture"):
        Movie(song).info()


def test_a_short_film_is_preferred_to_a_cover(tmp_path):
    film = write(tmp_path / "film.mkv", [("mjpeg", [999], 25, DEFAULT), ("mpeg4", [1, 2, 3], 25, 0)], [])
    assert shown(film) == [1, 2, 3]


@pytest.mark.parametrize(("suffix", "known", "unknown"), [("mkv", b"A_FLAC", b"A_WHAT"), ("mp4", b"fLaC", b"apac")])
@pytest.mark.parametrize("first", [True, False])
def test_an_audio_track_without_a_decoder_is_passed_over(tmp_path, suffix, known, unknown, first):
    tracks = [("flac", 440, DEFAULT), ("aac", 880, DEFAULT)]
    film = write(tmp_path / f"film.{suffix}", [FILM], tracks if first else tracks[::-1])
    film.write_bytes(film.read_bytes().replace(known, unknown))
    assert pitch(film) == pytest.approx(880, abs=5)


@pytest.mark.parametrize(("suffix", "known", "unknown"), [("mkv", b"A_FLAC", b"A_WHAT"), ("mp4", b"fLaC", b"apac")])
def test_undecodable_sound_counts_as_silence_with_a_warning(tmp_path, capfd, suffix, known, unknown):
    film = write(tmp_path / f"film.{suffix}", [FILM], [("flac", 440, DEFAULT)])
    film.write_bytes(film.read_bytes().replace(known, unknown))
    assert Movie(film).whole_waveform() is None
    assert Movie(film).whole_waveform() is None
    assert shown(film) == FILM[1]
    (line,) = capfd.readouterr().err.splitlines()
    assert str(film) in line
    assert "no decoder" in line


def packet(pid: int, table: bytes) -> bytes:
    """A packet of a transport stream that holds one table, whole."""
    crc = 0xFFFFFFFF
    for byte in table:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc >> 31 else crc << 1) & 0xFFFFFFFF
    payload = b"\0" + table + crc.to_bytes(4, "big")
    return bytes([0x47, 0x40 | pid >> 8, pid & 0xFF, 0x10]) + payload.ljust(184, b"\xff")


def two_programs(path: Path, first: tuple[int, ...], second: tuple[int, ...]) -> Path:
    """Divides the streams 0, 1, ... of a transport stream between two programs."""
    types = (2, 2, 0x0F, 0x0F)  # MPEG-2 pictures, AAC

    def section(table: int, number: int, body: bytes) -> bytes:
        return bytes([table, 0xB0, len(body) + 9, *number.to_bytes(2, "big"), 0xC1, 0, 0]) + body

    def clock(stream: int) -> bytes:
        return bytes([0xE1, stream, 0xF0, 0])

    association = section(0, 1, b"\0\1\xf0\0\0\2\xf0\x01")
    maps = [
        section(2, number, b"".join([clock(streams[0]), *(bytes([types[s], 0xE1, s, 0xF0, 0]) for s in streams)]))
        for number, streams in ((1, first), (2, second))
    ]
    content, out = path.read_bytes(), b""
    for place in range(0, len(content), 188):
        pid = int.from_bytes(content[place + 1 : place + 3], "big") & 0x1FFF
        if pid == 0:
            out += packet(0, association)
        elif pid == 0x1000:
            out += packet(0x1000, maps[0]) + packet(0x1001, maps[1])
        else:
            out += content[place : place + 188]
    path.write_bytes(out)
    return path


@pytest.mark.parametrize(
    ("first", "second", "hertz"), [((0, 3), (1, 2), 880), ((1, 2), (0, 3), 880), ((0, 2), (1, 3), 440)]
)
def test_the_sound_is_that_of_the_picture_s_program(tmp_path, first, second, hertz):
    pictures = [("mpeg2video", list(range(1, 51)), 25, 0), ("mpeg2video", list(range(101, 111)), 25, 0)]
    film = write(tmp_path / "film.ts", pictures, [("aac", 440, 0), ("aac", 880, 0)])
    two_programs(film, first, second)
    with av.open(str(film)) as container:
        assert len(container.streams.video) == len(container.streams.audio) == 2
    assert shown(film)[:5] == [1, 2, 3, 4, 5]
    assert pitch(film) == pytest.approx(hertz, abs=5)


def test_a_program_without_sound_is_silent(tmp_path):
    pictures = [("mpeg2video", list(range(1, 51)), 25, 0), ("mpeg2video", list(range(101, 111)), 25, 0)]
    film = write(tmp_path / "film.ts", pictures, [("aac", 440, 0), ("aac", 880, 0)])
    two_programs(film, (0,), (1, 2, 3))
    assert Movie(film).whole_waveform() is None
