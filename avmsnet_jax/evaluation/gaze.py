"""Scores and attention maps against viewers' gaze, for records prepared with `--dataset=gaze`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avmsnet_jax.data import clips as clips_lib
from avmsnet_jax.data.manifest import inside, read_manifest
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import bootstrap
from avmsnet_jax.evaluation.precision_recall import Agreement, precision_recall_f
from avmsnet_jax.gaze import saliency
from avmsnet_jax.gaze.concentration import key_frames, split_half
from avmsnet_jax.gaze.viewed import REMEDY, Viewed, read
from avmsnet_jax.scoring.records import rows_by_video

MEASURES = {
    "nss": "normalized scanpath saliency: the map at the points, in standard deviations above its mean; chance is 0",
    "cc": "Pearson's correlation of the map with the density of the points; chance is 0",
    "auc_judd": "area under the ROC curve of points against cells that nobody looked at; chance is 0.5",
    "auc_shuffled": "area under the ROC curve of points against points of the film's other moments; chance, and a map "
    "of the center, is 0.5",
}
CENTER = "center"

_WIDTH = 64  # cells in a row of a map that is judged
_OTHERS = 1000  # points of other moments

Row = dict[str, Any]


class Viewers:
    """The viewers of each film of prepared records. One film is in memory at a time.

    Attributes:
      manifest: of the records.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.manifest = read_manifest(directory)
        self._held: tuple[str, Viewed] | None = None

    def of(self, video: str) -> Viewed:
        """The viewers of a film; raises UserError if they are missing or damaged."""
        if self._held is None or self._held[0] != video:
            file = self.manifest.annotations.get(video)
            if file is None:
                raise UserError(f"{self.directory} keeps no gaze of {video}; {REMEDY}")
            self._held = video, read(inside(self.directory, file))
        return self._held[1]

    def points(self, video: str, frame: int) -> np.ndarray:
        """(P, 2) where viewers looked during the frames of a clip; `frame` is the one whose label is the clip's."""
        spacing = self.manifest.spacing or 1
        frames = clips_lib.frame_list(frame // spacing * spacing, self.manifest.frames)
        return _known(self.of(video).positions[:, max(frames[0] - 1, 0) : frames[-1]])


def of_records(directory: str) -> Viewers | None:
    """The viewers of prepared records; None for records whose labels are not from gaze."""
    viewers = Viewers(Path(directory))
    return viewers if viewers.manifest.dataset == "gaze" else None


def _known(positions: np.ndarray) -> np.ndarray:
    """(P, 2) the positions of viewers who looked."""
    points = positions.reshape(-1, 2)
    return points[np.isfinite(points).all(axis=1)]


def judge(viewers: Viewers, row: Row, maps: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """The measures of `MEASURES` of some maps of a clip, by the map's name; empty if nobody looked.

    A map (h, w) is resampled bilinearly to 64 cells in a row, as many rows as make them square in the film.

    Args:
      viewers: of the clip's film.
      row: `video` and `frame` of the clip.
      maps: by name.
    """
    viewed, points = viewers.of(row["video"]), viewers.points(row["video"], row["frame"])
    if not len(points):
        return {}
    others = _other_points(viewed, row["frame"])
    size = (_WIDTH, max(round(_WIDTH / viewed.aspect), 2))
    found = {}
    for name, given in maps.items():
        resampled = cv2.resize(given.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        found[name] = {
            "nss": saliency.nss(resampled, points),
            "cc": saliency.cc(resampled, points, viewed.sigma),
            "auc_judd": saliency.auc_judd(resampled, points),
            "auc_shuffled": saliency.auc_shuffled(resampled, points, others),
        }
    return found


def center_map() -> np.ndarray:
    """The center prior, a map of what is known without looking at the film."""
    return saliency.center_prior((_WIDTH, _WIDTH))


def _other_points(viewed: Viewed, frame: int) -> np.ndarray:
    """(P, 2) where viewers looked at moments of the film at least a second of 25 frames away."""
    count = viewed.positions.shape[1]
    frames = np.random.default_rng(frame).integers(0, max(count, 1), 2 * _OTHERS)
    viewer = np.arange(2 * _OTHERS) % len(viewed.positions)
    far = np.abs(frames - frame) > 25
    return _known(viewed.positions[viewer[far], frames[far]])[:_OTHERS]


def summarized(clips: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """By map and measure, statistics over films (`bootstrap.over_videos`) of the mean over a film's clips.

    Args:
      clips: each with its `video`, and under `judged` what `judge` returned.
    """
    films = list(rows_by_video(clips).values())
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for clip in clips for name in clip["judged"]):
        found[name] = {}
        for measure in MEASURES:
            values = [np.array([clip["judged"].get(name, {}).get(measure, np.nan) for clip in rows]) for rows in films]
            means = [each[~np.isnan(each)].mean() if not np.isnan(each).all() else np.nan for each in values]
            found[name][measure] = bootstrap.over_videos(np.array(means))
    return found


def correlation(viewers: Viewers, clips: Sequence[Row]) -> float | None:
    """Pearson's correlation of scores with the curve of concentration, mean over films; None if undefined in all."""
    found = []
    for rows in rows_by_video(clips).values():
        both = np.stack([[row["score"] for row in rows], _at_clips(viewers.of(rows[0]["video"]).curve, rows)])
        both = both[:, np.isfinite(both[1])]
        if both.shape[1] > 2 and both.std(axis=1).min() > 1e-9:
            found.append(float(np.corrcoef(both)[0, 1]))
    return float(np.mean(found)) if found else None


def human(viewers: Viewers, clips: Sequence[Row]) -> dict[str, float | None] | None:
    """How well halves of the viewers agree, in the measures of a model; None if undefined for every film.

    Precision, recall and F: the key clips of one half's curve against those of the other's, pooled over films, each
    half once as the prediction, mean over divisions of the viewers. Correlation: the mean over films of the square root
    of the split-half reliability, the most that a model can be expected to reach.
    """
    ceilings, sides = [], []
    for rows in rows_by_video(clips).values():
        viewed = viewers.of(rows[0]["video"])
        reliability = split_half(viewed.halves)
        ceilings += [math.sqrt(reliability)] if reliability >= 0 else []
        for division, pair in enumerate(viewed.halves):
            labels = np.stack([_at_clips(key_frames(curve, viewed.key_share), rows) for curve in pair])
            known = labels[:, (labels >= 0).all(axis=0)] == 1
            sides += [(division, known), (division, known[::-1])]
    figures = []
    for division in sorted({number for number, _ in sides}):
        predicted, actual = np.concatenate([both for number, both in sides if number == division], axis=1)
        if actual.any():
            figures.append(precision_recall_f(predicted, actual))
    if not figures:
        return None
    means = Agreement(*np.mean(figures, axis=0).tolist())
    return {**means._asdict(), "correlation": float(np.mean(ceilings)) if ceilings else None}


def _at_clips(values: np.ndarray, rows: Sequence[Row]) -> np.ndarray:
    """The values of the frames that the clips' labels are of."""
    return values[np.minimum([row["frame"] - 1 for row in rows], len(values) - 1)]
