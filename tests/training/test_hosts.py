"""Several processes that train together on one machine, and what they do when one of them is lost.

`python -m tests.training.test_hosts --processes=4` does the same with four.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avmsnet_jax import hosts
from avmsnet_jax.config import HostsConfig
from avmsnet_jax.weights import checkpoint
from tests.conftest import ROOT, wait_until

# Compiles in half of the time, which each of the processes takes.
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
PATIENCE = 10
# At batch 4 BN magnifies rounding; the rate stays, so that runs of different lengths take the same steps.
SAME = ["--config.train.batch_size=16", "--config.optimizer.decay_factor=1"]


@contextlib.contextmanager
def together(count: int, config: Path, workdir: Path, environment: dict[str, str]) -> Iterator[list[subprocess.Popen]]:
    """`count` processes that train until somebody stops them; whoever is left at the end is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"train.epochs": 1000, "hosts.processes": count, "hosts.coordinator": f"127.0.0.1:{port}"}
    settings |= {"hosts.patience": PATIENCE, "train.keep_checkpoints": 2, "train.checkpoint_every_epochs": 50}
    arguments = [
        f"--config={config}",
        f"--workdir={workdir}",
        *(f"--config.{k}={v}" for k, v in settings.items()),
        *SAME,
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "train.py", *arguments, f"--config.hosts.index={index}"],
            cwd=ROOT,
            env=environment | QUICK,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def losses(workdir: Path) -> list[float]:
    path = workdir / "metrics.jsonl"
    return [json.loads(line)["loss"] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_step(step: int, workdir: Path, processes: list[subprocess.Popen]) -> None:
    wait_until(lambda: len(losses(workdir)) >= step, *processes, seconds=300)


def stale_signs(workdir: Path, count: int) -> None:
    """What an earlier run leaves that did not end well."""
    (workdir / ".alive").mkdir(exist_ok=True)
    for index in range(count):
        (workdir / ".alive" / str(index)).write_text("failed of old")


def check(count: int, config: Path, folder: Path, environment: dict[str, str]) -> list[str]:
    """Trains, stops all by a signal to one, goes on, and loses one. Returns what was measured."""
    told, workdir = [], folder / "run"
    alone = [
        sys.executable,
        "train.py",
        f"--config={config}",
        f"--workdir={folder / 'alone'}",
        "--config.train.epochs=8",
    ]
    subprocess.run([*alone, *SAME], cwd=ROOT, env=environment | QUICK, check=True, stdout=subprocess.DEVNULL)
    reference = losses(folder / "alone")
    with together(count, config, workdir, environment) as processes:
        wait_for_step(8, workdir, processes)
        ours = losses(workdir)[:8]
        worst = float(np.max(np.abs(np.array(ours) / reference[:8] - 1)))
        assert worst < 1e-3, (ours, reference)
        told.append(f"{count} processes: losses of 8 steps within {worst:.1e} of one process's")
        processes[-1].send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [0] * count, outputs
        (saved,) = re.findall(r"asked to stop \(SIGTERM\); step (\d+) of \d+ is saved", outputs[0][0])
        silent = [line for output, _ in outputs[1:] for line in output.splitlines() if not line.startswith("[Gloo]")]
        assert not silent, "only the first speaks"
        assert checkpoint.find(workdir).name == saved
        assert len(losses(workdir)) == int(saved)
        assert not (workdir / ".alive").exists()
        told.append(f"SIGTERM to the last: all saved step {saved} and left with 0")
    with together(count, config, workdir, environment) as processes:
        wait_for_step(int(saved) + 2, workdir, processes)
        processes[-1].kill()
        killed = time.monotonic()
        outputs = [process.communicate(timeout=60) for process in processes[:-1]]
        told.append(f"one of them killed: the others had ended after {time.monotonic() - killed:.1f} s")
        for index, process in enumerate(processes[:-1]):
            assert process.returncode == 1
            said = outputs[index][1].splitlines()[-1]
            assert re.match(rf"train.py: process {index} of {count}: .*; start all of them again|.* has stopped", said)
            assert "Traceback" not in outputs[index][1]
        assert f"resuming at step {saved} of" in outputs[0][0]
    stale_signs(workdir, count)
    with together(count, config, workdir, environment) as processes:
        wait_for_step(int(saved) + 4, workdir, processes)
        processes[0].kill()  # in which JAX's own watch is
        killed = time.monotonic()
        outputs = [process.communicate(timeout=60) for process in processes[1:]]
        told.append(f"the first of them killed: the others had ended after {time.monotonic() - killed:.1f} s")
        for process, (_, said) in zip(processes[1:], outputs, strict=True):
            assert process.returncode != 0
            assert "start all of them again" in said or "has stopped" in said or "another task died" in said
    return told


def test_two_processes(small_config_file, environment, tmp_path):
    check(2, small_config_file, tmp_path, environment)


def test_a_second_run_does_not_disturb_the_first(small_config_file, environment, tmp_path):
    """Both of its processes end, and say why; what `.alive` held before is replaced, and no link is followed."""
    workdir = tmp_path / "run"
    (workdir / ".alive").mkdir(parents=True)
    (workdir / ".alive" / "0").write_bytes(b"\xff\x00damaged")
    (tmp_path / "mine").write_text("mine")
    (workdir / ".alive" / "1").symlink_to(tmp_path / "mine")
    with together(2, small_config_file, workdir, environment) as processes:
        wait_for_step(2, workdir, processes)
        with together(2, small_config_file, workdir, environment) as (first, second):
            said = [process.communicate(timeout=120)[1] for process in (first, second)]
            assert [process.returncode for process in (first, second)] == [2, 2], said
        assert f"in use by train.py (process {processes[0].pid} on" in said[0]
        assert "process 0 could not take" in said[1]
        wait_for_step(len(losses(workdir)) + 2, workdir, processes)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("message", ["connection refused", "no peer", "the barrier of bar(1)\n" + "x" * 500])
def test_an_error_of_our_own_is_not_taken_for_a_lost_process(tmp_path, monkeypatch, capsys, message):
    left = []

    class Watch:
        def __init__(self, *_):
            pass

        def leave(self, reason, status):
            left.append((reason, status))
            raise SystemExit(status)

    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.multihost_utils, "broadcast_one_to_all", lambda value: value)
    monkeypatch.setattr(hosts.compiled, "keep_nothing_of_several", lambda: None)
    monkeypatch.setattr(hosts, "_Watch", Watch)
    for error, lost in ((RuntimeError(message), False), (ValueError(f"UNKNOWN: Gloo {message}"), True)):
        with pytest.raises(SystemExit), hosts.together(HostsConfig(auto=False), tmp_path / "run"):
            raise error
        reason, status = left.pop()
        assert status == 1
        assert reason.startswith("lost touch with the others") == lost
        log = re.search(r"the traceback is in (.*?\.log)", reason)[1]
        assert message in Path(log).read_text()


def test_a_process_that_hangs_is_missed(small_config_file, environment, tmp_path):
    """Before the first step too: while the other compiles, no exchange has told it anything."""
    with together(2, small_config_file, tmp_path / "run", environment) as (first, second):
        wait_until((tmp_path / "run" / ".alive" / "1").exists, first, second)
        second.send_signal(signal.SIGSTOP)
        _, said = first.communicate(timeout=60)
        assert first.returncode == 1
        assert f"process 0 of 2: process 1 has given no sign of life for {PATIENCE} s" in said


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--config", type=Path, required=True, help="of a small run with batches that they can share")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        settings = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": f"{name}/compiled"}
        settings |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        print("\n".join(check(options.processes, options.config, Path(name), settings)))
