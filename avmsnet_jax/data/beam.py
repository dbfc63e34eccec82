"""The same work on Apache Beam, for collections that outgrow a machine.

Workers need to see the source and the output under the same paths, on a file system that they share.
What they did is read from there, so that a pipeline that failed goes on where it stopped.
"""

import contextlib
import dataclasses
import functools
import io
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from avmsnet_jax.data import pack as packing
from avmsnet_jax.data.film import Cut, Prepared, finished, stage
from avmsnet_jax.data.sources import Skipped, Video
from avmsnet_jax.errors import UserError

_FULL = ".full"  # in the working place: a worker could not write there
# Without the second, the local runner of today first fetches a program from the network, to run that instead.
_LOCAL = ("--runner=DirectRunner", "--allow_unsafe_triggers", "--default_sdk_harness_log_level=CRITICAL")


def stage_films(
    tasks: Sequence[tuple[Video, Path]],
    cut: Cut,
    options: Sequence[str],
    on_film: Callable[[int, Prepared | Skipped], Any],
) -> None:
    """Stages films, as `process_pool.stage_films` does, in a Beam pipeline.

    Args:
      tasks: the films, and the folders that their records go to.
      cut: how they are cut.
      options: the pipeline's, as `--name=value`; without a runner among them, Beam's local one.
      on_film: called with the number of each task and what became of it, when all are through.

    Raises:
      UserError: Beam is not installed, an option is wrong, or the pipeline failed.
    """
    if not tasks:
        return
    run(options, tasks, functools.partial(_stage, cut), tasks[0][1].parent.parent)
    for number, (_, folder) in enumerate(tasks):
        outcome: Prepared | Skipped | None = finished(folder)
        if outcome is None:
            try:
                outcome = Skipped(**json.loads(_reason(folder).read_text()))
            except FileNotFoundError:
                raise UserError(
                    f"no Beam worker left word in {folder.parent}; all workers need to see source and output"
                ) from None
            _reason(folder).unlink()
        on_film(number, outcome)


def pack(place: Path, plan: packing.Plan, options: Sequence[str]) -> None:
    """Packs the shards of a plan, which is saved in the working place, in a Beam pipeline. See `stage_films`."""
    shards = [(split, number) for split in plan.shards for number in range(len(plan.shards[split]))]
    run(options, shards, functools.partial(_pack, place), place)


def _stage(cut: Cut, task: tuple[Video, Path]) -> None:
    video, folder = task
    if finished(folder):  # Beam may give a film again
        return
    outcome = stage(video, cut, folder, lambda: None)
    if isinstance(outcome, Skipped):
        temporary = _reason(folder).with_name(f".{folder.name}.{secrets.token_hex(4)}")
        temporary.write_text(json.dumps(dataclasses.asdict(outcome)))
        os.replace(temporary, _reason(folder))


def _pack(place: Path, shard: tuple[str, int]) -> None:
    plan = packing.load_plan(place / packing.PLAN)
    assert plan is not None
    packing.pack_shard(place, plan, *shard)


def _reason(folder: Path) -> Path:
    """Where a worker leaves word why it could not stage a film."""
    return folder.with_name(f"{folder.name}.skipped")


def _unless_full(place: Path, work: Callable[[Any], None], item: Any) -> None:
    """Works, until a worker finds that the place cannot be written: Beam itself would give a traceback of each."""
    if (place / _FULL).exists():
        return
    try:
        work(item)
    except OSError as error:
        try:
            (place / _FULL).touch()  # even where there is no room for a word
        except OSError:
            raise error from None
        with contextlib.suppress(OSError):
            (place / _FULL).write_text(str(error))


def run(options: Sequence[str], items: Sequence[Any], work: Callable[[Any], None], place: Path) -> None:
    """Does `work` on each item in a Beam pipeline; see `stage_films` for the options.

    Args:
      options: the pipeline's.
      items: what can be sent to another machine; so can `work`.
      work: whatever it does lies on the file system that workers share.
      place: a folder there.

    Raises:
      UserError: Beam is not installed, an option is wrong, or the pipeline failed.
      OSError: a worker could not write.
    """
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
                parsed.get_all_options()  # or some are looked at only as it runs
                pipeline = apache_beam.Pipeline(options=parsed)
        except (SystemExit, Exception) as error:  # argparse exits, after an account of all its options
            last = (told.getvalue().strip() or str(error)).splitlines()[-1]
            raise UserError(f"--beam: {last.split('error: ')[-1]}") from None
        _ = (
            pipeline
            | apache_beam.Create(items, reshuffle=False)
            | apache_beam.Reshuffle()  # or a runner would do all items in one place, one after the other
            | "Work" >> apache_beam.Map(functools.partial(_unless_full, place, work))
        )
        try:
            pipeline.run().wait_until_finish()
        except Exception as error:  # whatever its runners raise
            last = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise UserError(f"the Beam pipeline failed: {last}") from error
    if (place / _FULL).exists():
        reason = (place / _FULL).read_text()
        (place / _FULL).unlink()
        raise OSError(reason or "no room for a word about it")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Beam's accounts of its inner life to itself; what matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
