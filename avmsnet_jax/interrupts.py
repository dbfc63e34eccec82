"""Ctrl-C and SIGTERM that end a command within two seconds, whatever C code is running.

Python runs signal handlers between two of its own instructions, in the main thread. One call of FFmpeg's that reads
through a terabyte of zeros, or waiting for a thread that makes such a call, would hold them off for as long as it
takes. But the C half of Python's handlers writes to a file descriptor at once. A thread that reads from it lets the
main thread end in order, which is the usual case, as long as that runs any Python code. Where it does not, the thread
removes what is unfinished and ends the process.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_STUCK_S, _STEP_S = 1.2, 0.1  # for how long the main thread must not move to count as stuck; how often it is looked at
_LONGEST_S = 20  # that an end in order may take
STATUS = 130  # of a process that was interrupted

_undo: list[Callable[[], str | None]] = []
_said = threading.Lock()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Makes SIGTERM the same as Ctrl-C, a KeyboardInterrupt, and sees to it that both are heard. Main thread only.

    What was heard within the block is seen through after it, as the process may yet hang while it ends.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    handler = signal.signal(signal.SIGTERM, _interrupt)
    descriptor = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="stopping", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, handler)
        os.close(writing)  # ends the thread if it heard nothing


@contextlib.contextmanager
def undone(undo: Callable[[], str | None]) -> Iterator[None]:
    """Calls `undo` if the process has to be ended within the block without leaving it; the last block's first.

    `undo` may return words on what is left. It runs in another thread while the block may still be at work, and what it
    raises is ignored.
    """
    _undo.append(undo)
    try:
        yield
    finally:
        _undo.remove(undo)


def say(what_is_left: str = "") -> None:
    """Says on standard error, once in a process, that the command was interrupted."""
    if _said.acquire(blocking=False):
        program = os.path.basename(sys.argv[0])
        print(": ".join(filter(None, [program, "interrupted", what_is_left])), file=sys.stderr, flush=True)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _watch(reading: int) -> None:
    heard = None
    while heard not in (signal.SIGINT, signal.SIGTERM):
        number = os.read(reading, 1)
        if not number:
            os.close(reading)
            return
        heard = number[0]
    deadline = time.monotonic() + _LONGEST_S
    while _main_thread_moves() and time.monotonic() < deadline:
        pass
    words = ""
    for undo in reversed(_undo):
        with contextlib.suppress(Exception):
            words = undo() or words
    say(words)
    os._exit(STATUS)


def _main_thread_moves() -> bool:
    """Whether the main thread gets from one place in its Python code to another; returns as soon as it has."""
    before = _place()
    for _ in range(round(_STUCK_S / _STEP_S)):
        time.sleep(_STEP_S)
        if _place() != before:
            return True
    return False


def _place() -> tuple[int, int] | None:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return None if frame is None else (id(frame), frame.f_lasti)
