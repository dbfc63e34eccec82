"""The log of a run: losses, learning rates and speed, computed when a line is due."""

from typing import Any

import jax
import numpy as np

from avmsnet_jax.config import Config
from avmsnet_jax.models.flops import training_flops
from avmsnet_jax.training.metrics import MetricsWriter
from avmsnet_jax.training.nonfinite import NotFinite
from avmsnet_jax.training.optimizer import relative_rates, schedule
from avmsnet_jax.training.step import Measured
from avmsnet_jax.training.stopwatch import Stopwatch
from avmsnet_jax.training.terminal import Progress

_IN_FLIGHT = 2  # steps that may be queued on the device


class Log:
    """Collects what steps measured, on the device, and fetches it when a line is due.

    Args:
      config: of the run.
      steps_per_epoch: of the records.
      first: steps that are done.
      last: steps at the end of the run.
      peak: FLOP/s that all devices together can do at most.
      writer: for the metrics.

    Attributes:
      stopwatch: counts the time of training since the last line.
      progress: for the terminal.
    """

    def __init__(
        self,
        config: Config,
        steps_per_epoch: int,
        first: int,
        last: int,
        peak: float,
        writer: MetricsWriter,
    ):
        self._config, self._steps_per_epoch, self._last = config, steps_per_epoch, last
        self._flops_per_clip, self._peak = training_flops(config.model), peak
        self._schedule, self._relative_rates = schedule(config, steps_per_epoch), relative_rates(config)
        self._writer = writer
        self._measured: list[Measured] = []  # since the last line, on the device
        self._epoch_losses = _losses_of_epoch(writer.earlier, first - first % steps_per_epoch, first)
        self.progress = Progress(first, last)
        self.stopwatch = Stopwatch()

    def add(self, step: int, measured: Measured) -> None:
        """Adds what a step measured. Waits for an earlier step, so that few are in flight when a stop is requested."""
        self._measured.append(measured)
        if len(self._measured) > _IN_FLIGHT:
            jax.block_until_ready(self._measured[-1 - _IN_FLIGHT])
            self.progress.reach(step - _IN_FLIGHT)

    def is_due(self, step: int) -> bool:
        """Whether a line is due after this step."""
        return not (step % self._config.train.log_every_steps and step % self._steps_per_epoch) or step == self._last

    def write(self, step: int) -> NotFinite | None:
        """Writes a line about the steps since the last one, if there are any.

        Returns:
          the first of these steps that was not finite, if there is one; then nothing is written.

        Raises:
          UserError: the disk is full, or the file cannot be written.
        """
        if not self._measured:
            return None
        losses, norms, finite = np.asarray(jax.device_get(self._measured), np.float64).T
        seconds, waited = self.stopwatch.seconds, self.stopwatch.waited
        if not finite.all():
            bad = int(np.argmin(finite))
            return NotFinite(step - len(losses) + 1 + bad, losses[bad], norms[bad])
        clips = len(losses) * self._config.train.batch_size / seconds
        flops = clips * self._flops_per_clip
        rate = self._schedule(step - 1)
        line = {
            "step": step,
            "epoch": self._epoch_of(step),
            "loss": float(losses.mean()),
            "losses": [float(f"{loss:.6g}") for loss in losses],
            "gradient_norm": float(norms.mean()),
            "learning_rate": {name: float(rate * relative) for name, relative in self._relative_rates.items()},
            "clips_per_second": clips,
            "model_flops_per_second": flops,
            "mfu": flops / self._peak,
            "data_wait_seconds": waited,
            "data_wait_share": waited / seconds,
        }
        self._epoch_losses += losses.tolist()
        self._writer.write(line)
        self._show(line)
        self._measured = []
        self.stopwatch.reset()
        return None

    def validated(self, step: int, found: dict[str, float | None], best: bool) -> None:
        """Writes a line about a validation, which is the best so far or not."""
        self._writer.write({"step": step, "epoch": self._epoch_of(step), "validation": found})
        loss, precision, fscore = (
            "-" if found[name] is None else f"{found[name]:.4f}" for name in ("loss", "average_precision", "fscore")
        )
        notes = []
        if best:
            notes.append("the best so far")
        if precision == "-":
            notes.append("no held-out clip is a key moment, so there is no average precision")
            notes.append("the latest checkpoint will be used")
        note = f"  ({'; '.join(notes)})" if notes else ""
        self.progress.say(f"validation  loss {loss}  average precision {precision}  F {fscore}{note}")

    def close(self) -> None:
        """Ends the progress bar."""
        self.progress.close()

    def _epoch_of(self, step: int) -> int:
        """The epoch of a step, from 1."""
        return (step - 1) // self._steps_per_epoch + 1

    def _show(self, line: dict[str, Any]) -> None:
        """Shows a line on the terminal: behind the bar, and as a line at the end of an epoch or after a minute."""
        step, clips = line["step"], line["clips_per_second"]
        self.progress.reach(
            step, f"loss {line['loss']:.4f}, {clips:.1f} clips/s, {line['data_wait_share']:.0%} waiting for data"
        )
        ends_epoch = not step % self._steps_per_epoch
        if ends_epoch or self.progress.is_quiet:
            self.progress.say(
                f"epoch {line['epoch']}/{self._config.train.epochs}  step {step}/{self._last}  "
                f"mean loss {np.mean(self._epoch_losses):.4f}  {clips:.1f} clips/s  MFU {line['mfu']:.1%}"
            )
        if ends_epoch:
            self._epoch_losses = []


def _losses_of_epoch(lines: list[dict[str, Any]], start: int, step: int) -> list[float]:
    """The losses between two steps from the lines of the run, each step with the mean of its line."""
    losses: list[float] = []
    for line in lines:
        if "loss" in line and start < line["step"] <= step:
            losses += [line["loss"]] * (line["step"] - start)
            start = line["step"]
    return losses
