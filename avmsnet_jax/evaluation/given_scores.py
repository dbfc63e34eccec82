"""Evaluates the scores of any model against TVSum's or SumMe's annotations; without a network, and without videos."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avmsnet_jax import storage
from avmsnet_jax.errors import UserError, few
from avmsnet_jax.evaluation import annotations, comparison, report
from avmsnet_jax.evaluation.comparison import ALL, Trial
from avmsnet_jax.evaluation.score_files import Scored, read_scores


def evaluate(
    paths: Sequence[Path],
    scores: Path | None,
    protocol: str,
    splits: Path | None,
    threshold: float,
    output: storage.Place,
) -> dict[str, Any]:
    """Evaluates scores of any model, or the baselines alone; `comparison.run` lists the files it writes.

    Args:
      paths: the annotations, see `annotations.read_annotations`.
      scores: see `score_files.read_scores`; None = baselines only.
      protocol: tvsum or summe; empty = that of the annotations.
      splits: a JSON file of the folds; None = see `annotations.read_annotations`.
      threshold: the lowest score at which a frame is predicted key.
      output: a directory that does not exist yet or is empty, or such a place on a store.

    Returns:
      the contents of `metrics.json`.

    Raises:
      UserError: a file is missing or broken, or lacks the scores of a tested video.
    """
    report.check_free(output)
    benchmark = annotations.read_annotations(paths, protocol, splits)
    tests = {f"fold {number}": fold["test"] for number, fold in enumerate(benchmark.folds)}
    scored: dict[str, Mapping[str, Scored]] = {}
    videos = list(benchmark.videos)
    if scores is not None:
        scored = _divided(read_scores(scores, videos), tests, [video.name for video in videos], scores)
        named = {name for split, part in scored.items() for name in (part if split == ALL else tests[split])}
        videos = [video for video in videos if video.name in named]
        if not videos:
            raise UserError(f"no split of {splits or scores} tests a video; list some as test_keys")
    facts = {
        "scores": None if scores is None else str(scores),
        "annotations": [str(path) for path in paths],
        "threshold_from": "eval.threshold",
        "shots": "given" if all(video.shots is not None for video in videos) else "not known of every video",
    }
    with storage.staged(output) as stage:
        thresholds = dict.fromkeys(scored, threshold)
        return comparison.run(Trial(benchmark.protocol, videos, tests, scored, thresholds, facts), stage)


def _divided(
    tables: Sequence[Mapping[str, Scored]], tests: Mapping[str, Sequence[str]], videos: Sequence[str], source: Path
) -> dict[str, Mapping[str, Scored]]:
    """The scores of `read_scores` by split or `ALL`; raises UserError if some are missing."""
    if len(tables) not in (1, len(tests)):
        raise UserError(
            f"{source} has scores for {len(tables)} splits of {len(tests)}; give all of them, or one for all"
        )
    divided = {ALL: tables[0]} if len(tables) == 1 else dict(zip(tests, tables, strict=True))
    for split, part in divided.items():
        wanted = videos if split == ALL else tests[split]
        if split == ALL and all(name in part for names in tests.values() for name in names):
            continue  # videos outside all splits need no scores
        if missing := [name for name in wanted if name not in part]:
            where = f", {split}," if split != ALL else ""
            raise UserError(f"{source}{where} has no scores of {few(missing)}; add them")
    return divided
