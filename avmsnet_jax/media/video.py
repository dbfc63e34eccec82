"""The picture of a film: its frames in order, with their times."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import math
import os
import threading
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.opening import open_film
from avmsnet_jax.media.splices import LONGEST_GAP_S, MOST_DISORDER_S, FilmClock

# A header's rate below the one is compared with how often the first frames come, and not believed if they come more
# often by the other.
_LOW_FPS, _TOO_LOW, _PROBED = 24, 2.2, 100
_MOST_FPS = 480  # containers without a frame rate name that of their clock, such as 1000 or 90,000
_COVER = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_FEWER = 10
# Files up to this size are looked through for gaps; larger ones may take as long as they last.
_SMALL_BYTES, _GAP_S, _GAP_FRAMES, MOST_GAPS_S = 64e6, 10.0, 20, 4 * 3600  # stamps come out of order by fewer frames
_MOST_FAILURES = 2**16  # of the demuxer between two packets: a hole of 4 GB
# Frames that are decoded before they are asked for: as many as fit, and several at a time, as changing threads costs.
_AHEAD_BYTES, _AT_A_TIME, _MOST_TIMES = 64e6, 4, 8

# What swscale knows by the number in the film: RGB, BT.709, untagged (BT.601 for FFmpeg, whatever the size), FCC,
# BT.470BG, SMPTE 170M, SMPTE 240M and BT.2020. It refuses all others.
_KNOWN_MATRICES = {0, 1, 2, 4, 5, 6, 7, 9}

# With whole chroma and exact rounding. The default, a table, is 1 to 1.5 levels too dark. One thread: FFmpeg's
# conversion in slices now and then gets a row at their border wrong (8.1, 4:2:2).
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a film's header says about its picture.

    Attributes:
      fps: frames a second, on average over the film.
      start_s: time of the first frame on the container's own clock, seconds.
      frames: how many frames the header promises, by their duration where it has no count; 0 where it says neither.
      timecode: of the first frame, as the film writes it (01:00:00:00); empty where it has none.
    """

    fps: Fraction
    start_s: float
    frames: int
    timecode: str = ""


@dataclasses.dataclass(frozen=True)
class Clock:
    """When each frame was shown, in the order of decoding; `read_frames` fills it in as it goes.

    Attributes:
      times_s: seconds from the first frame.
      stamps_s: the same on the container's own clock; NaN where it has no stamp.
    """

    times_s: array = dataclasses.field(default_factory=lambda: array("d"))
    stamps_s: array = dataclasses.field(default_factory=lambda: array("d"))


class _Scaler(threading.local):
    """One for each thread that asks for pictures."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()


@dataclasses.dataclass(frozen=True)
class _Looks:
    """How a film wants its frames shown, and the scaler that all of them share."""

    path: str
    pixel_aspect: Fraction
    scaler: _Scaler = dataclasses.field(default_factory=_Scaler)


@dataclasses.dataclass(frozen=True)
class _Orientation:
    """How a picture is turned and mirrored before it is shown; what the default does to it is nothing.

    Attributes:
      transposed: its rows are shown as columns; this comes first.
      down: 1, or -1 where the rows are then shown from the last to the first.
      across: the same of the columns.
    """

    transposed: bool = False
    down: int = 1
    across: int = 1

    def applied_to(self, picture: np.ndarray) -> np.ndarray:
        """The picture, (H, W, 3), as it is shown."""
        turned = picture.transpose(1, 0, 2) if self.transposed else picture
        return turned[:: self.down, :: self.across]


def _orientation(frame: av.VideoFrame) -> _Orientation:
    """What the frame's display matrix says, to the nearest quarter turn.

    The matrix (a, b, u, c, d, v, x, y, w) shows the point (across, down) at (a across + c down, b across + d down).
    """
    side: Any = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return _Orientation()
    a, b, _, c, d, *_ = np.frombuffer(memoryview(side), np.int32).tolist()
    if a * d == b * c:
        return _Orientation()  # a matrix that shows no picture
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Orientation(False, -1 if d < 0 else 1, -1 if a < 0 else 1)
    return _Orientation(True, -1 if b < 0 else 1, -1 if c < 0 else 1)


@dataclasses.dataclass(frozen=True)
class Frame:
    """One decoded frame, not yet converted to RGB: most frames of a film are never looked at.

    Attributes:
      number: 1 for the film's first frame, as the published annotations count.
      time_s: seconds since the film's first frame.
    """

    number: int
    time_s: float
    _decoded: av.VideoFrame = dataclasses.field(repr=False)
    _looks: _Looks = dataclasses.field(repr=False)

    def rgb(self) -> np.ndarray:
        """The whole picture as it is shown: upright, and with square pixels.

        Where the film's pixels are not square, the shorter side of a pixel is stretched to the longer one's.

        Returns:
          (H, W, 3) uint8 RGB.

        Raises:
          UserError: the frame cannot be converted.
        """
        width, height = self.shown_size
        return np.ascontiguousarray(self.scaled(width, height))

    def scaled(self, width: int, height: int) -> np.ndarray:
        """The picture, upright, scaled by FFmpeg (bicubic) to a size whatever its own sides, of pixels or frame.

        It takes a tenth of the time of `rgb` and a filter of Pillow's, and differs by about half a level.

        Returns:
          (height, width, 3) uint8 RGB, colour by colour in memory.

        Raises:
          UserError: the frame cannot be converted.
        """
        return self._convert(*((height, width) if self._orientation.transposed else (width, height)))

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a pixel in heights."""
        return self._looks.pixel_aspect

    @property
    def interlaced(self) -> bool:
        """Whether it is two fields, a moment apart."""
        return self._decoded.interlaced_frame

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of `rgb`, pixels."""
        width, height, aspect = self._decoded.width, self._decoded.height, self._looks.pixel_aspect
        size = max(round(width * aspect), width), max(round(height / aspect), height)
        return size[::-1] if self._orientation.transposed else size

    def brightness(self, rows: int = 18, columns: int = 32) -> np.ndarray:
        """(rows, columns) float32 in 0-1: the first plane at a grid of points, to tell frames apart without converting.

        It is luma in films with one plane for it, and some colour or other in the rest.
        """
        plane, depth = self._decoded.planes[0], self._decoded.format.components[0].bits
        kind = np.uint16 if depth > 8 else np.uint8
        across = plane.line_size // np.dtype(kind).itemsize
        values = np.frombuffer(memoryview(plane), kind)[: self._decoded.height * across].reshape(-1, across)
        y = (np.arange(rows) * 2 + 1) * self._decoded.height // (2 * rows)
        x = (np.arange(columns) * 2 + 1) * min(self._decoded.width, across) // (2 * columns)
        return values[np.ix_(y, x)].astype(np.float32) / (2**depth - 1)

    @property
    def size(self) -> int:
        """About what it takes in memory, bytes."""
        return 3 * self._decoded.width * self._decoded.height

    @functools.cached_property
    def _orientation(self) -> "_Orientation":
        return _orientation(self._decoded)

    def _convert(self, width: int, height: int) -> np.ndarray:
        known = self._decoded.colorspace in _KNOWN_MATRICES
        try:
            # Planar, because swscale is twice as fast at it.
            converted = self._looks.scaler.reformatter.reformat(
                self._decoded,
                width=width,
                height=height,
                format="gbrp",
                src_colorspace=None if known else Colorspace.ITU601,
                interpolation=_EXACT,
                threads=1,
            )
            green, blue, red = (
                np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)[:, :width]
                for plane in converted.planes
            )
            picture = np.stack([red, green, blue]).transpose(1, 2, 0)
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise UserError(
                f"cannot convert frame {self.number} of {self._looks.path}: {error}; convert the film again with ffmpeg"
            ) from error
        return self._orientation.applied_to(picture)


def stamp_s(frame: av.VideoFrame | av.AudioFrame) -> Fraction | None:
    """When a frame is shown or heard on the container's clock, seconds; None where the container has none."""
    ticks = frame.pts if frame.pts is not None else frame.dts  # AVI, for one, says only when frames are decoded
    return ticks * frame.time_base if ticks is not None and frame.time_base else None


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The film's picture, None where there is only sound (a cover image is not a picture).

    Of several it is the one that FFmpeg prefers, the default track, unless there is no decoder for it or it shows far
    fewer pictures than another: a cover, or a slide now and then.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & _COVER]
    streams = [stream for stream in streams if stream.codec_context] or streams
    if len(streams) > 1:
        counts = _first_pictures(container.name.removeprefix("file:"), [stream.index for stream in streams])
        most = max(counts.values())
        streams = [stream for stream in streams if counts[stream.index] >= max(most / _FEWER, min(most, 2))]
    best = container.streams.best("video")
    if best in streams:
        assert isinstance(best, av.VideoStream)
        return best
    return max(streams, key=lambda stream: bool(stream.disposition & Disposition.default), default=None)


def sound_stream(
    container: av.container.InputContainer, picture: av.VideoStream | None
) -> tuple[av.AudioStream | None, str]:
    """The sound that belongs to a picture, and what is wrong with it where there is some, but none can be decoded.

    Of several tracks of the picture's program it is the one that FFmpeg prefers, the default track, or another where
    there is no decoder for that one.
    """
    streams = [
        stream
        for stream in container.streams.audio
        if picture is None
        or container.streams.best("video", related=stream) == container.streams.best("video", related=picture)
    ]
    decodable = [stream for stream in streams if stream.codec_context]
    best = container.streams.best("audio", related=picture)
    if best in decodable:
        assert isinstance(best, av.AudioStream)
        return best, ""
    if streams and not decodable:
        return None, "FFmpeg has no decoder for its sound"
    return max(decodable, key=lambda stream: bool(stream.disposition & Disposition.default), default=None), ""


class Tracks:
    """A film's picture and the sound that belongs to it, on one clock.

    Attributes:
      picture: None in a sound file.
      sound: None where there is none that can be decoded.
      unheard: why not, where there is some.
      clock: the film's; it goes on as packets are read.
    """

    def __init__(self, container: av.container.InputContainer, picture: av.VideoStream | None, rate: Fraction | None):
        """`rate`: frames a second, None where that is unknown."""
        self._container, self.picture = container, picture
        self.sound, self.unheard = sound_stream(container, picture)
        self.clock = FilmClock(container.format, picture, self.sound, float(1 / rate) if rate else 0.0)

    def packets(self, stream: av.VideoStream | av.AudioStream) -> Iterator[av.Packet]:
        """The packets of the picture, or those of the sound, with stamps in the film's time."""
        streams = [each for each in (self.picture, self.sound) if each is not None]
        return self.clock.packets(demux(self._container, *streams), stream)


def tracks(container: av.container.InputContainer, path: str | os.PathLike[str]) -> Tracks:
    """The tracks of a film or of a sound file that are read."""
    picture = picture_stream(container)
    return Tracks(container, picture, _rate(picture, path) if picture else None)


def demux(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """The packets of some streams as they are in the file."""
    packets, failures = container.demux(*streams), 0
    while True:
        try:
            packet = next(packets, None)
        except (IndexError, av.BlockingIOError):
            # PyAV raises IndexError where damaged bytes look like the start of one more stream. FFmpeg asks to try
            # again where it finds no packet within 64 kB, as in a hole of zeros.
            failures += 1
            if failures > _MOST_FAILURES:
                raise
            packets = container.demux(*streams)
            continue
        if packet is None:
            return
        failures = 0
        yield packet


def _first_pictures(path: str, indices: Sequence[int]) -> dict[int, int]:
    """How many pictures each of several tracks shows until the first of them has shown some."""
    counts = dict.fromkeys(indices, 0)
    with open_film(path) as container:
        for packet in demux(container, *(container.streams[index] for index in indices)):
            counts[packet.stream.index] += bool(packet.size)
            if max(counts.values()) >= _PROBED:
                break
    return counts


def decode(packets: Iterable[av.Packet], path: str | os.PathLike[str]) -> Iterator[Any]:
    """Decodes a stream; what is damaged is left out, as players do, so that of a cut file all is read that is there.

    Raises:
      UserError: FFmpeg has no decoder for the stream.
    """
    for packet in packets:
        try:
            yield from packet.decode()
        except (av.InvalidDataError, av.ArgumentError):  # the latter for a picture beyond the bounds of `open_film`
            continue
        except EOFError:  # FFmpeg's: the flush at the end of a file, where one came already
            return
        except ValueError:
            raise UserError(
                f"{path} is in a format that FFmpeg cannot decode; convert it with another program"
            ) from None


def read_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Reads a film's header and its first frame.

    Raises:
      UserError: the file is missing or broken, has no picture, or does not say its frame rate.
    """
    with open_film(path) as container:
        stream = _required_picture(container, path)
        fps = _frame_rate(stream, path)
        first = next(decode(demux(container, stream), path), None)
        if first is None:
            raise UserError(f"{path} has no frame that can be decoded; check that it plays")
        # Matroska and others do not say how many frames they hold, only how long they last.
        seconds = stream.duration * stream.time_base if stream.duration and stream.time_base else None
        if seconds is None and container.duration:
            seconds = Fraction(container.duration, av.time_base)
        frames = stream.frames or round((seconds or 0) * fps)
        return VideoInfo(fps, float(stamp_s(first) or 0), frames, _timecode(container, stream, first))


def _timecode(container: av.container.InputContainer, picture: av.VideoStream, first: av.VideoFrame) -> str:
    """Of the film's first frame; editors count from it."""
    for metadata in (picture.metadata, container.metadata, *(stream.metadata for stream in container.streams.data)):
        for name, value in metadata.items():
            if name.lower() == "timecode":
                return value
    group: Any = first.side_data.get("GOP_TIMECODE")  # of MPEG-2
    if group is None:
        return ""
    bits = int.from_bytes(memoryview(group), "little")
    hour, minute, second, frame = bits >> 19 & 31, bits >> 13 & 63, bits >> 6 & 63, bits & 63
    return f"{hour:02d}:{minute:02d}:{second:02d}{';' if bits >> 24 & 1 else ':'}{frame:02d}"


def read_frames(
    path: str | os.PathLike[str], *, constant_rate: bool = False, clock: Clock | None = None
) -> Iterator[Frame]:
    """Decodes a film from its first frame to its last, a few frames ahead of the reader, in a thread of its own.

    Memory does not grow with the film's length.

    Args:
      path: any container and pixel format that FFmpeg reads.
      constant_rate: False counts the frames as they are decoded, which is what annotations by frame number
        mean; each has the time of its stamp. True puts them by their stamps on a grid of `read_info(path).fps`
        frames a second, so that frame n is what is seen (n - 1) / fps seconds after the first, to within a
        frame: in a gap the frame before stays, and of two frames in one place the later one does. Of films
        with a constant frame rate both are the same.
      clock: gets the time of every frame that is decoded, those too that have no place on the grid.

    Yields:
      the frames in the order they are shown.

    Raises:
      UserError: the file is missing or broken, or has no picture.
    """
    frames = _decode(path, constant_rate, clock)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        ahead = collections.deque([thread.submit(_take, frames)])
        try:
            while taken := ahead.popleft().result():
                fit = int(_AHEAD_BYTES // (taken[0].size * _AT_A_TIME))
                while len(ahead) < max(min(fit, _MOST_TIMES), 1):
                    ahead.append(thread.submit(_take, frames))
                yield from taken
        finally:  # reached, too, when the reader stops early
            for future in ahead:
                future.cancel()


def running_time(path: str | os.PathLike[str]) -> float:
    """Seconds of picture that are really in the file, found without decoding; headers of cut files promise more.

    Raises:
      UserError: the file is missing or broken, or has no picture.
    """
    return _measure(path, _known_rate(path)).seconds


def count_frames(path: str | os.PathLike[str]) -> int:
    """How many frames are really in the file, found without decoding; headers of joined files promise fewer.

    Raises:
      UserError: the file is missing or broken, or has no picture.
    """
    return _measure(path, _known_rate(path)).frames


def _known_rate(path: str | os.PathLike[str]) -> Fraction:
    with open_film(path) as container:
        return _frame_rate(_required_picture(container, path), path)


def _decode(path: str | os.PathLike[str], constant_rate: bool, clock: Clock | None) -> Generator[Frame, None, None]:
    with open_film(path) as container:
        stream = _required_picture(container, path)
        fps = _frame_rate(stream, path)
        stream.thread_type = "AUTO"
        looks = _Looks(os.fspath(path), _pixel_aspect(stream))
        if constant_rate:
            _check_gaps(path, fps)
        film = Tracks(container, stream, fps)
        timed = _timed(decode(film.packets(stream), path), 1 / fps, film.clock, clock)
        if constant_rate:
            for slot, decoded in _on_grid(timed, fps):
                yield Frame(slot + 1, float(slot / fps), decoded, looks)
        else:
            for number, (decoded, time) in enumerate(timed, start=1):
                yield Frame(number, float(time), decoded, looks)


def _check_gaps(path: str | os.PathLike[str], fps: Fraction) -> None:
    """Refuses a small file that would keep us busy for many hours: each gap is filled with the picture before it."""
    if os.path.getsize(path) > _SMALL_BYTES or _gaps_s(path, None) <= MOST_GAPS_S:
        return
    gaps_s = _gaps_s(path, fps)
    if gaps_s > MOST_GAPS_S:
        raise UserError(
            f"{os.fspath(path)} has {gaps_s / 3600:.1f} hours of gaps, in which its picture stands still, and no more "
            f"than {MOST_GAPS_S / 3600:.0f} are filled; cut them out with ffmpeg"
        )


def _gaps_s(path: str | os.PathLike[str], fps: Fraction | None) -> float:
    """How long the picture stands still in gaps, in all: by its stamps (`fps` is None), or in the film's time."""
    shortest = max(_GAP_S, float(_GAP_FRAMES / fps)) if fps else _GAP_S
    gaps, latest = 0.0, math.nan
    with open_film(path) as container:
        stream = _required_picture(container, path)
        for packet in demux(container, stream) if fps is None else Tracks(container, stream, fps).packets(stream):
            if packet.pts is not None and stream.time_base:
                time = float(packet.pts * stream.time_base)
                gaps += time - latest if time - latest > shortest else 0
                latest = time if math.isnan(latest) else max(time, latest)
    return gaps


def _take(frames: Iterator[Frame]) -> list[Frame]:
    return list(itertools.islice(frames, _AT_A_TIME))


def _timed(
    frames: Iterable[av.VideoFrame], frame_s: Fraction, film: FilmClock, clock: Clock | None
) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """Each frame with its time in seconds from the first; without a stamp it lasts `frame_s`."""
    time, origin = -frame_s, None  # origin: what the film's clock shows at our 0
    for frame in frames:
        stamp = stamp_s(frame)
        if stamp is None:
            time += frame_s
        elif origin is not None and _runs_on(time, stamp - origin, film):
            time = max(time, stamp - origin)
        else:
            time += frame_s
            origin = stamp - time
        if clock is not None:
            clock.times_s.append(float(time))
            clock.stamps_s.append(math.nan if stamp is None or film.jumped else float(stamp))
        yield frame, time


def _runs_on(before: Fraction, now: Fraction, film: FilmClock) -> bool:
    """Whether a frame may be shown after another: stamps of frames may be wrong where those of packets are right."""
    return -MOST_DISORDER_S <= now - before <= max(LONGEST_GAP_S, 2 * film.longest_step_s)


def _on_grid(timed: Iterable[tuple[av.VideoFrame, Fraction]], fps: Fraction) -> Iterator[tuple[int, av.VideoFrame]]:
    """Puts frames into the places 0, 1, 2, ... of a grid; see `read_frames`.

    A frame takes the place after the one before it unless its time says that this is a whole frame off, so that
    rounded stamps and a rate that is not quite right move nothing.
    """
    slot, shown = 0, None
    for frame, time in timed:
        place = time * fps
        if shown is not None and place > slot:
            target = slot + 1 if place < slot + 2 else round(place)
            for taken in range(slot, target):
                yield taken, shown
            slot = target
        shown = frame
    if shown is not None:
        yield slot, shown


def _pixel_aspect(stream: av.VideoStream) -> Fraction:
    """Width of a pixel in heights; 1 where the film does not say, or something that cannot be."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def _required_picture(container: av.container.InputContainer, path: str | os.PathLike[str]) -> av.VideoStream:
    stream = picture_stream(container)
    if stream is None:
        raise UserError(f"{path} has no picture; give a film")
    return stream


def _frame_rate(stream: av.VideoStream, path: str | os.PathLike[str]) -> Fraction:
    rate = _rate(stream, path)
    if rate is None:
        raise UserError(f"{path} does not say how many frames a second it has; convert it with ffmpeg -r FPS")
    return rate


def _rate(stream: av.VideoStream, path: str | os.PathLike[str]) -> Fraction | None:
    """The film's average rate; where the header has none that can be one, what the packets' stamps give."""
    rates = [Fraction(fps) for fps in (stream.average_rate, stream.guessed_rate) if fps and fps <= _MOST_FPS]
    if rates and (rates[0] >= _LOW_FPS or not _measure(path, None, most=_PROBED).comes_faster(rates[0])):
        return rates[0]
    measured = _measure(path, None)
    if rates and not measured.comes_faster(rates[0]):
        return rates[0]
    if measured.rate is None or measured.rate > _MOST_FPS:
        return rates[0] if rates else None
    return measured.rate.limit_denominator(1001)


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What a film's packets say of it.

    Attributes:
      frames: how many it shows; what an edit list leaves out is not shown.
      seconds: how long they last, as they are decoded.
      rate: how many are shown in a second; None where that cannot be known.
    """

    frames: int
    seconds: float
    rate: Fraction | None

    def comes_faster(self, rate: Fraction) -> bool:
        """Whether frames come so much faster than the header says that it must be wrong, and most would be left out.

        Twice as many packets as frames are no sign of it: each may hold one of two fields.
        """
        return self.rate is not None and self.rate > _TOO_LOW * rate


def _measure(path: str | os.PathLike[str], rate: Fraction | None, *, most: float = math.inf) -> _Measured:
    """Reads the packets, at most those of the first `most` frames; a frame without a stamp lasts 1 / rate, if known."""
    frame_s = 1 / rate if rate else Fraction(0)
    frames, seconds, latest = 0, Fraction(0), None
    shown: list[Fraction] = []  # when the first frame is, and the last
    with open_film(path) as container:
        picture = _required_picture(container, path)
        for packet in Tracks(container, picture, rate).packets(picture):
            if not packet.size or packet.is_discard:
                continue
            frames += 1
            time = packet.dts * packet.time_base if packet.dts is not None else None
            step = time - latest if time is not None and latest is not None else 0
            seconds += step if step > 0 else frame_s
            latest = time
            if (ticks := packet.pts if packet.pts is not None else packet.dts) is not None:
                shown = [min([*shown[:1], ticks * packet.time_base]), max([*shown[1:], ticks * packet.time_base])]
            if frames >= most:
                break
    span = shown[1] - shown[0] if shown else Fraction(0)
    return _Measured(frames, float(seconds), (frames - 1) / span if span else None)
