"""Runs work on Apache Beam, for collections that are too large for one machine.

All workers need a shared file system with the source and the output under the same paths. Results are passed through
files there, so that a failed pipeline can be resumed.
"""

import contextlib
import fcntl
import functools
import io
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import remove

_FULL = ".full"  # a file that a worker leaves when it cannot write
# Without the second option, Beam's local runner downloads a program and runs that instead.
_LOCAL = ("--runner=DirectRunner", "--allow_unsafe_triggers", "--default_sdk_harness_log_level=CRITICAL")

Outcome = dict[str, Any]  # JSON-able


def _work(work: Callable[[Any], Outcome], outcomes: Path, item: tuple[int, Any]) -> None:
    """Does `work` on an item and writes the outcome to a file, unless that exists.

    A runner may give an item to a second worker while the first is still alive. The second waits, and does the work
    only if the first has died.

    After one worker could not write, the others do nothing; otherwise Beam would log a traceback for each.
    """
    number, content = item
    outcome, full = outcomes / str(number), outcomes / _FULL
    try:
        with open(outcomes / f"{number}.lock", "w") as lock:
            with contextlib.suppress(OSError):  # on a file system without locks, both do the work
                fcntl.flock(lock, fcntl.LOCK_EX)
            if outcome.exists() or full.exists() or not outcomes.exists():
                return
            unfinished = outcomes / f".{number}.{secrets.token_hex(4)}"
            unfinished.write_text(json.dumps(work(content)), encoding="utf-8")
            os.replace(unfinished, outcome)
    except OSError as error:
        try:
            full.touch()  # works even where the disk has no room for text
        except OSError:
            raise error from None
        with contextlib.suppress(OSError):
            full.write_text(str(error))


def run(options: Sequence[str], items: Sequence[Any], work: Callable[[Any], Outcome], place: Path) -> list[Outcome]:
    """Does `work` on each item in a Beam pipeline.

    Args:
      options: pipeline options, as `--name=value`; Beam's local runner is used if they name none.
      items: what to work on; items and `work` are pickled for the workers.
      work: returns the outcome of an item; never runs twice at the same time for one item.
      place: a folder for this pipeline alone, on a file system that all workers share.

    Returns:
      the outcomes, in the order of the items.

    Raises:
      UserError: Beam is not installed, an option is wrong, or the pipeline failed.
      OSError: a worker could not write.
    """
    outcomes = place / "outcomes"
    remove(outcomes)  # left by a killed pipeline
    outcomes.mkdir()
    try:
        _run_pipeline(options, list(enumerate(items)), functools.partial(_work, work, outcomes))
        if (outcomes / _FULL).exists():
            raise OSError((outcomes / _FULL).read_text() or "the disk is full")
        try:
            return [json.loads((outcomes / str(number)).read_text(encoding="utf-8")) for number in range(len(items))]
        except FileNotFoundError:
            raise UserError(
                f"no result from a Beam worker in {outcomes}; check that all workers can read the films and write "
                "--output"
            ) from None
    finally:
        with contextlib.suppress(OSError):
            remove(outcomes)


def _run_pipeline(options: Sequence[str], items: Sequence[Any], work: Callable[[Any], None]) -> None:
    with _quiet():
        try:
            import apache_beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError:
            raise UserError(
                "Apache Beam is not installed; pip install 'avmsnet_jax[beam]', or leave --beam out"
            ) from None
        if not any(option.startswith("--runner") for option in options):
            options = [*_LOCAL, *options]
        told = io.StringIO()
        try:
            with contextlib.redirect_stderr(told):
                parsed = PipelineOptions(list(options))
                parsed.get_all_options()  # checks all options now; some would fail only when the pipeline runs
                pipeline = apache_beam.Pipeline(options=parsed)
        except (SystemExit, Exception) as error:  # argparse prints its usage and exits
            last = (told.getvalue().strip() or str(error)).splitlines()[-1]
            raise UserError(f"--beam: {last.split('error: ')[-1]}") from None
        _ = (
            pipeline
            | apache_beam.Create(items, reshuffle=False)
            | apache_beam.Reshuffle()  # otherwise a runner may give all items to one worker
            | "Work" >> apache_beam.Map(work)
        )
        try:
            pipeline.run().wait_until_finish()
        except Exception as error:  # each runner raises its own kind
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise UserError(f"the Beam pipeline failed: {last}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Beam's log; failures are reported by exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
