"""Measures the time of training, without validation, checkpoints and traces."""

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Measures the time of training since the last reset.

    Attributes:
      waited: seconds of it spent waiting for data.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Starts again from zero."""
        self._since, self.waited = time.perf_counter(), 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return time.perf_counter() - self._since

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the block as waiting for data, which is part of training."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the block from the time of training."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began
