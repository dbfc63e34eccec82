"""Ends a command within two seconds of Ctrl-C or SIGTERM, even while C code is running.

Python runs signal handlers in the main thread, between two bytecode instructions. A long call in C, or waiting for a
thread that makes one, delays them until it returns: FFmpeg may read through a terabyte of zeros. Python's C-level
handler, however, writes to a file descriptor at once, from which a thread here reads. Usually the main thread raises
KeyboardInterrupt and ends in order, and the thread only watches. If the main thread is stuck in C code, the thread
removes unfinished work and ends the process.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_STUCK_S = 1.2  # the main thread counts as stuck if it executes nothing for this long
_STEP_S = 0.1  # between checks of the main thread
_LONGEST_S = 20  # longest orderly end
STATUS = 130  # exit status of an interrupted process

_undo: list[Callable[[], str | None]] = []
_said = threading.Lock()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt, as Ctrl-C does, and makes both work during C calls. Main thread only.

    The watch for a signal received in the block goes on after the block, because the process may hang while it ends.
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
        os.close(writing)  # ends the thread if there was no signal


@contextlib.contextmanager
def undone(undo: Callable[[], str | None]) -> Iterator[None]:
    """Registers `undo`, which is called if the process is ended while the block is stuck; innermost block first.

    `undo` may return a message on what is left. It runs in another thread while the block may still be at work; its
    exceptions are ignored.
    """
    _undo.append(undo)
    try:
        yield
    finally:
        _undo.remove(undo)


def say(what_is_left: str = "") -> None:
    """Prints on standard error, once per process, that the command was interrupted."""
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
    """Whether the main thread moves on in its Python code; returns as soon as it does.

    A loop that only sleeps would look stuck. Commands that use `listening` have none: the signal's exception interrupts
    a sleep, and the one such loop in a clean-up, `staging.remove_from_under`, runs only in commands that save
    checkpoints, which do not use `listening`.
    """
    before = _place()
    for _ in range(round(_STUCK_S / _STEP_S)):
        time.sleep(_STEP_S)
        if _place() != before:
            return True
    return False


def _place() -> tuple[int, int] | None:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return None if frame is None else (id(frame), frame.f_lasti)
