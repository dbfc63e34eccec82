"""Frames and a waveform to an mp4 that any player shows."""

import itertools
import os
import secrets
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.opening import local_url

_AUDIO_CHUNK = 1024  # samples of an AAC frame


def write_movie(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    waveform: np.ndarray | None,
    sample_rate: int = 22050,
) -> None:
    """Writes an mp4: H.264 in yuv420p (BT.709), with mono AAC where there is a waveform.

    The film is written beside `path` under a temporary name and renamed when it is whole, so that
    `path` is either untouched or complete. Memory does not grow with the number of frames.

    Args:
      path: the mp4 to write; an existing file is replaced.
      frames: (H, W, 3) uint8 RGB, all of one size. Odd sides, which yuv420p cannot hold, gain a
        repeated row or column.
      fps: frames a second, exact where it is a Fraction.
      waveform: (N,) float32 in ±1 that starts with the first frame, or None for a film without an
        audio track.
      sample_rate: Hz of the waveform, and of the audio track.

    Raises:
      UserError: the folder cannot be written to, or there is no frame.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.mp4")
    try:
        with av.open(local_url(temporary), "w", options={"movflags": "faststart"}) as container:
            _encode(path, container, frames, Fraction(fps).limit_denominator(1001), waveform, sample_rate)
        os.replace(temporary, path)
    except OSError as error:  # av.FFmpegError of files and disks among them
        raise UserError(f"cannot write {path}: {error.strerror}; choose a folder that exists and has room") from error
    finally:
        temporary.unlink(missing_ok=True)


def _encode(
    path: Path,
    container: av.container.OutputContainer,
    frames: Iterable[np.ndarray],
    fps: Fraction,
    waveform: np.ndarray | None,
    sample_rate: int,
) -> None:
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise UserError(f"cannot write {path}: a film needs at least one frame")
    height, width = first.shape[:2]
    video = container.add_stream("libx264", rate=fps, options={"crf": "18"})
    video.width, video.height, video.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    # Said in the file, because players guess an untagged film's colours from its size.
    video.codec_context.colorspace = video.codec_context.color_primaries = video.codec_context.color_trc = 1
    video.codec_context.color_range = 1
    audio = None
    if waveform is not None:
        audio = container.add_stream("aac", rate=sample_rate, layout="mono")
        waveform = np.ascontiguousarray(waveform, dtype=np.float32)
    heard = 0
    for index, picture in enumerate(itertools.chain([first], frames)):
        padded = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, threads=1)
        frame.pts, frame.time_base = index, 1 / fps
        container.mux(video.encode(frame))
        if audio is not None and waveform is not None:
            # Sound travels with its picture: the container buffers one until it has the other.
            heard = _encode_sound(container, audio, waveform, heard, round((index + 1) / fps * sample_rate))
    container.mux(video.encode(None))
    if audio is not None and waveform is not None:
        _encode_sound(container, audio, waveform, heard, len(waveform))
        container.mux(audio.encode(None))


def _encode_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, waveform: np.ndarray, start: int, end: int
) -> int:
    """Encodes whole chunks from sample `start` up to `end`, a shorter one only at the waveform's end."""
    end = min(end, len(waveform))
    while start < end and (start + _AUDIO_CHUNK <= end or end == len(waveform)):
        chunk = waveform[start : min(start + _AUDIO_CHUNK, end)]
        frame = av.AudioFrame.from_ndarray(chunk[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, start, Fraction(1, stream.rate)
        container.mux(stream.encode(frame))
        start += len(chunk)
    return start
