"""Reads scores of any model from files."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from avmsnet_jax import array_file, hdf5_file, json_file
from avmsnet_jax.data.sources.tables import read_rows
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import checks
from avmsnet_jax.evaluation.annotations import HDF5_SUFFIXES, Judged
from avmsnet_jax.evaluation.report import file_name

# Where a table is from, and of each video its name, frames (None = unknown) and scores.
Table = tuple[Path, Iterable[tuple[str, tuple[Any, Any]]]]

_SCORES = ("score", "scores")  # names of the data set in a video's HDF5 group
_MOST_JSON = 100_000_000  # bytes; enough for a score per frame of 25 two-hour films


@dataclasses.dataclass(frozen=True)
class Scored:
    """A model's scores of one video.

    Attributes:
      picks: (P,) int64, the frames of the scores, from 0.
      scores: (P,) float64.
      features: (P, C) float32, the model's features of these frames; None if not given.
    """

    picks: np.ndarray
    scores: np.ndarray
    features: np.ndarray | None = None


def read_scores(path: Path, videos: Sequence[Judged]) -> list[dict[str, Scored]]:
    """Reads scores and assigns them to videos by name.

    Formats:

      FILE.json   {"video": [score, ...], ...}, or a list of such objects, one for each split
      FILE.h5     a dataset of scores for each video, or a group with one called `score` or `scores`
      DIR         a CSV for each video with the columns `frame` (from 1) and `score`, as evaluate writes them, or a .npy

    or a folder of `split0`, `split1`, ... (or `fold0`, ...), each one of these. A video is called by its name or by its
    number in the data set, `video_3`. Give a score for each pick or for each frame; a CSV names its frames.

    Returns:
      one dictionary of scores by video name, or one for each split.

    Raises:
      UserError: a file is missing or broken, its scores do not fit the video, or it has scores of an unknown video.
    """
    tables = _tables(path)
    names = {alias: video for video in videos for alias in (video.key, video.name, file_name(video.name))}
    found = []
    for source, table in tables:
        scored = {}
        for name, (frames, scores) in table:
            if name not in names:
                raise UserError(f"{source}: no video is called {name!r}; names are such as {_some(videos)}")
            video, where = names[name], f"{source}, {name}"
            if video.name in scored:
                raise UserError(f"{where}: the file holds the scores of {video.name} twice; remove one")
            scored[video.name] = _fitted(video, frames, scores, where)
        found.append(scored)
    return found


def _fitted(video: Judged, frames: Any, scores: Any, where: str) -> Scored:
    values = checks.finite(scores, where, "scores")
    if frames is not None:
        picks = checks.whole(frames, f"{where}: frames", "frames") - 1
        if not len(picks) or picks[0] < 0 or picks[-1] >= video.n_frames or (np.diff(picks) < 1).any():
            raise UserError(f"{where}: frames do not ascend within 1..{video.n_frames}; frames count from 1")
        return Scored(picks, values)
    if len(values) == len(video.picks):
        return Scored(video.picks, values)
    if len(values) == video.n_frames:
        return Scored(np.arange(video.n_frames), values)
    raise UserError(
        f"{where}: there are {len(values)} scores; give {len(video.picks)}, one for each pick, or {video.n_frames}, "
        "one for each frame"
    )


def _tables(path: Path) -> list[Table]:
    """The table of each split; one if there are no splits."""
    if not path.exists():
        raise UserError(f"no scores at {path}; check the path")
    if not path.is_dir():
        return _tables_of_file(path)
    parts: dict[int, Path] = {}
    for part in _listed(path):
        found = re.match(r"(?:split|fold)\D?([0-9]+)", part.name)
        if found and parts.setdefault(int(found[1]), part) is not part:
            raise UserError(f"{path} holds {parts[int(found[1])].name} and {part.name}; keep one for each split")
    if parts:
        return [table for number in sorted(parts) for table in _tables_of_place(parts[number])]
    return _tables_of_place(path)


def _tables_of_place(path: Path) -> list[Table]:
    """`_tables` of a path whose files are not named by split."""
    if not path.is_dir():
        return _tables_of_file(path)
    files = [file for file in _listed(path) if file.suffix.lower() in (".json", *HDF5_SUFFIXES)]
    if len(files) > 1:  # some projects write one for each epoch
        raise UserError(f"{path} holds {files[0].name} and {files[1].name}; keep the one that is to be tested")
    return _tables_of_file(files[0]) if files else [(path, _read_folder(path))]


def _tables_of_file(path: Path) -> list[Table]:
    if path.suffix.lower() in HDF5_SUFFIXES:
        return [(path, _read_hdf5(path))]
    if path.suffix.lower() != ".json":
        raise UserError(f"{path} is of no known kind; give a folder, .h5 or .json (--help says what they hold)")
    remedy = 'write {"video_1": [0.1, ...], ...}'
    try:
        rows = json_file.read(path, f"it holds no scores; {remedy}", most_bytes=_MOST_JSON)
    except FileNotFoundError:
        raise UserError(f"no scores at {path}; check the path") from None
    rows = rows if isinstance(rows, list) else [rows]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds no scores; {remedy}")
    return [(path, [(name, (None, values)) for name, values in row.items()]) for row in rows]


def _listed(folder: Path) -> list[Path]:
    """What a folder holds, in order. Links are refused: they may lead to any file of this machine."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; check the path") from None
    if links := [path for path in found if path.is_symlink()]:
        raise UserError(f"{links[0]} is a link, and links in a folder of scores are not followed; copy the file there")
    return found


def _read_folder(folder: Path) -> Iterator[tuple[str, tuple[Any, Any]]]:
    files = [file for file in _listed(folder) if file.suffix.lower() in (".csv", ".npy")]
    if not files:
        raise UserError(f"{folder} holds no scores; give a folder with VIDEO.csv (frame,score) or VIDEO.npy")
    for file in files:
        if file.suffix.lower() == ".npy":
            yield file.stem, (None, array_file.read_npy(file, "write it again with numpy.save, an array of numbers"))
        else:
            yield file.stem, _read_csv(file)


def _read_csv(file: Path) -> tuple[list[int], list[float]]:
    rows = read_rows(file, "scores")
    header = rows[0][1] if rows else []
    try:
        frame, score = header.index("frame"), header.index("score")
        return [int(row[frame]) for _, row in rows[1:]], [float(row[score]) for _, row in rows[1:]]
    except (ValueError, IndexError) as error:
        raise UserError(f"cannot read {file} ({error}); write rows of frame,score below that header") from None


def _read_hdf5(path: Path) -> Iterator[tuple[str, tuple[Any, Any]]]:
    with hdf5_file.open_file(path, "write the scores into the file itself, an array of numbers for each video") as file:
        for name in file:
            item = hdf5_file.member(file, name)
            if isinstance(item, h5py.Group):
                held = [field for field in _SCORES if field in set(item)]  # `in item` would follow links
                if not held:
                    raise UserError(f"{path}: {name} has no dataset {' or '.join(_SCORES)}; write the scores there")
                item = hdf5_file.member(item, held[0])
            yield name, (None, hdf5_file.array(item).squeeze())


def _some(videos: Sequence[Judged]) -> str:
    first = videos[0]
    return " or ".join(dict.fromkeys((first.key, first.name)))
