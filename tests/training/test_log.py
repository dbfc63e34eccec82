import jax.numpy as jnp
import pytest

from avmsnet_jax.config import Config, TrainConfig
from avmsnet_jax.training import log as log_lib
from avmsnet_jax.training.step import Measured


def test_what_is_left_out_is_no_training(tmp_path, monkeypatch):
    """A second a step, and between two steps of one line a hundred for something else."""
    now = [0.0]
    monkeypatch.setattr(log_lib.time, "perf_counter", lambda: now[0])
    log = log_lib.Log(tmp_path, Config(train=TrainConfig(batch_size=4, log_every_steps=2)), 10, 0, 10, 1e12)
    log.start(0)
    for step in range(1, 7):
        if step == 4:
            now[0] += 100
            log.leave_out(100)
        now[0] += 1
        log.waited += 0.25
        log.add(step, Measured(jnp.float32(1), jnp.float32(1), jnp.bool_(True)))
        if log.is_due(step):
            log.write(step)
    log.close()
    lines = log_lib.read_metrics(tmp_path / log_lib.METRICS)
    assert [line["clips_per_second"] for line in lines] == pytest.approx([4, 4, 4])
    assert [line["data_wait_share"] for line in lines] == pytest.approx([0.25, 0.25, 0.25])
