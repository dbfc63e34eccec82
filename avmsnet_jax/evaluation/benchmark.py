"""Evaluates a checkpoint, and the attention scorer, on records by the protocol of TVSum or SumMe."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax import storage, unforeseen
from avmsnet_jax.config import Config
from avmsnet_jax.data import pipeline
from avmsnet_jax.data.cache import local_records
from avmsnet_jax.data.manifest import read_manifest
from avmsnet_jax.data.sources.folds import Fold
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import annotations, comparison, leakage, report
from avmsnet_jax.evaluation.annotations import Judged
from avmsnet_jax.evaluation.comparison import ALL, Trial
from avmsnet_jax.evaluation.kts import kts
from avmsnet_jax.evaluation.score_files import Scored
from avmsnet_jax.evaluation.selection import shots
from avmsnet_jax.scoring.attention import Attention
from avmsnet_jax.scoring.network import Network
from avmsnet_jax.scoring.records import choose_threshold, rows_by_video, score_split
from avmsnet_jax.weights import location

Clips = list[dict[str, Any]]


def evaluate(
    config: Config, directories: Sequence[str], protocol: str, split: str, output: storage.Place
) -> dict[str, Any]:
    """Evaluates a checkpoint, or one for each fold, and the attention scorer on prepared records.

    `comparison.run` lists the files that it writes. Shots are those of the data set, or else those that KTS finds in
    the network's features of the clips. For films with labels instead of users' judgments, the labels are the summary
    of a single user.

    Args:
      config: `data` (the records), `mesh` and `eval` are used; the network's configuration is the checkpoint's.
      directories: a checkpoint, tested on fold `data.fold`; or one for each fold, in order; empty = the attention
        scorer alone.
      protocol: tvsum or summe.
      split: the part of the records; whole = every video of all folds.
      output: a directory that does not exist yet or is empty, or such a place on a store.

    Returns:
      the contents of `metrics.json`.

    Raises:
      UserError: checkpoints, records or the output directory are unusable, or a checkpoint was trained on the videos
        that it would be tested on.
    """
    report.check_free(output)
    records = Path(local_records(config.data))
    manifest = read_manifest(records)
    users = manifest.annotations and manifest.dataset != "gaze"
    judged = annotations.of_records(records)[1] if users else []
    folds = annotations.folds_of_records(records)
    if len(directories) > 1 and len(directories) != len(folds):
        raise UserError(
            f"{len(directories)} checkpoints are given, and {config.data.dir} has {len(folds)} folds; give one, or one "
            "for each fold in order"
        )
    chosen = range(len(folds)) if len(directories) > 1 else [config.data.fold]
    with storage.staged(output) as stage:  # before scoring, to fail early if it is not writable
        clips, thresholds, facts = _scored_by_networks(config, directories, split, chosen)
        scorer = Attention(manifest.frames, manifest.frame_size)
        attention = _scored_by_attention(config, scorer, split, chosen)
        if not directories:
            clips = {ALL: attention}
            thresholds[ALL], facts["threshold_from"] = choose_threshold(config, scorer, config.data.fold, attention)
        scored = {name: _scored(part) for name, part in clips.items()}
        every = [clip for part in clips.values() for clip in part]
        videos = judged or annotations.of_labels(records, every)
        tested = {name for part in scored.values() for name in part}
        failed: dict[str, str] = {}
        videos, facts["shots"] = _with_shots([video for video in videos if video.name in tested], scored, failed)
        facts |= {"records": config.data.dir, "dataset": manifest.dataset, "split": split}
        tests = _tests(folds, chosen, split)
        row, beside = ("model", _scored(attention)) if directories else ("attention", {})
        return comparison.run(Trial(protocol, videos, tests, scored, thresholds, facts, failed, row, beside), stage)


def _scored_by_networks(
    config: Config, directories: Sequence[str], split: str, folds: Sequence[int]
) -> tuple[dict[str, Clips], dict[str, float], dict[str, Any]]:
    """The clips and the threshold of each checkpoint, by the fold's name or `ALL`, and facts for `metrics.json`."""
    clips: dict[str, Clips] = {}
    thresholds: dict[str, float] = {}
    found, notes, origin = [], [], ""
    for fold, directory in zip(folds, directories, strict=False):  # without a checkpoint, `directories` is empty
        name = f"fold {fold}" if len(directories) > 1 else ALL
        found.append(location.find(directory))
        notes.append(leakage.note(config, found[-1], fold, split))
        network = Network.load(str(found[-1]), config.mesh, config.eval.batch_size, fixed_groups=True)
        records = pipeline.open_split(local_records(config.data), split, network, fold)
        clips[name] = score_split(config, network, records)
        thresholds[name], origin = choose_threshold(config, network, fold, clips[name])
    return (
        clips,
        thresholds,
        {
            "checkpoint": [storage.shown(place) for place in found],
            "seen_in_training": any(known for known, _ in notes),
            "threshold_from": origin,
            "notes": list(dict.fromkeys(word for _, word in notes if word)),
        },
    )


def _scored_by_attention(config: Config, scorer: Attention, split: str, folds: Sequence[int]) -> Clips:
    """The attention scorer's clips of all folds, each once."""
    directory = local_records(config.data)
    clips: Clips = []
    seen: set[int] = set()
    for fold in folds:
        records = pipeline.open_split(directory, split, None, fold)
        new = [number for number in records.numbers if number not in seen]
        seen.update(new)
        if new:
            clips += score_split(config, scorer, records.only(new))
    return clips


def _tests(folds: Sequence[Fold], chosen: Sequence[int], split: str) -> dict[str, tuple[str, ...]]:
    """The tested videos of each reported fold."""
    part = "test" if split == "whole" else split
    reported = range(len(folds)) if split == "whole" else chosen
    return {f"fold {fold}": folds[fold][part] for fold in reported if folds and part in folds[fold]}


def _scored(clips: Clips) -> dict[str, Scored]:
    scored = {}
    for name, part in rows_by_video(clips).items():
        picks = np.array([clip["frame"] - 1 for clip in part])
        seen = np.stack([clip["features"] for clip in part])
        scored[name] = Scored(picks, np.array([clip["score"] for clip in part]), seen)
    return scored


def _with_shots(
    videos: Sequence[Judged], scored: Mapping[str, Mapping[str, Scored]], failed: dict[str, str]
) -> tuple[list[Judged], str]:
    """Finds shots by KTS where the data set gives none, and says where the shots are from.

    If several networks scored a video, the features of the first one decide, so that all rows have the same shots. A
    video on whose features KTS fails is noted in `failed` and goes on without shots.
    """
    if all(video.shots is not None for video in videos):
        return list(videos), "given"
    completed, found = [], 0
    for video in videos:
        if video.shots is None:
            with unforeseen.noted(video.name, failed):
                try:
                    video = dataclasses.replace(video, shots=_kts_shots(video, scored))
                    found += 1
                except UserError as error:
                    failed[video.name] = str(error)
        completed.append(video)
    return completed, f"KTS on the scorer's features of the clips, for {found} of {len(videos)} videos"


def _kts_shots(video: Judged, scored: Mapping[str, Mapping[str, Scored]]) -> np.ndarray:
    first = next(part[video.name] for part in scored.values() if video.name in part)
    assert first.features is not None  # scorers always give them
    return shots(kts(first.features, len(first.features) - 1), first.picks, video.n_frames)
