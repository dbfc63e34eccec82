"""A scorer whose scores are set by the test."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from avmsnet_jax.data.clips import Clip, resize
from avmsnet_jax.media.frame import Frame
from avmsnet_jax.scoring.scorer import ClipScores, Measured


class Stub:
    """A `Scorer` that gives each clip the score that `score` says."""

    name: Literal["network"] = "network"
    learned_from_people = False

    def __init__(self, score: Callable[[Clip], float], *, frames: int = 8, frame_size: int = 16, batch_size: int = 4):
        self.frames, self.frame_size, self.batch_size = frames, frame_size, batch_size
        self._score = score

    def picture(self, frame: Frame, size: int) -> np.ndarray:
        return resize(frame, size)

    def measure(self, batch: Sequence[Clip]) -> Measured:
        assert 1 <= len(batch) <= self.batch_size
        return {"scores": np.array([self._score(clip) for clip in batch], np.float32)}

    def finish(self, measured: Measured) -> ClipScores:
        scores = measured["scores"]
        maps = np.full((len(scores), 2, 2), 0.25, np.float16)
        return ClipScores(scores, scores[:, None], (maps, maps), maps)
