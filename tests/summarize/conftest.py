"""A small network of random weights, and a browser that plays the summaries."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
