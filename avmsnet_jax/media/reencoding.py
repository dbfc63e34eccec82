"""Re-encodes decoded film frames to H.264 that all browsers play, changing as little else as possible."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
from av.video.frame import PictureType

from avmsnet_jax.media import hdr

# ITU-T H.273 numbers: BT.709 as matrix, primaries and transfer; the two ranges as FFmpeg numbers them.
_BT709 = 1
_LIMITED, _FULL = 1, 2
_EXACT = "flags=bicubic+accurate_rnd+full_chroma_int"


@dataclasses.dataclass(frozen=True)
class Timing:
    """How a film shows its frames.

    Attributes:
      rate: frames a second.
      tick: time base of the new track, seconds: 1 / `rate` if the film's frames are evenly spaced.
      pixel_aspect: width of a pixel divided by its height.
      interlaced: whether any frame of the film consists of two fields.
    """

    rate: Fraction
    tick: Fraction
    pixel_aspect: Fraction
    interlaced: bool


class FilmFrames:
    """A track of film frames in 8 bits 4:2:0.

    Frames keep their size, pixel aspect, rotation, color matrix and range. HDR and RGB become BT.709; interlaced frames
    are deinterlaced; odd sides are padded with a repeated row or column.
    """

    def __init__(
        self, container: av.container.OutputContainer, first: av.VideoFrame, timing: Timing, color_table: Path
    ):
        """Adds the track.

        Args:
          container: the file that is being written.
          first: the first frame, which determines size and colors.
          timing: how the film shows its frames.
          color_table: a path for a lookup table of colors; the caller removes the file.
        """
        self._container, self._timing, self._color_table = container, timing, color_table
        self._size = first.width, first.height
        self._hdr = first.color_trc if first.color_trc in (hdr.PQ, hdr.HLG) and not first.format.is_rgb else 0
        self._to_bt709 = bool(self._hdr) or first.format.is_rgb or first.format.has_palette
        full = not self._to_bt709 and (first.color_range == _FULL or first.format.name.startswith("yuvj"))
        self._range, self._pix_fmt = ("pc", "yuvj420p") if full else ("tv", "yuv420p")
        even = timing.tick * timing.rate == 1
        options = {"crf": "18", "preset": "veryfast"} | ({} if even else {"bf": "0"})
        self._stream = self._container.add_stream("libx264", rate=timing.rate, options=options)
        self._describe(first, full)
        self._durations: dict[int, int] = {}
        self._keys: set[int] = set()
        self._graph: av.filter.Graph | None = None
        self._format: Any = None

    def add(self, frame: av.VideoFrame, pts: int, duration: int, *, begins: bool, ends: bool) -> None:
        """Adds a frame.

        Args:
          frame: the frame; its time and type are changed.
          pts: when it is shown, in ticks.
          duration: how long it is shown, in ticks.
          begins: whether it is the first after a cut; it becomes a key frame, because players seek to it.
          ends: whether it is the last before a cut.
        """
        frame.pts, frame.time_base = pts, self._timing.tick
        self._durations[pts] = duration
        if begins:
            self._keys.add(pts)
        steps = self._steps(frame)
        if not steps:
            self._encode(frame)
            return
        kind = (frame.format.name, frame.width, frame.height)
        if self._graph is None or kind != self._format:
            self._drain()
            self._graph, self._format = self._build(frame, steps), kind
        self._graph.push(frame)
        self._pull()
        if ends:  # the deinterlacer must not see beyond the cut
            self._drain()

    def close(self) -> None:
        """Flushes the filters and the encoder."""
        self._drain()
        self._mux(self._stream.encode(None))

    def _describe(self, first: av.VideoFrame, full: bool) -> None:
        """Sets size, colors and rotation of the track."""
        stream, context = self._stream, self._stream.codec_context
        stream.width, stream.height = (side + side % 2 for side in self._size)
        stream.pix_fmt = self._pix_fmt
        context.time_base = self._timing.tick
        context.sample_aspect_ratio = self._timing.pixel_aspect
        if self._to_bt709:
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED
        else:
            context.colorspace, context.color_range = first.colorspace, _FULL if full else first.color_range
            context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        matrix: Any = first.side_data.get("DISPLAYMATRIX")
        if matrix:
            stream.set_display_matrix(np.frombuffer(memoryview(matrix), np.int32).tolist())

    def _steps(self, frame: av.VideoFrame) -> list[tuple[str, str]]:
        """The filters that a frame passes, each with its arguments."""
        (width, height), steps = self._size, []
        if self._timing.interlaced:
            steps.append(("bwdif", "mode=send_frame:deint=interlaced"))
        if (frame.width, frame.height) != self._size:
            steps.append(("scale", f"{width}:{height}:{_EXACT}"))
        source = f"in_range={self._range}"
        if self._hdr:
            if not self._color_table.exists():
                hdr.write_table(self._color_table, self._hdr)
            source = f"in_range={'pc' if frame.color_range == _FULL else 'tv'}:in_color_matrix=bt2020"
            table = f"file={_escaped(self._color_table)}"
            steps += [("scale", f"{source}:{_EXACT}"), ("format", "gbrp12le"), ("lut3d", table)]
        if width % 2 or height % 2:
            return steps + self._padding_steps()
        if self._to_bt709:
            return [*steps, ("scale", f"out_range=tv:out_color_matrix=bt709:{_EXACT}"), ("format", self._pix_fmt)]
        if frame.format.name != self._pix_fmt or steps:
            return [*steps, ("scale", f"{source}:out_range={self._range}:{_EXACT}"), ("format", self._pix_fmt)]
        return steps

    def _padding_steps(self) -> list[tuple[str, str]]:
        """The filters that repeat a row or column, before chroma is subsampled."""
        width, height = self._size
        ranges = "" if self._to_bt709 else f"in_range={self._range}:"
        matrix = ":out_color_matrix=bt709" if self._to_bt709 else ""
        return [
            ("scale", f"{ranges}out_range={self._range}{matrix}:{_EXACT}"),
            ("format", "yuv444p" if self._range == "tv" else "yuvj444p"),
            ("pad", f"{width + width % 2}:{height + height % 2}"),
            ("fillborders", f"right={width % 2}:bottom={height % 2}:mode=smear"),
            ("scale", f"in_range={self._range}:out_range={self._range}:{_EXACT}"),
            ("format", self._pix_fmt),
        ]

    def _build(self, frame: av.VideoFrame, steps: Sequence[tuple[str, str]]) -> av.filter.Graph:
        graph, tick = av.filter.Graph(), self._timing.tick
        chain = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=tick),
            *(graph.add(name, arguments) for name, arguments in steps),
            graph.add("buffersink"),
        ]
        for here, there in itertools.pairwise(chain):
            here.link_to(there)
        graph.configure()
        return graph

    def _pull(self) -> None:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(frame, av.VideoFrame)
            assert frame.pts is not None
            assert frame.time_base is not None
            tick = self._timing.tick
            frame.pts, frame.time_base = round(frame.pts * frame.time_base / tick), tick  # bwdif halves the tick
            self._encode(frame)

    def _drain(self) -> None:
        if self._graph is not None:
            self._graph.push(None)
            self._pull()
            self._graph = None

    def _encode(self, frame: av.VideoFrame) -> None:
        # Reset, because the encoder would keep the film's own key frames.
        frame.pict_type = PictureType.I if frame.pts in self._keys else PictureType.NONE
        self._keys.discard(frame.pts)
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Sequence[av.Packet]) -> None:
        for packet in packets:
            assert packet.pts is not None
            packet.duration = self._durations.pop(packet.pts)
        self._container.mux(packets)


def _escaped(path: Path) -> str:
    """A path as the value of a filter's option."""
    return re.sub(r"([\\':])", r"\\\1", str(path))
