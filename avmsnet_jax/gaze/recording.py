"""One viewer's gaze during one film, independent of the file format."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Recording:
    """Where one observer looked. Rows that are blinks, saccades, lost samples or off the picture are left out.

    A fixation is one row; a sample of raw gaze is one row that lasts until the next sample.

    Attributes:
      observer: a name, unique within a film.
      start_s: (N,) float64, when a row begins, seconds from the film's first frame, ascending.
      end_s: (N,) float64, when it ends.
      x: (N,) float64, the position from the left as a share of the picture's width, 0 to 1.
      y: (N,) float64, the position from the top as a share of the picture's height, 0 to 1.
      recorded_s: how much of the film's time the recording covers, valid or not.
    """

    observer: str
    start_s: np.ndarray
    end_s: np.ndarray
    x: np.ndarray
    y: np.ndarray
    recorded_s: float

    @property
    def validity(self) -> float:
        """The share of the recorded time in which the observer looked steadily at the picture, 0 to 1."""
        return float(np.clip((self.end_s - self.start_s).sum() / self.recorded_s, 0, 1)) if self.recorded_s else 0.0

    def positions(self, n_frames: int, rate: float) -> np.ndarray:
        """Where the observer looked during each frame: the mean over the frame's time.

        Args:
          n_frames: frames of the film.
          rate: frames a second.

        Returns:
          (n_frames, 2) float64, x and y as shares of the picture; NaN where the observer did not look.
        """
        edges = np.arange(n_frames + 1) / rate
        # The integral of x over the valid time up to each edge; its difference over a frame is the frame's share.
        lengths = self.end_s - self.start_s
        row = np.searchsorted(self.start_s, edges, side="right") - 1
        inside = np.clip(edges - self.start_s[row.clip(0)], 0, lengths[row.clip(0)]) * (row >= 0)
        totals = []
        for value in (np.ones_like(self.x), self.x, self.y):
            before = np.concatenate([[0.0], np.cumsum(value * lengths)])
            totals.append(np.diff(before[row.clip(0)] * (row >= 0) + inside * value[row.clip(0)]))
        seen, x, y = totals
        with np.errstate(invalid="ignore", divide="ignore"):
            where = np.stack([x, y], axis=1) / seen[:, None]
        # Less than a tenth of a frame is a leftover of rounding or of a blink.
        return np.where(seen[:, None] > 0.1 / rate, where, np.nan)
