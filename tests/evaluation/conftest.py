"""Fixtures for tests of eval.py on TVSum and SumMe: small downloads, their records, networks and HDF5 files."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from avmsnet_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from avmsnet_jax.data.prepare import prepare
from tests.conftest import SMALL, made_once
from tests.data.sources.downloads import write_summe, write_tvsum
from tests.networks import save_network, untrained

TVSUM = ["AwmHb44_ouw", "98MoyGZKHXc", "J0nA4VgnoCo", "gzDbaEs1Rlg", "XzYM3PfTM4w"]


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    """A folder with small TVSum and SumMe downloads, and their records."""
    return made_once(tmp_path_factory, "downloads", _download)


def _download(root: Path) -> None:
    write_tvsum(root / "tvsum", dict.fromkeys(TVSUM, 150))
    write_summe(root / "summe", {"Air_Force_One": 90, "Base jumping": 120})
    for dataset in ("tvsum", "summe"):
        prepare(dataset, root / dataset, root / f"{dataset}_records", frames=8, frame_size=32, spacing=5)


@pytest.fixture(scope="session")
def judged_records(downloads):
    """Records of the downloads: TVSum's with 29 clips a video, SumMe's with 17 and 23."""
    return {dataset: downloads / f"{dataset}_records" for dataset in ("tvsum", "summe")}


@pytest.fixture(scope="session")
def networks(tmp_path_factory) -> list[str]:
    """Two untrained networks as checkpoints."""
    root = made_once(tmp_path_factory, "networks", _save_networks)
    return [str(root / str(seed)) for seed in range(2)]


def _save_networks(root: Path) -> None:
    for seed in range(2):
        save_network(root / str(seed), untrained(seed))


@pytest.fixture
def judged_config(judged_records):
    """Returns a function that makes the configuration for the records of a data set."""

    def of(dataset: str, **data: object) -> Config:
        return Config(
            model=ModelConfig(**SMALL),
            data=DataConfig(dir=str(judged_records[dataset]), threads=1, **data),
            eval=EvalConfig(batch_size=16),
        )

    return of


def write_hdf5(path: Path, videos: dict[str, dict[str, object]]) -> Path:
    """Writes an HDF5 file in the usual format: a group of datasets for each video."""
    with h5py.File(path, "w") as file:
        for key, fields in videos.items():
            for name, value in fields.items():
                file[f"{key}/{name}"] = value
    return path


def field_video(rng, n_frames=300, users=3, **changes):
    """The datasets of a video: shots of 20 frames, a pick every 15 frames."""
    shots = np.arange(0, n_frames, 20)[:, None] + [0, 19]
    picks = np.arange(0, n_frames, 15)
    fields = {
        "features": rng.random((len(picks), 8)).astype(np.float32),
        "gtscore": rng.random(len(picks)),
        "user_summary": np.repeat(rng.random((users, n_frames // 20)) < 0.15, 20, axis=1).astype(np.float32),
        "change_points": shots,
        "n_frame_per_seg": np.full(len(shots), 20),
        "n_frames": n_frames,
        "picks": picks,
        "n_steps": len(picks),
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}
