"""A small film whose frames carry their number, with a summary made without a network."""

import io
import itertools
from collections.abc import Collection, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from avmsnet_jax.media.writer import write_movie
from avmsnet_jax.scoring.film import Scores
from avmsnet_jax.summarization import cutlist, report
from avmsnet_jax.summarization.choose import Budget
from avmsnet_jax.summarization.result import Shot, Summary
from tests.media.films import numbered

FPS, SECONDS = 10, 24
SHOTS = ((0, 5), (5, 9), (9, 15), (15, 17), (17, 24))  # seconds
CHOSEN = (1, 3)  # 5-9 s and 15-17 s of the film; 0-4 s and 4-6 s of the summary


def make_summary(folder: Path, film: Path, *, sound: bool = True, facts: dict[str, str] | None = None) -> Summary:
    """Writes the film and `folder/summary.mp4`, 6 seconds of it; attention at the left, the sound at the right."""
    rng = np.random.default_rng(0)
    tone = rng.uniform(-0.2, 0.2, SECONDS * 22050).astype(np.float32) if sound else None
    frames = [numbered(number) for number in range(1, SECONDS * FPS + 1)]
    write_movie(film, frames, FPS, tone)
    edges = [0, *(end * FPS for _, end in SHOTS)]
    shots = placed(edges, FPS, [0.2 + 0.1 * index for index in range(len(SHOTS))], CHOSEN)
    kept = [slice(start * FPS, end * FPS) for index, (start, end) in enumerate(SHOTS) if index in CHOSEN]
    heard = None if tone is None else np.concatenate([tone[s.start * 2205 : s.stop * 2205] for s in kept])
    write_movie(folder / "summary.mp4", [frame for part in kept for frame in frames[part]], FPS, heard)
    return Summary(scores_of(film, sound), shots, 6.5, 6.0, facts or {"Checkpoint": "runs/small"})


def placed(edges: Sequence[int], fps: int, scores: Sequence[float], chosen: Collection[int]) -> tuple[Shot, ...]:
    """Shots between frames, the chosen ones one after the other in the summary."""
    shots, at = [], 0.0
    for index, (first, stop) in enumerate(itertools.pairwise(edges)):
        place = at if index in chosen else None
        shots.append(Shot(first / fps, stop / fps, first + 1, stop, scores[index], index in chosen, place))
        at += (stop - first) / fps * (index in chosen)
    return tuple(shots)


def editing_of(summary: Summary) -> report.Editing:
    """What the report edits: the film cuts at 9.5 s, and is quiet at 17.2 s."""
    scorer = {"name": "network", "learned_from_people": True, "spacing_s": 1.0, "clip_frames": 2}
    cut = cutlist.of_summary(summary, Fraction(FPS), Budget(seconds=6.5), scorer)
    loudness = np.full(SECONDS * 20, -12.0)
    loudness[172 * 2 - 1 : 172 * 2 + 1] = -50
    return report.Editing(cut, (95,), loudness.tolist())


def scores_of(film: Path, sound: bool) -> Scores:
    """A clip a second from 1 to 23; the score rises to its highest at 16 s. Thumbnails are gray, 8 levels a clip."""
    times = np.arange(1, SECONDS, dtype=np.float64)
    levels = np.exp(-(((times - 16) / 6) ** 2)).astype(np.float32) * 0.8
    left, right = np.zeros((len(times), 8, 8)), np.zeros((len(times), 4, 4))
    left[:, 3:5, 0:2] = 0.25
    right[:, 1:3, 3] = np.linspace(1, 4, len(times))[:, None]
    return Scores(
        film=film,
        duration_s=float(SECONDS),
        fps=float(FPS),
        n_frames=SECONDS * FPS,
        width=64,
        height=48,
        has_sound=sound,
        frames=(times * FPS + 1).astype(np.int64),
        times_s=times,
        scores=levels,
        features=np.zeros((len(times), 4), np.float32),
        attention=(left.astype(np.float16), np.full((len(times), 4, 4), 1 / 16, np.float16)),
        localization=(right if sound else 0 * right).astype(np.float16),
        thumbnails=[thumbnail(8 * index) for index in range(len(times))],
    )


def thumbnail(level: int) -> bytes:
    """A JPEG of one gray."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), (level, level, level)).save(file, "JPEG")
    return file.getvalue()
