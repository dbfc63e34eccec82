"""Films to records in several processes; what happens to one of them costs no more than its film."""

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
    """Stages films, in this process with one worker, else in processes of their own.

    A film whose process dies is tried once more when the others are through, alone, as memory may have been short.

    Args:
      tasks: the films.
      cut: how they are cut.
      workers: how many at a time.
      on_clip: called with the number of the task, for each clip.
      on_film: called with the number of the task and what became of it, in the order in which they end.

    Raises:
      OSError: the place cannot be written, or is full.
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
    """A process that takes films, and says of each first its clips and then what became of it."""

    def __init__(self, cut: Cut):
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks of threads that it has not
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, cut), daemon=True)
        # Ctrl-C and SIGTERM reach the whole group of processes, but what happens then is the parent's to say. Python's
        # own helper comes first: starting it undoes what is blocked.
        resource_tracker.ensure_running()
        self.ready = False
        try:
            with _blocked(signal.SIGINT, signal.SIGTERM):
                self.process.start()  # it inherits what is blocked
        except BaseException:  # Ctrl-C, which had to wait
            if self.process.pid:
                self.stop()
            raise
        theirs.close()

    def stop(self) -> int:
        """Ends the process at once, and says how it ended."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode or 0


def _in_processes(
    numbers: Sequence[int], tasks: Sequence[Task], cut: Cut, workers: int, on_clip: Callable[[int], Any]
) -> Iterator[tuple[int, Outcome | int]]:
    """Yields the outcome of each task, or how its process ended."""
    waiting = collections.deque(numbers)
    idle: list[_Worker] = []
    busy: dict[Any, tuple[_Worker, int]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker, number = idle.pop() if idle else _Worker(cut), waiting.popleft()
                busy[worker.pipe] = worker, number
                with contextlib.suppress(BrokenPipeError):  # it has died; reading from it says so
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
    # Without its parent, which alone holds the other end, a worker ends at its next word.
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
