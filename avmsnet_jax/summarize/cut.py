"""Cuts chosen shots out of a film into an mp4 that any browser plays, frame by frame and sample by sample."""

import dataclasses
import itertools
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
from av.video.frame import PictureType

from avmsnet_jax.clock import clock
from avmsnet_jax.errors import UserError
from avmsnet_jax.media import audio, tracks
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.media.opening import local_url, open_film
from avmsnet_jax.scoring.film import Watched
from avmsnet_jax.summarize import hdr

FADE_S = 0.01  # of the sound, before and after a cut

_AUDIO_CHUNK = 1024  # samples of an AAC frame
_MOST_HZ = 48000  # that browsers play on every system
_AAC_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_TICK = Fraction(1, 90000)  # s, of films whose frames are not even
_SEEK_S = 10.0  # what lies less far ahead is decoded through
_BT709 = 1  # by its number in the film, of matrix, primaries and transfer alike
_FULL = 2  # likewise, of the range
_LIMITED = 1
_EXACT = "flags=bicubic+accurate_rnd+full_chroma_int"


@dataclasses.dataclass(frozen=True)
class Take:
    """What is shown of a film without a cut.

    Attributes:
      first: its first decoded frame, from 0.
      stop: the one after its last.
      start_s: when the first is shown, seconds of the film.
      end_s: when the last has been.
      at: where it begins in the summary, seconds.
      until: where it ends there.
    """

    first: int
    stop: int
    start_s: float
    end_s: float
    at: Fraction
    until: Fraction


def takes(watched: Watched, ranges: Sequence[tuple[int, int]]) -> list[Take]:
    """Joins chosen shots, ascending `[first, last)` of decoded frames, that follow on one another."""
    joined: list[tuple[int, int]] = []
    for first, stop in ranges:
        if joined and joined[-1][1] == first:
            joined[-1] = joined[-1][0], stop
        else:
            joined.append((first, stop))
    found, at = [], Fraction(0)
    for first, stop in joined:
        start_s, end_s = watched.time_of(first), watched.time_of(stop)
        lasts = (stop - first) / watched.rate if watched.steady else round(Fraction(end_s - start_s) / _TICK) * _TICK
        found.append(Take(first, stop, start_s, end_s, at, at + lasts))
        at += lasts
    return found


def cut(
    watched: Watched, ranges: Sequence[tuple[int, int]], path: Path, on_frame: Callable[[], Any] = lambda: None
) -> None:
    """Writes a film's chosen shots, one after the other.

    H.264 at the film's size, pixel aspect, rotation and frame times, in 8 bits 4:2:0; its colours keep their matrix and
    range, except that HDR is brought to BT.709; interlaced frames are made whole. AAC, mono or stereo. Sound fades for
    10 ms before and after each cut. There is a chapter for each stretch, named by its place in the film. Memory does
    not grow with the film's length.

    Args:
      watched: the film.
      ranges: the shots, ascending, as `[first, last)` of decoded frames counted from 0.
      path: the mp4 to write.
      on_frame: called after each frame.

    Raises:
      UserError: the film cannot be read, or is not the one that was watched any more.
      OSError: the place cannot be written.
    """
    parts = takes(watched, ranges)
    tick = 1 / watched.rate if watched.steady else _TICK
    sound = _Sound(watched, parts)
    with (
        tempfile.TemporaryDirectory() as scratch,
        av.open(local_url(path), "w", options={"movflags": "faststart"}) as out,
    ):
        out.set_chapters(_chapters(parts))
        picture: _Picture | None = None
        for take, index, frame in _frames(watched, parts):
            if picture is None:
                picture = _Picture(out, watched, frame, tick, Path(scratch))
                sound.open(out)
            pts, end = (_ticks(watched, take, each, tick) for each in (index, index + 1))
            if end > pts:  # of two frames with one time, the later is seen
                picture.show(frame, pts, end - pts, begins=index == take.first, ends=index == take.stop - 1)
                sound.play(end * tick)
            on_frame()
        assert picture is not None
        picture.close()
        sound.close()


def _chapters(parts: Sequence[Take]) -> list[Any]:
    """In milliseconds, named by when the stretch is in the film."""
    return [
        {
            "id": number,
            "start": round(1000 * part.at),
            "end": round(1000 * part.until),
            "time_base": Fraction(1, 1000),
            "metadata": {"title": clock(part.start_s)},
        }
        for number, part in enumerate(parts)
    ]


def _ticks(watched: Watched, take: Take, index: int, tick: Fraction) -> int:
    """When a frame is shown in the summary; an exact number of frames where the film's are even."""
    if watched.steady:
        return int(take.at / tick) + index - take.first
    return round((take.at + Fraction(watched.time_of(index)) - Fraction(take.start_s)) / tick)


def _frames(watched: Watched, parts: Sequence[Take]) -> Iterator[tuple[Take, int, av.VideoFrame]]:
    """Each frame of the takes, with its number. It is the very frame that was watched: numbers, not times, decide."""
    stamps = watched.stamps_s
    seekable = bool(np.isfinite(stamps).all() and (np.diff(stamps) > 0).all())
    waiting, wanted = list(parts), parts[0].first
    while True:
        jump = seekable and waiting[0].start_s > _SEEK_S
        missed = True
        for index, frame in _decoded(watched, wanted if jump else 0):
            if index is not None and index < wanted:
                continue
            if index != wanted:
                break
            yield waiting[0], index, frame
            wanted += 1
            if wanted == waiting[0].stop:
                waiting.pop(0)
                if not waiting:
                    return
                far = waiting[0].start_s - watched.time_of(wanted) > _SEEK_S
                wanted = waiting[0].first
                if seekable and far:
                    missed = False
                    break
        if missed and not (jump and wanted == waiting[0].first):
            raise UserError(f"{watched.scores.film} changed while it was summarized; leave it alone, and try again")
        seekable = seekable and not missed  # where a jump does not lead to the very frame, all are decoded


def _decoded(watched: Watched, first: int) -> Iterator[tuple[int | None, av.VideoFrame]]:
    """Decoded frames with their numbers, from one that is at or before `first` on; None for one that is not known."""
    film, stamps = watched.scores.film, watched.stamps_s
    with open_film(film) as container:
        stream = tracks.picture_stream(container)
        assert stream is not None
        stream.thread_type = "AUTO"
        if not first:
            yield from enumerate(tracks.decode(tracks.demux(container, stream), film))
            return
        container.seek(round((stamps[first] - 1) / stream.time_base), stream=stream)
        started = False
        for frame in tracks.decode(tracks.demux(container, stream), film):
            stamp = tracks.stamp_s(frame)
            index = int(np.searchsorted(stamps, float(stamp))) if stamp is not None else len(stamps)
            known = index < len(stamps) and stamps[index] == float(stamp or 0) and (started or index <= first)
            started = True
            yield index if known else None, frame


class _Picture:
    """The picture of the summary."""

    def __init__(
        self, out: av.container.OutputContainer, watched: Watched, frame: av.VideoFrame, tick: Fraction, scratch: Path
    ):
        self._out, self._tick = out, tick
        self._size = frame.width, frame.height
        self._interlaced, self._scratch = watched.interlaced, scratch
        self._hdr = frame.color_trc if frame.color_trc in (hdr.PQ, hdr.HLG) and not frame.format.is_rgb else 0
        self._converted = bool(self._hdr) or frame.format.is_rgb or frame.format.has_palette
        full = not self._converted and (frame.color_range == _FULL or frame.format.name.startswith("yuvj"))
        self._range, self._pix_fmt = ("pc", "yuvj420p") if full else ("tv", "yuv420p")
        options = {"crf": "18", "preset": "veryfast"} | ({} if watched.steady else {"bf": "0"})
        stream = self._stream = out.add_stream("libx264", rate=watched.rate, options=options)
        stream.width, stream.height = (side + side % 2 for side in self._size)
        stream.pix_fmt = self._pix_fmt
        context = stream.codec_context
        context.time_base = tick
        if aspect := watched.pixel_aspect:
            context.sample_aspect_ratio = aspect
        if self._converted:
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED
        else:
            context.colorspace, context.color_range = frame.colorspace, _FULL if full else frame.color_range
            context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
        if matrix := frame.side_data.get("DISPLAYMATRIX"):
            stream.set_display_matrix(np.frombuffer(memoryview(matrix), np.int32).tolist())  # type: ignore[arg-type]
        self._durations: dict[int, int] = {}
        self._keys: set[int] = set()
        self._graph: av.filter.Graph | None = None
        self._looks: Any = None

    def show(self, frame: av.VideoFrame, pts: int, duration: int, *, begins: bool, ends: bool) -> None:
        """Adds a frame."""
        frame.pts, frame.time_base = pts, self._tick
        self._durations[pts] = duration
        if begins:
            self._keys.add(pts)  # players jump to where shots begin
        steps = self._steps(frame)
        if not steps:
            self._encode(frame)
            return
        looks = (frame.format.name, frame.width, frame.height)
        if self._graph is None or looks != self._looks:
            self._drain()
            self._graph, self._looks = self._build(frame, steps), looks
        self._graph.push(frame)
        self._pull()
        if ends:  # what is filtered over time must not see beyond the cut
            self._drain()

    def close(self) -> None:
        """Ends the picture."""
        self._drain()
        self._mux(self._stream.encode(None))

    def _steps(self, frame: av.VideoFrame) -> list[tuple[str, str]]:
        """The filters that a frame has to pass."""
        (width, height), steps = self._size, []
        if self._interlaced:
            steps.append(("bwdif", "mode=send_frame:deint=interlaced"))
        if (frame.width, frame.height) != self._size:
            steps.append(("scale", f"{width}:{height}:{_EXACT}"))
        source = f"in_range={self._range}"
        if self._hdr:
            table = self._scratch / "hdr.cube"
            if not table.exists():
                hdr.write_table(table, self._hdr)
            source = f"in_range={'pc' if frame.color_range == _FULL else 'tv'}:in_color_matrix=bt2020"
            steps += [("scale", f"{source}:{_EXACT}"), ("format", "gbrp12le"), ("lut3d", f"file={_escaped(table)}")]
        if width % 2 or height % 2:
            whole = "yuv444p" if self._range == "tv" else "yuvj444p"
            ranges = "" if self._converted else f"in_range={self._range}:"
            matrix = ":out_color_matrix=bt709" if self._converted else ""
            steps += [
                ("scale", f"{ranges}out_range={self._range}{matrix}:{_EXACT}"),
                ("format", whole),
                ("pad", f"{width + width % 2}:{height + height % 2}"),
                ("fillborders", f"right={width % 2}:bottom={height % 2}:mode=smear"),
                ("scale", f"in_range={self._range}:out_range={self._range}:{_EXACT}"),
                ("format", self._pix_fmt),
            ]
        elif self._converted:
            steps += [("scale", f"out_range=tv:out_color_matrix=bt709:{_EXACT}"), ("format", self._pix_fmt)]
        elif frame.format.name != self._pix_fmt or steps:
            steps += [("scale", f"{source}:out_range={self._range}:{_EXACT}"), ("format", self._pix_fmt)]
        return steps

    def _build(self, frame: av.VideoFrame, steps: Sequence[tuple[str, str]]) -> av.filter.Graph:
        graph = av.filter.Graph()
        chain = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=self._tick),
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
            pts = round(frame.pts * frame.time_base / self._tick)  # the deinterlacer halves the tick
            frame.pts, frame.time_base = pts, self._tick
            self._encode(frame)

    def _drain(self) -> None:
        if self._graph is not None:
            self._graph.push(None)
            self._pull()
            self._graph = None

    def _encode(self, frame: av.VideoFrame) -> None:
        # Or the encoder would take over which frames were key frames in the film.
        frame.pict_type = PictureType.I if frame.pts in self._keys else PictureType.NONE
        self._keys.discard(frame.pts)
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: Sequence[av.Packet]) -> None:
        for packet in packets:
            assert packet.pts is not None
            packet.duration = self._durations.pop(packet.pts)
        self._out.mux(packets)


def _escaped(path: Path) -> str:
    """A path as the value of a filter's option."""
    return re.sub(r"([\\':])", r"\\\1", str(path))


class _Sound:
    """The sound of the summary, if the film has any."""

    def __init__(self, watched: Watched, parts: Sequence[Take]):
        self._pieces: Iterator[np.ndarray] | None = None
        self._stream: Any = None
        self._waiting = np.zeros((0, 1), np.float32)
        self._given = self._encoded = 0  # samples
        if watched.scores.has_sound:
            self._rate, self._channels = _sound_of(watched.scores.film)
            waveform = Movie(watched.scores.film).waveform(self._rate, stereo=self._channels == 2)
            if waveform is not None:
                self._pieces = self._cut(waveform, watched, parts)
                self._waiting = np.zeros((0, self._channels), np.float32)

    def open(self, out: av.container.OutputContainer) -> None:
        """Adds the track, after that of the picture."""
        if self._pieces is not None:
            self._layout = ("mono", "stereo")[self._channels - 1]
            self._out, self._stream = out, out.add_stream("aac", rate=self._rate, layout=self._layout)
            if self._rate >= 32000:
                self._stream.codec_context.bit_rate = 96000 * self._channels

    def play(self, until: Fraction) -> None:
        """Encodes what is heard up to `until`, seconds of the summary, in whole chunks."""
        if self._pieces is None:
            return
        samples = round(until * self._rate)
        while self._given < samples and (piece := next(self._pieces, None)) is not None:
            self._waiting = np.concatenate([self._waiting, piece])
            self._given += len(piece)
            self._encode((min(samples, self._given) - self._encoded) // _AUDIO_CHUNK * _AUDIO_CHUNK)
        self._encode((samples - self._encoded) // _AUDIO_CHUNK * _AUDIO_CHUNK)

    def close(self) -> None:
        """Encodes the rest, which `play` had no whole chunk for."""
        if self._pieces is not None:
            self._encode(len(self._waiting))
            self._out.mux(self._stream.encode(None))

    def _encode(self, count: int) -> None:
        for start in range(0, count, _AUDIO_CHUNK):
            chunk = self._waiting[start : min(start + _AUDIO_CHUNK, count)]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk.T), format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._encoded, Fraction(1, self._rate)
            self._out.mux(self._stream.encode(frame))
            self._encoded += len(chunk)
        self._waiting = self._waiting[count:]

    def _cut(self, waveform: audio.Waveform, watched: Watched, parts: Sequence[Take]) -> Iterator[np.ndarray]:
        """The sound of each take, (N, C), exactly as long as its picture, a second at a time."""
        fade = np.sin(np.linspace(0, np.pi / 2, round(FADE_S * self._rate), dtype=np.float32))[:, None] ** 2
        for take in parts:
            first = round(take.start_s * self._rate)
            length = round(take.until * self._rate) - round(take.at * self._rate)
            fades_in, fades_out = take.first > 0, take.stop < len(watched.times_s)
            for start in range(0, length, self._rate):
                stop = min(start + self._rate, length)
                heard = waveform.excerpt(first + start, first + stop).reshape(-1, self._channels)
                piece = np.zeros((stop - start, self._channels), np.float32)
                piece[: len(heard)] = heard
                if fades_in and start < len(fade):
                    faded = fade[start:stop]
                    piece[: len(faded)] *= faded
                begin = max(length - len(fade), start) - start  # of the fade out, in this piece
                if fades_out and begin < len(piece):
                    piece[begin:] *= fade[::-1][len(fade) - (length - start - begin) :][: len(piece) - begin]
                yield piece


def _sound_of(film: Path) -> tuple[int, int]:
    """Sample rate and channels of a summary's sound."""
    with open_film(film) as container:
        stream, _ = tracks.sound_stream(container, tracks.picture_stream(container))
        assert stream is not None
        rate = stream.rate if stream.rate in _AAC_HZ else _MOST_HZ
        return rate, 1 if stream.layout.nb_channels == 1 else 2
