"""One pass over a film: scores its clips, and collects the data for finding shots and placing cuts."""

import collections
import contextlib
import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
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
from avmsnet_jax.scoring.scorer import ClipScores, Measured, Scorer, finish

HOP = 220  # samples at 22,050 Hz per measurement of loudness: 10 ms
THUMBNAIL = 192  # pixels, the longer side
_ROUNDING_S = 0.002  # Matroska rounds stamps to a millisecond

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of a film's M clips, in order of time.

    Attributes:
      film: the file.
      duration_s: how long the picture lasts, seconds.
      fps: frames per second, on average.
      n_frames: frames, counted at a constant rate of `fps`.
      width: width of the film as shown (upright, with square pixels), pixels.
      height: height as shown.
      has_sound: whether there is an audio track.
      frames: (M,) int64, the frame at each clip's center, from 1.
      times_s: (M,) float64, when that frame is shown, seconds from the first.
      scores: (M,) float32, 0-1.
      features: (M, C) float32, the scorer's features.
      attention: (M, h, w) float16 arrays, one for each attention module; each map sums to 1.
      localization: (M, h, w) float16, where the sound is located in the picture; zeros if only the picture is used.
      thumbnails: M JPEG files of these frames, upright, the longer side 192 pixels.
      signals: the (M,) float32 in 0-1 that a score is computed from, by name; empty for a network.
    """

    film: Path
    duration_s: float
    fps: float
    n_frames: int
    width: int
    height: int
    has_sound: bool
    frames: np.ndarray
    times_s: np.ndarray
    scores: np.ndarray
    features: np.ndarray
    attention: tuple[np.ndarray, ...]
    localization: np.ndarray
    thumbnails: list[bytes]
    signals: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Watched:
    """The result of one pass over a film.

    Attributes:
      scores: the scores of its clips.
      rate: frames a second; `scores.n_frames` and `change` count frames at this constant rate.
      times_s: (N,) float64, when each decoded frame is shown, seconds from the first.
      stamps_s: (N,) float64, the same on the container's own clock; NaN where it has no stamp.
      change: (n_frames,) float32 in 0-1, how much each frame differs from the one before.
      loudness: (L,) float32, mean square of the sound in every 10 ms (`HOP` samples); empty without sound.
      pixel_aspect: width of a pixel divided by its height.
      interlaced: whether any frame consists of two fields.
      timecode: SMPTE timecode of the frames.
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
        """Whether the frames are evenly spaced in time, apart from the rounding of time stamps."""
        return _steady(self.times_s, self.rate)

    def time_of(self, index: int) -> float:
        """When the decoded frame `index` (from 0) is shown, seconds; N gives the end of the film."""
        if self.steady:
            return float(index / self.rate)
        return float(self.times_s[index]) if index < len(self.times_s) else self.scores.duration_s


def watch(
    film: Path, scorer: Scorer, *, spacing_s: float = 1.0, on_clips: Callable[[int], Any] = lambda count: None
) -> Watched:
    """Scores a film while it is decoded. While a network runs on its devices, a thread cuts the next clips.

    The clips are those that `prepare` cuts from a film with key shots or without labels. Memory use grows with the
    film's length only by the data kept for each clip.

    Args:
      film: any film that FFmpeg reads.
      scorer: scores the clips.
      spacing_s: seconds from one clip to the next, rounded to frames; the published spacing is 25 frames at 25 frames a
        second. A film too short for any clip gets one at its middle, padded by repeating its first and last frames.
      on_clips: called with the number of clips after each measured batch.

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
    batches = _batched(cut, scorer.batch_size)
    if scorer.name == "network":  # attention and the cutting of clips would wait for each other: both run in Python
        batches = _ahead(batches)
    with contextlib.closing(batches):
        for batch in batches:
            measured.append(scorer.measure(batch))
            taken += [(clip.frame, clip.time_s) for clip in batch]
            on_clips(len(batch))
    found = finish(scorer, measured, str(film))
    return Watched(
        scores=_scores(film, info.fps, observer, waveform is not None, taken, found),
        rate=info.fps,
        times_s=np.array(observer.clock.times_s),
        stamps_s=np.array(observer.clock.stamps_s),
        change=np.array(observer.change, np.float32),
        loudness=np.array(observer.loudness, np.float32),
        pixel_aspect=observer.pixel_aspect,
        interlaced=observer.interlaced,
        timecode=timecode.read(info.timecode, info.fps),
    )


def _scores(
    film: Path,
    fps: Fraction,
    observer: "_Observer",
    has_sound: bool,
    taken: Sequence[tuple[int, float]],
    found: ClipScores,
) -> Scores:
    times = np.array(observer.clock.times_s)
    width, height = observer.shown_size
    return Scores(
        film=film,
        duration_s=float(len(times) / fps if _steady(times, fps) else times[-1] + 1 / fps),
        fps=float(fps),
        n_frames=observer.n_frames,
        width=width,
        height=height,
        has_sound=has_sound,
        frames=np.array([frame for frame, _ in taken], np.int64),
        times_s=np.array([time for _, time in taken]),
        thumbnails=[observer.thumbnails[frame] for frame, _ in taken],
        **{field.name: getattr(found, field.name) for field in dataclasses.fields(found)},
    )


def _cut(
    movie: Movie, fps: Fraction, waveform: Waveform | None, observer: "_Observer", scorer: Scorer, spacing: int
) -> Generator[clips.Clip]:
    """Cuts the clips of a film while it is decoded."""
    frames, size = scorer.frames, scorer.frame_size
    film_frames = observer.look(movie.frames(constant_rate=True, clock=observer.clock))
    with contextlib.closing(film_frames):
        yield from clips.cut(
            film_frames, waveform, float(fps), frames=frames, frame_size=size, spacing=spacing, picture=scorer.picture
        )
    if not observer.n_frames >= clips.first_center(frames, spacing) + frames // 2:
        yield _only_clip(movie, fps, observer, scorer)
    if waveform is not None:
        # Cut placement needs the loudness up to the end of the picture; the sound may go on for hours.
        waveform.skip_to(round((observer.n_frames / fps + 1) * SAMPLE_RATE))


def expected_clips(film: Path, spacing_s: float) -> int:
    """The number of clips in a film according to its header, for a progress bar."""
    info = Movie(film).info()
    return max(info.frames // max(round(spacing_s * info.fps), 1), 1)


def _steady(times_s: np.ndarray, rate: Fraction) -> bool:
    return bool(np.abs(times_s - np.arange(len(times_s)) / float(rate)).max() <= _ROUNDING_S)


class _Observer:
    """Collects data about a film, other than its clips, while frames and sound are decoded."""

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
        self._centers = (clips.label_frame(center, spacing) for center in itertools.count(spacing, spacing))
        self._next = next(self._centers)

    def look(self, film: Iterable[Frame]) -> Generator[Frame]:
        """Passes the frames on unchanged."""
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
                self._next = next(self._centers)
            yield frame

    def keep(self, frame: Frame, number: int) -> None:
        """Keeps a thumbnail of a frame."""
        width, height = frame.shown_size
        scale = min(THUMBNAIL / max(width, height), 1)
        picture = frame.scaled(max(round(width * scale), 1), max(round(height * scale), 1))
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=80)
        self.thumbnails[number] = file.getvalue()

    def listen(self, chunk: np.ndarray) -> None:
        """Measures the loudness of the next (n,) samples."""
        sound = np.concatenate([self._rest, chunk])
        whole = len(sound) // HOP * HOP
        self.loudness += np.square(sound[:whole]).reshape(-1, HOP).mean(axis=1).tolist()
        self._rest = sound[whole:]


def _only_clip(movie: Movie, fps: Fraction, observer: _Observer, scorer: Scorer) -> clips.Clip:
    """The clip at the middle of a film that is too short for regular clips; see `watch`."""
    center, frames = (observer.n_frames + 1) // 2, scorer.frames
    pictures = []
    for frame in movie.frames(constant_rate=True):
        pictures.append(scorer.picture(frame, scorer.frame_size))
        if frame.number == center:
            observer.keep(frame, center)
    waveform, excerpt = movie.waveform(), np.zeros(0, np.float32)
    if waveform is not None:
        start, stop = clips.excerpt_bounds(center, float(fps), frames)
        excerpt = waveform.excerpt(max(start, 0), max(stop, 0))
    return clips.Clip(
        frame=center,
        time_s=clips.frame_time(center, float(fps)),
        clip=np.stack([pictures[min(max(n, 1), len(pictures)) - 1] for n in clips.frame_list(center, frames)]),
        sound=clips.sound_buffer(excerpt, clips.SAMPLES_PER_FRAME * frames),
        has_sound=len(excerpt) > 0,
    )


def _batched(items: Generator[T], size: int) -> Generator[list[T]]:
    with contextlib.closing(items):
        while batch := list(itertools.islice(items, size)):
            yield batch


def _ahead(items: Generator[T], depth: int = 2) -> Generator[T]:
    """Computes the next `depth` items in a thread while the caller uses one."""
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
