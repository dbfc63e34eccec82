"""Watches a film once, from its first frame to its last: its scores, and where it may be cut."""

import collections
import contextlib
import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from avmsnet_jax.data import clips
from avmsnet_jax.media import timecode
from avmsnet_jax.media.audio import SAMPLE_RATE, Waveform
from avmsnet_jax.media.frame import Frame
from avmsnet_jax.media.movie import Clock, Movie
from avmsnet_jax.media.timecode import Timecode
from avmsnet_jax.scoring.scorer import Measured, Scorer, finish
from avmsnet_jax.summarize.result import Scores

HOP = 220  # samples at 22,050 Hz from one measure of loudness to the next: 10 ms
THUMBNAIL = 192  # pixels, the longer side
_ROUNDING_S = 0.002  # Matroska rounds stamps to a millisecond

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Watched:
    """A film that was watched to its end.

    Attributes:
      scores: of its clips.
      rate: frames a second of the grid that its frames are counted on.
      times_s: (N,) float64, when each decoded frame is shown, seconds from the first.
      stamps_s: (N,) float64, the same on the container's own clock; NaN where it has no stamp.
      change: (n_frames,) float32 in 0-1, by how much each frame of the grid differs from the one before.
      loudness: (L,) float32, mean square of the sound in every 10 ms (`HOP` samples); empty without sound.
      pixel_aspect: width of a pixel in heights.
      interlaced: whether any frame is two fields.
      timecode: how editors count the frames of the grid.
    """

    scores: Scores
    rate: Fraction
    times_s: np.ndarray
    stamps_s: np.ndarray
    change: np.ndarray
    loudness: np.ndarray
    pixel_aspect: Fraction
    interlaced: bool
    timecode: Timecode

    @functools.cached_property
    def steady(self) -> bool:
        """Whether the film shows its frames at equal distances, but for the rounding of its time stamps."""
        return _steady(self.times_s, self.rate)

    def time_of(self, index: int) -> float:
        """When the decoded frame `index` (from 0) is shown; the film's end for the one after the last. Seconds."""
        if self.steady:
            return float(index / self.rate)
        return float(self.times_s[index]) if index < len(self.times_s) else self.scores.duration_s


def watch(
    film: Path, scorer: Scorer, *, spacing_s: float = 1.0, on_clips: Callable[[int], Any] = lambda count: None
) -> Watched:
    """Scores a film while it is decoded: a thread cuts the next clips while the scorer measures these.

    The clips are those that `prepare_data.py` makes of a film that is labelled by key shots or not at all. Memory grows
    with the film's length only by what is kept of each clip.

    Args:
      film: any film that FFmpeg reads.
      scorer: scores its clips.
      spacing_s: from one clip to the next, seconds, rounded to frames; at 25 frames a second the published spacing is
        1. A film too short for any clip gets one of its middle, in which its first and last frames are held.
      on_clips: called with the number of clips in each batch that was measured.

    Raises:
      UserError: the film is missing or broken, or has no picture; or its scores are NaN.
    """
    movie = Movie(film)
    info = movie.info()
    spacing = max(round(spacing_s * info.fps), 1)
    observer = _Observer(scorer.frames, spacing)
    waveform = movie.waveform(on_chunk=observer.listen)
    taken: list[tuple[int, float]] = []
    measured: list[Measured] = []
    cut = _cut(movie, info.fps, waveform, observer, scorer, spacing)
    with contextlib.closing(_ahead(_batched(cut, scorer.batch_size))) as batches:
        for batch in batches:
            measured.append(scorer.measure(batch))
            taken += [(clip.frame, clip.time_s) for clip in batch]
            on_clips(len(batch))
    found = finish(scorer, measured, str(film))
    times = np.array(observer.clock.times_s)
    width, height = observer.shown_size
    scores = Scores(
        film=film,
        duration_s=float(len(times) / info.fps if _steady(times, info.fps) else times[-1] + 1 / info.fps),
        fps=float(info.fps),
        n_frames=observer.n_frames,
        width=width,
        height=height,
        has_sound=waveform is not None,
        frames=np.array([frame for frame, _ in taken], np.int64),
        times_s=np.array([time for _, time in taken]),
        thumbnails=[observer.thumbnails[frame] for frame, _ in taken],
        **{field.name: getattr(found, field.name) for field in dataclasses.fields(found)},
    )
    return Watched(
        scores=scores,
        rate=info.fps,
        times_s=times,
        stamps_s=np.array(observer.clock.stamps_s),
        change=np.array(observer.change, np.float32),
        loudness=np.array(observer.loudness, np.float32),
        pixel_aspect=observer.pixel_aspect,
        interlaced=observer.interlaced,
        timecode=timecode.read(info.timecode, info.fps),
    )


def _cut(
    movie: Movie, fps: Fraction, waveform: Waveform | None, observer: "_Observer", scorer: Scorer, spacing: int
) -> Generator[clips.Clip]:
    """The clips of a film, as it is decoded."""
    frames, size = scorer.frames, scorer.frame_size
    film_frames = observer.look(movie.frames(constant_rate=True, clock=observer.clock))
    with contextlib.closing(film_frames):
        yield from clips.cut(film_frames, waveform, float(fps), frames=frames, frame_size=size, spacing=spacing)
    if not observer.n_frames >= clips.first_centre(frames, spacing) + frames // 2:
        yield _only_clip(movie, fps, observer, frames, size)
    if waveform is not None:
        # The sound may go on for hours after the picture. Cuts are placed by what is heard up to its end.
        waveform.skip_to(round((observer.n_frames / fps + 1) * SAMPLE_RATE))


def expected_clips(film: Path, spacing_s: float) -> int:
    """How many clips a film has by its header, for a progress bar."""
    info = Movie(film).info()
    return max(info.frames // max(round(spacing_s * info.fps), 1), 1)


def _steady(times_s: np.ndarray, rate: Fraction) -> bool:
    return bool(np.abs(times_s - np.arange(len(times_s)) / float(rate)).max() <= _ROUNDING_S)


class _Observer:
    """What is kept of a film beside its clips, as frames and sound go by."""

    def __init__(self, frames: int, spacing: int):
        self.clock = Clock()
        self.n_frames = 0
        self.shown_size = (0, 0)
        self.pixel_aspect = Fraction(1)
        self.interlaced = False
        self.change: list[float] = []
        self.thumbnails: dict[int, bytes] = {}
        self.loudness: list[float] = []
        self._rest = np.zeros(0, np.float32)
        self._labelled = (clips.label_frame(centre, spacing) for centre in itertools.count(spacing, spacing))
        self._next = next(self._labelled)

    def look(self, film: Iterable[Frame]) -> Generator[Frame]:
        """Passes the frames on."""
        before = None
        for frame in film:
            now = frame.brightness()
            if before is None:
                self.shown_size, self.pixel_aspect = frame.shown_size, frame.pixel_aspect
            self.interlaced |= frame.interlaced
            self.change.append(0.0 if before is None else float(np.abs(now - before).mean()))
            before, self.n_frames = now, frame.number
            if frame.number == self._next:
                self.keep(frame, self._next)
                self._next = next(self._labelled)
            yield frame

    def keep(self, frame: Frame, number: int) -> None:
        """Keeps a small picture of a frame."""
        width, height = frame.shown_size
        scale = min(THUMBNAIL / max(width, height), 1)
        picture = frame.scaled(max(round(width * scale), 1), max(round(height * scale), 1))
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=80)
        self.thumbnails[number] = file.getvalue()

    def listen(self, chunk: np.ndarray) -> None:
        """Measures the next (n,) samples."""
        sound = np.concatenate([self._rest, chunk])
        whole = len(sound) // HOP * HOP
        self.loudness += np.square(sound[:whole]).reshape(-1, HOP).mean(axis=1).tolist()
        self._rest = sound[whole:]


def _only_clip(movie: Movie, fps: Fraction, observer: _Observer, frames: int, frame_size: int) -> clips.Clip:
    """The clip of the middle of a film that is too short for any."""
    centre = (observer.n_frames + 1) // 2
    pictures = []
    for frame in movie.frames(constant_rate=True):
        pictures.append(clips.resize(frame, frame_size))
        if frame.number == centre:
            observer.keep(frame, centre)
    waveform, excerpt = movie.waveform(), np.zeros(0, np.float32)
    if waveform is not None:
        start, stop = clips.excerpt_bounds(centre, float(fps), frames)
        excerpt = waveform.excerpt(max(start, 0), max(stop, 0))
    return clips.Clip(
        frame=centre,
        time_s=clips.frame_time(centre, float(fps)),
        clip=np.stack([pictures[min(max(n, 1), len(pictures)) - 1] for n in clips.frame_list(centre, frames)]),
        sound=clips.sound_buffer(excerpt, clips.SAMPLES_PER_FRAME * frames),
        has_sound=len(excerpt) > 0,
    )


def _batched(items: Generator[T], size: int) -> Generator[list[T]]:
    with contextlib.closing(items):
        while batch := list(itertools.islice(items, size)):
            yield batch


def _ahead(items: Generator[T], depth: int = 2) -> Generator[T]:
    """Makes the next items in a thread while one is used."""
    thread = futures.ThreadPoolExecutor(1, thread_name_prefix="clips")
    coming = collections.deque(thread.submit(next, items, None) for _ in range(depth))
    try:
        while (item := coming.popleft().result()) is not None:
            coming.append(thread.submit(next, items, None))
            yield item
    finally:
        for future in coming:
            future.cancel()
        thread.submit(items.close)
        thread.shutdown()
