"""A small network of random weights that all films are summarized with."""

from pathlib import Path

import pytest
from flax import nnx

import avmsnet_jax
from tests.conftest import SMALL


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the small network."""
    folder = tmp_path_factory.mktemp("weights") / "random"
    config = avmsnet_jax.ModelConfig(**SMALL)
    avmsnet_jax.save(avmsnet_jax.AVMSNet(config, rngs=nnx.Rngs(0)), folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for films."""
    films = tmp_path / "films"
    films.mkdir()
    return films
