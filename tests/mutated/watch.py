"""Runs the commands, each in a process of its own, and watches what they do: time, memory, connections, leftovers.

The processes are forked off this one, which has imported all that they need: a fork takes hundredths of a second, a
fresh start five seconds. Therefore this process must not start JAX or a thread.
"""

import atexit
import contextlib
import dataclasses
import os
import resource
import runpy
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Longest silence while computing, or while idle; a busy machine therefore does not count as hanging.
MOST_SECONDS, _IDLE_SECONDS = 60, 3
MOST_MEGABYTES = 2500  # with the libraries, which take about 500
_NOT_TO_BE_SAID = "Traceback (most recent call last)", "unexpected error", "\x1b"
_LONGEST_LINE = 1500  # with a path or two
_MOST_WRITTEN = 2 * 10**9  # bytes, into one file


@dataclasses.dataclass(frozen=True)
class Traps:
    """Places that no command may access.

    Attributes:
      port: on 127.0.0.1, for TCP and UDP.
      pipe: a named pipe; opening it is noticed.
    """

    port: int
    pipe: Path
    _listeners: tuple[socket.socket, socket.socket]

    def sprung(self) -> list[str]:
        """The accesses since the last call."""
        found = []
        while select.select(self._listeners[:1], [], [], 0)[0]:
            visitor, _ = self._listeners[0].accept()
            with visitor:
                visitor.settimeout(0.2)
                with contextlib.suppress(OSError):
                    found.append(f"it connected, and said {visitor.recv(100)!r}")
        while select.select(self._listeners[1:], [], [], 0)[0]:
            found.append(f"it sent {self._listeners[1].recv(100)!r}")
        with contextlib.suppress(OSError):  # unless somebody has it open to read
            os.close(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
            found.append(f"it opened {self.pipe}")
        return found


@contextlib.contextmanager
def traps(folder: Path) -> Iterator[Traps]:
    """Sets traps; the pipe is in `folder`."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        tcp.listen(64)
        pipe = folder / "nobody_opens_this"
        os.mkfifo(pipe)
        yield Traps(tcp.getsockname()[1], pipe, (tcp, udp))


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
      status: its exit status; negative = the signal that ended it.
      output: what it wrote to standard output.
      errors: what it wrote to standard error.
      complaints: what it did that no command may do, whatever it reads.
    """

    status: int
    output: str
    errors: str
    complaints: list[str]


def run(arguments: list[str], folder: Path, set_traps: Traps) -> Ended:
    """Runs `python ARGUMENTS` in `folder`/in, with `folder`/temporary for temporary files, until it ends.

    It is killed when it has said nothing for a minute, or takes more memory than it may.
    """
    temporary = folder / "temporary"
    temporary.mkdir()
    words = folder / "output", folder / "errors"
    began = time.monotonic()
    child = forked(lambda: _command(arguments, folder / "in", temporary), words)
    status, complaints = _watched(child, words, set_traps)
    output, errors = (file.read_bytes().decode(errors="backslashreplace") for file in words)
    for file in words:
        file.unlink()
    if status not in (0, 2) and not complaints:
        complaints.append(f"status {status} after {time.monotonic() - began:.0f} s: {errors[-400:]!r}")
    complaints += [f"{word!r} was said" for word in _NOT_TO_BE_SAID if word in output + errors]
    longest = max(map(len, (output + errors).splitlines()), default=0)
    if longest > _LONGEST_LINE:
        complaints.append(f"a line of {longest} characters was said")
    left = sorted(path.name for path in temporary.iterdir())
    if left:
        complaints.append(f"left in the temporary folder: {left}")
    return Ended(status, output, errors, complaints)


def forked(work: Callable[[], object], words: tuple[Path, Path]) -> int:
    """Starts a process that does `work`, and returns its number; what it says goes to the files `words`."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        for number, path in enumerate((os.devnull, *map(os.fspath, words))):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_WRITTEN, _MOST_WRITTEN))
        work()
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(bool(ending.code))
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _command(arguments: list[str], folder: Path, temporary: Path) -> None:
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [str(ROOT / arguments[0]), *arguments[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")


def _watched(child: int, words: tuple[Path, Path], set_traps: Traps) -> tuple[int, list[str]]:
    complaints: list[str] = []
    said, heard_at, worked, pause = -1, time.monotonic(), 0.0, 0.005
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        complaints += set_traps.sprung()
        if ended:
            if usage.ru_maxrss / 1000 > MOST_MEGABYTES:
                complaints.append(f"it took {usage.ru_maxrss / 1000:.0f} MB of memory")
            with contextlib.suppress(ProcessLookupError):  # what it may have started
                os.killpg(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(status), list(dict.fromkeys(complaints))
        size = sum(file.stat().st_size for file in words if file.exists())
        megabytes, seconds = _use(child)
        if size != said:
            said, heard_at, worked = size, time.monotonic(), seconds
        waits = time.monotonic() - heard_at > MOST_SECONDS and seconds - worked < _IDLE_SECONDS
        if waits or seconds - worked > MOST_SECONDS:
            complaints.append(f"nothing was said for {MOST_SECONDS} s {'of waiting' if waits else 'of computing'}")
            os.killpg(child, signal.SIGKILL)
        elif megabytes > MOST_MEGABYTES:
            complaints.append(f"it takes {megabytes:.0f} MB of memory")
            os.killpg(child, signal.SIGKILL)
        time.sleep(pause)
        pause = min(0.05, 1.5 * pause)


def _use(process: int) -> tuple[float, float]:
    """Megabytes of memory that a process holds, and seconds that it has computed."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:15]))  # its own and those of processes that it has waited for
    return int(fields[21]) * resource.getpagesize() / 1e6, ticks / os.sysconf("SC_CLK_TCK")
