"""Kills train.py with SIGKILL at random moments and compares the resumed run with an undisturbed one.

    python -m tests.soak.kill_training --kills=20

Trains a small network with a checkpoint every three steps and resumes after each kill. Whenever it finishes, the loss
of each step and the final weights must be bit for bit those of the undisturbed run, and a new run starts until --kills
is reached. Some runs are stopped by SIGTERM instead, and some lose their newest checkpoint to damage.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from flax import traverse_util

from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.toy import movies
from avmsnet_jax.weights import checkpoint, location

ROOT = Path(__file__).resolve().parents[2]
_SIZES = {"depth": 10, "frames": 8, "frame_size": 32, "trunk_width": 4, "soundnet_width": 2, "alm_width": 8}
_SIZES |= {"alm_channels": 4, "adjust_width": 8, "head_width": 16}
_SETTINGS = {"train.epochs": 6, "train.batch_size": 8, "train.log_every_steps": 1, "train.checkpoint_every_steps": 3}
_SETTINGS |= {"optimizer.learning_rate": 0.001, "train.ema_decay": 0.9}


def start(records: Path, workdir: Path, compiled: Path) -> subprocess.Popen[str]:
    """Starts the command. It shares a compilation cache, so that kills do not all hit the compiler."""
    settings = {f"model.{name}": value for name, value in _SIZES.items()} | _SETTINGS | {"data.dir": records}
    return subprocess.Popen(
        [
            sys.executable,
            "train.py",
            "--config=configs/movie50_audiovisual.py",
            f"--workdir={workdir}",
            *(f"--config.{name}={value}" for name, value in settings.items()),
        ],
        cwd=ROOT,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(compiled)}
        | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(workdir: Path) -> tuple[list[tuple[int, float]], dict[str, np.ndarray]]:
    """The loss of every step, and the final weights."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines], traverse_util.flatten_dict(
        checkpoint.restore(workdir)[1], sep="/"
    )


def same(workdir: Path, reference: Path) -> None:
    """Raises AssertionError if two runs differ in a bit."""
    (losses, weights), (expected_losses, expected) = outcome(workdir), outcome(reference)
    assert losses == expected_losses
    assert weights.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)


def damage(workdir: Path, rng: random.Random) -> str:
    """Cuts, changes or removes a file of the newest checkpoint."""
    steps = location.steps_in(workdir / "checkpoints")
    if len(steps) < 2:
        return ""
    newest = workdir / "checkpoints" / str(max(steps))
    victim = rng.choice([path for path in newest.rglob("*") if path.is_file() and path.stat().st_size > 1000])
    data = bytearray(victim.read_bytes())
    kind = rng.choice(["cut", "changed", "removed"])
    if kind == "removed":
        victim.unlink()
    else:
        data[len(data) // 2] ^= 1 << rng.randrange(8)
        victim.write_bytes(data if kind == "changed" else data[: len(data) // 2])
    return f"; {victim.relative_to(workdir)} {kind}"


def soak(records: Path, folder: Path, kills: int, rng: random.Random) -> list[str]:
    """Kills the command `kills` times, then lets it finish. Returns a line for each kill."""
    compiled, reference, workdir, told = folder / "compiled", folder / "undisturbed", folder / "killed", []
    for workdir_of in (folder / "first", reference):  # the first compiles; the second is timed
        began = time.monotonic()
        process = start(records, workdir_of, compiled)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    takes = time.monotonic() - began
    while True:
        process = start(records, workdir, compiled)
        line = ""
        if len(told) < kills:
            seconds = rng.uniform(0.3 * takes, takes)
            number = signal.SIGTERM if rng.random() < 0.2 else signal.SIGKILL
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                line = f"{number.name} after {seconds:.1f} s of {takes:.1f}"
        output, errors = process.communicate()
        resumed = re.search(r"resuming at step (\d+)", output)
        if line:
            assert process.returncode in (0, -number), errors
            steps = location.steps_in(workdir / "checkpoints")
            line += f": began at step {resumed[1] if resumed else 0}, newest checkpoint {max(steps, default=0)}"
            told.append(line + (damage(workdir, rng) if rng.random() < 0.3 else ""))
            continue
        assert process.returncode == 0, errors
        same(workdir, reference)
        if len(told) >= kills:
            return told
        shutil.rmtree(workdir)


def main() -> None:
    """Prints what happened at each kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        movies.render(folder / "films", films=4, seconds=15, seed=0)
        prepare("movies", folder / "films", folder / "records", frames=8, frame_size=32, spacing=10)
        told = soak(folder / "records", folder, options.kills, random.Random(options.seed))
    print("\n".join(told))
    print(f"{len(told)} kills; the losses of all steps and the final weights were those of the undisturbed run")


if __name__ == "__main__":
    main()
