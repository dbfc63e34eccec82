import jax.numpy as jnp
import pytest

from avmsnet_jax.config import Config, TrainConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.training import stopwatch
from avmsnet_jax.training.log import Log
from avmsnet_jax.training.metrics import METRICS, MetricsWriter, read_metrics
from avmsnet_jax.training.step import Measured


def test_paused_time_is_not_training_and_waiting_is(tmp_path, monkeypatch):
    """A step takes a second, a quarter of it waiting for data; a pause between two steps takes a hundred."""
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    writer = MetricsWriter(tmp_path, 0)
    log = Log(Config(train=TrainConfig(batch_size=4, log_every_steps=2)), 10, 0, 10, 1e12, writer)
    for step in range(1, 7):
        if step == 4:
            with log.stopwatch.paused():
                now[0] += 100
        now[0] += 0.75
        with log.stopwatch.waiting():
            now[0] += 0.25
        log.add(step, Measured(jnp.float32(1), jnp.float32(1), jnp.bool_(True)))
        if log.is_due(step):
            assert log.write(step) is None
    log.close()
    writer.close()
    lines = read_metrics(tmp_path / METRICS)
    assert [line["clips_per_second"] for line in lines] == pytest.approx([4, 4, 4])
    assert [line["data_wait_share"] for line in lines] == pytest.approx([0.25, 0.25, 0.25])


GOOD = b'{"step": 1, "epoch": 1, "loss": 0.5, "learning_rate": {"global": 0.1}}'
VALIDATED = b'{"step": 2, "epoch": 1, "validation": {"loss": 0.5, "average_precision": 0.25}}'


@pytest.mark.parametrize(
    "damaged",
    [
        GOOD[:30],
        b"\x00\xff\xfe",
        b"null",
        b"[1, 2]",
        b"[" * 100_000,
        b'{"epoch": 1, "loss": 0.5, "learning_rate": {}}',
        b'{"step": "1", "loss": 0.5, "learning_rate": {}}',
        b'{"step": 1, "loss": "0.5", "learning_rate": {}}',
        b'{"step": 1, "loss": 0.5, "learning_rate": {"global": null}}',
        b'{"step": 1, "validation": {"loss": 0.5}}',
        b'{"step": 1' + b"0" * 5000 + b', "loss": 0.5, "learning_rate": {}}',
    ],
)
def test_a_damaged_line_of_metrics_does_not_affect_the_others(tmp_path, damaged, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([GOOD, damaged, VALIDATED, b""]))
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    MetricsWriter(tmp_path, 2).close()
    assert f"warning: dropped a damaged line from {path}" in capsys.readouterr().err
    assert path.read_bytes().splitlines() == [GOOD, VALIDATED]


def test_metrics_are_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"metrics\.jsonl is not a file"):
        MetricsWriter(tmp_path, 0)
    assert (tmp_path / "mine").read_text() == "mine"
