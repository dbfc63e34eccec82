"""A film file: its header, its frames in order with their times, and its sound."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import math
import os
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from avmsnet_jax.errors import UserError
from avmsnet_jax.media import audio, packets
from avmsnet_jax.media.audio import SAMPLE_RATE, Waveform
from avmsnet_jax.media.frame import Frame, Scaler
from avmsnet_jax.media.opening import open_film
from avmsnet_jax.media.splices import LONGEST_GAP_S, MOST_DISORDER_S, FilmClock
from avmsnet_jax.media.tracks import (
    Tracks,
    decode,
    demux,
    picture_stream,
    required_picture,
    sound_stream,
    stamp_s,
    ticks,
)

FFMPEG_VERSION = av.ffmpeg_version_info

# Frames are decoded ahead in groups, because each switch of threads has a cost: as many groups as fit into memory.
_AHEAD_BYTES, _FEWEST, _MOST, _GROUPS = 64e6, 4, 32, 4  # bytes; frames in a group, at least and at most; groups
_SEEK_S = 10.0  # nearer frames are reached by decoding, farther ones by seeking


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """A film's header, as far as it concerns the picture.

    Attributes:
      fps: frames per second, on average.
      stamp_s: when the first frame is shown on the container's clock, seconds; None if unknown.
      frames: number of frames that the header claims, or that follows from its duration; 0 if unknown.
      timecode: timecode of the first frame, as stored (01:00:00:00); empty if there is none.
    """

    fps: Fraction
    stamp_s: Fraction | None
    frames: int
    timecode: str = ""


@dataclasses.dataclass(frozen=True)
class Clock:
    """When each frame was shown, in the order of decoding; `Movie.frames` fills it in as it goes.

    Attributes:
      times_s: seconds from the first frame.
      stamps_s: the same on the container's clock; NaN for frames without a stamp.
    """

    times_s: array = dataclasses.field(default_factory=lambda: array("d"))
    stamps_s: array = dataclasses.field(default_factory=lambda: array("d"))


class Movie:
    """A film, or a sound file. The header is read once; each pass over frames, packets or sound opens the file anew."""

    def __init__(self, path: str | os.PathLike[str]):
        """`path` is a local file in any container and format that FFmpeg reads. Nothing is opened yet."""
        self.path = path

    def info(self) -> VideoInfo:
        """The header.

        Raises:
          UserError: the file is missing or broken, or has no picture or no frame rate.
        """
        if self._info is None:
            raise UserError(f"{self.path} has no picture; give a film")
        return self._info

    def measured(self) -> packets.Measured:
        """The actual number of frames in the file and their length, found without decoding.

        Headers of truncated files claim more, those of joined files less.

        Raises:
          UserError: the file is missing or broken, or has no picture.
        """
        return packets.measure(self.path, self.info().fps)

    def frames(self, *, constant_rate: bool = False, clock: Clock | None = None) -> Iterator[Frame]:
        """Decodes the film from its first frame to its last, in a thread of its own, a few frames ahead of the reader.

        Memory does not grow with the film's length.

        Args:
          constant_rate: False numbers the frames as they are decoded, as annotations by frame number do; each has
            the time of its stamp. True resamples them by their stamps to a constant rate of `info().fps`, so that
            frame n is the one seen (n - 1) / fps seconds after the first, to within a frame: gaps repeat the frame
            before, and of two frames in one place the later one is taken. For films with a constant frame rate,
            both are the same.
          clock: gets the time of every decoded frame, including those that resampling drops.

        Yields:
          the frames in the order they are shown.

        Raises:
          UserError: the file is missing or broken, or has no picture.
        """
        frames = self._decode(constant_rate, clock)
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            ahead = collections.deque([thread.submit(_take, frames, _FEWEST)])
            try:
                while taken := ahead.popleft().result():
                    fit = int(_AHEAD_BYTES // taken[0].size)  # frames
                    size = min(max(fit // _GROUPS, _FEWEST), _MOST)
                    while len(ahead) < min(max(fit // size, 1), _GROUPS):
                        ahead.append(thread.submit(_take, frames, size))
                    yield from taken
            finally:  # also if the reader stops early
                for future in ahead:
                    future.cancel()

    def decoded(
        self, ranges: Sequence[tuple[int, int]], times_s: np.ndarray, stamps_s: np.ndarray
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decodes some ranges of frames again; seeks between them if that leads exactly to the right frame.

        Args:
          ranges: ascending `[first, stop)` of decoded frames, counted from 0.
          times_s: the `Clock.times_s` of a pass over the whole film.
          stamps_s: its `Clock.stamps_s`.

        Yields:
          the number of each frame, and the frame as FFmpeg gives it.

        Raises:
          UserError: the film has changed since that pass.
        """
        seekable = bool(np.isfinite(stamps_s).all() and (np.diff(stamps_s) > 0).all())
        waiting, wanted = list(ranges), ranges[0][0]
        while True:
            jump = seekable and times_s[waiting[0][0]] > _SEEK_S
            missed = True
            for index, frame in self._decoded_from(wanted if jump else 0, stamps_s):
                if index is not None and index < wanted:
                    continue
                if index != wanted:
                    break
                yield index, frame
                wanted += 1
                if wanted == waiting[0][1]:
                    waiting.pop(0)
                    if not waiting:
                        return
                    far = times_s[waiting[0][0]] - times_s[wanted] > _SEEK_S
                    wanted = waiting[0][0]
                    if seekable and far:
                        missed = False
                        break
            if missed and not (jump and wanted == waiting[0][0]):
                raise UserError(f"{self.path} changed while it was summarized; leave it alone, and try again")
            seekable = seekable and not missed  # after a seek that missed the frame, decode everything

    def waveform(
        self,
        sample_rate: int = SAMPLE_RATE,
        *,
        stereo: bool = False,
        on_chunk: Callable[[np.ndarray], Any] = lambda chunk: None,
    ) -> Waveform | None:
        """The sound, decoded on demand; None if there is no audio track or it is empty.

        Channels are averaged, which cannot clip, then resampled with soxr at high quality, as `librosa.resample` does
        by default.

        Args:
          sample_rate: sample rate of the result, Hz.
          stereo: the waveform is (N, 2) instead of (N,): mono sound is doubled; more than two channels are mixed by
            ITU-R BS.775 without the low-frequency channel, scaled so that the mix cannot clip.
          on_chunk: called with each decoded chunk before any of it is returned.

        Returns:
          float32 in ±1; the first sample is simultaneous with the film's first frame.

        Raises:
          UserError: the file is missing or broken.
        """
        # Read the header before opening the file for its sound: the index of a long film takes memory.
        info = self._info
        rate = info.fps if info else None
        origin = float(info.stamp_s) if info and info.stamp_s is not None else None

        def told() -> Iterator[np.ndarray]:
            for chunk in audio.decode_sound(self.path, origin, rate, sample_rate, stereo=stereo):
                on_chunk(chunk)
                yield chunk

        chunks = told()
        first = next(chunks, None)
        return None if first is None else Waveform(itertools.chain([first], chunks))

    def whole_waveform(self, sample_rate: int = SAMPLE_RATE) -> np.ndarray | None:
        """All of `waveform` at once: (N,) float32."""
        waveform = self.waveform(sample_rate)
        return None if waveform is None else waveform.rest()

    def sound_format(self) -> tuple[int, int] | None:
        """Sample rate, Hz, and number of channels of the sound; None if there is none that FFmpeg can decode."""
        with open_film(self.path) as container:
            stream, _ = sound_stream(container, picture_stream(container))
            return None if stream is None else (stream.rate, stream.layout.nb_channels)

    @functools.cached_property
    def _info(self) -> VideoInfo | None:
        """The header; None if there is no picture."""
        with open_film(self.path) as container:
            stream = picture_stream(container)
            if stream is None:
                return None
            fps = packets.frame_rate(stream, self.path)
            if fps is None:
                raise UserError(
                    f"{self.path} does not say how many frames a second it has; convert it with ffmpeg -r FPS"
                )
            first = next(decode(demux(container, stream), self.path), None)
            if first is None:
                raise UserError(f"{self.path} has no frame that can be decoded; check that it plays")
            # Matroska and others store only the duration, not the number of frames.
            seconds = stream.duration * stream.time_base if stream.duration and stream.time_base else None
            if seconds is None and container.duration:
                seconds = Fraction(container.duration, av.time_base)
            frames = stream.frames or round((seconds or 0) * fps)
            return VideoInfo(fps, stamp_s(first), frames, _timecode(container, stream, first))

    def _decode(self, constant_rate: bool, clock: Clock | None) -> Generator[Frame, None, None]:
        fps, name, scaler = self.info().fps, os.fspath(self.path), Scaler()
        if constant_rate:
            packets.check_gaps(self.path, fps)
        with open_film(self.path) as container:
            stream = required_picture(container, self.path)
            stream.thread_type = "AUTO"
            aspect = _pixel_aspect(stream)
            film = Tracks(container, stream, fps)
            # A step divides both the tick of the stamps and the duration of a frame.
            steps_per_second = math.lcm((stream.time_base or Fraction(1)).denominator, fps.numerator)
            frame_steps = steps_per_second * fps.denominator // fps.numerator
            decoded = decode(film.packets(stream), self.path)
            timed = _timed(decoded, stream.time_base, steps_per_second, frame_steps, film.clock, clock)
            number = 0
            if constant_rate:
                for slot, picture in _on_grid(timed, frame_steps):
                    number = slot + 1
                    time_s = slot * frame_steps / steps_per_second
                    yield Frame(number, time_s, name, aspect, picture, scaler)
            else:
                for number, (picture, time) in enumerate(timed, start=1):
                    yield Frame(number, time / steps_per_second, name, aspect, picture, scaler)
            if not number:  # the first frame may decode alone, in `_info`, but not here
                raise UserError(f"{self.path} has no frame that can be decoded; check that it plays")

    def _decoded_from(self, first: int, stamps_s: np.ndarray) -> Iterator[tuple[int | None, av.VideoFrame]]:
        """Decoded frames and their numbers, starting at or before `first`; None = the number is unknown."""
        with open_film(self.path) as container:
            stream = required_picture(container, self.path)
            stream.thread_type = "AUTO"
            if not first:
                yield from enumerate(decode(demux(container, stream), self.path))
                return
            container.seek(round((stamps_s[first] - 1) / stream.time_base), stream=stream)
            started = False
            for frame in decode(demux(container, stream), self.path):
                stamp = stamp_s(frame)  # a quotient of whole numbers, as in `_timed`: equal stamps are equal floats
                index = int(np.searchsorted(stamps_s, float(stamp))) if stamp is not None else len(stamps_s)
                known = index < len(stamps_s) and stamps_s[index] == float(stamp or 0) and (started or index <= first)
                started = True
                yield index if known else None, frame


def _take(frames: Iterator[Frame], size: int) -> list[Frame]:
    return list(itertools.islice(frames, size))


def _timecode(container: av.container.InputContainer, picture: av.VideoStream, first: av.VideoFrame) -> str:
    """The timecode of the film's first frame."""
    for metadata in (picture.metadata, container.metadata, *(stream.metadata for stream in container.streams.data)):
        for name, value in metadata.items():
            if name.lower() == "timecode":
                return value
    group: Any = first.side_data.get("GOP_TIMECODE")  # in MPEG-2
    if group is None:
        return ""
    bits = int.from_bytes(memoryview(group), "little")
    hour, minute, second, frame = bits >> 19 & 31, bits >> 13 & 63, bits >> 6 & 63, bits & 63
    return f"{hour:02d}:{minute:02d}:{second:02d}{';' if bits >> 24 & 1 else ':'}{frame:02d}"


def _timed(
    frames: Iterable[av.VideoFrame],
    time_base: Fraction | None,
    steps_per_second: int,
    frame_steps: int,
    film: FilmClock,
    clock: Clock | None,
) -> Iterator[tuple[av.VideoFrame, int]]:
    """Each frame with its time from the first, in steps; a frame without a stamp comes `frame_steps` after the last.

    Whole steps are as exact as fractions of a second, and take a tenth of the time.
    """
    tick = time_base.numerator * steps_per_second // time_base.denominator if time_base else 0  # in steps
    time, origin = -frame_steps, None  # origin: what the film's clock shows at time 0, in steps
    for frame in frames:
        shown = ticks(frame)
        stamp = shown * tick if shown is not None and tick else None
        if stamp is None:
            time += frame_steps
        elif origin is not None and _runs_on((stamp - origin - time) / steps_per_second, film):
            time = max(time, stamp - origin)
        else:
            time += frame_steps
            origin = stamp - time
        if clock is not None:
            clock.times_s.append(time / steps_per_second)
            clock.stamps_s.append(math.nan if stamp is None or film.jumped else stamp / steps_per_second)
        yield frame, time


def _runs_on(step_s: float, film: FilmClock) -> bool:
    """Whether a frame can follow another: stamps of frames may be wrong even if those of packets are right."""
    return -MOST_DISORDER_S <= step_s <= max(LONGEST_GAP_S, 2 * film.longest_step_s)


def _on_grid(timed: Iterable[tuple[av.VideoFrame, int]], frame_steps: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Resamples frames to a constant rate: places 0, 1, 2, ..., `frame_steps` apart; see `Movie.frames`.

    A frame takes the next place unless its time is a whole frame off, so that rounded stamps and a slightly wrong rate
    move nothing.
    """
    slot, shown = 0, None
    for frame, time in timed:
        if shown is not None and time > slot * frame_steps:
            target = slot + 1 if time < (slot + 2) * frame_steps else round(Fraction(time, frame_steps))
            for taken in range(slot, target):
                yield taken, shown
            slot = target
        shown = frame
    if shown is not None:
        yield slot, shown


def _pixel_aspect(stream: av.VideoStream) -> Fraction:
    """Width of a pixel divided by its height; 1 if the film has none or an implausible one."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)
