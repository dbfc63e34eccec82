"""Several processes that train together on one machine, and what they do when one of them is lost."""

import contextlib
import json
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from avmsnet_jax import hosts
from avmsnet_jax.config import HostsConfig
from avmsnet_jax.weights import checkpoint
from tests.conftest import wait_until
from tests.forked import Command

PATIENCE = 10
AS_SMALL_RUN = "--config.train.batch_size=4"
SAME = [
    "--config.train.batch_size=16",  # at batch 4 BN amplifies rounding errors
    "--config.optimizer.decay_factor=1",  # so that runs of different lengths take the same steps
    "--config.model.audiovisual=false",  # compiles in half the time
]


@contextlib.contextmanager
def together(
    count: int,
    config: Path,
    workdir: Path | str,
    started: Callable[..., Command],
    *options: str,
    own: Callable[[int], dict[str, str]] = lambda index: {},
) -> Iterator[list[Command]]:
    """`count` processes that train until they are stopped; those left at the end are killed.

    Args:
      count: how many.
      config: a configuration file.
      workdir: the working directory.
      started: the fixture.
      *options: further options.
      own: environment variables of one process, by its number.
    """
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
        *options,
    ]
    processes = [
        started("train.py", *arguments, f"--config.hosts.index={index}", **own(index)) for index in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def losses(workdir: Path) -> list[float]:
    path = workdir / "metrics.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # a process may be writing the last line
    return [json.loads(line)["loss"] for line in whole.splitlines()]


def wait_for_step(step: int, workdir: Path, processes: list[Command]) -> None:
    wait_until(lambda: len(losses(workdir)) >= step, *processes, seconds=300)


@pytest.fixture(scope="module")
def reference(small_config_file, python, tmp_path_factory):
    """The losses of a run of one process, an interpreter of its own: forks share one seed of `hash`."""
    folder = tmp_path_factory.mktemp("alone")
    done = python("train.py", f"--config={small_config_file}", f"--workdir={folder}", "--config.train.epochs=8", *SAME)
    assert done.returncode == 0, done.stderr
    return losses(folder)


def stop(processes, workdir):
    """Asks the last process to stop; all save the same step and exit with 0. Returns the step."""
    processes[-1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    (saved,) = re.findall(r"asked to stop \(SIGTERM\); step (\d+) of \d+ is saved", outputs[0][0])
    silent = [line for output, _ in outputs[1:] for line in output.splitlines() if not line.startswith("[Gloo]")]
    assert not silent, "only the first process prints"
    assert checkpoint.find(workdir).name == saved
    assert len(losses(workdir)) == int(saved)
    return int(saved)


def lose_the_last(processes):
    """Kills the last process; the others exit with a line that names the cause. Returns what the first printed."""
    processes[-1].kill()
    outputs = [process.communicate(timeout=60) for process in processes[:-1]]
    for index, process in enumerate(processes[:-1]):
        assert process.returncode == 1
        said = outputs[index][1].splitlines()[-1]
        count = len(processes)
        assert re.match(rf"train.py: process {index} of {count}: .*; start all of them again|.* has stopped", said)
        assert "Traceback" not in outputs[index][1]
    return outputs[0][0]


def lose_the_first(processes):
    """Kills the first process, in which JAX's coordination service is; the others exit with a line."""
    processes[0].kill()
    outputs = [process.communicate(timeout=60) for process in processes[1:]]
    for process, (_, said) in zip(processes[1:], outputs, strict=True):
        assert process.returncode != 0
        assert "start all of them again" in said or "has stopped" in said or "another task died" in said


def assert_same_losses(workdir, reference, steps):
    ours = np.array(losses(workdir)[:steps])
    np.testing.assert_allclose(ours, reference[:steps], rtol=1e-3)


@pytest.mark.soak
def test_two_processes_train_as_one_and_stop_and_resume_together(reference, small_config_file, started, tmp_path):
    workdir = tmp_path / "run"
    with together(2, small_config_file, workdir, started) as processes:
        wait_for_step(8, workdir, processes)
        assert_same_losses(workdir, reference, 8)
        saved = stop(processes, workdir)
    with together(2, small_config_file, workdir, started) as processes:
        wait_for_step(saved + 2, workdir, processes)
        assert f"resuming at step {saved} of" in lose_the_last(processes)


@pytest.mark.soak
@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_lose_the_last_or_the_first(reference, small_config_file, started, tmp_path, count):
    workdir = tmp_path / "run"
    with together(count, small_config_file, workdir, started) as processes:
        wait_for_step(8, workdir, processes)
        assert_same_losses(workdir, reference, 8)
        saved = stop(processes, workdir)
    for lose in (lose_the_last, lose_the_first):
        with together(count, small_config_file, workdir, started) as processes:
            wait_for_step(saved + 2, workdir, processes)
            lose(processes)


def test_two_processes_train_as_one_undisturbed_by_a_second_run(small_run, small_config_file, started, tmp_path):
    """Both processes of the second run exit and say why; a signal to one process of the first stops both."""
    workdir = tmp_path / "run"
    with together(2, small_config_file, workdir, started, AS_SMALL_RUN) as processes:
        wait_until((workdir / ".lock").exists, *processes)
        with together(2, small_config_file, workdir, started) as (first, second):
            said = [process.communicate(timeout=120)[1] for process in (first, second)]
            assert [process.returncode for process in (first, second)] == [2, 2], said
        assert f"in use by train.py (process {processes[0].pid} on" in said[0]
        assert "process 0 could not lock" in said[1]
        wait_for_step(len(losses(workdir)) + 3, workdir, processes)
        assert_same_losses(workdir, losses(small_run), 3)  # at batch 4 BN amplifies rounding errors with each step
        stop(processes, workdir)


@pytest.fixture
def left(monkeypatch):
    """Makes this process believe that it is one of two; collects why it would end, and the status."""
    reasons = []

    class Watch:
        def __init__(self, *_):
            pass

        def leave(self, reason, status):
            reasons.append((reason, status))
            raise SystemExit(status)

    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.multihost_utils, "broadcast_one_to_all", lambda value: value)
    monkeypatch.setattr(hosts.compiled, "disable_cache", lambda: None)
    monkeypatch.setattr(hosts, "_Watch", Watch)
    return reasons


def test_a_working_directory_that_is_not_shared_is_named(tmp_path, monkeypatch, left):
    monkeypatch.setattr(hosts, "is_first", lambda: False)
    with pytest.raises(SystemExit), hosts.together(HostsConfig(auto=False, patience=1), tmp_path / "run"):
        raise AssertionError("it has begun")
    assert left[0][0].startswith(
        f"this process does not see {tmp_path / 'run'} of process 0; give a --workdir that all"
    )
    assert left[0][1] == 2


@pytest.mark.parametrize("message", ["connection refused", "no peer", "the barrier of bar(1)\n" + "x" * 500])
def test_an_ordinary_error_is_not_taken_for_a_lost_process(tmp_path, monkeypatch, left, message):
    monkeypatch.setattr(hosts, "_check_shared", lambda *_: None)
    for error, lost in ((RuntimeError(message), False), (ValueError(f"UNKNOWN: Gloo {message}"), True)):
        with pytest.raises(SystemExit), hosts.together(HostsConfig(auto=False), tmp_path / "run"):
            raise error
        reason, status = left.pop()
        assert status == 1
        assert reason.startswith("lost touch with the others") == lost
        log = re.search(r"the traceback is in (.*?\.log)", reason)[1]
        assert message in Path(log).read_text()


def test_a_hanging_process_is_detected(small_config_file, started, tmp_path):
    """Even before the first step: while a process compiles, no collective operation tells it that another hangs."""
    with together(2, small_config_file, tmp_path / "run", started, AS_SMALL_RUN) as (first, second):
        wait_until(lambda: "steps per epoch" in first.said(), first, second)
        second.send_signal(signal.SIGSTOP)
        _, said = first.communicate(timeout=60)
        assert first.returncode == 1
        assert re.search(r"process 0 of 2: process 1 has given no sign of life for 1\d s", said)
