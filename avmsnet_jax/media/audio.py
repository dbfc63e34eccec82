"""The sound of a film, or of a wav file, as one mono waveform."""

import functools
import os
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
import soxr

from avmsnet_jax.errors import UserError, printable
from avmsnet_jax.media.opening import open_film
from avmsnet_jax.media.tracks import Tracks, decode, picture_stream, stamp_s

SAMPLE_RATE = 22050  # Hz: SoundNet's
LOWEST_RATE, HIGHEST_RATE = 100, 6_000_000  # Hz: a second is held in memory; DSD at 512 fs comes as 2.8 MHz

# Half a frame at 25 a second. Smaller errors of time stamps, which containers round (Matroska to a millisecond), are
# left: cutting or padding the sound at each of them would be audible.
_TOLERANCE_S = 0.02

_AT_ONCE = 16384  # samples that are mixed and resampled at once

_LOUDEST = 64.0  # 36 dB above full scale, which float formats can hold

# The share of each channel, by FFmpeg's name, in the left and the right channel of the mix.
_HALF = 0.5**0.5
_SHARES = {
    **{name: (1.0, 0.0) for name in ("FL", "FLC")},
    **{name: (0.0, 1.0) for name in ("FR", "FRC")},
    **{name: (_HALF, 0.0) for name in ("BL", "SL")},
    **{name: (0.0, _HALF) for name in ("BR", "SR")},
    "FC": (_HALF, _HALF),
    "BC": (0.5, 0.5),
}


class Waveform:
    """A waveform that is decoded on demand, in memory that does not grow with its length.

    Excerpts must be asked for in order of time; they may overlap.
    """

    def __init__(self, chunks: Iterable[np.ndarray]):
        """`chunks` are (n,) or, with channels, (n, C) float32 in ±1, one after the other."""
        self._chunks = iter(chunks)
        self._held: list[np.ndarray] = []
        self._start = self._end = 0  # of the samples held

    def excerpt(self, start: int, stop: int) -> np.ndarray:
        """Samples `start` up to `stop`, fewer where the waveform ends earlier.

        Raises:
          ValueError: `start` is less than an earlier call's.
          UserError: the file is broken.
        """
        if start < self._start:
            raise ValueError(f"sample {start} has gone by; what is held starts at {self._start}")
        while self._end < stop and (chunk := next(self._chunks, None)) is not None:
            self._end += len(chunk)
            if self._end <= start:  # the chunk and all that is held come before the excerpt
                self._held, self._start = [chunk[:0]], self._end
            else:
                self._held.append(chunk)
        if not self._held:
            return np.zeros(0, np.float32)
        held = np.concatenate(self._held)[max(start - self._start, 0) :]
        self._held, self._start = [held], max(start, self._start)
        return held[: max(stop - start, 0)]

    def rest(self) -> np.ndarray:
        """All samples from the latest excerpt's first one on."""
        self._held += self._chunks
        return np.concatenate(self._held) if self._held else np.zeros(0, np.float32)

    def skip_to(self, stop: int) -> None:
        """Decodes and drops all up to sample `stop`, which may lie beyond the end, so that `on_chunk` is called."""
        while self._end < stop and (chunk := next(self._chunks, None)) is not None:
            self._end += len(chunk)
            self._held, self._start = [], self._end


def decode_sound(
    path: str | os.PathLike[str], origin: float | None, rate: Fraction | None, sample_rate: int, *, stereo: bool
) -> Iterator[np.ndarray]:
    """The waveform of a film or of a sound file, chunk by chunk; see `Movie.waveform`.

    Args:
      path: the file.
      origin: when the picture starts on the container's clock, seconds; None = with the sound.
      rate: frames a second of the picture; None = unknown, or there is none.
      sample_rate: Hz wanted.
      stereo: whether two channels are wanted, or one.

    Yields:
      (n,) or (n, 2) float32; nothing where there is no audio track, or nothing in it.
    """
    with open_film(path) as container:
        film = Tracks(container, picture_stream(container), rate)
        if film.unheard:
            name = printable(os.fspath(path))
            _say_once(f"warning: {name}: {film.unheard}, so it counts as silent; convert the film to hear it")
        if film.sound is None:
            return
        track = _Resampled(path, sample_rate, stereo=stereo)
        heard = hz = 0  # samples at the file's rate, from the first frame of the picture on; this rate
        for frame, start in _timed(decode(film.packets(film.sound), path), origin):
            if not LOWEST_RATE <= frame.sample_rate <= HIGHEST_RATE:
                raise UserError(
                    f"{os.fspath(path)} has sound of {frame.sample_rate} Hz, and only {LOWEST_RATE} to {HIGHEST_RATE} "
                    "are read; convert it with ffmpeg -ar 48000"
                )
            if frame.sample_rate != hz:
                if hz:
                    yield from track.end()
                heard, hz = round(heard * Fraction(frame.sample_rate, hz)) if hz else 0, frame.sample_rate
                track.begin(hz)
            missing, skipped = round(start * hz) - heard, 0
            if heard == 0 or abs(missing) > _TOLERANCE_S * hz:
                for length in _pieces(missing, hz):
                    yield from track.silence(length)
                    heard += length
                skipped = min(max(-missing, 0), frame.samples)
            heard += frame.samples - skipped
            yield from track.add(frame, skipped)
        if heard:
            yield from track.end()


class _Resampled:
    """Resamples a track. Its frames of 20 ms or so are joined first, because each call costs as much as its samples."""

    def __init__(self, path: str | os.PathLike[str], sample_rate: int, *, stereo: bool):
        self._path, self._sample_rate, self._stereo = path, sample_rate, stereo
        self._kind = ("", "")
        self._joined = av.AudioFifo()

    def begin(self, hz: int) -> None:
        """Takes frames of this rate from here on."""
        channels = 1 + self._stereo
        self._resampler = soxr.ResampleStream(hz, self._sample_rate, channels, dtype="float32", quality="HQ")

    def add(self, frame: av.AudioFrame, skipped: int) -> Iterator[np.ndarray]:
        """Adds a frame without its first samples."""
        kind = frame.format.name, frame.layout.name
        if skipped or kind != self._kind:
            yield from self._waiting()
            self._joined, self._kind = av.AudioFifo(), kind
        frame.pts = None  # the FIFO refuses frames whose stamps do not run on exactly
        self._joined.write(frame)
        if skipped:
            self._joined.read(skipped)
        if self._joined.samples >= _AT_ONCE:
            yield from self._waiting()

    def silence(self, length: int) -> Iterator[np.ndarray]:
        """Adds samples of silence."""
        yield from self._waiting()
        yield self._resampler.resample_chunk(self._zeros(length))

    def end(self) -> Iterator[np.ndarray]:
        """The last samples of this rate."""
        yield from self._waiting()
        yield self._resampler.resample_chunk(self._zeros(0), last=True)

    def _waiting(self) -> Iterator[np.ndarray]:
        frame = self._joined.read()
        if frame is not None:
            sound = _stereo(frame, self._path) if self._stereo else _mono(frame, self._path)
            yield self._resampler.resample_chunk(sound)

    def _zeros(self, length: int) -> np.ndarray:
        return np.zeros((length, 2) if self._stereo else length, np.float32)


def _timed(frames: Iterable[av.AudioFrame], origin: float | None) -> Iterator[tuple[av.AudioFrame, float]]:
    """Each frame and when it starts, in seconds from `origin` (or the first frame).

    A frame without a stamp continues the one before.
    """
    end = 0.0
    for frame in frames:
        stamp = frame.time  # as good as `stamp_s`, and takes a tenth of the time
        if stamp is None and (decoded := stamp_s(frame)) is not None:
            stamp = float(decoded)
        if origin is None:
            origin = stamp
        start = end if stamp is None or origin is None else stamp - origin
        end = start + frame.samples / frame.sample_rate
        yield frame, start


@functools.cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _mono(frame: av.AudioFrame, path: str | os.PathLike[str]) -> np.ndarray:
    """(N,) float32 in ±1, the mean of the channels."""
    channels = _channels(frame, path)
    if channels.dtype == np.uint8:
        return (channels.mean(axis=0, dtype=np.float32) - 128) / 128
    if channels.dtype.kind == "i":
        return (channels.mean(axis=0) / 2 ** (8 * channels.dtype.itemsize - 1)).astype(np.float32)
    return channels.mean(axis=0, dtype=np.float32)


def _stereo(frame: av.AudioFrame, path: str | os.PathLike[str]) -> np.ndarray:
    """(N, 2) float32 in ±1."""
    channels = _channels(frame, path)
    if channels.dtype.kind in "ui":
        zero = 128 if channels.dtype == np.uint8 else 0
        channels = (channels.astype(np.float64) - zero) / 2 ** (8 * channels.dtype.itemsize - 1)
    names = [channel.name for channel in frame.layout.channels]
    if len(channels) > 2 and "FL" in names:
        shares = np.array([_SHARES.get(name, (0.0, 0.0)) for name in names]).T
        channels = shares / max(shares.sum(axis=1).max(), 1.0) @ channels
    elif len(channels) > 2:
        channels = channels.mean(axis=0, keepdims=True)
    return np.ascontiguousarray(np.broadcast_to(channels, (2, channels.shape[1])).T, np.float32)


def _channels(frame: av.AudioFrame, path: str | os.PathLike[str]) -> np.ndarray:
    """(C, N) as they are stored; floats are bounded, before channels are added up."""
    try:
        stored = frame.to_ndarray()
    except ValueError:
        raise UserError(f"{path} holds sound as {frame.format.name}, which cannot be read; convert it") from None
    channels = stored if frame.format.is_planar else stored.reshape(-1, frame.layout.nb_channels).T
    return _finite(channels) if channels.dtype.kind == "f" else channels


def _finite(sound: np.ndarray) -> np.ndarray:
    """Sound without NaN and within the bounds of real sound: damaged floats may hold 1e38, which overflows in sums."""
    if np.abs(sound).max(initial=0) <= _LOUDEST:  # false for NaN
        return sound
    return np.clip(np.nan_to_num(sound, nan=0.0, posinf=1.0, neginf=-1.0), -_LOUDEST, _LOUDEST)


def _pieces(missing: int, longest: int) -> Iterator[int]:
    """Divides `missing` into lengths of at most `longest`."""
    for start in range(0, missing, longest):
        yield min(longest, missing - start)
