"""Commands that tests fork end as those of a fresh Python do."""

import subprocess
import time

import pytest

from tests.conftest import wait_until
from tests.forked import Server


@pytest.mark.parametrize(
    ("end", "status", "last_line"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(-1)", 255, ""),
        ("sys.exit('no film')", 1, "no film"),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
        ("raise KeyError('film')", 1, "KeyError: 'film'"),
    ],
)
def test_status_and_message(forked, tmp_path, end, status, last_line):
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nprint('begun')\n{end}\n")
    done = forked(script)
    assert (done.returncode, done.stdout) == (status, "begun\n")
    assert "".join(done.stderr.splitlines()[-1:]) == last_line


def test_a_command_is_killed_with_its_children(started, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    command = started(script)
    wait_until(lambda: command.said().endswith("\n"), command)
    with pytest.raises(subprocess.TimeoutExpired):
        command.communicate(timeout=0.1)
    command.kill_group()
    assert command.wait() == -9
    stat = f"/proc/{command.said().strip()}/stat"
    wait_until(lambda: is_over(stat))


def test_communicate_waits_for_the_children_of_a_killed_command(started, tmp_path):
    (tmp_path / "child.py").write_text(
        "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\nprint('last words')\n"
    )
    (tmp_path / "script.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, 'child.py'])\n"
        "print('begun', flush=True)\n"
        "child.wait()\n"
    )
    command = started(tmp_path / "script.py", cwd=tmp_path)
    wait_until(command.said, command)
    command.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        command.communicate(timeout=0.2)
    (tmp_path / "go").touch()
    assert command.communicate() == ("begun\nlast words\n", "")
    assert command.returncode == -9


def is_over(stat: str) -> bool:
    """Whether a process has ended; the one that should reap it may be slow to do so."""
    try:
        with open(stat) as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_dead_server_is_named(environment, tmp_path):
    server = Server(environment | {"PYTHONHOME": "/nowhere"}, tmp_path)
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(AssertionError, match="the process that forks commands has ended with status 1"):
            server.start(["train.py"], tmp_path, {})
    assert time.monotonic() - start < 60
    server.close()
