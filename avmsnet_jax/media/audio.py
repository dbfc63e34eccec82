"""The sound of a film, or of a wav file, as one mono waveform."""

import itertools
import os
from collections.abc import Iterable, Iterator

import av
import numpy as np
import soxr

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.video import open_film, picture_stream

SAMPLE_RATE = 22050  # Hz: SoundNet's

# Containers round time stamps (Matroska to a millisecond); only what is clearly missing is filled with silence.
_GAP_S = 0.02


class Waveform:
    """A mono waveform that is decoded as far as it is asked for: memory does not grow with its length.

    Excerpts are asked for in order of time, and may overlap.
    """

    def __init__(self, chunks: Iterable[np.ndarray]):
        """`chunks` are (n,) float32 in ±1, one after the other."""
        self._chunks = iter(chunks)
        self._held = np.zeros(0, np.float32)
        self._start = 0  # of what is held

    def excerpt(self, start: int, stop: int) -> np.ndarray:
        """Samples `start` up to `stop`, fewer where the waveform ends earlier.

        Raises:
          ValueError: `start` is less than an earlier call's.
          UserError: the file is broken.
        """
        if start < self._start:
            raise ValueError(f"sample {start} has gone by; what is held starts at {self._start}")
        pieces, end = [self._held], self._start + len(self._held)
        while end < stop and (chunk := next(self._chunks, None)) is not None:
            pieces.append(chunk)
            end += len(chunk)
        held = np.concatenate(pieces)[start - self._start :]
        self._held, self._start = held, start
        return held[: max(stop - start, 0)]


def open_waveform(path: str | os.PathLike[str], sample_rate: int = SAMPLE_RATE) -> Waveform | None:
    """The sound of a film or of a sound file, to be decoded as far as it is needed. See `read_waveform`."""
    chunks = _decode(path, sample_rate)
    first = next(chunks, None)
    return None if first is None else Waveform(itertools.chain([first], chunks))


def read_waveform(path: str | os.PathLike[str], sample_rate: int = SAMPLE_RATE) -> np.ndarray | None:
    """Decodes the sound of a film or of a sound file.

    Channels are averaged, which cannot clip, then resampled as `librosa.resample` does by default, with
    soxr at high quality; but as the stream is decoded, so that nothing at the file's own rate is held.

    Args:
      path: any container and sample format that FFmpeg reads.
      sample_rate: Hz wanted.

    Returns:
      (N,) float32 in ±1 whose first sample is heard with the film's first frame (of a sound file: the
      first sample), or None where there is no audio track.

    Raises:
      UserError: the file is missing or broken.
    """
    chunks = list(_decode(path, sample_rate))
    return np.concatenate(chunks) if chunks else None


def _decode(path: str | os.PathLike[str], sample_rate: int) -> Iterator[np.ndarray]:
    """The chunks of the waveform; none where there is no audio track."""
    with open_film(path) as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            return
        rate = stream.rate
        resampler = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
        converter = av.AudioResampler(format="fltp", rate=rate)
        origin = _first_frame_time(path)
        heard = 0  # samples at the file's rate, from the origin on
        for frame in container.decode(stream):
            if origin is None:
                origin = frame.time or 0.0
            wanted = heard if frame.time is None else round((frame.time - origin) * rate)
            early = max(heard - wanted, 0) if heard == 0 else 0
            if heard == 0 or wanted - heard > _GAP_S * rate:
                silence = np.zeros(max(wanted - heard, 0), np.float32)
                yield resampler.resample_chunk(silence)
                heard += len(silence)
            sound = _mono(converter, frame, path)[early:]
            yield resampler.resample_chunk(sound)
            heard += len(sound)
        if heard:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _first_frame_time(path: str | os.PathLike[str]) -> float | None:
    """When the picture starts on the container's clock, None without a picture."""
    with open_film(path) as container:
        stream = picture_stream(container)
        first = next(container.decode(stream), None) if stream else None
        return first.time if first else None


def _mono(converter: av.AudioResampler, frame: av.AudioFrame, path: str | os.PathLike[str]) -> np.ndarray:
    try:
        planar = converter.resample(frame)
    except ValueError:
        raise UserError(f"{path} changes its audio format midway; convert it again with ffmpeg") from None
    return np.concatenate([np.zeros(0, np.float32), *(part.to_ndarray().mean(axis=0) for part in planar)])
