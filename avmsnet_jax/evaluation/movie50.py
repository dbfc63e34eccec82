"""Movie50's protocol: precision, recall and F at a threshold, over all clips of all films together."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax import storage, unforeseen
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.data.cache import local_records
from avmsnet_jax.evaluation import bootstrap, leakage, report
from avmsnet_jax.evaluation.plots import score_curve
from avmsnet_jax.evaluation.precision_recall import Agreement, average_precision, chance, precision_recall_f, reported
from avmsnet_jax.evaluation.report import file_name
from avmsnet_jax.scoring.network import Network
from avmsnet_jax.scoring.records import choose_threshold, score_split
from avmsnet_jax.weights import checkpoint

BASELINES = {
    "random": "a coin for each clip, as expected",
    "uniform": "all clips alike: every one is called key, which is the best F that guessing can reach",
    "human": "not known: the records hold a single judgement of each clip",
}

Clips = list[dict[str, Any]]


def evaluate(config: Config, directory: str, split: str, output: storage.Place) -> dict[str, Any]:
    """Evaluates a checkpoint on a split of prepared records and writes the results to `output`.

    Files: `metrics.json`, `report.md` (the same as tables), `videos.csv` (a line for each video),
    `scores/<video>.csv` (`frame,score,label`), `plots/<video>.png`, `precision_recall.png` and `calibration.png`.

    Args:
      config: `data` (the records), `mesh` and `eval` are used; the network's configuration is the checkpoint's.
      directory: a checkpoint, as for `avmsnet_jax.load`.
      split: the part of the records.
      output: a directory that does not exist yet or is empty, or such a place on a store.

    Returns:
      the contents of `metrics.json`.

    Raises:
      UserError: the checkpoint, the records or the output directory are unusable.
    """
    report.check_free(output)
    found = checkpoint.find(directory)
    known, note = leakage.note(config, found, config.data.fold, split)
    scorer = Network.load(str(found), config.mesh, config.eval.batch_size, fixed_groups=True)
    records = pipeline.open_split(local_records(config.data), split, scorer, config.data.fold)
    with storage.staged(output) as stage:  # before scoring, to fail early if it is not writable
        clips = score_split(config, scorer, records)
        threshold, origin = choose_threshold(config, scorer, config.data.fold, clips)
        by_video: dict[str, Clips] = defaultdict(list)
        for clip in clips:
            by_video[clip["video"]].append(clip)
        for rows in by_video.values():
            rows.sort(key=lambda row: row["frame"])
        facts = {
            "threshold": threshold,
            "threshold_from": origin,
            "split": split,
            "seen_in_training": known,
            "checkpoint": storage.shown(found),
            "records": config.data.dir,
            "dataset": pipeline.read_manifest(local_records(config.data))["dataset"],
        }
        films = {video: _film(rows, threshold) for video, rows in by_video.items()}
        metrics = _metrics(clips, films, threshold) | facts
        metrics["notes"] = [*([note] if note else []), *report.pooled_notes(metrics), *_film_notes(films)]
        if failed := _write_films(stage, by_video, metrics):
            metrics["failed"] = failed
        _write(stage, by_video, films, metrics)
    return metrics


def _film(rows: Clips, threshold: float) -> dict[str, Any]:
    """The figures of one film and the counts behind them."""
    scores, labels = _arrays(rows)
    called = scores >= threshold
    predicted, positive = int(called.sum()), int(labels.sum())
    return {
        "num_clips": len(rows),
        "num_key_clips": positive,
        "num_predicted": predicted,
        "num_right": int(np.sum(called & labels)),
        **reported(precision_recall_f(called, labels), predicted, positive),
        "average_precision": average_precision(scores, labels) if positive else None,
    }


def _film_notes(films: dict[str, dict[str, Any]]) -> list[str]:
    """Notes on films that do not count in the means over films."""
    keyless = sum(not film["num_key_clips"] for film in films.values())
    silent = sum(film["num_key_clips"] > 0 and not film["num_predicted"] for film in films.values())
    of = f"of the {report.counted(len(films), 'film')}"
    notes = []
    if keyless and keyless < len(films):
        notes.append(f"{keyless} {of} have no key moment, so they have no part in the means over films.")
    if silent and keyless + silent < len(films):
        notes.append(f"In {silent} {of} no score reaches the threshold, so they have no part in the mean precision.")
    return notes


def _metrics(clips: Clips, films: dict[str, dict[str, Any]], threshold: float) -> dict[str, Any]:
    scores, labels = _arrays(clips)
    pooled = report.pooled(scores, labels, scores >= threshold)
    coin, every = (reported(chance(labels, rate), rate * len(labels), labels.sum()) for rate in (0.5, 1.0))
    model = {field: pooled[field] for field in Agreement._fields}
    counts = np.array(
        [[film[name] for name in ("num_right", "num_predicted", "num_key_clips")] for film in films.values()]
    )
    return {
        **pooled,
        "chance": {"coin": coin, "every_clip": every},
        "protocol": "movie50",
        "num_films": len(films),
        "rows": {
            "model": model | {"interval": _intervals(counts, model)},
            "random": coin,
            "uniform": every,
            "human": None,
        },
        "baselines": BASELINES,
        "films": {
            field: bootstrap.over_videos(np.array([film[field] for film in films.values()], np.float64))
            for field in (*Agreement._fields, "average_precision")
        },
    }


def _intervals(counts: np.ndarray, pooled: dict[str, float | None]) -> dict[str, list[float] | None]:
    """The 95% intervals of the figures over all clips by bootstrap over films; None for undefined figures.

    Args:
      counts: (V, 3) true positives, predicted clips and key clips of each film.
      pooled: precision, recall and F over all clips.
    """

    def ratio(above: tuple[int, ...], below: tuple[int, ...]) -> list[float] | None:
        def of(draws: np.ndarray) -> np.ndarray:
            totals = draws @ counts
            over, under = totals[:, above].sum(axis=1), totals[:, below].sum(axis=1)
            return np.divide(over, under, out=np.full(len(draws), np.nan), where=(under > 0) & (totals[:, 2] > 0))

        return bootstrap.resampled(len(counts), of)

    # F = 2 true positives / (predicted + key).
    ratios = {"precision": ((0,), (1,)), "recall": ((0,), (2,)), "fscore": ((0, 0), (1, 2))}
    return {name: None if pooled[name] is None else ratio(*columns) for name, columns in ratios.items()}


def summary(metrics: dict[str, Any]) -> str:
    """The figures of `evaluate` as a table for the terminal."""
    header, rows = _table(metrics)
    named = {
        "model": "model",
        "random": "random: a coin for each clip",
        "uniform": "uniform: every clip is key",
    }
    lines = [[named[row[0]], *(cell.split(" ")[0] for cell in row[1:])] for row in rows if row[0] in named]
    return "\n".join([report.text_table(header, lines), report.pooled_sentence(metrics), *metrics["notes"]])


def markdown(metrics: dict[str, Any]) -> str:
    """`metrics.json` as tables."""
    films = [
        [field.replace("_", " "), report.cell(found), str(found["count"] if found else 0)]
        for field, found in metrics["films"].items()
    ]
    count = report.counted(metrics["num_films"], "film")
    bootstrap = f"bootstrap over {count}" if metrics["num_films"] > 1 else "none, as there is one film"
    return (
        "\n\n".join(
            [
                "# Key moments",
                f"Data set {metrics['dataset']} ({metrics['records']}), split {metrics['split']}, checkpoint "
                f"{metrics['checkpoint']}. A clip is called key if its score reaches the threshold.",
                *metrics["notes"],
                "## All clips of all films pooled",
                report.markdown_table(*_table(metrics)),
                f"[95% interval: {bootstrap}]",
                report.pooled_sentence(metrics),
                f"## Mean over {count}",
                report.markdown_table(["", "mean ± standard deviation [95% interval]", "films"], films),
                "## What is what",
                "\n".join(f"- **{row}**: {meaning}." for row, meaning in BASELINES.items()),
            ]
        )
        + "\n"
    )


def _table(metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, row in metrics["rows"].items():
        cells = ["-"] * 3 if row is None else [report.figure(row[field]) for field in Agreement._fields]
        if row is not None and "interval" in row:
            intervals = [row["interval"][field] for field in Agreement._fields]
            cells = [
                f"{cell} [{edges[0]:.3f}, {edges[1]:.3f}]" if edges else cell
                for cell, edges in zip(cells, intervals, strict=True)
            ]
        rows.append([name, *cells])
    return ["", "precision", "recall", "F"], rows


def _write_films(stage: Path, by_video: dict[str, Clips], metrics: dict[str, Any]) -> dict[str, str]:
    """Writes and draws the scores of each film; returns unexpected errors by film."""
    stage.mkdir()
    failed: dict[str, str] = {}
    for video, rows in by_video.items():
        name = file_name(video)
        frames, labels = [row["frame"] for row in rows], [row["label"] for row in rows]
        report.write_scores(stage / "scores" / f"{name}.csv", frames, [row["score"] for row in rows], labels)
        with unforeseen.noted(video, failed):
            score_curve(rows, metrics["threshold"], report.context(metrics), stage / "plots" / f"{name}.png")
    return failed


def _write(stage: Path, by_video: dict[str, Clips], films: dict[str, dict[str, Any]], metrics: dict[str, Any]) -> None:
    fields = list(next(iter(films.values())))
    lines = [[video, *(film[field] for field in fields)] for video, film in films.items()]
    report.write_table(stage / "videos.csv", ["video", *fields], lines)
    every = [row for rows in by_video.values() for row in rows]
    report.write_plots(stage, report.context(metrics), *_arrays(every), metrics["threshold"])
    report.write_json(stage / "metrics.json", metrics)
    (stage / "report.md").write_text(markdown(metrics), encoding="utf-8")


def _arrays(clips: Clips) -> tuple[np.ndarray, np.ndarray]:
    """(N,) float64 scores and (N,) bool labels."""
    return np.array([clip["score"] for clip in clips]), np.array([clip["label"] for clip in clips], bool)
