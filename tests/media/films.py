"""Small real films, whose frames carry their own number, for the tests of media and data."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def numbered(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """(height, width, 3) uint8: six vertical bands, the base-4 digits of `number` in grays far apart."""
    digits = [number // 4**place % 4 for place in range(6)]
    bands = np.repeat(np.array([32 + 64 * digit for digit in digits], np.uint8), -(-width // 6))[:width]
    return np.broadcast_to(bands[None, :, None], (height, width, 3)).copy()


def number_of(picture: np.ndarray) -> int:
    """The number that `numbered` drew, after any codec and any resizing."""
    width = picture.shape[1]
    middles = [int((place + 0.5) * width / 6) for place in range(6)]
    grays = picture[picture.shape[0] // 2, middles].astype(float).mean(axis=-1)
    return sum(round((float(gray) - 32) / 64) * 4**place for place, gray in enumerate(grays))


def encode(
    path: Path,
    pictures: Sequence[np.ndarray] = (),
    fps: float | Fraction = 25,
    *,
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    rotation: int = 0,
    picture_start_s: float = 0.0,
    times_s: Sequence[float] | None = None,
    pixel_aspect: Fraction | None = None,
    sound: np.ndarray | None = None,
    sound_codec: str = "pcm_f32le",
    sound_format: str = "flt",
    layout: str = "mono",
    sample_rate: int = 22050,
    sound_start_s: float = 0.0,
) -> Path:
    """Writes a film, or only a sound file, with PyAV; by default without any loss.

    The suffix of `path` decides the container; `sound` is (channels, N), of the type that `sound_format` holds.
    `times_s`: when each picture is shown, where that is not one after the other.
    """
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        video = audio = None
        if len(pictures):
            video = container.add_stream(codec, rate=rate)
            video.height, video.width, video.pix_fmt = *pictures[0].shape[:2], pix_fmt
            if pixel_aspect:
                video.codec_context.sample_aspect_ratio = pixel_aspect
            if times_s:
                video.codec_context.time_base = Fraction(1, 60000)
            if rotation:
                video.set_display_rotation(rotation)
        if sound is not None:
            audio = container.add_stream(sound_codec, rate=sample_rate, layout=layout)
        packets = []
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt, threads=1)
            frame.pts, frame.time_base = index + round(picture_start_s * rate), 1 / rate
            if times_s:
                frame.pts, frame.time_base = round(times_s[index] * 60000), Fraction(1, 60000)
            packets += video.encode(frame)
        if video:
            packets += video.encode(None)
        if audio:
            for start in range(0, sound.shape[1], 1000):
                piece = np.ascontiguousarray(sound[:, start : start + 1000].T.reshape(1, -1))
                frame = av.AudioFrame.from_ndarray(piece, format=sound_format, layout=layout)
                frame.sample_rate, frame.time_base = sample_rate, Fraction(1, sample_rate)
                frame.pts = start + round(sound_start_s * sample_rate)
                packets += audio.encode(frame)
            packets += audio.encode(None)
        container.mux(packets)
    return path
