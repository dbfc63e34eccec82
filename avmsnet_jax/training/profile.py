"""Traces training steps with JAX's profiler."""

import contextlib
from pathlib import Path

import jax

from avmsnet_jax.config import Config
from avmsnet_jax.training.log import Log
from avmsnet_jax.training.step import TrainState

PROFILE = "profile"  # folder in the working directory


class Profile:
    """Traces `train.profile_steps` steps from step `train.profile_from` on, or fewer at the end of the run.

    Args:
      config: of the run.
      workdir: its working directory.
      first: steps that are done; a trace that should have begun before is left out.
      last: steps at the end of the run.
      log: leaves the time of starting and writing the trace out of the training speed.
    """

    def __init__(self, config: Config, workdir: Path, first: int, last: int, log: Log):
        start = config.train.profile_from
        self._start = start if first < start <= last else None
        self._end = min(start + config.train.profile_steps, last + 1)
        self._folder, self._log, self._trace = workdir / PROFILE, log, contextlib.ExitStack()

    def before(self, step: int, state: TrainState) -> None:
        """Starts or ends the trace if that is due before `step`."""
        if self._start is None or step not in (self._start, self._end):
            return
        jax.block_until_ready(state)  # finish pending steps, so that the trace has exactly the requested ones
        with self._log.stopwatch.paused():
            if step == self._start:
                self._trace.enter_context(jax.profiler.trace(str(self._folder)))
                return
            self.close()
        self._log.progress.say(f"traced steps {self._start} to {self._end - 1}: {self._folder}")

    def close(self) -> None:
        """Ends a trace that is under way."""
        self._trace.close()
