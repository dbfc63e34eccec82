"""How a run is asked to stop: by the machine's SIGTERM or by somebody's Ctrl-C."""

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
    """Whether the run is to save and end. Ask after every step."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None

    def asked(self, step: int) -> bool:
        """Whether to stop now. Of several processes all hear it at the same step, whichever got the signal."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self._signal = signal.SIGTERM
        return self._signal is not None

    @property
    def interrupted(self) -> bool:
        """Whether it was Ctrl-C."""
        return self._signal is signal.SIGINT

    def note(self, number: int, _: Any) -> None:
        """The signal handler: the first signal is noted, and a second one acts at once."""
        self._signal = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else _interrupt)
        if self.interrupted and sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\nstopping: finishing this step and saving; Ctrl-C again leaves at once\n")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt("what was done since the last checkpoint is not saved")


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Notes SIGTERM and SIGINT instead of dying of them, until the block ends.

    Python hears signals in its main thread only; elsewhere they act as ever. Of several processes JAX itself listens
    to SIGTERM and passes it on; Ctrl-C is made one.
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
