"""Selects the video and the audio stream of a file, and reads their packets."""

import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
from av.stream import Disposition

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.opening import open_film
from avmsnet_jax.media.splices import FilmClock

_COVER = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_PROBED = 100  # pictures that are counted to tell a film from a slide show
_FEWER = 10  # a stream with this many times fewer pictures than another is not the film
_MOST_FAILURES = 2**16  # of the demuxer between two packets, each over 64 kB: a hole of 4 GB


def ticks(frame: av.VideoFrame | av.AudioFrame) -> int | None:
    """When a frame is shown or heard, in units of its time base; None if the container does not say."""
    return frame.pts if frame.pts is not None else frame.dts  # some containers, such as AVI, store decoding times only


def stamp_s(frame: av.VideoFrame | av.AudioFrame) -> Fraction | None:
    """When a frame is shown or heard on the container's clock, seconds; None if the container does not say."""
    stamp = ticks(frame)
    return stamp * frame.time_base if stamp is not None and frame.time_base else None


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The film's video stream; None if there is only sound (a cover image is not a video).

    Of several streams, it is the default one, unless FFmpeg cannot decode it or another has many more pictures: then
    the default is a cover or a slide show.
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


def required_picture(container: av.container.InputContainer, path: str | os.PathLike[str]) -> av.VideoStream:
    """The film's video stream.

    Raises:
      UserError: there is none.
    """
    stream = picture_stream(container)
    if stream is None:
        raise UserError(f"{path} has no picture; give a film")
    return stream


def sound_stream(
    container: av.container.InputContainer, picture: av.VideoStream | None
) -> tuple[av.AudioStream | None, str]:
    """The audio stream that belongs to a video stream; None and a reason if there is one that FFmpeg cannot decode.

    Of several streams in the program of the video, it is the default one, or another if FFmpeg cannot decode that.
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
      picture: the video stream; None in a sound file.
      sound: the audio stream; None if there is none that FFmpeg can decode.
      unheard: why the sound cannot be decoded; empty otherwise.
      clock: the film's clock, which advances as packets are read.
    """

    def __init__(self, container: av.container.InputContainer, picture: av.VideoStream | None, rate: Fraction | None):
        """`rate` is in frames per second; None = unknown."""
        self._container, self.picture = container, picture
        self.sound, self.unheard = sound_stream(container, picture)
        self.clock = FilmClock(container.format, picture, self.sound, float(1 / rate) if rate else 0.0)

    def packets(self, stream: av.VideoStream | av.AudioStream) -> Iterator[av.Packet]:
        """The packets of the picture, or those of the sound, with stamps in the film's time."""
        streams = [each for each in (self.picture, self.sound) if each is not None]
        return self.clock.packets(demux(self._container, *streams), stream)


def demux(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """The packets of some streams in the order of the file."""
    packets, failures = container.demux(*streams), 0
    while True:
        try:
            packet = next(packets, None)
        except (IndexError, av.BlockingIOError):
            # PyAV raises IndexError if damaged bytes look like the start of another stream. FFmpeg asks to try again
            # if it finds no packet within 64 kB, as in a hole of zeros.
            failures += 1
            if failures > _MOST_FAILURES:
                raise
            packets = container.demux(*streams)
            continue
        if packet is None:
            return
        failures = 0
        yield packet


def decode(packets: Iterable[av.Packet], path: str | os.PathLike[str]) -> Iterator[Any]:
    """Decodes a stream. Damaged parts are skipped, as players do, so that the rest of a damaged file is read.

    Raises:
      UserError: FFmpeg has no decoder for the stream.
    """
    for packet in packets:
        try:
            yield from packet.decode()
        except (av.InvalidDataError, av.ArgumentError):  # the latter for a picture beyond the bounds of `open_film`
            continue
        except EOFError:  # from FFmpeg: a second flush at the end of the file
            return
        except ValueError:
            raise UserError(
                f"{path} is in a format that FFmpeg cannot decode; convert it with another program"
            ) from None


def _first_pictures(path: str, indices: Sequence[int]) -> dict[int, int]:
    """The number of pictures in each of several streams, up to the point where one of them has `_PROBED`."""
    counts = dict.fromkeys(indices, 0)
    with open_film(path) as container:
        for packet in demux(container, *(container.streams[index] for index in indices)):
            counts[packet.stream.index] += bool(packet.size)
            if max(counts.values()) >= _PROBED:
                break
    return counts
