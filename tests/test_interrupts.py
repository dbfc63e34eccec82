"""A command that hangs in C code is ended by Ctrl-C and SIGTERM, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from avmsnet_jax import interrupts
from tests.conftest import wait_until

# `sqlite3` runs an endless query in one call, as FFmpeg may read through an endless file.
QUERY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT max(i) FROM n"
PROGRAM = f"""
import sqlite3, sys, threading
from pathlib import Path
from avmsnet_jax import command_line, interrupts
from avmsnet_jax.staging import staged

def endless():
    sqlite3.connect(":memory:").execute({QUERY!r})

@interrupts.listening()
def main(arguments):
    with staged(Path(arguments[0])) as stage:
        stage.mkdir()
        (stage / "half").write_text("written")
        print("begun", flush=True)
        if arguments[1] == "thread":
            thread = threading.Thread(target=endless)
            thread.start()
            thread.join()
        endless()

command_line.run(main, positional="PLACE")
"""


def cpu_s(process):
    """Seconds of CPU time that a process has taken."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("how", "where"),
    [
        (signal.SIGINT, "main"),
        (signal.SIGTERM, "thread"),
        pytest.param(signal.SIGINT, "thread", marks=pytest.mark.soak),
        pytest.param(signal.SIGTERM, "main", marks=pytest.mark.soak),
    ],
)
def test_a_signal_ends_a_command_during_a_call_in_c(environment, tmp_path, how, where):
    place = tmp_path / "new" / "place"
    command = [sys.executable, "-c", PROGRAM, str(place), where]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        before = cpu_s(process)
        wait_until(lambda: cpu_s(process) > before + 0.2, process)  # in the middle of the query
        process.send_signal(how)
        began = time.monotonic()
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()  # or a failure would leave it running for ever
    assert time.monotonic() - began < 20  # 2 s where the machine is not busy
    assert process.returncode == 130
    assert errors == "-c: interrupted\n"
    assert not list(Path(tmp_path).iterdir())


def test_after_the_block_signals_are_as_before():
    before = signal.getsignal(signal.SIGTERM), threading.active_count()
    with interrupts.listening():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert signal.set_wakeup_fd(-1) == -1
    while threading.active_count() > before[1]:
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGTERM) is before[0]


def test_an_orderly_end_is_not_cut_short(environment, tmp_path):
    program = PROGRAM.replace("        endless()\n", "        raise KeyboardInterrupt('half is kept')\n")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "place"), "main"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "-c: interrupted: half is kept\n")
    assert not list(Path(tmp_path).iterdir())
