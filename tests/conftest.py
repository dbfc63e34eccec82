"""Shared by the tests of whole commands: records of small films, a small network, and commands as processes."""

import contextlib
import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# These imports leave out JAX and TFDS: pytest-xdist's main process imports this file before it starts the workers.
from avmsnet_jax import cores
from avmsnet_jax.config import Config, DataConfig, EvalConfig, ModelConfig, OptimizerConfig, TrainConfig
from tests.forked import Command, Server, collect_less

ROOT = Path(__file__).resolve().parents[1]

# Every test of the network is a comparison with PyTorch.
collect_ignore = [] if importlib.util.find_spec("torch") else ["models"]


# LLVM's optimizations and XLA's MLIR emitters take five sixths of the time to compile a training step. Tests leave them
# out, except the long ones at the published sizes. LLVM gets each program in one part: parts for several threads take a
# fifth longer where each core has a test. Newer versions removed the emitters' flag; XLA aborts on unknown flags.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, importlib.metadata.version("jax").split(".")[:2])) < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config: pytest.Config) -> None:
    """Compiles each program once: workers of pytest-xdist, commands and later test runs share JAX's compilation cache.

    It lies in `.pytest_cache`, one folder per number of cores, which JAX's keys leave out; `--cache-clear` empties it.
    Python's bytecode is shared, too: without it each process would compile all imports again.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # A shell's background jobs ignore SIGINT, and so would all commands that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # PyTorch in one thread: its threads wait for each other in busy loops, which slows other processes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if QUICK not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = str(config.cache.mkdir(f"compiled_{os.environ.get('NPROC') or cores.count()}_cores"))
        # JAX reads these variables when it is imported.
        os.environ |= {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        if jax := sys.modules.get("jax"):  # imported by the conftest.py of a folder named on the command line
            jax.config.update("jax_compilation_cache_dir", folder)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


# The files with the longest tests.
LONGEST = {"test_loop.py", "test_docs.py", "test_hosts.py", "test_storage.py", "test_layouts.py", "test_mutated.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the longest tests, so that no worker is left alone with one of them at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Spares the tests the time in which Python would look for garbage in what was imported."""
    collect_less()


def pytest_report_header() -> list[str]:
    """Names the folders that are not collected; pytest does not list them as skipped."""
    return [f"tests/{name}: left out, torch is not installed" for name in collect_ignore]


SMALL = {
    "depth": 10,
    "frames": 8,
    "frame_size": 32,
    "trunk_width": 4,
    "soundnet_width": 2,
    "alm_width": 8,
    "alm_channels": 4,
    "adjust_width": 8,
    "head_width": 16,
}
SMALL_TRAINING_FLOPS = 37_078_368  # of a clip without sound, as PyTorch counts them (tests/models/test_flops.py)
Run = Callable[..., subprocess.CompletedProcess]


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` as `make` left it; the first worker of pytest-xdist that asks makes it for all of them."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # the parent of the worker's own folder
    folder, finished = shared / name, shared / f"{name}.finished"
    with open(shared / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a failed attempt left
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder


@pytest.fixture(scope="session")
def small_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of four films with nine clips each: two to train on, two of awkward names to test on."""
    return made_once(tmp_path_factory, "small", _prepare_small) / "records"


def _prepare_small(folder: Path) -> None:
    from avmsnet_jax.data.prepare import prepare
    from avmsnet_jax.media.writer import write_movie

    rng = np.random.default_rng(0)
    for name, shots in (
        ("train/one", "1.0,3.0"),
        ("train/two", "0.5,2.0"),
        ("test/a film, with spaces", "1.0,2.0"),
        ("test/100% für Ältere", "2.5,4.5"),
    ):
        path = folder / "films" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Ten scenes of large patches and a tone each: clips of mere noise would be alike to a network.
        patches = rng.integers(0, 256, (10, 4, 6, 3), dtype=np.uint8).repeat(5, 0).repeat(8, 1).repeat(8, 2)
        loudness, hertz = rng.uniform(0.05, 0.9, 10).repeat(11025), rng.uniform(100, 5000, 10).repeat(11025)
        waveform = loudness * np.sin(2 * np.pi * np.cumsum(hertz) / 22050)
        write_movie(path, patches, 10, waveform.astype(np.float32))
        path.with_name(f"{path.stem}.keyshots.csv").write_text(f"start_s,end_s\n{shots}\n", encoding="utf-8")
    prepare("movies", folder / "films", folder / "records", frames=8, frame_size=32, spacing=5)


@pytest.fixture(scope="session")
def small_config(small_records: Path) -> Config:
    """A run of 4 epochs of 4 steps of 4 clips, a checkpoint after each epoch and a line a step."""
    return Config(
        model=ModelConfig(**SMALL, audiovisual=False),  # traces and compiles in half the time
        data=DataConfig(dir=str(small_records), threads=2),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        train=TrainConfig(epochs=4, batch_size=4, checkpoint_every_epochs=1, keep_checkpoints=9, log_every_steps=1),
        eval=EvalConfig(batch_size=4),
    )


@pytest.fixture(scope="session")
def small_config_file(small_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_config` as a file that commands take."""
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(
        "from avmsnet_jax.config import *\n\n\n"
        "def get_config():\n"
        "    return Config(\n"
        f"        model=ModelConfig(**{SMALL}, audiovisual=False),\n"
        f"        data=DataConfig(dir={str(small_records)!r}, threads=2),\n"
        "        optimizer=OptimizerConfig(learning_rate=1e-3),\n"
        "        train=TrainConfig(\n"
        "            epochs=4, batch_size=4, checkpoint_every_epochs=1, keep_checkpoints=9, log_every_steps=1\n"
        "        ),\n"
        "        eval=EvalConfig(batch_size=4),\n"
        "    )\n"
    )
    return path


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """An environment in which a process finds the package."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def python(environment: dict[str, str]) -> Run:
    """Runs Python on a script of the repository: `python("train.py", "--help", XLA_FLAGS=...)`."""

    def run(*arguments: object, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
        if variables.get("XLA_FLAGS"):
            variables["XLA_FLAGS"] += f" {QUICK}"
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def launched(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts Python on a script of the repository as `python` does; kills the process and its children at the end.

    For what a forked command cannot show: how the interpreter ends.
    """
    processes = []

    def launch(*arguments: object) -> subprocess.Popen:
        command = [sys.executable, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True, **pipes)
        )
        return processes[-1]

    yield launch
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def started(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Starts a command as `python` does, in a process forked off one that has imported the libraries.

    It cannot set variables that are read at imports: those of Python, JAX and XLA.
    """
    server: list[Server] = []

    def start(*arguments: object, cwd: Path = ROOT, **variables: str) -> Command:
        assert not [name for name in variables if name.startswith(("PYTHON", "JAX", "XLA"))]
        if not server:
            server.append(Server(environment, tmp_path_factory.mktemp("streams")))
        return server[0].start([*map(str, arguments)], cwd, variables)

    yield start
    for each in server:
        each.close()


@pytest.fixture(scope="session")
def forked(started: Callable[..., Command]) -> Run:
    """Runs a command that `started` starts; one that has not ended after 300 s is killed."""

    def run(*arguments: object, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
        command = started(*arguments, cwd=cwd, **variables)
        try:
            said = command.communicate()
        finally:
            command.kill_group()  # if it hangs
        return subprocess.CompletedProcess(arguments, command.wait(), *said)

    return run


@pytest.fixture(scope="session")
def small_run(forked: Run, small_config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a finished run of `small_config`. Not to be changed."""

    def make(folder: Path) -> None:
        done = forked("train.py", "--config", small_config_file, "--workdir", folder / "made" / "on demand")
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "run", make) / "made" / "on demand"


@pytest.fixture(scope="module")
def compiled_before(small_run: Path) -> None:
    """Makes `small_run` first, so that a module's tests find its programs in the compilation cache."""


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are composed, but their files stay empty: drawing takes most of the time of an evaluation."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, path, **_: Path(path).touch())


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Playwright's browser, shared by all tests, as its start takes most of their time."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no Chromium; apt-get install chromium")

    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update"]  # no requests to the vendor
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


def wait_until(condition: Callable[[], object], *processes: subprocess.Popen | Command, seconds: float = 200) -> None:
    """Waits until `condition` holds; fails at once when one of the processes ends before that."""
    deadline = time.monotonic() + seconds
    while not condition():
        for process in processes:
            assert process.poll() is None, (process.args, process.returncode, *process.communicate())
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mounts a small disk; yields a function that remounts it with other options, such as `size=20m` or `ro`."""
    mount = shutil.which("mount")
    folder.mkdir()
    if (
        not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=False).returncode
    ):
        pytest.skip("only root can mount a small disk to fill")
    try:
        yield lambda options: subprocess.run([mount, "-o", f"remount,{options}", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


def one_line(done: subprocess.CompletedProcess) -> str:
    """The one line that a command wrote to standard error as it exited with status 2."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]
