"""Writes results: the CSV, JSON, Markdown tables and plots of all protocols."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax import storage
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import plots
from avmsnet_jax.evaluation.calibration import calibration
from avmsnet_jax.evaluation.precision_recall import average_precision, precision_recall_f, reported

Figures = dict[str, Any]  # what `bootstrap.over_videos` and `bootstrap.over_splits` return


def file_name(video: str) -> str:
    """A file name for `video`: slashes become %2F, so that it stays in its folder. Names stay distinct."""
    return re.sub("/|%(?=2F|25)", lambda found: f"%{ord(found[0]):02X}", video)


def check_free(output: storage.Place) -> None:
    """Raises UserError if the results would replace something."""
    if storage.taken(output):
        raise UserError(f"{output} exists and is not an empty directory; choose another --output or remove it")


def pooled(scores: np.ndarray, labels: np.ndarray, called: np.ndarray) -> dict[str, Any]:
    """Precision, recall, F, average precision and calibration of all clips together; None for undefined figures.

    Undefined are: the first four if no clip is key, precision if no score reaches the threshold, and
    `calibration_error` if scores are not in 0-1. `pooled_notes` gives the reasons.

    Args:
      scores: (N,).
      labels: (N,) bool.
      called: (N,) bool, whether the score reaches the threshold.
    """
    positive, predicted = int(labels.sum()), int(called.sum())
    return {
        **reported(precision_recall_f(called, labels), predicted, positive),
        "num_clips": len(scores),
        "num_key_clips": positive,
        "num_predicted": predicted,
        "average_precision": average_precision(scores, labels) if positive else None,
        "calibration_error": calibration(scores, labels).error if _probable(scores) else None,
    }


def pooled_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Why figures of `pooled` are undefined."""
    if not metrics["num_key_clips"]:
        return [
            f"None of the {counted(metrics['num_clips'], 'clip')} is a key moment, so precision, recall, F and average "
            "precision are undefined for any scorer: test a split that has key moments, or prepare one."
        ]
    if not metrics["num_predicted"]:
        return ["No score reaches the threshold, so precision is undefined and F is 0."]
    return []


def pooled_sentence(metrics: Mapping[str, Any]) -> str:
    """`pooled` in words."""
    error = metrics["calibration_error"]
    rest = "" if error is None else f", calibration error {error:.3f}"
    return (
        f"Precision {figure(metrics['precision'])}, recall {figure(metrics['recall'])}, F {figure(metrics['fscore'])} "
        f"at threshold {metrics['threshold']} (from {metrics['threshold_from']}); average precision "
        f"{figure(metrics['average_precision'])}{rest}. "
        f"{metrics['num_clips']} clips, {metrics['num_key_clips']} of them key."
    )


def figure(value: float | None) -> str:
    """A share with three digits; a dash if undefined."""
    return "-" if value is None else f"{value:.3f}"


def _probable(scores: np.ndarray) -> bool:
    return len(scores) > 0 and 0 <= scores.min() <= scores.max() <= 1


def write_plots(
    folder: Path,
    title: str,
    scores: np.ndarray,
    labels: np.ndarray,
    threshold: float | None,
    attention: np.ndarray | None = None,
) -> None:
    """Draws `precision_recall.png` and, for scores in 0-1, `calibration.png`.

    Args:
      folder: for the files.
      title: of both.
      scores: (N,).
      labels: (N,) bool.
      threshold: marked on the curve; None = no mark.
      attention: (N,) the attention scorer's, drawn for comparison; None or empty = not drawn.
    """
    plots.precision_recall(title, scores, labels, threshold, folder / "precision_recall.png", attention)
    if _probable(scores):
        plots.calibration_curve(title, scores, labels, folder / "calibration.png")


def context(facts: Mapping[str, Any], split: str = "") -> str:
    """A subtitle for plots: split, data set and scorer, or the file of scores.

    Args:
      facts: of `metrics.json`.
      split: the fold, if one of several is drawn.
    """
    if facts.get("scores"):
        return ", ".join(filter(None, (split, f"scores of {Path(facts['scores']).name}")))
    if not facts.get("checkpoint"):
        return f"split {split or facts['split']} of {facts['dataset']}; attention scorer, not learned from people"
    places = facts["checkpoint"] if isinstance(facts["checkpoint"], list) else [facts["checkpoint"]]
    network = _short(places[0]) if len(places) == 1 else f"{len(places)} checkpoints"
    seen = ", seen in training" if facts["seen_in_training"] else ""
    return f"split {split or facts['split']} of {facts['dataset']}{seen}; checkpoint {network}"


def _short(checkpoint: str) -> str:
    """`run/checkpoints/40` of a run's step, else the folder's name."""
    parts = Path(checkpoint).parts
    return "/".join(parts[-3:] if parts[-2:-1] == ("checkpoints",) else parts[-1:])


def write_scores(path: Path, frames: Iterable[int], scores: Iterable[float], labels: Iterable[bool]) -> None:
    """Writes `frame,score,label` of one video; frames count from 1."""
    # Nine digits represent a float32 exactly.
    rows = ((frame, f"{score:.9g}", int(label)) for frame, score, label in zip(frames, scores, labels, strict=True))
    write_table(path, ("frame", "score", "label"), rows)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file; None becomes an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_json(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes `metrics`; NaN is an error."""
    path.write_text(json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same table for a terminal."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    aligned = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    for line in aligned:
        line[0] = line[0].strip().ljust(widths[0])
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def counted(count: int, thing: str) -> str:
    """`1 video`, `2 videos`."""
    return f"{count} {thing}" + "s" * (count != 1)


def cell(figures: Figures | None, *, short: bool = False) -> str:
    """Mean, standard deviation and interval, `0.177 ± 0.070 [0.158, 0.197]`; a dash if there is no value.

    Args:
      figures: see `bootstrap`.
      short: omit the interval.
    """
    if figures is None:
        return "-"
    text = f"{figures['mean']:.4f}"
    if figures["sd"] is not None:
        text += f" ± {figures['sd']:.3f}"
    if short or figures["interval"] is None:
        return text
    low, high = figures["interval"]
    return f"{text} [{low:.3f}, {high:.3f}]"
