"""SumMe as it is downloaded: 25 videos, and for each a MATLAB file with the summaries of 15 to 18 users."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from avmsnet_jax import json_file, mat_file
from avmsnet_jax.data.sources import Collection, Skipped, skipping
from avmsnet_jax.data.sources.folds import MOST_BYTES, find_folds
from avmsnet_jax.data.sources.judged import JudgedVideo, files_below, film_of
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie

SEGMENTATIONS = "segmentations.json"
MOST_USERS = 18

_REMEDY = "unpack SumMe.zip again"


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What users said of one video.

    Attributes:
      user_score: (users, n_frames) uint8 as stored: which of a user's segments, counted from 1, the frame lies
        in; 0 where the user did not choose it.
      gt_score: (n_frames,) float64, the share of the users who chose the frame.
      segments: (rows, 3) float64: user, counted from 0, and where a segment of that user starts and ends, seconds.
    """

    user_score: np.ndarray
    gt_score: np.ndarray
    segments: np.ndarray

    @property
    def user_summary(self) -> np.ndarray:
        """(users, n_frames) uint8, 1 where the user chose the frame."""
        return (self.user_score > 0).astype(np.uint8)


def find_videos(source: Path, splits: Path | None = None) -> Collection:
    """Lists the videos of the download.

    Args:
      source: the folder with `GT/<name>.mat` and the films `<name>.*`, anywhere below it. A `segmentations.json`
        there gives the order of the videos and their shots; without it the order is that of their names.
      splits: JSON of the folds; see `folds.find_folds`.

    Raises:
      UserError: there are no annotations, or the segmentations or the splits are malformed.
    """
    files = files_below(source)
    tables = {path.stem: path for path in files if path.suffix.lower() == ".mat" and path.parent.name == "GT"}
    if not tables:
        raise UserError(f"there is no GT/*.mat below {source}; --source must be the folder that SumMe.zip unpacks to")
    segmentations = next((path for path in files if path.name == SEGMENTATIONS), None)
    shots = read_segmentations(segmentations) if segmentations else {}
    order = [*shots, *(name for name in sorted(tables) if name not in shots)]
    videos: list[JudgedVideo] = []
    skipped: list[Skipped] = []
    for name in order:
        with skipping(name, skipped):
            if name not in tables:
                raise UserError(f"there is no GT/{name}.mat, though {segmentations} names it; unpack SumMe.zip again")
            videos.append(_video(files, name, tables[name], segmentations, shots.get(name)))
    return Collection(videos, skipped, find_folds(splits, files, order, {item.name for item in videos}, "summe"))


def read_annotation(path: Path) -> Annotation:
    """Reads `GT/<name>.mat`, a MATLAB 5 file.

    Raises:
      UserError: the file is missing or broken, or its sizes do not agree.
    """
    if not path.exists():
        raise UserError(f"there is no {path}; check the path")
    fields = mat_file.read(path, ("nFrames", "user_score", "gt_score", "segments"), _REMEDY)
    try:
        n_frames, chosen, mean = (
            _array(fields, "nFrames").item(),
            _array(fields, "user_score"),
            _array(fields, "gt_score"),
        )
        mean = mean.ravel()
        # One segment of one user is as often a single pair of numbers as a table of one row.
        spans = [np.reshape(item, (-1, 2)) for item in fields["segments"]]
        segments = np.concatenate([np.c_[np.full(len(span), user), span] for user, span in enumerate(spans)])
        if chosen.shape != (n_frames, len(spans)) or mean.shape != (n_frames,) or not 0 < len(spans) <= MOST_USERS:
            raise ValueError(f"{chosen.shape} scores of {len(spans)} users and {n_frames} frames")
        if not np.isin(chosen, range(256)).all():
            raise ValueError("scores that number no segment")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path} ({error}); {_REMEDY}") from None
    return Annotation(chosen.T.astype(np.uint8), mean.astype(np.float64), segments.astype(np.float64))


def _array(fields: Mapping[str, mat_file.Value], name: str) -> np.ndarray:
    if not isinstance(found := fields[name], np.ndarray):
        raise TypeError(f"{name} is no array")
    return found


def read_segmentations(path: Path) -> dict[str, np.ndarray]:
    """Reads `{"video_1": {"video_name": ..., "segments": [{"start": 0, "end": 244}, ...]}, ...}`.

    Returns:
      by name, in the order of the numbers: (shots, 2) int64, the first and the last frame of each shot, from 0.

    Raises:
      UserError: the file is damaged or has another form.
    """
    remedy = "mend or remove it, and shots are unknown"
    try:
        videos = json_file.read(path, remedy, most_bytes=MOST_BYTES)
        numbered = [videos[f"video_{number}"] for number in range(1, len(videos) + 1)]
        shots = {
            str(item["video_name"]): np.array([(s["start"], s["end"]) for s in item["segments"]], np.int64).reshape(
                -1, 2
            )
            for item in numbered
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"cannot read {path} ({error!r}); {remedy}") from None
    return shots


def _video(
    files: Sequence[Path], name: str, table: Path, segmentations: Path | None, shots: np.ndarray | None
) -> JudgedVideo:
    said = read_annotation(table)
    summary = said.user_summary
    arrays = {
        "user_summary": summary,
        "user_score": said.user_score,
        "gt_score": said.gt_score,
        "segments": said.segments,
    }
    tables: tuple[Path, ...] = (table,)
    if segmentations and shots is not None:
        bounds = shots.ravel()
        if not len(bounds) or bounds[0] < 0 or bounds[-1] >= summary.shape[1] or (np.diff(bounds) < 0).any():
            raise UserError(
                f"{segmentations}: the shots of {name} do not lie in its {summary.shape[1]} frames; mend it"
            )
        arrays["change_points"] = shots
        tables += (segmentations,)
    path = film_of(files, name)
    return JudgedVideo(name, float(Movie(path).info().fps), "whole", path, tables, summary, arrays)
