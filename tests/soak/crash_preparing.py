"""Crashes `prepare` just before its n-th change to the file system, for every n, and resumes after each crash.

    python -m tests.soak.crash_preparing

Random kills rarely hit the moment between two renames; this script hits each one.
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from avmsnet_jax.data import film, pack
from avmsnet_jax.data.prepare import prepare
from tests.soak.kill_preparing import files_of, make_films

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}
_CRASHED = 9


def crash_everywhere(source: Path, folder: Path, first: int = 1, every: int = 1) -> int:
    """Crashes before changes number first, first + every, ..., and lets the next run finish each time.

    It forks, so the calling process must have no threads.

    Raises:
      AssertionError: finished records differ from those of an undisturbed run.

    Returns:
      the number of crashes.
    """
    output, crashes = folder / "records", 0
    assert _in_child(source, output, 0) == 0
    expected = files_of(output)
    while True:
        shutil.rmtree(output)
        number = first + crashes * every
        status = _in_child(source, output, number)
        if status == 0:
            assert files_of(output) == expected
            return crashes
        assert status == _CRASHED
        if not output.exists():  # otherwise it crashed while it removed its temporary files
            assert _in_child(source, output, 0) == 0, f"after a crash at change {number}"
            assert [path.name for path in folder.iterdir()] == [output.name]
        assert files_of(output) == expected, f"after a crash at change {number}"
        crashes += 1


def _in_child(source: Path, output: Path, crash_at: int) -> int:
    """Prepares in a fork that exits before change number `crash_at` (0 = never). Returns its exit status."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    changes = 0

    def crash(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        changes += event in _CHANGES
        if changes == crash_at != 0:
            os._exit(_CRASHED)

    status = 1
    try:
        pack.SHARD_BYTES, film.PIECE_BYTES = (
            500_000,
            500_000,
        )  # small, so that some pieces are joined into shards and others are shards of their own
        sys.addaudithook(crash)
        with contextlib.redirect_stderr(io.StringIO()):
            prepare("movies", source, output, frames=8, frame_size=32, spacing=5)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    """Prints the number of crashes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = make_films(Path(name) / "films", [120] * 3, size=(48, 64))
        (Path(name) / "out").mkdir()
        crashes = crash_everywhere(source, Path(name) / "out", options.first, options.every)
    print(
        f"{crashes} crashes, each at another change to the file system; all records equal those of an undisturbed run"
    )


if __name__ == "__main__":
    main()
