"""The published test: scores against a threshold, all clips of all videos pooled."""

import csv
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation.metrics import Agreement, chance, precision_recall_f
from avmsnet_jax.evaluation.plots import score_curve
from avmsnet_jax.evaluation.scoring import score_records
from avmsnet_jax.staging import staged, taken
from avmsnet_jax.weights import checkpoint


def evaluate(config: Config, directory: str, split: str, output: Path) -> dict[str, Any]:
    """Scores a split with a checkpoint; leaves `metrics.json`, `scores/<video>.csv`, `plots/<video>.png` in `output`.

    The network is the checkpoint's own; of `config` the records (`data`), the devices (`mesh`) and the batch size and
    threshold (`eval`) are used.

    Args:
      config: the configuration.
      directory: a checkpoint, as `avmsnet_jax.load` takes it.
      split: which part of the records.
      output: a directory that does not exist yet or is empty.

    Returns:
      what `metrics.json` holds.

    Raises:
      UserError: the checkpoint, the records or the output directory do not serve.
    """
    if taken(output):
        raise UserError(f"{output} exists and is not an empty directory; choose another --output or remove it")
    model = checkpoint.load(directory)
    records = pipeline.open_split(config.data.dir, split, model.config, config.data.fold)
    pipeline.check_labelled(records)
    mesh = mesh_lib.make_mesh(config.mesh)
    mesh_lib.check_divides(mesh, config.eval.batch_size, "eval.batch_size")
    with staged(output.absolute()) as stage:  # before the scoring: a place that cannot be written is known at once
        scored = score_records(
            model,
            records,
            mesh,
            batch_size=config.eval.batch_size,
            threads=config.data.threads,
            workers=config.data.workers,
        )
        clips = list(tqdm(scored, total=len(records), unit="clip", disable=not sys.stderr.isatty()))
        metrics = _metrics(config, clips) | {"split": split, "checkpoint": str(directory)}
        _write(stage, clips, metrics)
    return metrics


def _metrics(config: Config, clips: list[dict[str, Any]]) -> dict[str, Any]:
    labels = np.array([clip["label"] for clip in clips])
    predicted = np.array([clip["score"] for clip in clips]) >= config.eval.threshold
    return {
        **precision_recall_f(predicted, labels)._asdict(),
        "threshold": config.eval.threshold,
        "num_clips": len(clips),
        "num_key_clips": int(labels.sum()),
        "num_predicted": int(predicted.sum()),
        "chance": {
            "coin": chance(labels, 0.5)._asdict(),
            "every_clip": chance(labels, 1.0)._asdict(),
        },
    }


def summary(metrics: dict[str, Any]) -> str:
    """The figures of `evaluate` as a small table for the terminal."""
    rows = {
        "model": metrics,
        "chance: a coin for each clip": metrics["chance"]["coin"],
        "chance: every clip is key": metrics["chance"]["every_clip"],
    }
    lines = [f"{'':30}{'precision':>10}{'recall':>10}{'F':>10}"]
    for name, row in rows.items():
        lines.append(f"{name:30}" + "".join(f"{row[field]:10.3f}" for field in Agreement._fields))
    return "\n".join(
        [
            *lines,
            f"{metrics['num_clips']} clips, {metrics['num_key_clips']} of them key, threshold {metrics['threshold']}",
        ]
    )


def file_name(video: str) -> str:
    """A name for files about `video`: its own, with slashes as %2F. No two videos get the same."""
    return re.sub("/|%(?=2F|25)", lambda found: f"%{ord(found[0]):02X}", video)


def _write(stage: Path, clips: list[dict[str, Any]], metrics: dict[str, Any]) -> None:
    for folder in ("scores", "plots"):
        (stage / folder).mkdir(parents=True)
    by_video = defaultdict(list)
    for clip in clips:
        by_video[clip["video"]].append(clip)
    for video, rows in by_video.items():
        rows.sort(key=lambda row: row["frame"])
        with open(stage / "scores" / f"{file_name(video)}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["frame", "score", "label"])
            for row in rows:
                # Nine digits hold a float32: who reads the table counts as we did.
                writer.writerow([row["frame"], f"{row['score']:.9g}", int(row["label"])])
        score_curve(rows, metrics["threshold"], stage / "plots" / f"{file_name(video)}.png")
    (stage / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
