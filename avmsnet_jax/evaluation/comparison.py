"""Evaluates scores, and the random, uniform and human baselines, over the videos and splits of TVSum or SumMe."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from avmsnet_jax import unforeseen
from avmsnet_jax.data.sources.judged import key_frames
from avmsnet_jax.evaluation import baselines, benchmark_report, bootstrap, plots, report
from avmsnet_jax.evaluation.annotations import Judged
from avmsnet_jax.evaluation.baselines import PROTOCOLS
from avmsnet_jax.evaluation.protocol import BUDGET, Values
from avmsnet_jax.evaluation.score_files import Scored
from avmsnet_jax.evaluation.selection import frame_scores, summary

ALL = ""  # stands for a split's name if one set of scores is for all videos

# A row of the tables: the measures by (video, split).
Row = dict[tuple[str, str], Values]


@dataclasses.dataclass(frozen=True)
class Trial:
    """What to evaluate.

    Attributes:
      protocol: tvsum or summe.
      videos: the tested videos with their users' judgments, in order.
      tests: the names of the tested videos by split.
      scored: the scores by split and video; the only split is `ALL` if one set of scores is for all videos. Empty =
        baselines only.
      thresholds: by the splits of `scored`, the lowest score at which a frame is predicted key.
      facts: the origin of the data, for `metrics.json`.
      failed: by video, why KTS found no shots.
      row: the row of `scored`: model, or attention.
      attention: the attention scorer's scores by video, for a row beside the model's; empty = no such row.
    """

    protocol: str
    videos: Sequence[Judged]
    tests: Mapping[str, Sequence[str]]
    scored: Mapping[str, Mapping[str, Scored]]
    thresholds: Mapping[str, float]
    facts: Mapping[str, Any]
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    row: str = "model"
    attention: Mapping[str, Scored] = dataclasses.field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[Judged, str, Scored]]:
        """(video, split or `ALL`, its scores) of every prediction."""
        return [
            (video, split, scores[video.name])
            for split, scores in self.scored.items()
            for video in self.videos
            if video.name in (scores if split == ALL else self.tests[split])
        ]


def run(trial: Trial, stage: Path) -> dict[str, Any]:
    """Evaluates, and writes the results to the new folder `stage`.

    Files: `metrics.json`, `report.md` (the same as tables), `videos.csv` (a line for each video and row); for scores
    also `scores/<video>.csv` (`frame,score,label`), `plots/<video>.png`, `precision_recall.png` and, if they lie in
    0-1, `calibration.png`. If each split has its own scores, they are in `scores/<split>/` and `plots/<split>/`.

    Returns:
      the contents of `metrics.json`: for scores the figures of `report.pooled`; `rows`, by row (model, attention,
      random, uniform, human) and measure, with `videos` as `bootstrap.over_videos` returns it and `splits` as
      `bootstrap.over_splits` does; the meaning of measures and rows; the origin of scores, shots and threshold.
    """
    stage.mkdir()
    protocol = PROTOCOLS[trial.protocol]
    trial = dataclasses.replace(trial, videos=[video.completed() for video in trial.videos])
    rows: dict[str, Row] = {trial.row: {}} if trial.scored else {}
    rows |= ({"attention": {}} if trial.attention else {}) | {"random": {}, "uniform": {}, "human": {}}
    failed = dict(trial.failed)
    for video in tqdm(trial.videos, unit="video", disable=not sys.stderr.isatty()):
        with unforeseen.noted(video.name, failed):
            rows["random"][video.name, ALL] = baselines.of_random(protocol, video)
            rows["uniform"][video.name, ALL] = baselines.of_uniform(protocol, video)
            rows["human"][video.name, ALL] = protocol.humans(video)
            if video.name in trial.attention:
                rows["attention"][video.name, ALL] = baselines.of_scores(protocol, video, trial.attention[video.name])
    constant: list[tuple[int, int]] = []
    for video, split, scored in trial.pairs:
        with unforeseen.noted(video.name, failed):
            rows[trial.row][video.name, split] = baselines.of_scores(protocol, video, scored)
            frames = frame_scores(scored.scores, scored.picks, video.n_frames)
            constant.append(protocol.constant(video, frames))
    metrics = _write_scores(trial, stage, failed) if trial.scored else {}
    if failed:
        metrics["failed"] = failed
    measures = protocol.measures
    cells = {row: {name: _figures(trial, values, name) for name in measures} for row, values in rows.items()}
    metrics |= {
        "protocol": trial.protocol,
        **trial.facts,
        "num_videos": len(trial.videos),
        "rows": cells,
        "notes": [
            *trial.facts.get("notes", ()),
            *protocol.notes,
            *_unknown(trial),
            *_undefined(trial, rows, constant),
            *_splitless(trial, cells),
            *(report.pooled_notes(metrics) if trial.scored else ()),
        ],
        "measures": {name: measure.meaning for name, measure in measures.items()},
        "baselines": ({"attention": baselines.ATTENTION} if "attention" in rows else {}) | baselines.BASELINES,
        "folds": {name: list(tested) for name, tested in trial.tests.items()},
    }
    if trial.scored:
        metrics["constant_pairs"] = {"of": sum(total for _, total in constant), "count": sum(n for n, _ in constant)}
    _write_videos(trial, rows, stage / "videos.csv")
    report.write_json(stage / "metrics.json", metrics)
    (stage / "report.md").write_text(benchmark_report.markdown(metrics), encoding="utf-8")
    return metrics


def _unknown(trial: Trial) -> list[str]:
    """Notes on measures that are missing because the annotations lack their input."""
    notes = []
    if shotless := [video.name for video in trial.videos if video.shots is None and video.name not in trial.failed]:
        notes.append(
            f"No summary and no F1 of {report.counted(len(shotless), 'video')}, as the shots are not known: give the "
            "field's HDF5 file as another --annotations."
        )
    if trial.protocol == "tvsum" and any(video.user_scores is None for video in trial.videos):
        notes.append(
            "No tau and rho, as the users' scores are not known: give ydata-tvsum50.mat as another --annotations."
        )
    return notes


def _undefined(trial: Trial, rows: Mapping[str, Row], constant: Sequence[tuple[int, int]]) -> list[str]:
    """Notes on undefined figures, and on correlations that count as 0.

    Args:
      trial: what is evaluated.
      rows: of the tables.
      constant: by pair of the trial, how many correlations have a constant side, and how many there are.
    """
    notes, count = [], len(trial.videos)
    empty = sum(video.user_summaries is not None and not video.user_summaries.any() for video in trial.videos)
    if empty:
        notes.append(f"No F1 of {empty} of the {report.counted(count, 'video')}, as no user chose a frame of it.")
    if flat := sum(flat == total > 0 for flat, total in constant):
        notes.append(
            f"No tau and rho of the scores for {flat} of the {report.counted(len(constant), 'prediction')}, as the "
            "scores are all equal, or each user's are."
        )
    if some := sum(flat for flat, total in constant if flat < total):
        total = sum(total for _, total in constant)
        notes.append(f"{some} of the {total} correlations with a user count as 0, as the user's scores are all equal.")
    made = [values for values in rows.get(trial.row, {}).values() if "f1_max" in values]
    if trial.protocol == "summe" and (bare := sum("summary_tau" not in values for values in made)):
        notes.append(
            f"No tau and rho of the summary for {bare} of the {report.counted(len(made), 'prediction')}: it is empty, "
            "as no shot is as short as a summary may be, or the users kept every frame."
        )
    if lone := sum(len(video.votes) == 1 for video in trial.videos):
        notes.append(f"No human row for {lone} of the {report.counted(count, 'video')}: there is a single user.")
    return notes


def _splitless(trial: Trial, cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A note if means over splits are missing although those over videos exist."""
    found = [cell for row in cells.values() for cell in row.values() if cell["videos"] and trial.tests]
    if all(cell["splits"] for cell in found):
        return []
    return ["A mean over splits has no value where one of the splits tests no video that has one."]


def _figures(trial: Trial, row: Row, measure: str) -> dict[str, Any]:
    """A cell of the tables: a measure of a row, over videos and over splits."""
    held = np.full((len(trial.videos), max(len(trial.tests), 1)), np.nan)
    whole = np.full(len(trial.videos), np.nan)
    for number, video in enumerate(trial.videos):
        for column, (split, tested) in enumerate(trial.tests.items()):
            if video.name in tested:
                values = row.get((video.name, split)) or row.get((video.name, ALL)) or {}
                held[number, column] = values.get(measure, np.nan)
        own = [values[measure] for (name, _), values in row.items() if name == video.name and measure in values]
        if own:
            whole[number] = np.mean(own)
    return {"videos": bootstrap.over_videos(whole), "splits": bootstrap.over_splits(held) if trial.tests else None}


def _write_scores(trial: Trial, stage: Path, failed: dict[str, str]) -> dict[str, Any]:
    scores: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    called: list[np.ndarray] = []
    for video, split, scored in trial.pairs:
        key = key_frames(video.votes)[scored.picks]
        name = report.file_name(video.name)
        folder = split.replace(" ", "_")
        report.write_scores(stage / "scores" / folder / f"{name}.csv", scored.picks + 1, scored.scores, key)
        frames = frame_scores(scored.scores, scored.picks, video.n_frames)
        chosen = None if video.shots is None else summary(frames, video.shots, BUDGET)
        path = stage / "plots" / folder / f"{name}.png"
        with unforeseen.noted(video.name, failed):
            context = report.context(trial.facts, split)
            beside = trial.attention.get(video.name)
            attention = None if beside is None else frame_scores(beside.scores, beside.picks, video.n_frames)
            plots.judged_curve(
                video.name, context, frames, video.votes, video.shots, chosen, video.fps, path, attention
            )
        scores.append(scored.scores)
        labels.append(key)
        called.append(scored.scores >= trial.thresholds[split])
    thresholds = dict(trial.thresholds)
    threshold: Any = thresholds.popitem()[1] if len(set(thresholds.values())) == 1 else thresholds
    every, key = np.concatenate(scores), np.concatenate(labels)
    context = report.context(trial.facts)
    report.write_plots(stage, context, every, key, threshold if isinstance(threshold, float) else None)
    return report.pooled(every, key, np.concatenate(called)) | {"threshold": threshold}


def _write_videos(trial: Trial, rows: Mapping[str, Row], path: Path) -> None:
    measures = list(PROTOCOLS[trial.protocol].measures)
    order = {video.name: number for number, video in enumerate(trial.videos)}
    lines: list[tuple[Any, ...]] = [
        (name, row, split, *(values.get(measure) for measure in measures))
        for row, held in rows.items()
        for (name, split), values in held.items()
    ]
    lines.sort(key=lambda line: order[line[0]])  # stable: rows of a video keep their order
    report.write_table(path, ("video", "row", "split", *measures), lines)
