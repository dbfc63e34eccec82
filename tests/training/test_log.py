import jax.numpy as jnp
import pytest

from avmsnet_jax.config import Config, TrainConfig
from avmsnet_jax.errors import UserError
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
def test_a_damaged_line_costs_no_other(tmp_path, damaged, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([GOOD, damaged, VALIDATED, b""]))
    assert [line["step"] for line in log_lib.read_metrics(path)] == [1, 2]
    log_lib.Log(tmp_path, Config(), 10, 2, 10, 1e12).close()
    assert f"warning: dropped a line that is damaged from {path}" in capsys.readouterr().err
    assert path.read_bytes().splitlines() == [GOOD, VALIDATED]


def test_metrics_are_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"metrics\.jsonl is not a file"):
        log_lib.Log(tmp_path, Config(), 10, 0, 10, 1e12)
    assert (tmp_path / "mine").read_text() == "mine"
