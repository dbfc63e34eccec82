"""Makes folders as the downloads of TVSum and SumMe unpack to, with fewer and smaller videos."""

import json
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from tests.media.films import encode, numbered


def film(path: Path, n_frames: int, fps: float = 25) -> Path:
    """A film whose frames show their numbers, with sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, int(n_frames / fps * 22050))).astype(np.float32)
    return encode(path, [numbered(number) for number in range(1, n_frames + 1)], fps, sound=sound)


def votes(n_frames: int, seed: int = 0) -> np.ndarray:
    """(20, n_frames) scores from 1 to 5, each constant for 50 frames."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.integers(1, 6, (20, -(-n_frames // 50))), 50, axis=1)[:, :n_frames]


def write_tvsum_mat(path: Path, videos: Mapping[str, np.ndarray], **changes: object) -> None:
    """`ydata-tvsum50.mat`, laid out as MATLAB does, of users' scores by name. `changes` are to the first video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_group("#refs#")
        references: dict[str, list[h5py.Reference]] = {}
        for row, (name, scores) in enumerate(videos.items()):
            fields = {
                "video": name,
                "category": "VT",
                # UTF-8 that was taken for Latin-1, as in two of the real titles.
                "title": f"Škoda {name}".encode().decode("latin-1"),
                "length": scores.shape[1] / 25,
                "nframes": scores.shape[1],
                "user_anno": scores,
                "gt_score": scores.mean(axis=0, keepdims=True),
            }
            for field, value in (fields | (changes if row == 0 else {})).items():
                is_text = isinstance(value, str)
                stored = np.array([ord(c) for c in value], np.uint16)[:, None] if is_text else np.atleast_2d(value)
                data = file.create_dataset(
                    f"#refs#/{field}{row}", data=stored if is_text else stored.astype(np.float64)
                )
                references.setdefault(field, []).append(data.ref)
        for field, rows in references.items():
            table = file.create_dataset(f"tvsum50/{field}", (len(rows), 1), h5py.ref_dtype)
            table[:, 0] = rows


def write_tvsum(root: Path, frames: Mapping[str, int]) -> Path:
    """The download with videos of so many frames."""
    scores = {name: votes(count, seed) for seed, (name, count) in enumerate(frames.items())}
    write_tvsum_mat(root / "ydata-tvsum50-matlab" / "matlab" / "ydata-tvsum50.mat", scores)
    for name, count in frames.items():
        film(root / "ydata-tvsum50-video" / "video" / f"{name}.mp4", count)
    return root


def chosen(n_frames: int, users: int = 3) -> np.ndarray:
    """(n_frames, users) uint8 as SumMe has it: user u chose two stretches, numbered 1 and 2."""
    scores = np.zeros((n_frames, users), np.uint8)
    for user in range(users):
        scores[10 + 2 * user : 20 + 2 * user, user] = 1
        scores[40:42, user] = 2
    return scores


def write_summe_mat(path: Path, scores: np.ndarray, **changes: object) -> None:
    """`GT/<name>.mat` as MATLAB wrote it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    segments = np.empty((1, scores.shape[1]), object)
    for user in range(scores.shape[1]):
        segments[0, user] = np.array([[0.4, 0.6], [1.6, 1.68]])
    fields = {
        "FPS": np.uint8(25),
        "nFrames": np.uint16(len(scores)),
        "user_score": scores,
        "gt_score": (scores > 0).mean(axis=1, keepdims=True),
        "segments": segments,
        "video_duration": len(scores) / 25,
    }
    scipy.io.savemat(path, fields | changes)


def write_summe(root: Path, frames: Mapping[str, int], segmentations: bool = True) -> Path:
    """The download with videos of so many frames, each with the shots 0-29 and 30-end."""
    for name, count in frames.items():
        write_summe_mat(root / "GT" / f"{name}.mat", chosen(count))
        film(root / "videos" / f"{name}.mp4", count)
    if segmentations:
        shots = {
            f"video_{number}": {
                "video_name": name,
                "segments": [{"idx": 0, "start": 0, "end": 29}, {"idx": 1, "start": 30, "end": count - 1}],
            }
            for number, (name, count) in enumerate(frames.items(), start=1)
        }
        (root / "segmentations.json").write_text(json.dumps(shots), encoding="utf-8")
    return root
