"""What TVSum and SumMe have in common: videos that several users judged, frame by frame."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from avmsnet_jax.data import clips
from avmsnet_jax.data.sources import COUNT_SLACK, Video
from avmsnet_jax.errors import UserError
from avmsnet_jax.media import audio, films
from avmsnet_jax.media.movie import Movie

BUDGET = 0.15  # of a video's frames: the length of a summary in both benchmarks


@dataclasses.dataclass(frozen=True)
class JudgedVideo(Video):
    """A video and what each user said of each of its frames.

    Attributes:
      path: the film.
      tables: where the judgments were read from.
      votes: (users, n_frames) uint8; what users gave each frame, more for frames they value more.
      said: what else users said of the whole video, for `annotations`.
    """

    path: Path
    tables: tuple[Path, ...]
    votes: np.ndarray = dataclasses.field(repr=False, compare=False)
    said: Mapping[str, np.ndarray] = dataclasses.field(repr=False, compare=False)

    @property
    def expected_frames(self) -> int:
        return self.votes.shape[1]

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path, *self.tables)

    def read_frames(self) -> Iterator[clips.Frame]:
        """The frames that were judged: those that a decoder finds beyond them are left out."""
        judged, number = self.expected_frames, 0
        for frame in self._movie.frames():
            number = frame.number
            if number <= judged:
                yield frame
            elif number > judged * (1 + COUNT_SLACK):
                break
        if abs(number - judged) > judged * COUNT_SLACK:
            found = f"only {number}" if number < judged else f"at least {number}"
            raise UserError(
                f"{self.path} has {found} frames, but users judged {judged}; "
                "give the video as it was downloaded, not cut and not at another frame rate"
            )

    def open_waveform(self) -> audio.Waveform | None:
        return self._movie.waveform()

    def label(self, frame: int, time_s: float) -> int:
        """1 for one of the `key_frames`."""
        return int(self._key_frames[frame - 1])

    def scores(self, frame: int) -> np.ndarray:
        return self.votes[:, frame - 1].astype(np.float32)

    def annotations(self) -> dict[str, np.ndarray]:
        return {**self.said, "n_frames": np.asarray(self.expected_frames), "fps": np.asarray(self.fps)}

    @functools.cached_property
    def _movie(self) -> Movie:
        return Movie(self.path)

    @functools.cached_property
    def _key_frames(self) -> np.ndarray:
        return key_frames(self.votes)


def key_frames(votes: np.ndarray) -> np.ndarray:
    """The frames that users valued most, as many as a summary may hold.

    Neither benchmark has labels. A summary of 15% of the frames is what both are scored with; so a frame is key
    if that many frames at most have a mean vote as high as its own, or if none has a higher one. Frames with
    equal votes are all key or all not, so that fewer than 15% may be. Where users value all frames alike, none is.

    Args:
      votes: (users, n_frames), integers.

    Returns:
      (n_frames,) bool.
    """
    total = votes.sum(axis=0, dtype=np.int64)
    as_high = len(total) - np.searchsorted(np.sort(total), total)
    best = (total == total.max()) & (total > total.min())
    return (as_high <= int(BUDGET * len(total))) | best


def files_below(source: Path) -> list[Path]:
    """All files below a folder in order of their paths, links followed, hidden ones left out."""
    found, seen = [], set()
    for folder, folders, files in os.walk(source, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    return sorted(found)


def film_of(files: Sequence[Path], name: str) -> Path:
    """The film among `files` that is called `name`, whatever its suffix; the first where there are several.

    Raises:
      UserError: there is none.
    """
    for path in films.among(files):
        if path.stem == name:
            return path
    raise UserError(f"no film called {name}.* (mp4, webm, ...) in the folder; download it, or leave the video out")
