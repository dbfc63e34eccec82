"""Layouts of films and annotations on disk, each read as a collection of videos."""

import abc
import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from avmsnet_jax import unforeseen
from avmsnet_jax.data.clips import Frame
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.audio import Waveform

# whole: all videos of a collection with folds; unlabelled: films without annotations.
SPLITS = ("train", "test", "whole", "unlabelled")
UNLABELLED = -1

# Largest relative difference between two counts of a film's frames: decoders disagree by a few frames, and SumMe's
# durations by 3.4%. Another frame rate, 25 for 24, would differ by 4%.
COUNT_SLACK = 0.035


@dataclasses.dataclass(frozen=True)
class Video(abc.ABC):
    """One video of a collection: its name, split, frames, sound and labels.

    It holds paths and labels but no open files, so that it can be sent to another process.

    Attributes:
      name: unique within its split.
      fps: frames per second.
      split: one of `SPLITS`.
      test_from_s: clips labeled from this time on, and before `test_until_s`, go to the test split instead.
      test_until_s: see `test_from_s`.
    """

    name: str
    fps: float
    split: str
    test_from_s: float = dataclasses.field(default=math.inf, kw_only=True)
    test_until_s: float = dataclasses.field(default=math.inf, kw_only=True)

    @property
    @abc.abstractmethod
    def expected_frames(self) -> int:
        """Expected number of frames, 0 if unknown; for the progress bar."""

    @abc.abstractmethod
    def read_frames(self) -> Iterable[Frame]:
        """All frames in order, from number 1. Raises UserError for a frame that cannot be read."""

    @property
    @abc.abstractmethod
    def files(self) -> Sequence[Path]:
        """All files that the records depend on, annotations included; if one changes, the records are made again."""

    @abc.abstractmethod
    def open_waveform(self) -> Waveform | None:
        """Its sound at 22,050 Hz, starting with the first frame; None without sound. Raises UserError."""

    @abc.abstractmethod
    def label(self, frame: int, time_s: float) -> int:
        """1 if frame number `frame`, at `time_s`, is a key frame, else 0; `UNLABELLED` without annotations."""

    def scores(self, frame: int) -> np.ndarray:
        """(users,) float32, each user's score of that frame; empty if the collection has only labels."""
        return np.zeros(0, np.float32)

    def annotations(self) -> dict[str, np.ndarray]:
        """Users' annotations of the whole video, by name; they are stored beside the records."""
        return {}

    @property
    def basis(self) -> str:
        """Anything else that the labels depend on, besides `files`; if it changes, the records are made again."""
        return ""

    def split_of(self, time_s: float) -> str:
        """The split of the clip that is labeled at `time_s`."""
        return "test" if self.test_from_s <= time_s < self.test_until_s else self.split


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A video that was left out, for the manifest.

    Attributes:
      video: its name.
      reason: why.
      traceback: of an unexpected error; empty for others.
    """

    video: str
    reason: str
    traceback: str = ""


@contextlib.contextmanager
def skipping(video: str, skipped: list[Skipped]) -> Iterator[None]:
    """Adds any error in the block to `skipped`, so that the other videos are still read."""
    try:
        yield
    except UserError as error:
        skipped.append(Skipped(video, str(error)))
    except Exception as error:
        skipped.append(Skipped(video, unforeseen.report(error, name=video)))


@dataclasses.dataclass(frozen=True)
class Collection:
    """The content of a layout.

    Attributes:
      videos: the readable videos, in order.
      skipped: the others, and files that belong to no video.
      folds: for each fold the names of its videos by split, `{"train": (...), "test": (...)}`; empty for
        collections with a single division, which their videos' `split` says.
    """

    videos: Sequence[Video]
    skipped: Sequence[Skipped]
    folds: Sequence[dict[str, tuple[str, ...]]] = ()


def split_folders(source: Path) -> dict[str, Path]:
    """The subfolders `train` and `test` of a folder by name, those that exist."""
    return {split: source / split for split in ("train", "test") if (source / split).is_dir()}


def share_of(fraction: float, films: int) -> int:
    """How many of two or more films a share is: at least one, and not all."""
    return min(max(round(fraction * films), 1), films - 1)


def is_file_name(name: str) -> bool:
    """Whether a video's name is a valid file name, as its annotations are stored under it."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")
