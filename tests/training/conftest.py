"""Shared by the tests of training runs."""

import dataclasses

import pytest

from avmsnet_jax.config import Config, DataConfig, InitConfig
from avmsnet_jax.training import loop
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.step import Step, make_step

STEPS: dict[tuple[Config, int], Step] = {}


@pytest.fixture
def shared_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the same step share the traced one: tracing takes most of the time of so short a run.

    A step depends on the records only by the number of steps per epoch, and not on first weights or checkpoints kept.
    """
    lengths = []

    def optimizer(config, steps_per_epoch):
        lengths.append(steps_per_epoch)
        return make_optimizer(config, steps_per_epoch)

    def step(graphdef, optimizer, config, described):
        same = dataclasses.replace(config, data=DataConfig(), init=InitConfig()).replace(train={"keep_checkpoints": 1})
        return STEPS.setdefault((same, lengths[-1]), make_step(graphdef, optimizer, config, described))

    monkeypatch.setattr(loop, "make_optimizer", optimizer)
    monkeypatch.setattr(loop, "make_step", step)
