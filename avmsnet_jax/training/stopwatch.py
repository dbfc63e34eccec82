"""The time that training takes, without what is not training."""

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Measures training since it was started or reset.

    Attributes:
      waited: seconds of that time spent waiting for data.
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
        """Leaves the block out: validation, checkpoints and traces are not training."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began
