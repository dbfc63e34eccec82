"""Writes the chosen shots of a film to an MP4, exact to the frame and to the audio sample."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax.clock import clock
from avmsnet_jax.media.audio import Waveform
from avmsnet_jax.media.captions import Cue
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.media.reencoding import Timing
from avmsnet_jax.media.writer import AAC_RATES, Mp4Writer, Sound
from avmsnet_jax.scoring.film import Watched

FADE_S = 0.01  # fade of the sound before and after a cut
_SHORTEST_CUE_S = 0.2  # captions that a cut makes shorter are left out

_TICK = Fraction(1, 90000)  # time base in seconds if the frames are not evenly spaced


@dataclasses.dataclass(frozen=True)
class Take:
    """A stretch of the film that the summary shows without a cut.

    Attributes:
      first: number of its first decoded frame, from 0.
      stop: number of the frame after its last.
      start_s: start in the film, seconds.
      end_s: end in the film, seconds.
      at: start in the summary, seconds.
      until: end in the summary, seconds.
    """

    first: int
    stop: int
    start_s: float
    end_s: float
    at: Fraction
    until: Fraction


def takes(watched: Watched, ranges: Sequence[tuple[int, int]]) -> list[Take]:
    """Places the chosen shots, ascending `[first, last)` of decoded frames, in the summary; joins adjacent shots."""
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


def summary_cues(cues: Sequence[Cue], parts: Sequence[Take]) -> list[Cue]:
    """The captions within the takes, with times of the summary."""
    found = []
    for take in parts:
        later_s = float(take.at) - take.start_s
        for cue in cues:
            start_s, end_s = max(cue.start_s, take.start_s), min(cue.end_s, take.end_s)
            if end_s - start_s >= min(_SHORTEST_CUE_S, cue.end_s - cue.start_s):
                found.append(dataclasses.replace(cue, start_s=start_s + later_s, end_s=end_s + later_s))
    return found


def clips(
    watched: Watched,
    ranges: Sequence[tuple[int, int]],
    folder: Path,
    on_frame: Callable[[], Any] = lambda: None,
    cues: Sequence[Cue] = (),
) -> None:
    """Writes each take of the summary to a file of its own, named by its number and its time in the film.

    Args:
      watched: the film.
      ranges: as for `cut`.
      folder: the folder to create.
      on_frame: called after each frame.
      cues: as for `cut`.
    """
    folder.mkdir()
    for number, take in enumerate(takes(watched, ranges), start=1):
        minutes, second = divmod(int(take.start_s), 60)
        name = f"{number:03d} {minutes // 60:02d}-{minutes % 60:02d}-{second:02d}.mp4"
        cut(watched, [(take.first, take.stop)], folder / name, on_frame, cues)


def cut(
    watched: Watched,
    ranges: Sequence[tuple[int, int]],
    path: Path,
    on_frame: Callable[[], Any] = lambda: None,
    cues: Sequence[Cue] = (),
) -> None:
    """Writes a film's chosen shots, one after the other.

    Picture: H.264, 8 bits, 4:2:0, with the film's size, pixel aspect, rotation, frame times, color matrix and range;
    HDR is converted to BT.709, and interlaced frames are deinterlaced. Sound: AAC, mono or stereo, faded for 10 ms
    before and after each cut. Each take is a chapter, named by its time in the film. Memory use does not grow with the
    film's length.

    Args:
      watched: the film.
      ranges: the shots, ascending, as `[first, last)` of decoded frames counted from 0.
      path: the mp4 to write.
      on_frame: called after each frame.
      cues: the film's captions; those within the takes become a text track.

    Raises:
      UserError: the film can no longer be read, or has changed.
      OSError: the mp4 cannot be written.
    """
    parts = takes(watched, ranges)
    tick = 1 / watched.rate if watched.steady else _TICK
    timing = Timing(watched.rate, tick, watched.pixel_aspect, watched.interlaced)
    movie = Movie(watched.scores.film)
    with Mp4Writer(path) as out:
        out.set_chapters((part.at, part.until, clock(part.start_s)) for part in parts)
        picture = sound = text = None
        coming = iter(parts)
        take = next(coming)
        spans = [(part.first, part.stop) for part in parts]
        for index, frame in movie.decoded(spans, watched.times_s, watched.stamps_s):
            if picture is None:
                picture = out.film_frames(frame, timing)
                sound = _Soundtrack.of(movie, watched, parts, out)
                text = out.captions(found) if (found := summary_cues(cues, parts)) else None
            if index >= take.stop:
                take = next(coming)
            pts, end = (_ticks(watched, take, each, tick) for each in (index, index + 1))
            if end > pts:  # of two frames with the same time, the later one is shown
                picture.add(frame, pts, end - pts, begins=index == take.first, ends=index == take.stop - 1)
                if sound is not None:
                    sound.play(end * tick)
                if text is not None:
                    text.write(end * tick)
            on_frame()


def _ticks(watched: Watched, take: Take, index: int, tick: Fraction) -> int:
    """When a frame is shown in the summary, in ticks; exact if the film's frames are evenly spaced."""
    if watched.steady:
        return int(take.at / tick) + index - take.first
    return round((take.at + Fraction(watched.time_of(index)) - Fraction(take.start_s)) / tick)


class _Soundtrack:
    """The sound of the takes, encoded in step with their picture."""

    def __init__(self, track: Sound, pieces: Iterator[np.ndarray], rate: int):
        self._track, self._pieces, self._rate = track, pieces, rate
        self._given = 0  # samples

    @classmethod
    def of(cls, movie: Movie, watched: Watched, parts: Sequence[Take], out: Mp4Writer) -> "_Soundtrack | None":
        """Adds the track; None if the film has no sound."""
        found = movie.sound_format() if watched.scores.has_sound else None
        if found is None:
            return None
        rate, channels = found[0] if found[0] in AAC_RATES else AAC_RATES[-1], min(found[1], 2)
        waveform = movie.waveform(rate, stereo=channels == 2)
        if waveform is None:
            return None
        track = out.sound(rate, channels, bit_rate=96000 * channels if rate >= 32000 else None)
        ends = len(watched.times_s)
        return cls(track, _sound(waveform, parts, ends, rate, channels), rate)

    def play(self, until: Fraction) -> None:
        """Encodes the sound up to `until`, seconds of the summary."""
        while self._given < round(until * self._rate) and (piece := next(self._pieces, None)) is not None:
            self._track.add(piece)
            self._given += len(piece)


def _sound(waveform: Waveform, parts: Sequence[Take], n_frames: int, rate: int, channels: int) -> Iterator[np.ndarray]:
    """The sound of each take, (N, channels), exactly as long as its picture, a second at a time."""
    fade = np.sin(np.linspace(0, np.pi / 2, round(FADE_S * rate), dtype=np.float32))[:, None] ** 2
    for take in parts:
        first = round(take.start_s * rate)
        length = round(take.until * rate) - round(take.at * rate)
        fades_in, fades_out = take.first > 0, take.stop < n_frames
        for start in range(0, length, rate):
            stop = min(start + rate, length)
            heard = waveform.excerpt(first + start, first + stop).reshape(-1, channels)
            piece = np.zeros((stop - start, channels), np.float32)
            piece[: len(heard)] = heard
            if fades_in and start < len(fade):
                faded = fade[start:stop]
                piece[: len(faded)] *= faded
            begin = max(length - len(fade), start) - start  # start of the fade-out in this piece
            if fades_out and begin < len(piece):
                piece[begin:] *= fade[::-1][len(fade) - (length - start - begin) :][: len(piece) - begin]
            yield piece
