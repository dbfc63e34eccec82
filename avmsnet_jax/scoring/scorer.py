"""The scorer interface: measure clips batch by batch, then score a film once all its clips are measured."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from avmsnet_jax.data.clips import Clip
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.frame import Frame

Measured = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ClipScores:
    """The scores of a film's N clips, and data that explain them.

    Attributes:
      scores: (N,) float32, 0-1.
      features: (N, C) float32, from which shots are found.
      attention: (N, h, w) float16 arrays, one for each attention module; each map sums to 1.
      localization: (N, h, w) float16, where the sound is located in the picture; zeros if only the picture is used.
      signals: the (N,) float32 in 0-1 that a score is computed from, by name; empty for a network.
    """

    scores: np.ndarray
    features: np.ndarray
    attention: tuple[np.ndarray, ...]
    localization: np.ndarray
    signals: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Scorer(Protocol):
    """Scores the clips of films."""

    @property
    def name(self) -> Literal["network", "attention"]:
        """The kind of scorer."""

    @property
    def learned_from_people(self) -> bool:
        """Whether its scores were learned from people's choices."""

    @property
    def frames(self) -> int:
        """Frames of a clip."""

    @property
    def frame_size(self) -> int:
        """Height and width of a clip's frames, pixels."""

    @property
    def batch_size(self) -> int:
        """Most clips in a call of `measure`."""

    def picture(self, frame: Frame, size: int) -> np.ndarray:
        """Scales a frame as the scorer needs it: (size, size, 3) uint8 RGB."""

    def measure(self, batch: Sequence[Clip]) -> Measured:
        """Measures clips, which may be of several films, independently of earlier calls.

        Args:
          batch: 1 to `batch_size` clips, each film's in order of time.

        Returns:
          arrays with one row per clip. They are kept until the film ends, so they should be small.
        """

    def finish(self, measured: Measured) -> ClipScores:
        """Scores a film.

        Args:
          measured: the results of `measure` for all its clips, concatenated in order of time.
        """


def finish(scorer: Scorer, measured: Sequence[Measured], name: str) -> ClipScores:
    """Scores the film `name` from the results of `measure` for its batches.

    Raises:
      UserError: its scores are NaN or infinite.
    """
    whole = {key: np.concatenate([part[key] for part in measured]) for key in measured[0]}
    found = scorer.finish(whole)
    if not np.isfinite(found.scores).all():
        raise UserError(f"{name}: the {scorer.name}'s scores are NaN or infinite; convert or train it again")
    return found
