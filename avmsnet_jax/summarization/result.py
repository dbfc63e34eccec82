"""A film's shots and which of them are its summary, as the report and the overlay read it."""

import dataclasses
import math

import numpy as np

from avmsnet_jax.scoring.film import Scores


@dataclasses.dataclass(frozen=True)
class Shot:
    """A shot of the film.

    Attributes:
      start_s: when its first frame is shown, seconds from the film's first frame.
      end_s: when the next shot begins, or the film ends.
      first_frame: number of its first frame, from 1.
      last_frame: number of its last frame.
      score: mean score of its frames, 0-1.
      chosen: whether it is in the summary.
      summary_start_s: when it begins in summary.mp4, seconds; None if it is not chosen.
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
    """A film's shots, some of them chosen.

    Attributes:
      scores: the scores of the film's clips.
      shots: all shots, in order, without gaps.
      budget_s: the longest summary allowed, seconds.
      length_s: length of the summary, seconds.
      facts: about the run, for the report: checkpoint, budget, how shots were found, versions.
    """

    scores: Scores
    shots: tuple[Shot, ...]
    budget_s: float
    length_s: float
    facts: dict[str, str]

    @property
    def decimals(self) -> int:
        """Number of decimals for scores, 2 to 6.

        Enough to tell the lowest score from the highest, and to show two digits of the highest score and one of each
        chosen shot's mean (or of 1% of the highest score, if the mean is lower).
        """
        scores = self.scores.scores.astype(float)
        floor = scores.max() / 100
        needed = [scores.max() / 10, np.ptp(scores), *(max(shot.score, floor) for shot in self.shots if shot.chosen)]
        least = min((value for value in needed if value > 0), default=1.0)
        return min(max(math.ceil(-math.log10(least) - 1e-6), 2), 6)
