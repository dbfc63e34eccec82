"""Shared by the tests of training runs."""

import dataclasses

import pytest

from avmsnet_jax.config import Config, DataConfig, InitConfig
from avmsnet_jax.training import loop
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.step import describe, make_step

DESCRIBED, STEPS = {}, {}


@pytest.fixture
def shared_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the same step share what JAX has traced of it, which takes most of the time of so short a run.

    A step depends on the records only by the number of steps per epoch, and not on first weights or checkpoints kept.
    """
    lengths = []

    def same(config: Config) -> tuple[Config, int]:
        config = dataclasses.replace(config, data=DataConfig(), init=InitConfig())
        return config.replace(train={"keep_checkpoints": 1}), lengths[-1]

    def optimizer(config, steps_per_epoch):
        lengths.append(steps_per_epoch)
        return make_optimizer(config, steps_per_epoch)

    def described(config, optimizer, mesh):
        if same(config) not in DESCRIBED:
            DESCRIBED[same(config)] = describe(config, optimizer, mesh)
        return DESCRIBED[same(config)]

    def step(graphdef, optimizer, config, described):
        if same(config) not in STEPS:
            STEPS[same(config)] = make_step(graphdef, optimizer, config, described)
        return STEPS[same(config)]

    monkeypatch.setattr(loop, "make_optimizer", optimizer)
    monkeypatch.setattr(loop, "describe", described)
    monkeypatch.setattr(loop, "make_step", step)
