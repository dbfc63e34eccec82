"""Layouts that users hold, each read as a list of labelled videos."""

import abc
import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from avmsnet_jax.data.clips import Frame

SPLITS = ("train", "test")


@dataclasses.dataclass(frozen=True)
class Video(abc.ABC):
    """One video of a collection: what it is called, where its clips go, and how to get at it.

    Videos hold paths and labels, no open files, so that they can be sent to another process.

    Attributes:
      name: unique within its split.
      fps: frames a second.
      split: train or test.
      test_from_s: clips labelled at or after this time go to the test split, whatever `split` says.
    """

    name: str
    fps: float
    split: str
    test_from_s: float = dataclasses.field(default=math.inf, kw_only=True)

    @property
    @abc.abstractmethod
    def expected_frames(self) -> int:
        """How many frames there should be, 0 if unknown. For the progress bar only."""

    @abc.abstractmethod
    def read_frames(self) -> Iterable[Frame]:
        """Every frame from number 1 on, in order. Raises UserError where one cannot be read."""

    @abc.abstractmethod
    def read_waveform(self) -> np.ndarray | None:
        """(N,) float32 in ±1 at 22,050 Hz from the first frame on, None without sound. Raises UserError."""

    @abc.abstractmethod
    def label(self, frame: int) -> int:
        """1 where frame number `frame` is a key frame, else 0."""

    def split_of(self, time_s: float) -> str:
        """The split of the clip that is labelled at `time_s`."""
        return "test" if time_s >= self.test_from_s else self.split


@dataclasses.dataclass(frozen=True)
class Skipped:
    """What was left out, and why, for the manifest."""

    video: str
    reason: str
