"""What watching a film gives and what was made of it, as the report and the overlay read it."""

import dataclasses
import math
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Scores:
    """One film as the network saw and heard it; M clips in order of time.

    Attributes:
      film: the file that was handed in.
      duration_s: how long the picture lasts, seconds.
      fps: frames a second, the average where they vary.
      n_frames: frames on an even grid of `fps`.
      width: pixels across as the film is shown: upright, pixels square.
      height: pixels down, likewise.
      has_sound: whether there is an audio track.
      frames: (M,) int64, the frame whose score it is, from 1.
      times_s: (M,) float64, when that frame is shown, seconds from the first.
      scores: (M,) float32, 0-1.
      features: (M, C) float32, the network's features.
      attention: one (M, h, w) float16 for each attention module; each map sums to 1.
      localization: (M, h, w) float16, the norm over channels of the ALM tensor; zeros where the network only looks.
      thumbnails: M JPEG files, the frame at each clip's centre, upright, the longer side 192 pixels.
      signals: by name the (M,) float32 in 0-1 that a score is made of; empty for a network.
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
class Shot:
    """A stretch of the film.

    Attributes:
      start_s: when its first frame is shown, seconds from the film's first.
      end_s: when the next shot's first frame is, or the film ends.
      first_frame: its first frame, from 1.
      last_frame: its last, inclusive.
      score: mean score of its frames, 0-1.
      chosen: whether the summary has it.
      summary_start_s: where it begins in summary.mp4, seconds; None where it is not chosen.
    """

    start_s: float
    end_s: float
    first_frame: int
    last_frame: int
    score: float
    chosen: bool
    summary_start_s: float | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """What was chosen of a film.

    Attributes:
      scores: what the choice rests on.
      shots: all shots, in order, without gaps.
      budget_s: how long the summary was allowed to be, seconds.
      length_s: how long it is.
      facts: what the report tells of the run: checkpoint, budget, how shots were found, versions.
    """

    scores: Scores
    shots: tuple[Shot, ...]
    budget_s: float
    length_s: float
    facts: dict[str, str]

    @property
    def decimals(self) -> int:
        """How many decimals scores are shown with, 2 to 6.

        As many as tell the lowest moment from the highest, and show two digits of the highest and one of the mean of
        each chosen shot, unless that is less than a hundredth of the highest.
        """
        scores = self.scores.scores.astype(float)
        floor = scores.max() / 100
        needed = [scores.max() / 10, np.ptp(scores), *(max(shot.score, floor) for shot in self.shots if shot.chosen)]
        least = min((value for value in needed if value > 0), default=1.0)
        return min(max(math.ceil(-math.log10(least) - 1e-6), 2), 6)
