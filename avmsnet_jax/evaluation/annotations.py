"""Reads users' judgments of videos: TVSum's, SumMe's, or files of the same formats."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from avmsnet_jax import array_file, hdf5_file, json_file, program
from avmsnet_jax.data import MANIFEST
from avmsnet_jax.data.manifest import inside, read_manifest
from avmsnet_jax.data.sources import folds, summe, tvsum
from avmsnet_jax.data.sources.judged import files_below
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import checks
from avmsnet_jax.evaluation.kts import kts
from avmsnet_jax.evaluation.selection import frame_scores, shots, summary

STRIDE = 15  # frames between picks in the field's files, and between frames that TVSum's protocol correlates
HDF5_SUFFIXES = (".h5", ".hdf5")
_MOST_PICKS = 20_000  # with features: three hours at two a second. The time of KTS grows with the square

_SPLITS = Path(__file__).parent / "splits"  # the five splits of each benchmark that public code uses


@dataclasses.dataclass(frozen=True)
class Judged:
    """A video with its users' judgments.

    Attributes:
      name: its name.
      key: `video_3` for the third of its data set, as the field's files number them; its name if the number is unknown.
      n_frames: number of judged frames.
      picks: (P,) int64, the frames (from 0) for which scores are expected.
      shots: (S, 2) int64, first and last frame of each, both inclusive; None if unknown.
      user_scores: (users, n_frames) uint8, each user's score for each frame; None if users gave none.
      user_summaries: (users, n_frames) bool, each user's summary; None if users made none.
      fps: frames per second for plots; None if unknown.
    """

    name: str
    key: str
    n_frames: int
    picks: np.ndarray
    shots: np.ndarray | None = None
    user_scores: np.ndarray | None = None
    user_summaries: np.ndarray | None = None
    fps: float | None = None

    @property
    def votes(self) -> np.ndarray:
        """(users, n_frames): higher for frames that a user values more."""
        votes = self.user_scores if self.user_scores is not None else self.user_summaries
        assert votes is not None  # every reader gives one or the other
        return votes.astype(np.int64)

    def completed(self) -> "Judged":
        """With a summary for each user: if users gave only scores, the best summary by each user's scores.

        The TVSum user summaries in the field's files were made in this way (Zhang et al., ECCV 2016).
        """
        if self.user_summaries is not None or self.shots is None:
            return self
        assert self.user_scores is not None
        made = np.stack([summary(scores, self.shots) for scores in self.user_scores])
        return dataclasses.replace(self, user_summaries=made)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A data set with users' judgments.

    Attributes:
      protocol: tvsum or summe.
      videos: in the data set's order.
      folds: for each split the names of its videos, `{"train": (...), "test": (...)}`.
    """

    protocol: str
    videos: tuple[Judged, ...]
    folds: tuple[folds.Fold, ...]


def read_annotations(paths: Sequence[Path], protocol: str = "", splits: Path | None = None) -> Benchmark:
    """Reads annotations as downloaded, and merges several files of the same videos.

    Args:
      paths: each `ydata-tvsum50.mat`, a SumMe `GT/*.mat`, a folder that holds either at any depth, an HDF5 file with
        the field's usual datasets ("eccv16"), or records of TVSum or SumMe that `prepare` wrote.
      protocol: tvsum or summe; empty = that of the files.
      splits: a JSON file of the folds, as `folds.read_splits` takes it; None = those of the records; else the field's
        usual five, if these are its videos; else five that test each video once.

    Raises:
      UserError: a file is missing or broken, two files disagree, or the splits name other videos.
    """
    read = [_read(path) for path in paths]
    found = {name for name, _ in read if name}
    if not protocol:
        if len(found) != 1 or not found <= {"tvsum", "summe"}:
            listed = ", ".join(map(str, paths))
            raise UserError(f"{listed}: cannot tell whether this is TVSum or SumMe; give --protocol=tvsum or summe")
        protocol = found.pop()
    videos: dict[str, Judged] = {}
    for (_, part), path in zip(read, paths, strict=True):
        for video in part:
            held = videos.get(video.key)
            videos[video.key] = video if held is None else _laid_over(held, video, path)
    divided = [fold for path in paths if _is_records(path) for fold in folds_of_records(path)]
    judged = tuple(videos.values())
    return Benchmark(protocol, judged, tuple(divided or _folds(protocol, judged, splits)))


def _read(path: Path) -> tuple[str, list[Judged]]:
    """The data set of a path, empty if unknown, and its videos."""
    if not path.exists():
        raise UserError(f"no annotations at {path}; check the path")
    if _is_records(path):
        return of_records(path)
    if path.suffix.lower() in HDF5_SUFFIXES:
        return _read_hdf5(path)
    files = files_below(path) if path.is_dir() else [path]
    tables = [file for file in files if file.suffix.lower() == ".mat" and file.parent.name == "GT"]
    if tables:
        return "summe", _read_summe(files, tables)
    tables = [file for file in files if file.name == tvsum.MAT] if path.is_dir() else files
    if not tables:
        raise UserError(f"no annotations in {path}; give {tvsum.MAT}, a folder with GT/*.mat, or an HDF5 file (.h5)")
    return "tvsum", [
        Judged(item.name, f"video_{number}", item.n_frames, _every(item.n_frames), user_scores=item.user_scores)
        for number, item in enumerate(tvsum.read_annotations(tables[0]), start=1)
    ]


def _read_summe(files: Sequence[Path], tables: Sequence[Path]) -> list[Judged]:
    by_name = {table.stem: table for table in tables}
    # If GT itself is given, the file of shots lies beside it.
    beside = [table.parent.parent / summe.SEGMENTATIONS for table in tables[:1]]
    found = [file for file in [*files, *beside] if file.name == summe.SEGMENTATIONS and file.exists()]
    segmented = summe.read_segmentations(found[0]) if found else {}
    order = [*segmented, *(name for name in sorted(by_name) if name not in segmented)]
    videos = []
    for number, name in enumerate(order, start=1):
        if name in by_name:
            chosen = summe.read_annotation(by_name[name]).user_summary.astype(bool)
            count = chosen.shape[1]
            bounds = None if name not in segmented else _shots(segmented[name], count, f"{found[0]}, {name}")
            videos.append(Judged(name, f"video_{number}", count, _every(count), bounds, None, chosen))
    return videos


def _read_hdf5(path: Path) -> tuple[str, list[Judged]]:
    """The field's HDF5 files: per video a group with user_summary, n_frames, picks, change_points, perhaps features."""
    videos, named = [], 0
    with hdf5_file.open_file(path, "download or write it again") as file:
        for key in sorted(file, key=lambda key: (len(key), key)):
            group = hdf5_file.member(file, key)
            if not isinstance(group, h5py.Group) or "user_summary" not in set(group):
                raise UserError(f"{path}: {key} has no user_summary; give the field's HDF5 file, or scores as --scores")
            named += "video_name" in set(group)
            videos.append(_judged_of_hdf5(group, key, f"{path}, {key}"))
    if not videos:
        raise UserError(f"{path} holds no videos; give the field's HDF5 file")
    users = {len(video.user_summaries) for video in videos if video.user_summaries is not None}
    return "summe" if named == len(videos) else "tvsum" if users == {tvsum.USERS} else "", videos


def _judged_of_hdf5(group: h5py.Group, key: str, where: str) -> Judged:
    held = set(group)

    def array(name: str) -> np.ndarray:
        return hdf5_file.array(hdf5_file.member(group, name))

    chosen = checks.binary(np.atleast_2d(array("user_summary")), f"{where}: user_summary", "users", "frames")
    count = int(array("n_frames").item()) if "n_frames" in held else chosen.shape[1]
    if chosen.shape[1] != count or not chosen.size:
        raise UserError(f"{where}: user_summary has shape {chosen.shape} and n_frames is {count}; correct the file")
    picks = _every(count)
    if "picks" in held:
        picks = checks.whole(array("picks").ravel(), f"{where}: picks", "picks")
        if not len(picks) or picks[0] < 0 or picks[-1] >= count or (np.diff(picks) < 1).any():
            raise UserError(f"{where}: picks do not ascend within 0..{count - 1}; correct the file")
    name = hdf5_file.text(hdf5_file.member(group, "video_name")) if "video_name" in held else key
    bounds = None
    if "change_points" in held:
        bounds = _shots(array("change_points"), count, f"{where}: change_points")
    elif "features" in held:
        features = array("features")
        if features.ndim != 2 or len(features) != len(picks) or len(picks) > _MOST_PICKS:
            raise UserError(
                f"{where}: features have shape {features.shape} for {len(picks)} picks; give a row for each pick, of "
                f"at most {_MOST_PICKS}"
            )
        bounds = shots(kts(features, len(features) - 1), picks, count)
    return Judged(name, key, count, picks, bounds, None, chosen)


def of_records(directory: Path) -> tuple[str, list[Judged]]:
    """From prepared records: the data set's name, and every video with users' judgments."""
    manifest = read_manifest(directory)
    videos = []
    kept = {} if manifest.dataset == "gaze" else manifest.annotations  # those of gaze are not judgments
    for name, file in kept.items():
        place = inside(directory, file)
        held = array_file.read_npz(place, "prepare the data again")
        videos.append(_judged_of_arrays(name, held, place))
    if not videos:
        raise UserError(
            f"{directory} keeps no judgments of users; give TVSum or SumMe as downloaded to "
            f"{program.typed('prepare')}, or use --protocol=movie50"
        )
    return manifest.dataset, videos


def _judged_of_arrays(name: str, held: dict[str, np.ndarray], place: Path) -> Judged:
    """A video of prepared records, from the arrays that `Video.annotations` returned."""
    summaries, scores, points = (held.get(field) for field in ("user_summary", "user_scores", "change_points"))
    votes = summaries if summaries is not None else scores
    count, fps = held.get("n_frames", np.zeros(0)), held.get("fps", np.zeros(0))
    if (
        count.size != 1
        or fps.size != 1
        or not 0 < float(fps.item()) < math.inf
        or votes is None
        or votes.ndim != 2
        or not votes.size
        or votes.shape[1] != count.item()
        or any(part is not None and part.shape != votes.shape for part in (summaries, scores))
    ):
        raise UserError(f"{place} does not hold the users' judgments of each frame; prepare the data again")
    n_frames = votes.shape[1]
    return Judged(
        name,
        name,  # its number in the data set is unknown, because prepare may have skipped others
        n_frames,
        _every(n_frames),
        None if points is None else _shots(points, n_frames, f"{place}: change_points"),
        scores,
        None if summaries is None else checks.binary(summaries, f"{place}: user_summary", "users", "frames"),
        float(fps.item()),
    )


def of_labels(directory: Path, clips: Sequence[dict[str, Any]]) -> list[Judged]:
    """Films with labels, which stand for the summary of a single user. A label holds until the next clip, like a score.

    Args:
      directory: the prepared records.
      clips: all scored clips of the films, in order.

    Raises:
      UserError: a film is divided between splits, so some of its clips are missing.
    """
    films = {film.name: film for film in read_manifest(directory).films}
    videos = []
    for name in dict.fromkeys(clip["video"] for clip in clips):
        film, own = films[name], [clip for clip in clips if clip["video"] == name]
        if sum(film.clips.values()) != len(own):
            raise UserError(
                f"{name} is divided by time between the splits of {directory}, and a summary is of a whole film; "
                "prepare it with --test_fraction=0 and give --split=train"
            )
        picks = np.array([clip["frame"] - 1 for clip in own])
        kept = frame_scores([clip["label"] for clip in own], picks, film.frames) > 0
        videos.append(Judged(name, name, film.frames, picks, None, None, kept[None], film.fps))
    return videos


def folds_of_records(directory: Path) -> list[folds.Fold]:
    """The folds of prepared records, each the names of its videos by split; empty if there are no folds."""
    manifest = read_manifest(directory)
    ends, names, end = [], [], 0
    for film in manifest.films:
        end += film.clips.get("whole", 0)
        ends.append(end)
        names.append(film.name)
    return [
        {
            split: tuple(
                name
                for name, start, end in zip(names, [0, *ends], ends, strict=False)
                if start < end and any(first <= start < last for first, last in spans)
            )
            for split, spans in fold.items()
        }
        for fold in manifest.folds
    ]


def _is_records(path: Path) -> bool:
    return path.is_dir() and (path / MANIFEST).exists()


def _folds(protocol: str, videos: Sequence[Judged], splits: Path | None) -> list[folds.Fold]:
    keys, names = [video.key for video in videos], [video.name for video in videos]
    numbered = keys == [f"video_{number}" for number in range(1, len(keys) + 1)]
    if splits is None and numbered:
        shipped = _SPLITS / f"{protocol}.json"
        rows = json_file.read(shipped, "install the package again")
        if {key for row in rows for part in row.values() for key in part} == set(keys):
            splits = shipped
    if splits is not None and not numbered:
        raise UserError(f"{splits} numbers the videos; give the annotations of all, video_1 to the last")
    return folds.find_folds(splits, (), names, set(names), protocol)


def _laid_over(before: Judged, video: Judged, path: Path) -> Judged:
    if before.n_frames != video.n_frames:
        raise UserError(
            f"{path}: {video.key} has {video.n_frames} frames, elsewhere {before.n_frames}; give files of one release"
        )
    fields = {name: getattr(video, name) for name in ("shots", "user_scores", "user_summaries")}
    given = {name: value for name, value in fields.items() if value is not None and getattr(before, name) is None}
    if video.shots is not None and before.shots is None:
        given["picks"] = video.picks  # those of the file with shots, which scores refer to
    name = video.name if before.name == before.key else before.name
    return dataclasses.replace(before, name=name, **given)


def _shots(bounds: Any, n_frames: int, where: str) -> np.ndarray:
    try:
        return checks.shots(bounds, n_frames)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _every(n_frames: int) -> np.ndarray:
    return np.arange(0, n_frames, STRIDE)
