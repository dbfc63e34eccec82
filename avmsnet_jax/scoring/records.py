"""Scores prepared records, and chooses the threshold at which a clip counts as key."""

import contextlib
import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.data.cache import local_records
from avmsnet_jax.data.clips import Clip
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation.precision_recall import best_threshold
from avmsnet_jax.scoring.scorer import Measured, Scorer, finish

Row = dict[str, Any]


def score_records(
    scorer: Scorer, records: pipeline.Records, *, threads: int, workers: int = 0
) -> Iterator[dict[str, Any]]:
    """Scores every clip of `records` once, film by film.

    Args:
      scorer: the scorer; a `Network` with `fixed_groups` gives the same bits for every batch size.
      records: an opened split.
      threads: threads that read ahead, in each worker if there are any.
      workers: processes that read ahead; 0 = threads of this process.

    Yields:
      for each clip: `video` str, `frame` int, `time_s` float, `score` float in 0-1, `label` bool or, for an unlabeled
      film, None, `features` (C,) float32, and `attention`, the maps (h, w) of its attention modules.

    Raises:
      UserError: the scores are NaN.
    """
    batches = pipeline.eval_batches(records, batch_size=scorer.batch_size, threads=threads, workers=workers)
    with contextlib.closing(batches):
        stretches = _stretches(scorer, batches)
        for video, film in itertools.groupby(stretches, key=lambda stretch: stretch[0]):
            parts = list(film)
            found = finish(scorer, [measured for _, _, measured in parts], video)
            rows = [row for _, rows, _ in parts for row in rows]
            for row, score, features, *maps in zip(rows, found.scores, found.features, *found.attention, strict=True):
                yield row | {"score": float(score), "features": features, "attention": maps}


def _stretches(scorer: Scorer, batches: Iterable[pipeline.Batch]) -> Iterator[tuple[str, list[Row], Measured]]:
    """Divides each batch by film: yields the film's name, its clips' rows, and their measurements."""
    for batch in batches:
        real = range(int(batch["mask"].sum()))  # the padding of the last batch comes after the clips
        measured = scorer.measure([_clip(batch, index) for index in real])
        for video, indices in itertools.groupby(real, key=lambda index: str(batch["video"][index])):
            members = list(indices)
            part = slice(members[0], members[-1] + 1)
            rows = [_row(batch, index) for index in members]
            yield video, rows, {name: array[part] for name, array in measured.items()}


def _clip(batch: pipeline.Batch, index: int) -> Clip:
    return Clip(
        frame=int(batch["frame"][index]),
        time_s=float(batch["time_s"][index]),
        clip=batch["clip"][index],
        sound=batch["sound"][index],
        has_sound=bool(batch["has_sound"][index]),
    )


def _row(batch: pipeline.Batch, index: int) -> Row:
    label = batch["label"][index]
    return {
        "video": str(batch["video"][index]),
        "frame": int(batch["frame"][index]),
        "time_s": float(batch["time_s"][index]),
        "label": None if np.isnan(label) else bool(label),
    }


def score_split(
    config: Config, scorer: Scorer, records: pipeline.Records, reduce: Callable[[Row], Row] = dict
) -> list[Row]:
    """Scores every clip of an opened split, with a progress bar.

    Args:
      config: `data` says how records are read.
      scorer: the scorer.
      records: the split.
      reduce: selects what to keep of a row, as the attention maps of all clips may not fit into memory.

    Returns:
      what `reduce` returns for the rows of `score_records`, without `attention`.

    Raises:
      UserError: there are no clips, or they have no labels.
    """
    pipeline.check_labeled(records)
    if not len(records):
        raise UserError(f"{records.directory} has no clips in split {records.split}, fold {records.fold}; test another")
    scored = score_records(scorer, records, threads=config.data.threads, workers=config.data.workers)
    rows = []
    for row in tqdm(scored, desc=scorer.name, total=len(records), unit="clip", disable=not sys.stderr.isatty()):
        kept = reduce(row)
        kept.pop("attention", None)
        rows.append(kept)
    return rows


def rows_by_video(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of `score_split` for each video, in order of time."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["video"]].append(row)
    for part in found.values():
        part.sort(key=lambda row: row["frame"])
    return found


def choose_threshold(config: Config, scorer: Scorer, fold: int, judged: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """The score at which a clip counts as key: `eval.threshold`, or the best one on `eval.threshold_split`.

    The threshold is never chosen on the clips that it is applied to, which would bias the result.

    Args:
      config: the configuration.
      scorer: the scorer.
      fold: index of the fold.
      judged: the tested clips, as `score_records` yields them.

    Returns:
      the threshold, and its origin.

    Raises:
      UserError: the other split has some of the same clips, or no key clip.
    """
    split = config.eval.threshold_split
    if not split:
        return config.eval.threshold, "eval.threshold"
    clips = score_split(config, scorer, pipeline.open_split(local_records(config.data), split, scorer, fold))
    same = {(clip["video"], clip["frame"]) for clip in clips} & {(clip["video"], clip["frame"]) for clip in judged}
    if same:
        raise UserError(
            f"eval.threshold_split={split} has clips of {min(same)[0]} that are to be judged by the threshold; choose "
            "it on other films, or leave it out for --config.eval.threshold"
        )
    if not any(clip["label"] for clip in clips):
        raise UserError(
            f"no clip of eval.threshold_split={split} in {config.data.dir} is a key moment, so no threshold is better "
            "than another there; choose a split that has key moments, or leave it out for --config.eval.threshold"
        )
    return best_threshold([clip["score"] for clip in clips], [clip["label"] for clip in clips])[0], f"split {split}"
