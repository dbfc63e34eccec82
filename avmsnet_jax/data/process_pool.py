"""Turns films into records in several processes. A process that dies costs no more than its film."""

import collections
import contextlib
import functools
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any

from avmsnet_jax.data.film import Cut, Prepared, stage
from avmsnet_jax.data.sources import Skipped, Video
from avmsnet_jax.errors import UserError

Task = tuple[Video, Path]  # a film, and the folder that its records go to
Outcome = Prepared | Skipped


def stage_films(
    tasks: Sequence[Task], cut: Cut, workers: int, on_clip: Callable[[int], Any], on_film: Callable[[int, Outcome], Any]
) -> None:
    """Turns films into records: with one worker in this process, else in worker processes.

    A film whose process dies is tried again after all others, alone, because memory may have been short.

    Args:
      tasks: the films.
      cut: how they are cut.
      workers: films that are read at the same time.
      on_clip: called with the number of the task, for each clip.
      on_film: called with the number of the task and its result, in the order in which films finish.

    Raises:
      OSError: the folder cannot be written, or the disk is full.
      UserError: processes cannot be started.
    """
    if workers == 1:
        for number, (video, folder) in enumerate(tasks):
            on_film(number, stage(video, cut, folder, functools.partial(on_clip, number)))
        return
    died = []
    for number, outcome in _in_processes(range(len(tasks)), tasks, cut, workers, on_clip):
        if isinstance(outcome, int):
            died.append(number)
        else:
            on_film(number, outcome)
    for number, outcome in _in_processes(died, tasks, cut, 1, on_clip):
        if isinstance(outcome, int):
            how = f"signal {-outcome}" if outcome < 0 else f"status {outcome}"
            reason = f"the process that read it died twice ({how}): it crashes the decoder, or memory is short"
            outcome = Skipped(tasks[number][0].name, reason)
        on_film(number, outcome)


class _Worker:
    """A worker process. It is sent films, and sends back a message for each clip and then the film's result."""

    def __init__(self, cut: Cut):
        context = multiprocessing.get_context("spawn")  # after a fork, locks held by other threads would never open
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, cut), daemon=True)
        # Workers start with SIGINT and SIGTERM blocked, so that only the parent handles them. Python's resource tracker
        # is started first, because starting it resets the signal mask.
        resource_tracker.ensure_running()
        self.ready = False
        try:
            with _blocked(signal.SIGINT, signal.SIGTERM):
                self.process.start()  # inherits the signal mask
        except BaseException:  # Ctrl-C that arrived while it was blocked
            if self.process.pid:
                self.stop()
            raise
        theirs.close()

    def stop(self) -> int:
        """Kills the process and returns its exit code."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode or 0


def _in_processes(
    numbers: Sequence[int], tasks: Sequence[Task], cut: Cut, workers: int, on_clip: Callable[[int], Any]
) -> Iterator[tuple[int, Outcome | int]]:
    """Yields the number of each task and its result, or the exit code of a process that died."""
    waiting = collections.deque(numbers)
    idle: list[_Worker] = []
    busy: dict[Any, tuple[_Worker, int]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker, number = idle.pop() if idle else _Worker(cut), waiting.popleft()
                busy[worker.pipe] = worker, number
                with contextlib.suppress(BrokenPipeError):  # it has died, which reading from it will show
                    worker.pipe.send(tasks[number])
            for pipe in connection.wait(list(busy)):
                worker, number = busy[pipe]
                try:
                    message = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    del busy[pipe]
                    worker.process.join()
                    status = worker.stop()
                    if not worker.ready:
                        raise UserError(
                            "a worker process could not start; call prepare() below `if __name__ == '__main__':`, "
                            "or with workers=1"
                        ) from None
                    yield number, status
                    continue
                if message == _READY:
                    worker.ready = True
                elif message == _CLIP:
                    on_clip(number)
                elif isinstance(message, OSError):
                    raise message
                else:
                    idle.append(worker)
                    del busy[pipe]
                    yield number, message
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.stop()


_READY, _CLIP = "ready", "clip"


def _serve(pipe: Any, cut: Cut) -> None:
    # When the parent is gone, the pipe breaks and the worker ends.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(_READY)
        while True:
            video, folder = pipe.recv()
            try:
                pipe.send(stage(video, cut, folder, lambda: pipe.send(_CLIP)))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except OSError as error:
                pipe.send(OSError(str(error)))


@contextlib.contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
