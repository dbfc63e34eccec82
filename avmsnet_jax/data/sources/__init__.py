"""Layouts that users hold, each read as a collection of videos."""

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

# whole: the videos of a collection that is divided into folds; unlabelled: films that nobody has judged.
SPLITS = ("train", "test", "whole", "unlabelled")
UNLABELLED = -1

# How far two counts of a film's frames may differ: decoders disagree by a few, and SumMe's running times by 3.4%
# from its frames; another frame rate, 25 for 24, would be 4%.
COUNT_SLACK = 0.035


@dataclasses.dataclass(frozen=True)
class Video(abc.ABC):
    """One video of a collection: what it is called, where its clips go, and how to get at it.

    Videos hold paths and labels, no open files, so that they can be sent to another process.

    Attributes:
      name: unique within its split.
      fps: frames a second.
      split: one of `SPLITS`.
      test_from_s: clips labeled at or after this time go to the test split, whatever `split` says.
      test_until_s: and before this time.
    """

    name: str
    fps: float
    split: str
    test_from_s: float = dataclasses.field(default=math.inf, kw_only=True)
    test_until_s: float = dataclasses.field(default=math.inf, kw_only=True)

    @property
    @abc.abstractmethod
    def expected_frames(self) -> int:
        """How many frames there should be, 0 if unknown. For the progress bar only."""

    @abc.abstractmethod
    def read_frames(self) -> Iterable[Frame]:
        """Every frame from number 1 on, in order. Raises UserError where one cannot be read."""

    @property
    @abc.abstractmethod
    def files(self) -> Sequence[Path]:
        """What the video is read from, annotations included: where these change, its records are made anew."""

    @abc.abstractmethod
    def open_waveform(self) -> Waveform | None:
        """Its sound at 22,050 Hz from the first frame on, None without sound. Raises UserError."""

    @abc.abstractmethod
    def label(self, frame: int, time_s: float) -> int:
        """1 where frame number `frame`, shown at `time_s`, is a key frame, else 0; `UNLABELLED` if nobody said."""

    def scores(self, frame: int) -> np.ndarray:
        """(users,) float32: what each user gave that frame. Empty where a collection has only labels."""
        return np.zeros(0, np.float32)

    def annotations(self) -> dict[str, np.ndarray]:
        """What users said of the whole video, by the field's names; kept beside the records."""
        return {}

    @property
    def basis(self) -> str:
        """What else its labels depend on, beside `files`; where it changes, the records are made anew."""
        return ""

    def split_of(self, time_s: float) -> str:
        """The split of the clip that is labeled at `time_s`."""
        return "test" if self.test_from_s <= time_s < self.test_until_s else self.split


@dataclasses.dataclass(frozen=True)
class Skipped:
    """What was left out, and why, for the manifest.

    Attributes:
      video: which.
      reason: why.
      traceback: of an error that nobody foresaw; empty = the reason says all.
    """

    video: str
    reason: str
    traceback: str = ""


@contextlib.contextmanager
def skipping(video: str, skipped: list[Skipped]) -> Iterator[None]:
    """Turns any error in the block into an entry of `skipped`, so that the other videos are still read."""
    try:
        yield
    except UserError as error:
        skipped.append(Skipped(video, str(error)))
    except Exception as error:
        skipped.append(Skipped(video, unforeseen.report(error, name=video)))


@dataclasses.dataclass(frozen=True)
class Collection:
    """What was found of a layout.

    Attributes:
      videos: those that can be read, in order.
      skipped: those that cannot, and files that belong to nothing.
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
    """Whether a video's name can be that of a file: what users said is kept under it."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")
