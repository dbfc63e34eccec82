"""What a run says of itself: `metrics.jsonl`, TensorBoard's files, a progress bar or lines, and a curve at the end."""

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from avmsnet_jax import hosts, json_file
from avmsnet_jax.config import Config
from avmsnet_jax.errors import UserError
from avmsnet_jax.models.flops import training_flops
from avmsnet_jax.staging import staged
from avmsnet_jax.training.optimizer import learning_rates
from avmsnet_jax.training.step import Measured

_UNDER_WAY = 2  # steps that are asked for before the first of them has to be done
_QUIET_S = 60  # without a bar, a line is printed at least this often

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"


class NotFiniteError(Exception):
    """A loss, a gradient or a statistic that is no number. The first argument is the step, the second what it was."""


class Log:
    """Losses and rates, fetched from the device when a line is due and never in between. One process writes.

    Args:
      workdir: where the files go.
      config: of the run.
      steps_per_epoch: of the records.
      first: steps done already.
      last: steps done at the end.
      peak: operations a second that all devices together can do at most (`peak.of`).
    """

    def __init__(self, workdir: Path, config: Config, steps_per_epoch: int, first: int, last: int, peak: float):
        self._path = workdir / METRICS
        self._config, self._steps_per_epoch, self._last = config, steps_per_epoch, last
        self._flops_per_clip, self._peak = training_flops(config.model), peak
        self._rates = learning_rates(config, steps_per_epoch)
        self._measured: list[Measured] = []  # since the last line, on the device
        self._epoch = self._losses_before(first)  # of the epoch so far
        self._said = time.perf_counter()
        self._since = time.perf_counter()
        self.waited = 0.0  # seconds since the last line in which the next batch was not there
        self._writes = hosts.is_first()
        self.bar = tqdm(disable=True)
        self._board: Any = None
        if self._writes:
            # Half a second, in which XLA loads or compiles the step.
            threading.Thread(target=importlib.import_module, args=("tensorboardX",), daemon=True).start()
            with self._writing():
                (workdir / TENSORBOARD).mkdir(exist_ok=True)
                _forget_after(first, self._path)
                self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed in `close`)
        self.restart_clock()

    def start(self, first: int) -> None:
        """The first step comes now, after `first` that are done: clock and progress bar begin."""
        if self._writes:
            from tensorboardX import SummaryWriter

            with self._writing():
                # What a killed run had reached beyond the checkpoint is not shown twice.
                self._board = SummaryWriter(str(self._path.parent / TENSORBOARD), purge_step=first + 1)
        self.bar = tqdm(
            total=self._last,
            initial=first,
            bar_format="{percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]",
            dynamic_ncols=True,
            disable=not (self._writes and sys.stderr.isatty()),
        )
        self.restart_clock()

    def add(self, step: int, measured: Measured) -> None:
        """Notes what a step found, still on the device.

        Waits for the one that was asked for `_UNDER_WAY` steps before: the device has enough to do, and who is told to
        stop has not much to wait for.
        """
        self._measured.append(measured)
        if len(self._measured) > _UNDER_WAY:
            jax.block_until_ready(self._measured[-1 - _UNDER_WAY])
            self.bar.update(step - _UNDER_WAY - self.bar.n)

    def is_due(self, step: int) -> bool:
        """Whether a line belongs after this step."""
        return not (step % self._config.train.log_every_steps and step % self._steps_per_epoch) or step == self._last

    def write(self, step: int) -> None:
        """Writes a line about the steps since the last one, up to `step`, if there are any.

        Raises:
          NotFiniteError: a loss or a gradient among them is not a finite number; nothing is written.
          UserError: the disk is full, or the file cannot be written.
        """
        if not self._measured:
            return
        losses, norms, finite = np.asarray(jax.device_get(self._measured), np.float64).T
        elapsed = time.perf_counter() - self._since
        self.bar.update(step - self.bar.n)
        if not finite.all():
            culprit = int(np.argmin(finite))
            what = "BN statistics are not finite"
            if not np.isfinite(losses[culprit]):
                what = f"the loss is {losses[culprit]}"
            elif not np.isfinite(norms[culprit]):
                what = "the gradient is not finite"
            raise NotFiniteError(step - len(losses) + 1 + culprit, what)
        clips = len(losses) * self._config.train.batch_size / elapsed
        flops = clips * self._flops_per_clip
        line = {
            "step": step,
            "epoch": self.epoch_of(step),
            "loss": float(losses.mean()),
            "losses": [float(f"{loss:.6g}") for loss in losses],  # of each step, for the curve of a short run
            "gradient_norm": float(norms.mean()),
            "learning_rate": {name: float(rate(step - 1)) for name, rate in self._rates.items()},
            "clips_per_second": clips,
            "model_flops_per_second": flops,
            "mfu": flops / self._peak,
            "data_wait_seconds": self.waited,
            "data_wait_share": self.waited / elapsed,
        }
        self._put(line, tuple(name for name in line if name not in ("step", "epoch", "losses", "data_wait_seconds")))
        self.bar.set_postfix_str(
            f"loss {line['loss']:.4f}, {clips:.1f} clips/s, {self.waited / elapsed:.0%} waiting for data"
        )
        self._epoch += losses.tolist()
        ends = not step % self._steps_per_epoch
        if ends or (self.bar.disable and time.perf_counter() - self._said > _QUIET_S):
            self.say(
                f"epoch {line['epoch']}/{self._config.train.epochs}  step {step}/{self._last}  "
                f"mean loss {np.mean(self._epoch):.4f}  {clips:.1f} clips/s  MFU {line['mfu']:.1%}"
            )
            self._said = time.perf_counter()
        if ends:
            self._epoch = []
        self._measured, self.waited, self._since = [], 0.0, time.perf_counter()

    def validated(self, step: int, found: dict[str, float | None], best: bool) -> None:
        """Writes a line about a validation; the time it took does not count as training."""
        self._put({"step": step, "epoch": self.epoch_of(step), "validation": found}, ("validation",))
        loss, precision, fscore = (
            "-" if found[name] is None else f"{found[name]:.4f}" for name in ("loss", "average_precision", "fscore")
        )
        why = "  (no held-out clip is key, so the latest checkpoint counts as the best)" if precision == "-" else ""
        self.say(
            f"validation  loss {loss}  average precision {precision}  F {fscore}"
            + ("  (the best so far)" if best else why)
        )
        self.restart_clock()

    def leave_out(self, seconds: float) -> None:
        """So much of the time since the last line was not training."""
        self._since += seconds

    def restart_clock(self) -> None:
        """What was done since the last line was not training."""
        self._since = time.perf_counter()

    def epoch_of(self, step: int) -> int:
        """The epoch that a step belongs to, from 1."""
        return (step - 1) // self._steps_per_epoch + 1

    def say(self, text: str) -> None:
        """A line to the terminal, above the bar where there is one; of several processes the first speaks."""
        if self._writes:
            self.bar.write(text)
            sys.stdout.flush()

    def _losses_before(self, first: int) -> list[float]:
        """The losses of an epoch in which a run goes on, from its own lines: a line gives the mean of its steps."""
        losses: list[float] = []
        step = first - first % self._steps_per_epoch
        for line in read_metrics(self._path):
            if "loss" in line and step < line["step"] <= first:
                losses += [line["loss"]] * (line["step"] - step)
                step = line["step"]
        return losses

    def close(self) -> None:
        """Ends the bar and the files."""
        self.bar.close()
        if self._writes:
            with self._writing():
                self._file.close()
                if self._board is not None:
                    self._board.close()

    def _put(self, line: dict[str, Any], shown: tuple[str, ...]) -> None:
        if not self._writes:
            return
        with self._writing():
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for name in shown:
                values = line[name].items() if isinstance(line[name], dict) else [("", line[name])]
                for part, value in values:
                    if value is None:
                        continue
                    self._board.add_scalar(f"{name}/{part}" if part else name, value, line["step"])
            self._board.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error.strerror or error}; make room, and the same command resumes from "
                "the last checkpoint"
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, but for those that are damaged; none where there is no file.

    Raises:
      UserError: see `_lines`.
    """
    return [line for line in _lines(path) if line is not None]


def _lines(path: Path) -> list[dict[str, Any] | None]:
    """Each line of a `metrics.jsonl`, None where it is not what `Log` writes: cut short by a kill, or damaged.

    Raises:
      UserError: something that is no file lies there, or it cannot be read.
    """
    if not os.path.lexists(path):
        return []
    if not path.is_file() or path.is_symlink():
        raise UserError(f"{path} is not a file; remove it, or give another --workdir")
    try:
        return [_parsed(line, path) for line in path.read_bytes().split(b"\n") if line]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; remove it, or give another --workdir") from None


def _parsed(line: bytes, path: Path) -> dict[str, Any] | None:
    try:
        found = json_file.parse(line.decode("utf-8"), str(path), "remove it")
    except (UserError, UnicodeDecodeError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        return None
    # Either the line of `Log.write` or that of `Log.validated`, in which all but the loss may have no value.
    rates, losses, validation = found.get("learning_rate"), found.get("losses", []), found.get("validation")
    whole = _are_numbers(rates) and isinstance(found.get("loss"), float | int)
    whole &= isinstance(losses, list) and all(isinstance(loss, float | int) for loss in losses)
    if isinstance(validation, dict) and isinstance(validation.get("loss"), float | int):
        known = {name: value for name, value in validation.items() if value is not None}
        whole |= "average_precision" in validation and _are_numbers(known)
    return found if whole else None


def _are_numbers(values: Any) -> bool:
    """Whether this is a dictionary of numbers."""
    return isinstance(values, dict) and all(isinstance(value, float | int) for value in values.values())


def _forget_after(step: int, path: Path) -> None:
    """Drops the lines beyond `step`, which a killed run had reached but not saved, and those that are damaged."""
    lines = _lines(path)
    if damaged := lines.count(None):
        count = "a line that is" if damaged == 1 else f"{damaged} lines that are"
        print(f"warning: dropped {count} damaged from {path}", file=sys.stderr, flush=True)
    kept = [line for line in lines if line is not None and line["step"] <= step]
    with staged(path) as stage:
        stage.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
