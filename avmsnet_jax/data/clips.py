"""Which frames and audio samples make a clip; see docs/data.md, "What a clip is".

Frames are counted from 1. The published recipe has clips of 16 frames, one every 25 frames. In general, of a clip's n
frames, n/2 - 1 come before its center and n/2 after it.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from PIL import Image

from avmsnet_jax.media.audio import SAMPLE_RATE, Waveform

SAMPLES_PER_FRAME = SAMPLE_RATE // 10  # of the sound buffer, which is long enough for 10 fps and more
LONGEST_EXCERPT_S = 300
SOUNDNET_RANGE = 256  # SoundNet was trained on waveforms in ±256


class Frame(Protocol):
    """A frame that is converted to RGB on demand, at the requested size."""

    @property
    def number(self) -> int:
        """1 for the first frame of the film."""

    def scaled(self, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8 RGB, by a bicubic filter."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """The network's input for one moment.

    Attributes:
      frame: number of the labeled frame, whose label the clip takes.
      time_s: time of that frame, seconds from the first frame.
      clip: (frames, size, size, 3) uint8 RGB.
      sound: (2205 * frames,) float32 in ±256, windowed and centered; zeros without sound.
      has_sound: False if there is no audio track, or it has ended before.
    """

    frame: int
    time_s: float
    clip: np.ndarray
    sound: np.ndarray
    has_sound: bool


def centers(n_frames: int, frames: int = 16, spacing: int = 25) -> range:
    """The centers spacing, 2 * spacing, ... whose clips lie wholly in a film of `n_frames`."""
    return range(first_center(frames, spacing), n_frames - frames // 2 + 1, spacing)


def frame_list(center: int, frames: int = 16) -> range:
    """The frames of a clip: center-7 ... center+8 for 16 of them."""
    return range(center - frames // 2 + 1, center + frames // 2 + 1)


def first_center(frames: int = 16, spacing: int = 25) -> int:
    """The first multiple of `spacing` whose clip does not begin before frame 1."""
    return -(-(frames // 2) // spacing) * spacing


def label_frame(center: int, spacing: int = 25) -> int:
    """The frame whose label the clip takes: center + 0.5, rounded half to even (25 -> 26, 50 -> 50).

    With a spacing of one frame it is the center, because rounding would give two clips the same frame.
    """
    return center if spacing == 1 else round(center + 0.5)


def frame_time(frame: int, fps: float) -> float:
    """Seconds from the film's first frame to frame number `frame`."""
    return (frame - 1) / fps


def excerpt_bounds(center: int, fps: float, frames: int = 16, sample_rate: int = SAMPLE_RATE) -> tuple[int, int]:
    """The audio samples of a clip, as a half-open slice `[start, stop)`; the waveform may end before it.

    Frame f covers samples int(max(0, (f-1)/fps·Fs - Fs/(2 fps))) to int(min(n, (f-1)/fps·Fs + Fs/(2 fps))),
    both included; a clip covers the samples from its first frame's first to its last frame's last. Of more than five
    minutes (less than a frame in 20 seconds) only the middle is taken: the sound buffer holds no more.

    Args:
      center: center of the clip, a frame number.
      fps: frames a second.
      frames: frames of a clip.
      sample_rate: Fs, Hz.
    """
    first, last = frame_list(center, frames)[0], frame_list(center, frames)[-1]
    start = int(max(0, (first - 1) / fps * sample_rate - sample_rate / (2 * fps)))
    stop = int((last - 1) / fps * sample_rate + sample_rate / (2 * fps)) + 1
    middle, most = round((center - 0.5) / fps * sample_rate), LONGEST_EXCERPT_S * sample_rate // 2
    return max(start, middle - most), min(stop, middle + most)


def sound_buffer(excerpt: np.ndarray, size: int) -> np.ndarray:
    """Windows an excerpt and centers it in the buffer that SoundNet takes.

    Args:
      excerpt: (L,) float32 in ±1. It is multiplied by a symmetric Hann window of its own length.
      size: samples of the buffer. Of a longer excerpt, from a film of 10 fps or less, the middle is kept.

    Returns:
      (size,) float32 in ±256, zero around the excerpt.
    """
    offset = size // 2 - len(excerpt) // 2
    first, last = max(-offset, 0), max(-offset, 0) + size - max(offset, 0)
    kept = (excerpt[first:last] * (SOUNDNET_RANGE * _hann(len(excerpt))[first:last])).astype(np.float32)
    buffer = np.zeros(size, np.float32)
    buffer[max(offset, 0) : max(offset, 0) + len(kept)] = kept
    return buffer


@functools.lru_cache(maxsize=4)  # all clips of a film have the same length, except those at its ends
def _hann(length: int) -> np.ndarray:
    return np.hanning(length)


def resize(frame: Frame, size: int) -> np.ndarray:
    """A frame of a clip, (size, size, 3) uint8: resized to 320x240, then by Pillow's bilinear filter to its size.

    The first step is Pillow's bicubic filter for the published layout's frame files, and FFmpeg's for films.
    """
    picture = frame.scaled(320, 240)
    # By channel: the same result in half the time, as Pillow stores RGB in four bytes per pixel.
    colors = [Image.fromarray(np.ascontiguousarray(picture[..., color])) for color in range(3)]
    return np.stack([np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)) for image in colors], axis=-1)


def cut(
    film: Iterable[Frame],
    waveform: Waveform | None,
    fps: float | Fraction,
    *,
    frames: int = 16,
    frame_size: int = 112,
    spacing: int = 25,
    picture: Callable[[Any, int], np.ndarray] = resize,
) -> Iterator[Clip]:
    """Cuts a film into clips while it is decoded. Only the frames of one clip are in memory.

    Args:
      film: every frame from number 1 on, in order.
      waveform: sound at 22,050 Hz that starts with frame 1, or None for a silent film.
      fps: frames a second.
      frames: frames of a clip.
      frame_size: height and width of a clip's frames, pixels.
      spacing: frames from one center to the next.
      picture: resizes a frame to (frame_size, frame_size, 3) uint8 RGB.

    Yields:
      the clips whose frames all exist, in order.
    """
    fps = float(fps)
    half = frames // 2
    first = first_center(frames, spacing)
    recent: collections.deque[np.ndarray] = collections.deque(maxlen=frames)
    for frame in film:
        latest = (frame.number + half - 1) // spacing * spacing  # of the clips that have begun
        if latest < max(first, frame.number - half):
            continue  # between two clips
        recent.append(picture(frame, frame_size))
        center = frame.number - half
        if center < first or center % spacing:
            continue
        excerpt = np.zeros(0, np.float32)
        if waveform is not None:
            excerpt = waveform.excerpt(*excerpt_bounds(center, fps, frames))
        labeled = label_frame(center, spacing)
        yield Clip(
            frame=labeled,
            time_s=frame_time(labeled, fps),
            sound=sound_buffer(excerpt, SAMPLES_PER_FRAME * frames),
            has_sound=len(excerpt) > 0,
            clip=np.stack(recent),
        )
