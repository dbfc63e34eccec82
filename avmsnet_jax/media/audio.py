"""The sound of a film, or of a wav file, as one mono waveform."""

import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
import soxr

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.video import LONGEST_GAP_S, clock_runs_on, decode, open_film, picture_stream, stamp_s

SAMPLE_RATE = 22050  # Hz: SoundNet's

# Containers round time stamps (Matroska to a millisecond), and sound that is cut or stretched by a little at every
# one of them is worse than sound that is a little off: half a frame at 25 a second.
_TOLERANCE_S = 0.02


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
    """The chunks of the waveform; none where there is no audio track, or nothing in it."""
    origin = _first_frame_time(path)  # before the film is opened: the index of a long one takes memory
    with open_film(path) as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            return
        resampler: soxr.ResampleStream | None = None
        rate = 0
        heard = 0  # samples at the file's rate, from the first frame of the picture on
        for sound, rate_now, start in _timed(decode(container, stream, path), origin, path):
            if resampler is None or rate_now != rate:
                if resampler is not None:
                    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
                resampler = soxr.ResampleStream(rate_now, sample_rate, 1, dtype="float32", quality="HQ")
                heard, rate = round(heard * Fraction(rate_now, rate)) if rate else 0, rate_now
            missing = round(start * rate) - heard
            if heard == 0 or abs(missing) > _TOLERANCE_S * rate:
                for length in _pieces(missing, rate):
                    yield resampler.resample_chunk(np.zeros(length, np.float32))
                    heard += length
                sound = sound[max(-missing, 0) :]
            if not len(sound):
                continue
            yield resampler.resample_chunk(sound)
            heard += len(sound)
        if resampler is not None and heard:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _timed(
    frames: Iterable[av.AudioFrame], origin: float | None, path: str | os.PathLike[str]
) -> Iterator[tuple[np.ndarray, int, float]]:
    """Each piece of sound as mono, its sample rate, and when it starts, in seconds from `origin` (or the first piece).

    What has no stamp, or one that cannot be, follows on the piece before.
    """
    end = None
    for frame in frames:
        exact = stamp_s(frame)
        stamp = None if exact is None else float(exact)
        if origin is None:
            origin = stamp
        if stamp is None or origin is None:
            start = end or 0.0
        elif clock_runs_on(end, stamp - origin) if end is not None else abs(stamp - origin) <= LONGEST_GAP_S:
            start = stamp - origin
        else:
            start = end or 0.0
            origin = stamp - start
        sound = _mono(frame, path)
        end = start + len(sound) / frame.sample_rate
        yield sound, frame.sample_rate, start


def _first_frame_time(path: str | os.PathLike[str]) -> float | None:
    """When the picture starts on the container's clock, None without a picture."""
    with open_film(path) as container:
        stream = picture_stream(container)
        first = next(decode(container, stream, path), None) if stream else None
        stamp = stamp_s(first) if first else None
        return None if stamp is None else float(stamp)


def _mono(frame: av.AudioFrame, path: str | os.PathLike[str]) -> np.ndarray:
    """(N,) float32 in ±1, the mean of the channels."""
    try:
        stored = frame.to_ndarray()
    except ValueError:
        raise UserError(f"{path} holds sound as {frame.format.name}, which cannot be read; convert it") from None
    channels = stored if frame.format.is_planar else stored.reshape(-1, frame.layout.nb_channels).T
    if channels.dtype == np.uint8:
        return (channels.mean(axis=0, dtype=np.float32) - 128) / 128
    if channels.dtype.kind == "i":
        return (channels.mean(axis=0) / 2 ** (8 * channels.dtype.itemsize - 1)).astype(np.float32)
    mono = channels.mean(axis=0, dtype=np.float32)
    return mono if np.isfinite(mono).all() else np.nan_to_num(mono, nan=0.0, posinf=1.0, neginf=-1.0)


def _pieces(missing: int, longest: int) -> Iterator[int]:
    """Lengths that add up to what is missing, none longer than `longest`; nothing if nothing is."""
    for start in range(0, missing, longest):
        yield min(longest, missing - start)
