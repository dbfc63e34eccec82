"""Runs commands in processes forked off one that has imported the libraries, as imports take most of their time.

The module is the process; `Server` starts it and asks it for commands.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import IO, Any

# What commands import when they need it, except their own modules, which define flags. None starts JAX.
LIBRARIES = [
    "grain",
    "librosa.filters",  # with most of SciPy
    "matplotlib.pyplot",
    "numba",
    "opentimelineio",
    "tensorboardX",  # with PyTorch, if it is there
    "avmsnet_jax.data.prepare",
    "avmsnet_jax.evaluation.benchmark",
    "avmsnet_jax.evaluation.movie50",
    "avmsnet_jax.studio.app",
    "avmsnet_jax.summarization.run",
    "avmsnet_jax.training.loop",
    "avmsnet_jax.weights.convert",
]
START_S = 300  # the server's imports take most of the first start


class Command:
    """A command that a server has started, with the methods of `subprocess.Popen` that tests use.

    Attributes:
      args: the arguments of Python.
      pid: the number of the process, which leads a process group.
      returncode: the exit status, negative for a signal; None until a method has found the process ended.
    """

    def __init__(self, arguments: list[str], pid: int, place: Path):
        self.args, self.pid, self.returncode = arguments, pid, None
        self._place = place

    def said(self) -> str:
        """What it has written to standard output so far."""
        return (self._place / "stdout").read_text()

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self.returncode is None and (self._place / "status").exists():
            self.returncode = int((self._place / "status").read_text())
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Waits for the end; raises `subprocess.TimeoutExpired` when that takes longer than `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout, self.said())
            time.sleep(0.01)
        return status

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Waits for the end of the command and of its children; returns standard output and standard error."""
        deadline = time.monotonic() + timeout
        self.wait(timeout)
        with open(self._place / "stdout") as stream:
            while not _lock(stream):
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired(self.args, timeout, self.said())
                time.sleep(0.01)
        return self.said(), (self._place / "stderr").read_text()

    def send_signal(self, number: int) -> None:
        """Sends a signal to the command, but not to its children, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the command, but not its children, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def kill_group(self) -> None:
        """Kills the command and its children, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


def _lock(stream: IO) -> bool:
    """Whether no other process holds a lock on an open file; this one holds it then.

    Children inherit the lock on their standard output, as they would inherit the end of a pipe.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Server:
    """Starts commands in an environment, and keeps what they say in `folder`."""

    def __init__(self, environment: dict[str, str], folder: Path):
        self._folder = folder
        self._commands: list[Command] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            cwd=Path(__file__).resolve().parents[1],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, arguments: list[str], cwd: Path, variables: dict[str, str]) -> Command:
        """Starts `python ARGUMENTS` with further environment variables.

        Raises:
          AssertionError: the server has ended, or has not answered in `START_S` seconds.
        """
        place = Path(tempfile.mkdtemp(dir=self._folder))
        for stream in ("stdout", "stderr"):  # to be read before the command has opened them
            (place / stream).touch()
        request = {"arguments": arguments, "cwd": str(cwd), "variables": variables, "place": str(place)}
        with contextlib.suppress(BrokenPipeError):  # it has ended, which the missing answer tells
            print(json.dumps(request), file=self._process.stdin, flush=True)
        answered, _, _ = select.select([self._process.stdout], [], [], START_S)
        assert answered, f"the process that forks commands has not answered in {START_S} s"
        pid = self._process.stdout.readline()
        assert pid, f"the process that forks commands has ended with status {self._process.wait()}"
        self._commands.append(Command(arguments, int(pid), place))
        return self._commands[-1]

    def close(self) -> None:
        """Ends the server, and the commands that failed tests left."""
        for command in self._commands:
            command.kill_group()
        self._process.communicate()  # closes its standard input, which ends it


def collect_less() -> None:
    """Keeps Python's garbage collector away from what exists now, and lets it run less often.

    In a training test it would take a tenth of the time, most of it for what was imported.
    """
    gc.freeze()
    gc.set_threshold(20_000)


def serve() -> list[str]:
    """Forks a process for each request on standard input. Returns only in the forked commands, with their arguments."""
    collect_less()  # a collection in a child would copy all memory
    places = {}

    def keep_statuses(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):  # there is no child any more
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                _keep_status(places.pop(ended[0]), ended[1])

    signal.signal(signal.SIGCHLD, keep_statuses)
    for line in sys.stdin:
        request = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # until it is known where to write the status
        child = os.fork()
        if not child:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            return _prepared(request)
        places[child] = Path(request["place"])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    while places:
        signal.sigwait([signal.SIGCHLD])
        keep_statuses()
    sys.exit()


def _keep_status(place: Path, status: int) -> None:
    (place / "status.unfinished").write_text(str(os.waitstatus_to_exitcode(status)))
    (place / "status.unfinished").rename(place / "status")


def _prepared(request: dict[str, Any]) -> list[str]:
    """Gives this process the folder, the variables and the streams of a request."""
    os.setsid()
    print(os.getpid(), flush=True)  # now that there is a process group to kill
    os.chdir(request["cwd"])
    os.environ |= request["variables"]
    tempfile.tempdir = None  # cached by an import before TMPDIR was set
    for number, path in enumerate((os.devnull, *(f"{request['place']}/{name}" for name in ("stdout", "stderr")))):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    _lock(sys.stdout)
    return request["arguments"]


def run(arguments: list[str]) -> int:
    """Does what `python ARGUMENTS` does. Returns the exit status, negative for the signal that it should die of."""
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[0] = arguments[1:], os.getcwd()
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            script = os.path.realpath(arguments[0])
            sys.argv, sys.path[0] = arguments, os.path.dirname(script)
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback.print_exc()
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


if __name__ == "__main__":
    for module in LIBRARIES:
        importlib.import_module(module)
    status = run(serve())
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)  # an orderly exit, which frees all imports, would take ten times as long as the fork
