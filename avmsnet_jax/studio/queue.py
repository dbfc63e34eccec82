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

_PATIENCE_S = 10.0  # from SIGTERM to SIGKILL; a process normally ends within two seconds


@dataclasses.dataclass
class Job:
    """A film to be cut or summarized.

    Attributes:
      name: of the film's summary.
      options: of `summarize`, the film last.
      state: `waiting`, `running`, `done`, `failed` or `canceled`.
      doing: the current step, for people.
      share: how much of that step is done, 0-1.
      error: why the job failed, one line.
    """

    name: str
    options: Sequence[str]
    state: str = "waiting"
    doing: str = ""
    share: float = 0.0
    error: str = ""

    @property
    def active(self) -> bool:
        """Whether the job waits or runs."""
        return self.state in ("waiting", "running")


class Queue:
    """Jobs in the order of their requests."""

    def __init__(self, root: Path):
        """`root` is the folder of the summaries."""
        self._root = root
        self._jobs: dict[str, Job] = {}  # the latest job of each film
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="cutting", daemon=True)
        self._thread.start()

    def add(self, name: str, *options: str) -> None:
        """Adds a job for a film; `options` are those of `summarize` except --output, the film last.

        Raises:
          UserError: the film has a job that waits or runs.
        """
        with self._changed:
            self.check_idle(name)
            self._jobs.pop(name, None)  # to the end
            self._jobs[name] = Job(name, options)
            self._changed.notify_all()

    def check_idle(self, name: str) -> None:
        """Raises UserError if the job of a film waits or runs."""
        if name in self._jobs and self._jobs[name].active:
            raise UserError(f"{name} is being cut; wait until that is done, or cancel it")

    def cancel(self, name: str) -> None:
        """Cancels the job of a film and waits for its process to end; the summary stays as it was."""
        with self._changed:
            job = self._jobs.get(name)
            if job is None or not job.active:
                return
            running = job.state == "running"
            job.state = "canceled"
            if running and self._process:
                _end(self._process)
                self._changed.wait_for(lambda: self._process is None, timeout=3 * _PATIENCE_S)

    def as_json(self) -> list[dict[str, Any]]:
        """The jobs, as the page gets them."""
        with self._changed:
            jobs = [dataclasses.asdict(job) for job in self._jobs.values()]
        return [{name: value for name, value in job.items() if name != "options"} for job in jobs]

    def close(self) -> list[str]:
        """Cancels all jobs; returns the names of their films."""
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
        """Reads the progress that a process prints, until it ends."""
        last = ""
        assert process.stdout
        for line in process.stdout:
            try:
                progress = json.loads(line)
                job.doing, job.share = progress["doing"], progress["share"]
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
        start_new_session=True,  # Ctrl-C in the terminal reaches only the studio, which then ends the process in order
    )


def _end(process: "subprocess.Popen[str]") -> None:
    """Terminates a process; kills it if it does not end in time."""

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
