"""TVSum as it is downloaded: 50 videos, and in a MATLAB file what 20 users gave each of their frames."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax import hdf5_file
from avmsnet_jax.data.sources import Collection, Skipped, is_file_name, skipping
from avmsnet_jax.data.sources.folds import find_folds
from avmsnet_jax.data.sources.judged import JudgedVideo, files_below, film_of
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie

MAT = "ydata-tvsum50.mat"
USERS = 20

_FIELDS = ("video", "category", "title", "nframes", "user_anno", "gt_score")


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What is known of one video.

    Attributes:
      name: its YouTube id.
      category: two letters, such as VT (changing Vehicle Tire).
      title: its title on YouTube.
      user_scores: (20, n_frames) uint8, 1 (bad) to 5 (good); each of them holds for two seconds.
      gt_score: (n_frames,) float64, the mean over the users.
    """

    name: str
    category: str
    title: str
    user_scores: np.ndarray
    gt_score: np.ndarray

    @property
    def n_frames(self) -> int:
        """Frames that were judged."""
        return self.user_scores.shape[1]


def find_videos(source: Path, splits: Path | None = None) -> Collection:
    """Lists the videos of the download.

    Args:
      source: the folder with `ydata-tvsum50.mat` and the films `<id>.*`, anywhere below it.
      splits: JSON of the folds; see `folds.find_folds`.

    Raises:
      UserError: the annotations or the splits are missing or malformed.
    """
    files = files_below(source)
    tables = [path for path in files if path.name == MAT]
    if not tables:
        raise UserError(f"there is no {MAT} below {source}; unpack ydata-tvsum50-matlab.zip of the download there")
    annotations = read_annotations(tables[0])
    videos: list[JudgedVideo] = []
    skipped: list[Skipped] = []
    for item in annotations:
        said = {
            "user_scores": item.user_scores,
            "gt_score": item.gt_score,
            "category": np.asarray(item.category),
            "title": np.asarray(item.title),
        }
        with skipping(item.name, skipped):
            path = film_of(files, item.name)
            fps = float(Movie(path).info().fps)
            videos.append(JudgedVideo(item.name, fps, "whole", path, (tables[0],), item.user_scores, said))
    order, held = [item.name for item in annotations], {item.name for item in videos}
    return Collection(videos, skipped, find_folds(splits, files, order, held, "tvsum"))


def read_annotations(path: Path) -> list[Annotation]:
    """Reads `ydata-tvsum50.mat`: a MATLAB 7.3 file, which is HDF5, with a struct array `tvsum50`.

    Returns:
      the annotations in the file's order, which is that of `video_1`, `video_2`, ... elsewhere.

    Raises:
      UserError: the file is missing or broken, or its sizes do not agree.
    """
    if not path.exists():
        raise UserError(f"there is no {path}; check the path")
    with hdf5_file.open_file(path, "unpack ydata-tvsum50-matlab.zip of the download again") as file:
        table = hdf5_file.member(file, "tvsum50")
        columns = [hdf5_file.references(hdf5_file.member(table, field))[:, 0] for field in _FIELDS]
        annotations = [_annotation(*(file[reference] for reference in row)) for row in zip(*columns, strict=True)]
    names = [item.name for item in annotations]
    if len(set(names)) < len(names) or not all(map(is_file_name, names)):
        raise UserError(f"{path} has two videos of one name, or one that is no name of a file; download it again")
    return annotations


def _annotation(name: Any, category: Any, title: Any, n_frames: Any, user_anno: Any, gt_score: Any) -> Annotation:
    count, named = int(hdf5_file.array(n_frames).item()), _text(name)
    scores, mean = hdf5_file.array(user_anno), hdf5_file.array(gt_score).ravel()
    if scores.shape != (USERS, count) or mean.shape != (count,):
        raise ValueError(f"{named}: the scores are {scores.shape}, not those of {USERS} users and {count} frames")
    if not np.isin(scores, range(1, 6)).all():
        raise ValueError(f"{named}: there are scores other than 1 to 5")
    return Annotation(named, _text(category), _text(title), scores.astype(np.uint8), mean)


def _text(chars: Any) -> str:
    """A MATLAB string; some titles are UTF-8 that was taken for Latin-1."""
    if "MATLAB_empty" in chars.attrs:
        return ""
    text = hdf5_file.array(chars).astype("<u2").tobytes().decode("utf-16-le")
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
