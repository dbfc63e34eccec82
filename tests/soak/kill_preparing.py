"""Kills prepare_data.py with SIGKILL at random moments and compares its records with those of an undisturbed run.

    python -m tests.soak.kill_preparing --kills=20 --films=8 --frames=1500

After each kill the same command resumes. Whenever it finishes, its records must be byte for byte those of the
undisturbed run, and it starts anew until --kills is reached. A third of the kills hit the packing, which is short.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.media.films import encode, numbered

ROOT = Path(__file__).resolve().parents[2]

# Small shards make many of them. The script must be prepare_data.py because the workers import it.
_COMMAND = """
import runpy, sys
from avmsnet_jax.data import pack
pack.SHARD_BYTES = float(sys.argv.pop(1))
sys.argv[0] = "prepare_data.py"
runpy.run_path("prepare_data.py", run_name="__main__")
"""


def start(source: Path, output: Path, *options: str, shard_bytes: float = 200e6) -> subprocess.Popen[str]:
    """Starts the command in a process group of its own."""
    arguments = ["--dataset=movies", f"--source={source}", f"--output={output}", *options]
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, str(shard_bytes), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file's bytes, by its path in the directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def working_place(output: Path) -> Path:
    """The folder in which the command keeps finished films."""
    return output.with_name(f".{output.name}.partial")


def finished_films(output: Path) -> int:
    """The number of films that a resumed command does not read again."""
    return len(list(working_place(output).glob("films/[!.]*/done.json")))


def soak(
    source: Path, folder: Path, kills: int, rng: random.Random, options: Sequence[str] = (), shard_bytes: float = 200e6
) -> list[str]:
    """Kills the command `kills` times, then lets it finish.

    Raises:
      AssertionError: records differ or appeared before they were whole, or a finished film was read again.

    Returns:
      a line for each kill.
    """
    began = time.monotonic()
    undisturbed = start(source, folder / "undisturbed", *options, shard_bytes=shard_bytes)
    _, errors = undisturbed.communicate()
    assert undisturbed.returncode == 0, errors
    takes = time.monotonic() - began
    expected, output, told = files_of(folder / "undisturbed"), folder / "killed", []
    expected = {name: data.replace(b"undisturbed", b"killed") for name, data in expected.items()}
    while True:
        before = finished_films(output)
        process = start(source, output, *options, shard_bytes=shard_bytes)
        if len(told) < kills:
            moment = _wait(process, output, rng, takes)
            # With its workers, as when a machine is lost, or alone, as by the kernel when memory is short.
            whole_group = rng.random() < 0.5
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
        read = re.findall(r"^\[\d+/\d+\] (\S+):", errors, re.MULTILINE)
        if before and "finished already" in errors:
            assert f"{before} of " in errors, errors
        if process.returncode == 0:
            assert files_of(output) == expected, f"the set differs after {len(told)} kills"
            assert not working_place(output).exists()
            if len(told) >= kills:
                return told
            shutil.rmtree(output)
            continue
        assert process.returncode == -signal.SIGKILL, errors
        if output.exists():  # killed between the rename and the exit
            assert files_of(output) == expected
            shutil.rmtree(output)
        told.append(
            f"kill {len(told) + 1} ({'all' if whole_group else 'parent only'}) {moment}: "
            f"{before} films were finished, {len(read)} read, {finished_films(output)} finished then, "
            f"{len(list(working_place(output).glob('shards/m*')))} shards"
        )


def _wait(process: subprocess.Popen[str], output: Path, rng: random.Random, takes: float) -> str:
    """Lets the command run for a random time, and describes that moment."""
    if rng.random() < 2 / 3:
        seconds = rng.uniform(0, takes)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return f"after {seconds:.2f} s of {takes:.2f}"
    while process.poll() is None and not (working_place(output) / "plan.json").exists():
        time.sleep(0.001)
    seconds = rng.uniform(0, 0.2)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return f"{seconds:.3f} s after packing began"


def make_films(folder: Path, lengths: Sequence[int], size: tuple[int, int] = (240, 320)) -> Path:
    """Films of so many numbered frames each, with noise as sound."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, frames in enumerate(lengths):
        sound = rng.uniform(-0.5, 0.5, (1, frames * 882)).astype(np.float32)
        pictures = [numbered(frame, *size) for frame in range(1, frames + 1)]
        encode(folder / f"film{number:02d}.mkv", pictures, 25, sound=sound)
        (folder / f"film{number:02d}.keyshots.csv").write_text("start_s,end_s\n1,3\n")
    return folder


def main() -> None:
    """Prints what happened at each kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--films", type=int, default=8)
    parser.add_argument("--frames", type=int, default=1500, help="of each film")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard_bytes", type=float, default=2e6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_films(folder / "films", [options.frames] * options.films)
        told = soak(
            source,
            folder,
            options.kills,
            random.Random(options.seed),
            [f"--workers={options.workers}"],
            options.shard_bytes,
        )
        shards = len(list((folder / "undisturbed").rglob("*.array_record*")))
    print("\n".join(told))
    print(f"{len(told)} kills; all records were byte for byte those of the undisturbed run ({shards} shards)")


if __name__ == "__main__":
    main()
