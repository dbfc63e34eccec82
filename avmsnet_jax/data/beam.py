"""The same work on Apache Beam, for collections that outgrow a machine.

Workers need to see the source and the output under the same paths, on a file system that they share.
What they did is read from there, so that a pipeline that failed goes on where it stopped.
"""

import contextlib
import dataclasses
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from avmsnet_jax.data import pack as packing
from avmsnet_jax.data.film import Cut, Prepared, finished, stage
from avmsnet_jax.data.sources import Skipped, Video
from avmsnet_jax.errors import UserError

# Beam's own choice among its local runners begins with fetching a program from the network.
_LOCAL = "--runner=FnApiRunner"


def stage_films(
    tasks: Sequence[tuple[Video, Path]],
    cut: Cut,
    options: Sequence[str],
    on_film: Callable[[int, Prepared | Skipped], Any],
) -> None:
    """Stages films, as `crew.stage_films` does, in a Beam pipeline.

    Args:
      tasks: the films, and the folders that their records go to.
      cut: how they are cut.
      options: the pipeline's, as `--name=value`; without a runner among them, Beam's local one.
      on_film: called with the number of each task and what became of it, when all are through.

    Raises:
      UserError: Beam is not installed, an option is wrong, or the pipeline failed.
    """
    _run(options, tasks, _Stage(cut))
    for number, (_, folder) in enumerate(tasks):
        outcome: Prepared | Skipped | None = finished(folder)
        if outcome is None:
            outcome = Skipped(**json.loads(_reason(folder).read_text()))
            _reason(folder).unlink()
        on_film(number, outcome)


def pack(place: Path, plan: packing.Plan, options: Sequence[str]) -> None:
    """Packs the shards of a plan, in a Beam pipeline. See `stage_films`."""
    shards = [(split, number) for split in plan.shards for number in range(len(plan.shards[split]))]
    _run(options, shards, _Pack(place))


@dataclasses.dataclass(frozen=True)
class _Stage:
    cut: Cut

    def __call__(self, task: tuple[Video, Path]) -> None:
        video, folder = task
        if finished(folder):  # Beam may give a film again
            return
        outcome = stage(video, self.cut, folder, lambda: None)
        if isinstance(outcome, Skipped):
            temporary = _reason(folder).with_name(f".{folder.name}.{os.getpid()}")
            temporary.write_text(json.dumps(dataclasses.asdict(outcome)))
            os.replace(temporary, _reason(folder))


@dataclasses.dataclass(frozen=True)
class _Pack:
    place: Path

    def __call__(self, shard: tuple[str, int]) -> None:
        plan = packing.load_plan(self.place / "plan.json")
        assert plan is not None
        packing.pack_shard(self.place, plan, *shard)


def _reason(folder: Path) -> Path:
    """Where a worker leaves word why it could not stage a film."""
    return folder.with_name(f"{folder.name}.skipped")


def _run(options: Sequence[str], items: Sequence[Any], work: Callable[[Any], None]) -> None:
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError("Apache Beam is not installed; pip install 'avmsnet_jax[beam]', or leave --beam out") from None
    if not items:
        return
    with _quiet():
        try:
            told = io.StringIO()
            with contextlib.redirect_stderr(told):
                parsed = PipelineOptions([_LOCAL, *options])
                pipeline = apache_beam.Pipeline(options=parsed)
        except (SystemExit, ValueError, TypeError) as error:  # argparse exits, after an account of all its options
            last = (told.getvalue().strip().splitlines() or [str(error)])[-1]
            raise UserError(f"--beam: {last.split('error: ')[-1]}") from None
        try:
            # Reshuffled, as a runner would do all films of one Create in one place, one after the other.
            _ = pipeline | apache_beam.Create(items, reshuffle=False) | apache_beam.Reshuffle() | apache_beam.Map(work)
            pipeline.run().wait_until_finish()
        except Exception as error:  # whatever its runners raise
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise UserError(f"the Beam pipeline failed: {last}; the films that are finished are kept") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Beam's accounts of its inner life to itself; what matters comes as an exception."""
    logger = logging.getLogger("apache_beam")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
