"""Requests to stop a run: SIGTERM, or Ctrl-C (SIGINT)."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils


class Stop:
    """A request to save and end the run; checked after each step."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None

    def asked(self, step: int) -> bool:
        """Whether to stop now. Several processes all stop at the same step, whichever of them got the signal."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self._signal = signal.SIGTERM
        return self._signal is not None

    @property
    def interrupted(self) -> bool:
        """Whether the request was Ctrl-C."""
        return self._signal is signal.SIGINT

    def note(self, number: int, _: Any) -> None:
        """The signal handler: notes the first signal; a second one acts at once."""
        self._signal = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else _interrupt)
        if self.interrupted and sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\nstopping: finishing this step and saving; Ctrl-C again leaves at once\n")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt("what was done since the last checkpoint is not saved")


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Until the block ends, SIGTERM and SIGINT are requests to stop.

    Python handles signals in its main thread only; in another thread this does nothing. With several processes JAX
    itself handles SIGTERM and tells all of them, and SIGINT is turned into SIGTERM.
    """
    stop, before = Stop(), {}
    handlers: dict[signal.Signals, Any] = {signal.SIGTERM: stop.note, signal.SIGINT: stop.note}
    if jax.process_count() > 1:
        handlers = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            before[number] = signal.signal(number, handler)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
