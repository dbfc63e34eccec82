"""The picture of a film: its frames in order, with their times."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from avmsnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a film's header says about its picture.

    Attributes:
      fps: frames a second, on average over the film.
      start_s: time of the first frame on the container's own clock, seconds.
      frames: how many frames the header promises, 0 where it does not say.
    """

    fps: Fraction
    start_s: float
    frames: int


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

    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, turned upright where the film says that it was shot on its side."""
        # One thread: FFmpeg's conversion in slices now and then gets a row at their border wrong (8.1, 4:2:2).
        picture = self._decoded.reformat(format="rgb24", threads=1).to_ndarray()
        return np.rot90(picture, round(self._decoded.rotation / 90) % 4)


# Titles in another encoding than UTF-8 are no reason to refuse a film. PyAV 19 dropped the option.
_OPEN: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


@contextlib.contextmanager
def open_film(path: str | os.PathLike[str]) -> Iterator[av.container.InputContainer]:
    """Opens a film (or a sound file) for reading; what goes wrong inside becomes a UserError that names it."""
    try:
        with av.open(os.fspath(path), **_OPEN) as container:
            yield container
    except FileNotFoundError:
        raise UserError(f"there is no film {path}; check the path") from None
    except av.FFmpegError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; check that it plays, or convert it again with ffmpeg"
        ) from error


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The film's picture, None where there is only sound (a cover image is not a picture)."""
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & Disposition.attached_pic:
        return None
    return stream


def read_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Reads a film's header and its first frame.

    Raises:
      UserError: the file is missing or broken, has no picture, or does not say its frame rate.
    """
    with open_film(path) as container:
        stream = _required_picture(container, path)
        fps = stream.average_rate or stream.guessed_rate
        first = next(container.decode(stream), None)
        if first is None:
            raise UserError(f"{path} has no frame that can be decoded; check that it plays")
        if not fps:
            raise UserError(f"{path} does not say how many frames a second it has; convert it with ffmpeg -r FPS")
        return VideoInfo(Fraction(fps), first.time or 0.0, stream.frames)


def read_frames(path: str | os.PathLike[str]) -> Iterator[Frame]:
    """Decodes a film from its first frame to its last. Memory does not grow with its length.

    Args:
      path: any container and pixel format that FFmpeg reads.

    Yields:
      the frames in the order they are shown.

    Raises:
      UserError: the file is missing or broken, or has no picture.
    """
    with open_film(path) as container:
        stream = _required_picture(container, path)
        stream.thread_type = "AUTO"
        start = None
        for number, decoded in enumerate(container.decode(stream), start=1):
            time = decoded.time
            if time is None:  # a bare stream without a container's clock
                time = float((number - 1) / (stream.average_rate or stream.guessed_rate or 25))
            start = time if start is None else start
            yield Frame(number, time - start, decoded)


def running_time(path: str | os.PathLike[str]) -> float:
    """Seconds of picture that are really in the file, found without decoding; headers of cut files promise more.

    Raises:
      UserError: the file is missing or broken, or has no picture.
    """
    with open_film(path) as container:
        stream = _required_picture(container, path)
        packets = sum(1 for packet in container.demux(stream) if packet.size)
        return float(packets / (stream.average_rate or stream.guessed_rate or 25))


def _required_picture(container: av.container.InputContainer, path: str | os.PathLike[str]) -> av.VideoStream:
    stream = picture_stream(container)
    if stream is None:
        raise UserError(f"{path} has no picture; give a film")
    return stream
