"""Movie50's protocol: precision, recall and F at a threshold, over all clips of all films together."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax import storage, unforeseen
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.data.cache import local_records
from avmsnet_jax.data.manifest import read_manifest
from avmsnet_jax.evaluation import baselines, bootstrap, gaze, leakage, report
from avmsnet_jax.evaluation.plots import score_curve
from avmsnet_jax.evaluation.precision_recall import Agreement, average_precision, chance, precision_recall_f, reported
from avmsnet_jax.evaluation.report import file_name
from avmsnet_jax.scoring.attention import Attention
from avmsnet_jax.scoring.network import Network
from avmsnet_jax.scoring.records import choose_threshold, rows_by_video, score_split
from avmsnet_jax.scoring.scorer import Scorer
from avmsnet_jax.weights import location

BASELINES = {
    "random": "a coin for each clip, as expected",
    "uniform": "every clip is called key, which is the best F that guessing can reach",
    "human": "not known: the records hold a single judgment of each clip",
}
_HUMAN_BY_GAZE = (
    "key clips by the gaze of one half of the viewers against those by the other half; correlation: the square root of "
    "the curve's split-half reliability, which no model can be expected to exceed"
)

Clips = list[dict[str, Any]]


def evaluate(config: Config, directory: str, split: str, output: storage.Place) -> dict[str, Any]:
    """Evaluates a checkpoint and the attention scorer on a split of prepared records; writes the results to `output`.

    Files: `metrics.json`, `report.md` (the same as tables), `videos.csv` (a line for each video),
    `scores/<video>.csv` (`frame,score,label`), `plots/<video>.png`, `precision_recall.png` and `calibration.png`. They
    are of the checkpoint's scores; without a checkpoint, of the attention scorer's.

    Args:
      config: `data` (the records), `mesh` and `eval` are used; the network's configuration is the checkpoint's.
      directory: a checkpoint, as for `avmsnet_jax.load`; empty = the attention scorer alone.
      split: the part of the records.
      output: a directory that does not exist yet or is empty, or such a place on a store.

    Returns:
      the contents of `metrics.json`.

    Raises:
      UserError: the checkpoint, the records or the output directory are unusable.
    """
    report.check_free(output)
    found = location.find(directory) if directory else None
    known, note = leakage.note(config, found, config.data.fold, split) if found else (False, "")
    scorers: dict[str, Scorer] = {}
    if found:
        scorers["model"] = Network.load(str(found), config.mesh, config.eval.batch_size, fixed_groups=True)
    directory_of_records = local_records(config.data)
    records = pipeline.open_split(directory_of_records, split, scorers.get("model"), config.data.fold)
    manifest = read_manifest(directory_of_records)
    scorers["attention"] = Attention(manifest.frames, manifest.frame_size)
    viewers = gaze.of_records(directory_of_records)
    clips: dict[str, Clips] = {}
    thresholds: dict[str, float] = {}
    with storage.staged(output) as stage:  # before scoring, to fail early if it is not writable
        for name, scorer in scorers.items():
            clips[name] = score_split(config, scorer, records, functools.partial(_reduced, viewers, name))
            thresholds[name], origin = choose_threshold(config, scorer, config.data.fold, clips[name])
        facts = {
            "threshold_from": origin,
            "split": split,
            "seen_in_training": known,
            "checkpoint": storage.shown(found) if found else None,
            "records": config.data.dir,
            "dataset": manifest.dataset,
        }
        first = next(iter(scorers))
        threshold, by_video = thresholds[first], rows_by_video(clips[first])
        films = {video: _film(rows, threshold) for video, rows in by_video.items()}
        metrics = _metrics(clips, films, thresholds) | facts
        if viewers:
            _add_gaze(metrics, viewers, clips)
        metrics["notes"] = [*([note] if note else []), *report.pooled_notes(metrics), *_film_notes(films)]
        beside = rows_by_video(clips["attention"]) if found else {}
        if failed := _write_films(stage, by_video, beside, metrics):
            metrics["failed"] = failed
        _write(stage, by_video, beside, films, metrics)
    return metrics


def _reduced(viewers: gaze.Viewers | None, name: str, row: dict[str, Any]) -> dict[str, Any]:
    """A clip's row with its attention maps judged by gaze, where it is known, and without features."""
    kept = {field: value for field, value in row.items() if field not in ("features", "attention")}
    if viewers:
        if name == "model":
            maps = {f"DAM {number}": each for number, each in enumerate(row["attention"], start=1)}
        else:
            maps = {"attention": row["attention"][0], gaze.CENTER: gaze.center_map()}
        kept["judged"] = gaze.judge(viewers, row, maps)
    return kept


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


def _metrics(
    clips: Mapping[str, Clips], films: dict[str, dict[str, Any]], thresholds: Mapping[str, float]
) -> dict[str, Any]:
    """The figures of the first scorer, and the rows of all.

    Args:
      clips: by the scorer's row.
      films: see `_film`, of the first scorer.
      thresholds: by row.
    """
    first = next(iter(clips))
    scores, labels = _arrays(clips[first])
    coin, every = (reported(chance(labels, rate), rate * len(labels), labels.sum()) for rate in (0.5, 1.0))
    return {
        **report.pooled(scores, labels, scores >= thresholds[first]),
        "threshold": thresholds[first],
        "chance": {"coin": coin, "every_clip": every},
        "protocol": "movie50",
        "num_films": len(films),
        "rows": {name: _row(rows, thresholds[name]) for name, rows in clips.items()}
        | {"random": coin, "uniform": every, "human": None},
        "baselines": {"attention": baselines.ATTENTION} | BASELINES,
        "films": {
            field: bootstrap.over_videos(np.array([film[field] for film in films.values()], np.float64))
            for field in (*Agreement._fields, "average_precision")
        },
    }


def _row(clips: Clips, threshold: float) -> dict[str, Any]:
    """A scorer's row of the table."""
    scores, labels = _arrays(clips)
    found = report.pooled(scores, labels, scores >= threshold)
    films = [_film(rows, threshold) for rows in rows_by_video(clips).values()]
    counts = np.array([[film[name] for name in ("num_right", "num_predicted", "num_key_clips")] for film in films])
    row = {field: found[field] for field in (*Agreement._fields, "average_precision")}
    return row | {"threshold": threshold, "interval": _intervals(counts, row)}


def _add_gaze(metrics: dict[str, Any], viewers: gaze.Viewers, clips: Mapping[str, Clips]) -> None:
    """Adds the figures that need gaze: the human row, correlations with the curve, figures of attention maps."""
    for name, rows in clips.items():
        metrics["rows"][name]["correlation"] = gaze.correlation(viewers, rows)
    metrics["rows"]["human"] = gaze.human(viewers, clips["attention"])
    metrics["baselines"] |= {"human": _HUMAN_BY_GAZE}
    every = [row for rows in clips.values() for row in rows]
    metrics["saliency"] = {"all clips": gaze.summarized(every)}
    metrics["saliency"]["key clips"] = gaze.summarized([row for row in every if row["label"]])
    metrics["saliency_measures"] = gaze.MEASURES


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
    """The figures of `evaluate` as tables for the terminal."""
    header, rows = _table(metrics)
    named = {"random": "random: a coin for each clip", "uniform": "uniform: every clip is key"}
    lines = [
        [named.get(row[0], row[0]), *(cell.split(" ")[0] for cell in row[1:])]
        for row in rows
        if metrics["rows"][row[0]] is not None
    ]
    parts = [report.text_table(header, lines), report.pooled_sentence(metrics), *metrics["notes"]]
    for part, figures in metrics.get("saliency", {}).items():
        parts += [f"Attention maps against gaze, {part}", report.text_table(*_saliency_table(figures, short=True))]
    return "\n".join(parts)


def markdown(metrics: dict[str, Any]) -> str:
    """`metrics.json` as tables."""
    films = [
        [field.replace("_", " "), report.cell(found), str(found["count"] if found else 0)]
        for field, found in metrics["films"].items()
    ]
    count = report.counted(metrics["num_films"], "film")
    intervals = f"bootstrap over {count}" if metrics["num_films"] > 1 else "none, as there is one film"
    scorer = f"checkpoint {metrics['checkpoint']}" if metrics["checkpoint"] else "the attention scorer, no checkpoint"
    meanings = dict(metrics["baselines"])
    parts = [
        "# Key moments",
        f"Data set {metrics['dataset']} ({metrics['records']}), split {metrics['split']}, {scorer}. A clip is called "
        "key if its score reaches the threshold.",
        *metrics["notes"],
        "## All clips of all films pooled",
        report.markdown_table(*_table(metrics)),
        f"[95% interval: {intervals}]",
        report.pooled_sentence(metrics),
        f"## Mean over {count}",
        report.markdown_table(["", "mean ± standard deviation [95% interval]", "films"], films),
    ]
    if metrics.get("saliency"):
        for part, figures in metrics["saliency"].items():
            table = report.markdown_table(*_saliency_table(figures, short=False))
            parts += [f"## Attention maps against gaze, {part}", table]
        parts += [
            f"Mean ± standard deviation over films of the mean over a film's clips [95% interval: {intervals}]. "
            f"DAM 1 is the network's first attention module; {gaze.CENTER} is a Gaussian about the middle.",
        ]
        meanings |= metrics["saliency_measures"]
    parts += ["## Definitions", "\n".join(f"- **{row}**: {meaning}." for row, meaning in meanings.items())]
    return "\n\n".join(parts) + "\n"


def _table(metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    columns = {"precision": "precision", "recall": "recall", "fscore": "F", "average_precision": "average precision"}
    if metrics.get("saliency"):
        columns |= {"correlation": "correlation with gaze"}
    rows = []
    for name, row in metrics["rows"].items():
        cells = []
        for field in columns:
            cell = report.figure((row or {}).get(field))
            edges = (row or {}).get("interval", {}).get(field)
            cells.append(f"{cell} [{edges[0]:.3f}, {edges[1]:.3f}]" if edges else cell)
        rows.append([name, *cells])
    return ["", *columns.values()], rows


def _saliency_table(maps: dict[str, Any], short: bool) -> tuple[list[str], list[list[str]]]:
    rows = [[name, *(report.cell(found, short=short) for found in figures.values())] for name, figures in maps.items()]
    return ["map", "NSS", "CC", "AUC-Judd", "shuffled AUC"], rows


def _write_films(
    stage: Path, by_video: dict[str, Clips], beside: dict[str, Clips], metrics: dict[str, Any]
) -> dict[str, str]:
    """Writes and draws the scores of each film; returns unexpected errors by film."""
    stage.mkdir()
    failed: dict[str, str] = {}
    for video, rows in by_video.items():
        name = file_name(video)
        frames, labels = [row["frame"] for row in rows], [row["label"] for row in rows]
        report.write_scores(stage / "scores" / f"{name}.csv", frames, [row["score"] for row in rows], labels)
        with unforeseen.noted(video, failed):
            attention = [row["score"] for row in beside.get(video, ())]
            path = stage / "plots" / f"{name}.png"
            score_curve(rows, metrics["threshold"], report.context(metrics), path, attention)
    return failed


def _write(
    stage: Path,
    by_video: dict[str, Clips],
    beside: dict[str, Clips],
    films: dict[str, dict[str, Any]],
    metrics: dict[str, Any],
) -> None:
    fields = list(next(iter(films.values())))
    lines = [[video, *(film[field] for field in fields)] for video, film in films.items()]
    report.write_table(stage / "videos.csv", ["video", *fields], lines)
    scores, labels = _arrays([row for rows in by_video.values() for row in rows])
    attention = _arrays([row for rows in beside.values() for row in rows])[0]
    report.write_plots(stage, report.context(metrics), scores, labels, metrics["threshold"], attention)
    report.write_json(stage / "metrics.json", metrics)
    (stage / "report.md").write_text(markdown(metrics), encoding="utf-8")


def _arrays(clips: Clips) -> tuple[np.ndarray, np.ndarray]:
    """(N,) float64 scores and (N,) bool labels."""
    return np.array([clip["score"] for clip in clips]), np.array([clip["label"] for clip in clips], bool)
