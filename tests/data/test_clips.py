"""The arithmetic of docs/data.md, "What a clip is", written a second time: frame by frame, from 1, in plain loops."""

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from avmsnet_jax.data import clips
from avmsnet_jax.media.audio import Waveform
from tests.media.films import number_of, numbered

FPS = [8, 10, 23.976, 24000 / 1001, 25, 29.97, 60]


@dataclasses.dataclass(frozen=True)
class DrawnFrame:
    number: int

    def scaled(self, width: int, height: int) -> np.ndarray:
        return numbered(self.number, height, width)


def drawn_film(n_frames: int) -> list[DrawnFrame]:
    return [DrawnFrame(number) for number in range(1, n_frames + 1)]


def published_excerpt(waveform: np.ndarray, fps: float, n_frames: int, first: int, last: int) -> np.ndarray:
    rate, n = 22050, len(waveform)
    starts, ends = {}, {}
    for f in range(1, n_frames + 1):
        middle = (f - 1) / fps * rate
        starts[f] = int(max(0, middle - rate / (2 * fps)))
        ends[f] = int(min(n, middle + rate / (2 * fps)))
    return waveform[starts[first] : ends[last] + 1]


def published_buffer(excerpt: np.ndarray, size: int) -> np.ndarray:
    length = len(excerpt)
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * i / (length - 1)) for i in range(length)])
    buffer = np.zeros(size)
    for i in range(length):
        place = size // 2 - length // 2 + i
        if 0 <= place < size:
            buffer[place] = 256 * window[i] * excerpt[i]
    return buffer


@pytest.mark.parametrize("fps", FPS)
def test_every_clip_is_the_published_one(fps):
    n_frames = 160
    waveform = np.random.default_rng(0).uniform(-1, 1, int(n_frames / fps * 22050)).astype(np.float32)
    cut = list(clips.cut(drawn_film(n_frames), Waveform(np.array_split(waveform, 7)), fps))
    centers = [j for j in range(25, n_frames, 25) if j + 8 <= n_frames]
    assert len(cut) == len(centers) == 6
    for clip, j in zip(cut, centers, strict=True):
        assert [number_of(picture) for picture in clip.clip] == [j + k for k in range(-7, 9)]
        assert clip.frame == (j if j % 2 == 0 else j + 1)
        assert clip.time_s == (clip.frame - 1) / fps
        expected = published_buffer(published_excerpt(waveform, fps, n_frames, j - 7, j + 8), 35280)
        assert clip.sound.dtype == np.float32
        np.testing.assert_allclose(clip.sound, expected, atol=1e-4)
        assert clip.has_sound


@pytest.mark.parametrize(
    ("n_frames", "expected"), [(32, []), (33, [25]), (57, [25]), (58, [25, 50]), (83, [25, 50, 75])]
)
def test_a_clip_that_would_run_past_the_end_is_dropped(n_frames, expected):
    assert list(clips.centers(n_frames)) == expected
    assert [clip.frame for clip in clips.cut(drawn_film(n_frames), None, 25)] == [round(j + 0.5) for j in expected]


def test_a_header_that_claims_a_trillion_frames_costs_no_memory():
    assert len(clips.centers(10**12)) == 4 * 10**10 - 1


def test_the_label_frame_is_rounded_half_to_even():
    assert [clips.label_frame(j) for j in (25, 50, 75, 100, 125)] == [26, 50, 76, 100, 126]


@pytest.mark.parametrize(("frames", "spacing"), [(8, 3), (8, 25), (16, 5), (32, 10), (64, 25)])
def test_other_lengths_and_overlapping_clips(frames, spacing):
    n_frames = 120
    half = frames // 2
    centers = [j for j in range(spacing, n_frames, spacing) if j - half + 1 >= 1 and j + half <= n_frames]
    assert list(clips.centers(n_frames, frames, spacing)) == centers
    cut = list(clips.cut(drawn_film(n_frames), None, 25, frames=frames, spacing=spacing, frame_size=32))
    assert [[number_of(picture) for picture in clip.clip] for clip in cut] == [
        list(range(j - half + 1, j + half + 1)) for j in centers
    ]
    assert all(clip.sound.shape == (2205 * frames,) for clip in cut)


@pytest.mark.parametrize("length", [0, 1, 2, 999, 1000, 1001, 1600])
def test_the_window_is_symmetric_and_long_excerpts_are_cropped(length):
    buffer = clips.sound_buffer(np.ones(length, np.float32), 1000)
    assert buffer.shape == (1000,)
    assert np.count_nonzero(buffer) <= length
    if length > 2:
        heard = np.flatnonzero(buffer)
        assert abs(heard[0] - (999 - heard[-1])) <= 1  # centered
        assert 250 < buffer.max() <= 256
        whole = np.hanning(length) * 256
        middle = whole[max(length // 2 - 500, 0) :][:1000]
        np.testing.assert_allclose(buffer[buffer > 0], middle[middle > 0][: len(heard)], atol=1e-4)


def test_clips_without_sound_are_marked():
    silent = list(clips.cut(drawn_film(60), None, 25))
    assert [clip.has_sound for clip in silent] == [False, False]
    assert not any(clip.sound.any() for clip in silent)
    ends_early = list(
        clips.cut(drawn_film(60), Waveform([np.ones(22050, np.float32)]), 25)
    )  # the second clip begins at 1.7 s
    assert [clip.has_sound for clip in ends_early] == [True, False]


def test_pictures_are_resized_twice():
    asked = []
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)

    class Noise(DrawnFrame):
        def scaled(self, width: int, height: int) -> np.ndarray:
            asked.append((width, height))
            return picture

    expected = np.asarray(Image.fromarray(picture).resize((112, 112), Image.BILINEAR))
    np.testing.assert_array_equal(clips.resize(Noise(1), 112), expected)
    assert asked == [(320, 240)]


def test_frames_between_clips_are_never_converted():
    converted = []

    class Watched(DrawnFrame):
        def scaled(self, width: int, height: int) -> np.ndarray:
            converted.append(self.number)
            return super().scaled(width, height)

    list(clips.cut([Watched(number) for number in range(1, 64)], None, 25))
    assert converted == [*range(18, 34), *range(43, 59)]
