"""Turns films into records, and packs the records into shards, on Apache Beam."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from avmsnet_jax import beam
from avmsnet_jax.data import pack as packing
from avmsnet_jax.data.film import Cut, Prepared, finished, stage
from avmsnet_jax.data.sources import Skipped, Video
from avmsnet_jax.errors import UserError


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
      on_film: called with the number of each task and what became of it, once all are done.

    Raises:
      UserError: Beam is not installed, an option is wrong, or the pipeline failed.
    """
    if not tasks:
        return
    skipped = beam.run(options, tasks, functools.partial(_stage, cut), tasks[0][1].parent.parent)
    for number, (_, folder) in enumerate(tasks):
        prepared = finished(folder)
        if prepared is None and not skipped[number]:
            raise UserError(f"{folder} is missing, though a Beam worker wrote it; all workers need to see the output")
        on_film(number, prepared or Skipped(**skipped[number]))


def pack(place: Path, plan: packing.Plan, options: Sequence[str]) -> None:
    """Packs the shards of a plan, which is saved in the working place, in a Beam pipeline. See `stage_films`."""
    shards = [(split, number) for split in plan.shards for number in range(len(plan.shards[split]))]
    beam.run(options, shards, functools.partial(_pack, place), place)


def _stage(cut: Cut, task: tuple[Video, Path]) -> beam.Outcome:
    video, folder = task
    outcome = finished(folder) or stage(video, cut, folder, lambda: None)
    return dataclasses.asdict(outcome) if isinstance(outcome, Skipped) else {}


def _pack(place: Path, shard: tuple[str, int]) -> beam.Outcome:
    plan = packing.load_plan(place / packing.PLAN)
    assert plan is not None
    packing.pack_shard(place, plan, *shard)
    return {}
