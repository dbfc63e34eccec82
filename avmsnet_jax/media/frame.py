"""A decoded frame of a film: its picture in RGB, upright, at any size."""

import dataclasses
import functools
import threading
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from avmsnet_jax.errors import UserError

# The color matrices that swscale knows, by their H.273 number: RGB, BT.709, unspecified (FFmpeg assumes BT.601 at any
# size), FCC, BT.470BG, SMPTE 170M, SMPTE 240M and BT.2020. It refuses all others.
_KNOWN_MATRICES = {0, 1, 2, 4, 5, 6, 7, 9}

# Full-resolution chroma and exact rounding; swscale's default, a table, is 1 to 1.5 levels too dark.
_EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclasses.dataclass(frozen=True)
class _Orientation:
    """How a picture is turned and mirrored before it is shown; upright by default.

    Attributes:
      transposed: rows become columns, before the picture is mirrored.
      down: -1 if the rows are then reversed, else 1.
      across: -1 if the columns are then reversed, else 1.
    """

    transposed: bool = False
    down: int = 1
    across: int = 1

    def applied_to(self, picture: np.ndarray) -> np.ndarray:
        """The picture, (H, W, 3), as it is shown."""
        turned = picture.transpose(1, 0, 2) if self.transposed else picture
        return turned[:: self.down, :: self.across]


def _orientation(frame: av.VideoFrame) -> _Orientation:
    """The frame's display matrix, rounded to quarter turns.

    The matrix (a, b, u, c, d, v, x, y, w) maps the point (across, down) to (a across + c down, b across + d down).
    """
    side: Any = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return _Orientation()
    a, b, _, c, d, *_ = np.frombuffer(memoryview(side), np.int32).tolist()
    if a * d == b * c:
        return _Orientation()  # ignore a singular matrix, which would show nothing
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Orientation(False, -1 if d < 0 else 1, -1 if a < 0 else 1)
    return _Orientation(True, -1 if b < 0 else 1, -1 if c < 0 else 1)


class Scaler(threading.local):
    """A converter to RGB for each thread that asks for pictures of a film."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()
        self._orientations: dict[int, _Orientation] = {}

    def orientation(self, frame: av.VideoFrame) -> _Orientation:
        """How a frame is turned and mirrored; the matrix is read once for each rotation.

        Reading `side_data` makes a reference cycle: only the garbage collector frees the picture (300 MB in all at 720
        lines). A film in which only the mirroring changes keeps that of the first frame.
        """
        if frame.rotation not in self._orientations:
            self._orientations[frame.rotation] = _orientation(frame)
        return self._orientations[frame.rotation]


@functools.lru_cache(maxsize=16)
def _grid(rows: int, columns: int, height: int, width: int, across: int) -> np.ndarray:
    """(rows, columns) int64, where the samples of a grid lie in a plane of `across` values a row."""
    y = (np.arange(rows) * 2 + 1) * height // (2 * rows)
    x = (np.arange(columns) * 2 + 1) * width // (2 * columns)
    return y[:, None] * across + x


@dataclasses.dataclass(frozen=True)
class Frame:
    """A decoded frame. It is converted to RGB only on request, because most frames of a film are not needed.

    Attributes:
      number: 1 for the film's first frame, as in the published annotations.
      time_s: seconds since the film's first frame.
      path: the film.
      pixel_aspect: width of a pixel divided by its height.
    """

    number: int
    time_s: float
    path: str
    pixel_aspect: Fraction
    _decoded: av.VideoFrame = dataclasses.field(repr=False)
    _scaler: Scaler = dataclasses.field(repr=False)

    def rgb(self) -> np.ndarray:
        """The whole picture as it is shown: upright, and with square pixels.

        If the film's pixels are not square, the shorter side of a pixel is stretched to the longer one.

        Returns:
          (H, W, 3) uint8 RGB.

        Raises:
          UserError: the frame cannot be converted.
        """
        width, height = self.shown_size
        return np.ascontiguousarray(self.scaled(width, height))

    def scaled(self, width: int, height: int) -> np.ndarray:
        """The picture, upright, scaled by FFmpeg (bicubic) to any size; the aspect is not kept.

        It takes a tenth of the time of `rgb` followed by a filter of Pillow, and differs by about half a level of 255.

        Returns:
          (height, width, 3) uint8 RGB, in planar memory layout.

        Raises:
          UserError: the frame cannot be converted.
        """
        return self._convert(*((height, width) if self._orientation.transposed else (width, height)))

    @property
    def interlaced(self) -> bool:
        """Whether the frame consists of two fields, recorded one after the other."""
        return self._decoded.interlaced_frame

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of `rgb`, pixels."""
        width, height, aspect = self._decoded.width, self._decoded.height, self.pixel_aspect
        size = max(round(width * aspect), width), max(round(height / aspect), height)
        return size[::-1] if self._orientation.transposed else size

    def brightness(self, rows: int = 18, columns: int = 32) -> np.ndarray:
        """Samples the first plane on a grid, to compare frames without converting them.

        Returns:
          (rows, columns) float32 in 0-1: luma, or one of the colors in films without a luma plane.
        """
        plane, depth = self._decoded.planes[0], self._decoded.format.components[0].bits
        kind = np.uint16 if depth > 8 else np.uint8
        across = plane.line_size // (2 if depth > 8 else 1)
        places = _grid(rows, columns, self._decoded.height, min(self._decoded.width, across), across)
        return np.frombuffer(memoryview(plane), kind).take(places).astype(np.float32) / (2**depth - 1)

    @property
    def size(self) -> int:
        """Its approximate memory, bytes."""
        return 3 * self._decoded.width * self._decoded.height

    @property
    def _orientation(self) -> _Orientation:
        return self._scaler.orientation(self._decoded)

    def _convert(self, width: int, height: int) -> np.ndarray:
        known = self._decoded.colorspace in _KNOWN_MATRICES
        try:
            # Planar, because swscale writes it twice as fast. One thread, because with several FFmpeg 8.1 sometimes
            # converts a row at the border of two slices wrongly (4:2:2).
            converted = self._scaler.reformatter.reformat(
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
                f"cannot convert frame {self.number} of {self.path}: {error}; convert the film again with ffmpeg"
            ) from error
        return self._orientation.applied_to(picture)
