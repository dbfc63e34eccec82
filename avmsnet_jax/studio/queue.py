"""Cuts and summarizes films for the studio: one at a time, each in a process of its own that can be canceled."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avmsnet_jax.errors import UserError, printable
from avmsnet_jax.progress import LINES
from avmsnet_jax.staging import recover

_PATIENCE_S = 10.0  # from asking a process to end to killing it; it ends within two seconds


@dataclasses.dataclass
class Job:
    """A film to be cut or summarized.

    Attributes:
      name: of the film's summary.
      options: of `summarize`, the film last.
      state: `waiting`, `running`, `done`, `failed` or `canceled`.
      doing: what it does just now, for people.
      share: how much of that is done, 0-1.
      error: why it failed, one line.
    """

    name: str
    options: Sequence[str]
    state: str = "waiting"
    doing: str = ""
    share: float = 0.0
    error: str = ""

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("waiting", "running")


class Queue:
    """Films to be worked on, in the order they were asked for."""

    def __init__(self, root: Path):
        """`root` is the folder of the summaries."""
        self._root = root
        self._jobs: dict[str, Job] = {}  # the latest of each film
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="cutting", daemon=True)
        self._thread.start()

    def add(self, name: str, *options: str) -> None:
        """Adds a film; `options` are those of `summarize` besides --output, the film last.

        Raises:
          UserError: it waits or runs already.
        """
        with self._changed:
            self.check_idle(name)
            self._jobs.pop(name, None)  # to the end
            self._jobs[name] = Job(name, options)
            self._changed.notify_all()

    def check_idle(self, name: str) -> None:
        """Raises UserError if a film waits or runs."""
        if name in self._jobs and self._jobs[name].active:
            raise UserError(f"{name} is being cut; wait until that is done, or cancel it")

    def cancel(self, name: str) -> None:
        """Ends the work on a film and waits until it has ended; its summary stays as it was."""
        with self._changed:
            job = self._jobs.get(name)
            if job is None or not job.active:
                return
            running = job.state == "running"
            job.state = "canceled"
            if running and self._process:
                _end(self._process)
                self._changed.wait_for(lambda: self._process is None, timeout=3 * _PATIENCE_S)

    def told(self) -> list[dict[str, Any]]:
        """The jobs, for the page."""
        with self._changed:
            jobs = [dataclasses.asdict(job) for job in self._jobs.values()]
        return [{name: value for name, value in job.items() if name != "options"} for job in jobs]

    def close(self) -> list[str]:
        """Ends all work; returns the names of the films that were worked on."""
        with self._changed:
            self._closed = True
            left = [name for name, job in self._jobs.items() if job.active]
            self._changed.notify_all()
        for name in left:
            self.cancel(name)
        self._thread.join(_PATIENCE_S)
        return left

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next())
                job = self._next()
                if self._closed or job is None:
                    return
                try:
                    self._process = _started(self._root, job.options)
                    job.state = "running"
                except OSError as error:  # no memory for another process, say
                    job.state, job.error = "failed", f"cannot start: {error.strerror}"
                    continue
            self._follow(job, self._process)

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == "waiting"), None)

    def _follow(self, job: Job, process: "subprocess.Popen[str]") -> None:
        """Reads what a process says until it ends."""
        last = ""
        assert process.stdout
        for line in process.stdout:
            try:
                told = json.loads(line)
                job.doing, job.share = told["doing"], told["share"]
            except (ValueError, KeyError, TypeError):
                last = line.strip() or last
        status = process.wait()
        if status:
            with contextlib.suppress(UserError, OSError):  # the next cut tries again
                recover(self._root / job.name)
        with self._changed:
            self._process = None
            if not status:
                job.state = "done"
            elif job.state != "canceled":
                job.state, job.error = "failed", _why(status, last)
            self._changed.notify_all()


def _started(root: Path, options: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "avmsnet_jax", "summarize", f"--output={root}", *options[:-1], "--", options[-1]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {LINES: "1"},
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C in the terminal is for the studio, which then ends the process in order
    )


def _end(process: "subprocess.Popen[str]") -> None:
    """Asks a process to end, and kills it if it does not."""

    def kill() -> None:
        if process.poll() is None:
            process.kill()

    process.terminate()
    timer = threading.Timer(_PATIENCE_S, kill)
    timer.daemon = True
    timer.start()


def _why(status: int, last: str) -> str:
    if status < 0:
        return f"the process was killed ({signal.Signals(-status).name}); the summary is as it was; try again"
    return printable(last.removeprefix("avmsnet_jax summarize: ")) or f"the process ended with status {status}"
