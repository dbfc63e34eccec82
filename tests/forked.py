"""Runs commands in processes forked off one that has imported the libraries, as imports take most of their time.

The module is the process; `Server` starts it and asks it for commands.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

# What commands import when they need it, except their own modules, which define flags. None starts JAX.
LIBRARIES = [
    "matplotlib.pyplot",
    "tensorboardX",  # with PyTorch, if it is there
    "avmsnet_jax.data.prepare",
    "avmsnet_jax.evaluation.benchmark",
    "avmsnet_jax.evaluation.movie50",
    "avmsnet_jax.summarization.run",
    "avmsnet_jax.training.loop",
    "avmsnet_jax.weights.convert",
]


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
        """Waits for the end; returns standard output and standard error."""
        self.wait(timeout)
        return self.said(), (self._place / "stderr").read_text()

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


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
        """Starts `python ARGUMENTS` with further environment variables."""
        place = self._folder / str(len(self._commands))
        place.mkdir()
        request = {"arguments": arguments, "cwd": str(cwd), "variables": variables, "place": str(place)}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        self._commands.append(Command(arguments, int(self._process.stdout.readline()), place))
        return self._commands[-1]

    def close(self) -> None:
        """Ends the server, and the commands that failed tests left."""
        for command in self._commands:
            command.kill()
        self._process.communicate()  # closes its standard input, which ends it


def serve() -> list[str]:
    """Forks a process for each request on standard input, and returns in these: the arguments of Python."""
    gc.freeze()  # a collection in a child would copy all memory
    for line in sys.stdin:
        request = json.loads(line)
        if not os.fork():
            child = os.fork()
            if not child:
                return _prepared(request)
            print(child, flush=True)
            _keep_status(Path(request["place"]), os.waitpid(child, 0)[1])
            os._exit(0)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()  # so that their CPU time counts as this process's
    sys.exit()


def _keep_status(place: Path, status: int) -> None:
    (place / "status.unfinished").write_text(str(os.waitstatus_to_exitcode(status)))
    (place / "status.unfinished").rename(place / "status")


def _prepared(request: dict[str, Any]) -> list[str]:
    """Gives this process the folder, the variables and the streams of a request."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ |= request["variables"]
    tempfile.tempdir = None  # what an import found before it was set
    for number, path in enumerate((os.devnull, *(f"{request['place']}/{name}" for name in ("stdout", "stderr")))):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    return request["arguments"]


def run(arguments: list[str]) -> int:
    """Does what `python ARGUMENTS` does, and returns the exit status."""
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[0] = arguments[1:], os.getcwd()
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            script = os.path.realpath(arguments[0])
            sys.argv, sys.path[0] = arguments, os.path.dirname(script)
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    for module in LIBRARIES:
        importlib.import_module(module)
    status = run(serve())
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)  # an orderly exit, which frees all imports, would take ten times as long as the fork
