"""The commands on files that were changed at random; `tests.soak.mutated_files` explains the changes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT, Run
from tests.forked import Command

# `make soak` takes ten to forty times as many.
COUNTS = {"films": 10, "labels": 7, "scores": 8, "weights": 14, "records": 2, "checkpoints": 2, "runs": 0}

# Faults of a command, and the complaint that each must raise. PORT and PIPE are the traps.
FAULTS = {
    "print('whole')": "",
    "raise SystemExit(2)": "",
    "raise RuntimeError": "Traceback",
    "raise SystemExit(1)": "status 1",
    "import os; os.abort()": "status -6",
    "print('\\x1b[2J')": "was said",
    "print('9' * 5000)": "a line of 5000 characters",
    "import socket; socket.create_connection(('127.0.0.1', PORT)).sendall(b'here')": "it connected, and said b'here'",
    "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'here', ('127.0.0.1', PORT))": "it sent b'here'",
    "open(PIPE).read()": "it opened",
    "import tempfile; tempfile.mkdtemp(prefix='left')": "left in the temporary folder: ['left",
    "import time; time.sleep(99)": "of waiting",
    "while True: pass": "of computing",
    "memory = b'1' * 200_000_000": "MB of memory",
}
_WATCH = """
import json, shutil, sys
from pathlib import Path
from tests.mutated import watch

watch.MOST_SECONDS, watch._IDLE_SECONDS, watch.MOST_MEGABYTES = 2, 0.06, 150
folder, complaints = Path(sys.argv[1]), []
(folder / "in").mkdir()
with watch.traps(folder) as traps:
    for fault in json.loads(sys.argv[2]):
        script = folder / "script.py"
        script.write_text(f"PORT, PIPE = {traps.port}, {str(traps.pipe)!r}\\n{fault}\\n")
        complaints.append(watch.run([str(script)], folder, traps).complaints)
        shutil.rmtree(folder / "temporary")
print(json.dumps(complaints))
"""


def test_damaged_files_give_one_line_or_a_whole_result(started: Callable[..., Command], tmp_path: Path) -> None:
    options = [f"--{kind}={count}" for kind, count in COUNTS.items()]
    process = started("-m", "tests.soak.mutated_files", *options, f"--keep={tmp_path}")
    try:
        said, errors = process.communicate(timeout=1800)  # after a failure in a batch, each of its 25 files runs alone
    finally:
        process.kill_group()  # if it hangs
    assert process.returncode == 0, said + errors
    for kind in ("films", "labels", "scores", "weights"):  # else the changes are too heavy to test anything
        assert int(re.search(rf"^{kind}: .* (\d+) whole", said, re.MULTILINE)[1]) > COUNTS[kind] / 20, said


def test_the_documents_count_the_damaged_files() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert f"on {sum(COUNTS.values())} randomly changed files" in text


def test_each_fault_of_a_command_is_noticed(python: Run, tmp_path: Path) -> None:
    done = python("-c", _WATCH, tmp_path, json.dumps(list(FAULTS)))
    assert done.returncode == 0, done.stderr
    for (fault, complaint), found in zip(FAULTS.items(), json.loads(done.stdout), strict=True):
        assert (complaint in str(found)) if complaint else not found, (fault, found)
