"""Commands whose records, runs, checkpoints and results lie on emulated stores, and stores that fail."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import avmsnet_jax
from avmsnet_jax import storage
from avmsnet_jax.data import cache
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import movie50
from avmsnet_jax.training.loop import train
from avmsnet_jax.weights import checkpoint
from tests import stores
from tests.conftest import ROOT, one_line
from tests.training.test_loop import assert_same_weights, losses

pytestmark = pytest.mark.usefixtures("compiled_before")


@pytest.fixture(scope="module", params=["gs", "s3"])
def emulator(request):
    store = stores.serve(request.param, "place")
    yield store
    store.close()


@pytest.fixture
def store(emulator, request, monkeypatch, tmp_path):
    """An empty place on a store, which this process and those it starts can reach."""
    emulator.url = f"{emulator.url.split('://')[0]}://{stores.BUCKET}/{tmp_path.name}"
    emulator.fails, emulator.gone = lambda number: False, False
    for name, value in emulator.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    storage._filesystem.cache_clear()
    cache._copied.cache_clear()
    yield emulator
    emulator.fails, emulator.gone = lambda number: False, False


@pytest.fixture
def remote(store, small_config, small_records):
    """The small run's configuration, with its records on the store."""
    storage.upload(small_records, f"{store.url}/records")
    return dataclasses.replace(
        small_config, data=dataclasses.replace(small_config.data, dir=f"{store.url}/records")
    )


def test_train_kill_resume_evaluate_and_convert(store, remote, small_run, small_config_file, environment, tmp_path):
    run = f"{store.url}/run"
    arguments = [f"--config={small_config_file}", f"--config.data.dir={remote.data.dir}", f"--workdir={run}"]
    process = subprocess.Popen([sys.executable, "train.py", *arguments], cwd=ROOT, env=environment | store.environment)
    seen = threading.Event()

    def kill_after_a_checkpoint(_):
        method, path = store.requests[-1]
        if method == "DELETE" and re.search(r"checkpoints(%2F|/)8(%2F|/)\.unfinished", path):
            process.kill()
            seen.set()
        return False

    store.fails = kill_after_a_checkpoint
    assert process.wait(200) == -9
    assert seen.is_set()
    kept = store.names(f"{run}/checkpoints")
    assert {name.split("/")[0] for name in kept} == {"4", "8"}
    assert "8/.unfinished" in kept or "8/model/manifest.ocdbt" in kept
    store.fails = lambda number: False

    train(remote, run)
    assert not [name for name in store.names(run) if ".unfinished" in name or "orbax" in name]
    copy = tmp_path / "copy"
    storage.download(run, storage.listed(run), copy)
    assert {"config.json", "metrics.jsonl", "curve.png", "checkpoints"} <= {path.name for path in copy.iterdir()}
    assert losses(copy) == losses(small_run)
    assert_same_weights(copy, small_run)

    results = f"{store.url}/results"
    metrics = movie50.evaluate(remote, run, "test", results)
    local = movie50.evaluate(remote, str(small_run), "test", tmp_path / "results")
    assert metrics["checkpoint"] == f"{run}/checkpoints/16"
    assert metrics["fscore"] == local["fscore"]
    assert store.names(results) == sorted(
        str(path.relative_to(tmp_path / "results")) for path in (tmp_path / "results").rglob("*") if path.is_file()
    )
    with pytest.raises(UserError, match="exists and is not an empty directory"):
        movie50.evaluate(remote, run, "test", results)

    model = avmsnet_jax.load(run)
    avmsnet_jax.save(model, f"{store.url}/saved")
    again = avmsnet_jax.load(f"{store.url}/saved")
    np.testing.assert_array_equal(again.fc1.kernel[...], model.fc1.kernel[...])
    shutil.rmtree(tmp_path / "copy")
