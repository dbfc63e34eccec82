"""Writes MP4 files that all players show, with H.264 video and AAC sound, in constant memory."""

import contextlib
import itertools
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import av
import numpy as np
import pysubs2
from av.subtitles.subtitle import SubtitleSet
from av.video.reformatter import Colorspace

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.captions import Cue, one_at_a_time
from avmsnet_jax.media.opening import local_url, open_film
from avmsnet_jax.media.reencoding import FilmFrames, Timing

AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz; browsers play these everywhere

_AUDIO_CHUNK = 1024  # samples per AAC frame


def write_movie(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    waveform: np.ndarray | None,
    sample_rate: int = 22050,
) -> None:
    """Writes an mp4: H.264 in yuv420p (BT.709), with mono AAC if there is a waveform.

    Args:
      path: the mp4 to write; an existing file is replaced when the new one is complete.
      frames: (H, W, 3) uint8 RGB, all of one size. Odd sides, which yuv420p cannot hold, are padded with a
        repeated row or column.
      fps: frames per second.
      waveform: (N,) float32 in ±1 that starts with the first frame, or None for a film without an
        audio track.
      sample_rate: Hz of the waveform, and of the audio track.

    Raises:
      UserError: the file cannot be written, or there is no frame.
    """
    rate = Fraction(fps).limit_denominator(1001)
    frames = iter(frames)
    try:
        with Mp4Writer(path) as movie:
            first = next(frames, None)
            if first is None:
                raise UserError(f"cannot write {path}: a film needs at least one frame")
            pictures = movie.pictures(first.shape, rate, crf=18)
            sound = None if waveform is None else movie.sound(sample_rate, 1)
            heard = 0
            for index, picture in enumerate(itertools.chain([first], frames)):
                pictures.add(picture)
                if sound is not None and waveform is not None:
                    # In step with the picture: the container buffers one until it has the other.
                    until = round((index + 1) / rate * sample_rate)
                    sound.add(waveform[heard:until, None])
                    heard = until
            if sound is not None and waveform is not None:
                sound.add(waveform[heard:, None])
    except OSError as error:  # for files and disks, av.FFmpegError is an OSError
        raise UserError(f"cannot write {path}: {error.strerror}; choose a folder that exists and has room") from error


class Track(Protocol):
    """A track of an MP4 that is being written."""

    def close(self) -> None:
        """Writes buffered content."""


class Mp4Writer:
    """An MP4 file that replaces its path when the block succeeds; otherwise the path stays as it was.

    Add all tracks before writing to the first.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """`path` is the file to write."""
        self._path = Path(path)
        self._temporary = self._path.with_name(f".{self._path.stem}.{secrets.token_hex(4)}.mp4")
        self._color_table = self._temporary.with_suffix(".cube")
        self._tracks: list[Track] = []
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> "Mp4Writer":
        """Creates the file under a temporary name."""
        container = av.open(local_url(self._temporary), "w", options={"movflags": "faststart"})
        self._container = self._opened.enter_context(container)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the tracks and moves the file to its path; after an error, removes it."""
        try:
            with self._opened:
                if error is None:
                    for track in self._tracks:
                        track.close()
            if error is None:
                os.replace(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)
            self._color_table.unlink(missing_ok=True)

    def set_chapters(self, chapters: Iterable[tuple[Fraction, Fraction, str]]) -> None:
        """Sets the chapters: start and end, in seconds, and title of each."""
        found: list[Any] = [
            {
                "id": number,
                "start": round(1000 * start),
                "end": round(1000 * end),
                "time_base": Fraction(1, 1000),
                "metadata": {"title": title},
            }
            for number, (start, end, title) in enumerate(chapters)
        ]
        self._container.set_chapters(found)

    def pictures(self, shape: Sequence[int], fps: Fraction, *, crf: int, preset: str = "medium") -> "Pictures":
        """Adds a track of RGB pictures.

        Args:
          shape: (height, width, 3) of each picture.
          fps: pictures a second.
          crf: x264's constant rate factor.
          preset: x264's preset.
        """
        track = Pictures(self._container, shape, fps, {"crf": str(crf), "preset": preset})
        self._tracks.append(track)
        return track

    def film_frames(self, first: av.VideoFrame, timing: Timing) -> FilmFrames:
        """Adds a track of decoded frames of a film, which keep their size, colors, rotation and times.

        Args:
          first: the first frame.
          timing: how the film shows its frames.
        """
        track = FilmFrames(self._container, first, timing, self._color_table)
        self._tracks.append(track)
        return track

    def sound(self, rate: int, channels: int, bit_rate: int | None = None) -> "Sound":
        """Adds a track of sound.

        Args:
          rate: Hz, one of `AAC_RATES`.
          channels: 1 or 2.
          bit_rate: bits a second; None = the encoder's own choice.
        """
        track = Sound(self._container, rate, channels, bit_rate)
        self._tracks.append(track)
        return track

    def captions(self, cues: Sequence[Cue]) -> "Text":
        """Adds a track of captions.

        Args:
          cues: the captions, at least one, in seconds of this file.
        """
        track = Text(self._container, cues)
        self._tracks.append(track)
        return track

    def copied_sound(self, source: str | os.PathLike[str]) -> "CopiedSound":
        """Adds the sound of another MP4 without re-encoding it, if it has any."""
        track = CopiedSound(self._container, self._opened.enter_context(open_film(source)))
        self._tracks.append(track)
        return track


class Pictures:
    """A track of RGB pictures at a constant rate, in BT.709."""

    def __init__(
        self, container: av.container.OutputContainer, shape: Sequence[int], fps: Fraction, options: dict[str, str]
    ):
        """See `Mp4Writer.pictures`."""
        height, width = shape[:2]
        self._container, self._padding, self._tick = container, (height % 2, width % 2), 1 / fps
        self._stream = container.add_stream("libx264", rate=fps, options=options)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        # Tagged, because players guess the colors of an untagged film from its size.
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1
        self._count = 0

    def add(self, picture: np.ndarray) -> None:
        """Adds a picture, (H, W, 3) uint8 RGB."""
        down, across = self._padding
        padded = np.pad(picture, ((0, down), (0, across), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, threads=1)
        frame.pts, frame.time_base = self._count, self._tick
        self._container.mux(self._stream.encode(frame))
        self._count += 1

    def close(self) -> None:
        """Flushes the encoder."""
        self._container.mux(self._stream.encode(None))


class Sound:
    """A track of AAC."""

    def __init__(self, container: av.container.OutputContainer, rate: int, channels: int, bit_rate: int | None):
        """See `Mp4Writer.sound`."""
        self._container, self._layout = container, ("mono", "stereo")[channels - 1]
        self._stream = container.add_stream("aac", rate=rate, layout=self._layout)
        if bit_rate is not None:
            self._stream.codec_context.bit_rate = bit_rate
        self._waiting = np.zeros((0, channels), np.float32)
        self._encoded = 0  # samples

    def add(self, samples: np.ndarray) -> None:
        """Adds samples, (n, channels) float32 in ±1."""
        self._waiting = np.concatenate([self._waiting, samples])
        self._encode(len(self._waiting) // _AUDIO_CHUNK * _AUDIO_CHUNK)

    def close(self) -> None:
        """Writes the last samples, an incomplete chunk."""
        self._encode(len(self._waiting))
        self._container.mux(self._stream.encode(None))

    def _encode(self, count: int) -> None:
        for start in range(0, count, _AUDIO_CHUNK):
            chunk = self._waiting[start : min(start + _AUDIO_CHUNK, count)]
            samples = np.ascontiguousarray(chunk.T, np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._layout)
            rate = self._stream.rate
            frame.sample_rate, frame.pts, frame.time_base = rate, self._encoded, Fraction(1, rate)
            self._container.mux(self._stream.encode(frame))
            self._encoded += len(chunk)
        self._waiting = self._waiting[count:]


class Text:
    """A track of captions (mov_text)."""

    def __init__(self, container: av.container.OutputContainer, cues: Sequence[Cue]):
        """See `Mp4Writer.captions`."""
        self._container, self._stream = container, container.add_stream("mov_text")
        self._stream.codec_context.subtitle_header = pysubs2.SSAFile().to_string("ass").encode()
        self._waiting = one_at_a_time(cues)[::-1]

    def write(self, until: Fraction) -> None:
        """Writes the captions that have begun at `until`, seconds."""
        while self._waiting and self._waiting[-1].start_s <= until:
            cue = self._waiting.pop()
            start, end = round(1000 * cue.start_s), round(1000 * cue.end_s)
            line = f"0,0,Default,,0,0,0,,{cue.text}".encode()
            packet = self._stream.codec_context.encode_subtitle(SubtitleSet.create(line, 0, end - start))
            packet.stream, packet.time_base = self._stream, Fraction(1, 1000)
            packet.pts, packet.dts, packet.duration = start, start, end - start
            self._container.mux(packet)

    def close(self) -> None:
        """Writes the rest."""
        if self._waiting:
            self.write(Fraction(self._waiting[0].start_s))


class CopiedSound:
    """A track of another file's sound packets, unchanged."""

    def __init__(self, container: av.container.OutputContainer, source: av.container.InputContainer):
        """See `Mp4Writer.copied_sound`."""
        self._container = container
        self._packets: Iterator[av.Packet] = iter(())
        if source.streams.audio:
            self._stream = container.add_stream_from_template(source.streams.audio[0])
            self._packets = (packet for packet in source.demux(source.streams.audio[0]) if packet.dts is not None)
        self._next = next(self._packets, None)

    def copy(self, until: Fraction) -> None:
        """Copies the sound up to `until`, seconds."""
        while self._next is not None and (self._next.dts or 0) * self._next.time_base <= until:
            self._copy_next(self._next)

    def close(self) -> None:
        """Copies the rest."""
        while self._next is not None:
            self._copy_next(self._next)

    def _copy_next(self, packet: av.Packet) -> None:
        packet.stream = self._stream
        self._container.mux(packet)
        self._next = next(self._packets, None)
