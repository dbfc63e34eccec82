"""Videos with scores of several users for each frame, as in TVSum and SumMe."""

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
    """A video with each user's score of each frame.

    Attributes:
      path: the film.
      tables: the files that the scores were read from.
      votes: (users, n_frames) uint8; what users gave each frame, more for frames they value more.
      said: other annotations of the whole video, for `annotations`.
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
        """The annotated frames; a few more that a decoder may find at the end are left out."""
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
    """Labels from users' scores: the frames whose mean score is in the top 15%.

    Neither benchmark has labels; both evaluate summaries of 15% of the frames. Frames with equal scores get the same
    label, so that fewer than 15% may be key; the frames with the highest score always are. If all scores are equal, no
    frame is key.

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
