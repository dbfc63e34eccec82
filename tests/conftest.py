"""What the tests of whole commands share: small films as records, a small network, and commands as processes."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from avmsnet_jax.config import Config, DataConfig, EvalConfig, ModelConfig, OptimizerConfig, TrainConfig
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.media.writer import write_movie

ROOT = Path(__file__).resolve().parents[1]

# Every test of the network is a comparison with PyTorch.
collect_ignore = [] if importlib.util.find_spec("torch") else ["models"]


def pytest_report_header() -> list[str]:
    """Says what is left out, as nothing of it is listed as skipped."""
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
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def small_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of four films with nine clips each: two to train on, two of awkward names to test on."""
    folder = tmp_path_factory.mktemp("small")
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
    return folder / "records"


@pytest.fixture(scope="session")
def small_config(small_records: Path) -> Config:
    """A run of 4 epochs of 4 steps of 4 clips, a checkpoint after each epoch and a line a step. Not to be changed."""
    return Config(
        model=ModelConfig(**SMALL),
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
        f"        model=ModelConfig(**{SMALL}),\n"
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
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a process finds the package, and reuses what an earlier one compiled."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.fixture(scope="session")
def python(environment: dict[str, str]) -> Run:
    """Runs Python on a script of the repository: `python("train.py", "--help", XLA_FLAGS=...)`."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def small_run(python: Run, small_config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a finished run of `small_config`. Not to be changed."""
    workdir = tmp_path_factory.mktemp("run") / "made" / "on demand"
    done = python("train.py", "--config", small_config_file, "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def compiled_before(small_run: Path, environment: dict[str, str]) -> Iterator[None]:
    """Lets this process, too, reuse what `small_run` compiled."""
    settings = {
        "jax_compilation_cache_dir": environment["JAX_COMPILATION_CACHE_DIR"],
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()


def one_line(done: subprocess.CompletedProcess) -> str:
    """What a command said on standard error when it exited with 2: one line."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]
