"""Each command imports only the large libraries that it needs, as imports take most of the start."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import field_video, write_hdf5

# What takes a tenth of a second or more to import, besides NumPy.
HEAVY = {
    *("jax", "flax", "optax", "orbax", "grain", "tensorstore"),
    *("tensorflow_datasets", "array_record", "h5py", "apache_beam", "tensorboardX"),
    *("scipy.fft", "scipy.ndimage", "scipy.stats", "scipy.signal", "numba", "librosa", "sklearn", "torch"),
    *("av", "cv2", "PIL", "matplotlib", "starlette", "uvicorn"),
}
WATCHING = {"av", "PIL", "cv2", "scipy.fft", "scipy.ndimage", "librosa", "scipy.signal", "scipy.stats"}
PREPARING = {"av", "PIL", "cv2", "h5py", "tensorflow_datasets", "array_record"}

PROBE = """
import json, sys
from avmsnet_jax import commands
status = 0
try:
    commands.run()
except SystemExit as end:
    status = end.code
heavy = sorted(set(json.loads(sys.stdin.read())) & set(sys.modules))
print(json.dumps([status, heavy]))
"""


def imported(environment: dict[str, str], *arguments: str, cwd: Path) -> tuple[int, set[str]]:
    """The exit status of a command, and which libraries of `HEAVY` its process imported."""
    probe = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(
        probe, env=environment, cwd=cwd, input=json.dumps(sorted(HEAVY)), capture_output=True, text=True, timeout=200
    )
    assert done.stdout, done.stderr
    status, heavy = json.loads(done.stdout.splitlines()[-1])
    return status, set(heavy)


@pytest.fixture(scope="module")
def films(small_records: Path) -> Path:
    """The folder of films that the records were made of."""
    return small_records.parent / "films"


MISTAKES = {
    "summarize": "summarize missing.mp4 --output=out",
    "summarize with a checkpoint": "summarize film.mp4 --checkpoint=missing --output=out",
    "prepare": "prepare --dataset=movies --source=missing --output=out",
    "train": "train --config=films --config.data.dir=missing",
    "evaluate": "evaluate --config=films --config.data.dir=missing --output=out --checkpoint=missing",
    "convert": "convert --source=missing.pth --output=out",
    "export": "convert --checkpoint=missing --export=out.pth",
    "inspect": "inspect missing",
    "studio": "studio",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_large_libraries_are_imported(environment, tmp_path, mistake):
    (tmp_path / "film.mp4").touch()
    status, heavy = imported(environment, *MISTAKES[mistake].split(), cwd=tmp_path)
    assert status == 2
    assert not heavy - {"av", "PIL"}


def test_summarizing_by_attention_imports_no_network(environment, films, tmp_path):
    film = films / "train" / "one.mp4"
    status, heavy = imported(environment, "summarize", str(film), "--output=out", cwd=tmp_path)
    assert status == 0
    assert "cv2" in heavy
    assert not heavy - WATCHING - {"numba"}  # Numba finds the shots


def test_preparing_imports_tfds_but_no_network(environment, films, tmp_path):
    options = ["--dataset=movies", f"--source={films}", "--output=out", "--frame_size=32", "--spacing=5", "--workers=1"]
    status, heavy = imported(environment, "prepare", *options, cwd=tmp_path)
    assert status == 0
    assert "tensorflow_datasets" in heavy
    assert not heavy - PREPARING


def test_evaluating_given_scores_imports_no_network(environment, tmp_path):
    rng = np.random.default_rng(0)
    write_hdf5(tmp_path / "field.h5", {"video_1": field_video(rng), "video_2": field_video(rng)})
    options = ["--protocol=summe", "--annotations=field.h5", "--output=out"]
    status, heavy = imported(environment, "evaluate", *options, cwd=tmp_path)
    assert status == 0
    assert "h5py" in heavy
    assert not heavy & {
        "jax",
        "flax",
        "optax",
        "orbax",
        "grain",
        "tensorstore",
        "tensorflow_datasets",
        "cv2",
        "librosa",
    }


def test_inspecting_records_imports_no_network(environment, small_records, tmp_path):
    status, heavy = imported(environment, "inspect", str(small_records), "--output=sheet.png", cwd=tmp_path)
    assert status == 0
    assert "matplotlib" in heavy
    assert not heavy & {"jax", "flax", "optax", "orbax", "grain", "tensorstore"}
