"""Scores as a person looks at them."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax.evaluation.metrics import average_precision, calibration, precision_recall_curve, precision_recall_f

_BLUE, _AMBER, _GREY, _GREEN = "#1b5e8c", "#f2b134", "#777777", "#3c8d5a"


def score_curve(clips: Sequence[dict[str, Any]], threshold: float, path: Path) -> None:
    """Draws the scores of one video over its time, key moments shaded, to a PNG.

    Args:
      clips: of one video in order of time, each with `time_s` (seconds), `score` (0-1) and `label` (bool).
      threshold: drawn as a line.
      path: the file to write.
    """
    times = [clip["time_s"] for clip in clips]
    spacing = min((later - earlier for earlier, later in itertools.pairwise(times)), default=1.0)
    figure, axes = _figure(10, 2.6)
    key = [clip["time_s"] for clip in clips if clip["label"]]
    for index, time in enumerate(key):
        label = None if index else "key moment"
        axes.axvspan(time - spacing / 2, time + spacing / 2, color=_AMBER, alpha=0.45, linewidth=0, label=label)
    axes.plot(times, [clip["score"] for clip in clips], ".-", color=_BLUE, linewidth=1.4, label="score")
    axes.axhline(threshold, color=_GREY, linewidth=0.8, linestyle="--", label=f"threshold {threshold:g}")
    axes.set(xlabel="time (s)", ylabel="importance", ylim=(-0.03, 1.03))
    axes.set_title(clips[0]["video"], parse_math=False)  # a name, whatever dollars it holds
    axes.margins(x=0.01)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    _save(figure, path)


def judged_curve(
    title: str,
    scores: np.ndarray,
    users: np.ndarray,
    shots: np.ndarray | None,
    chosen: np.ndarray | None,
    fps: float | None,
    path: Path,
) -> None:
    """Draws the scores of one video over what its users said, with its shots and the summary, to a PNG.

    Args:
      title: the video's name.
      scores: (n_frames,).
      users: (users, n_frames), more for frames that a user values more.
      shots: (S, 2) first and last frame of each, both inclusive, every other one shaded; None = not known.
      chosen: (n_frames,) bool, the frames of the summary; None = there is none.
      fps: frames a second, for an axis in seconds; None = the axis is in frames.
      path: the file to write.
    """
    figure, axes = _figure(10, 3.6, rows=2, height_ratios=(3, 1.1), sharex=True)
    curve, strip = axes
    rate, count = fps or 1.0, len(scores)
    if shots is not None:
        for first, last in shots[1::2]:
            curve.axvspan(first / rate, (last + 1) / rate, color="#000000", alpha=0.06, linewidth=0)
    if chosen is not None:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]])))
        for index, (first, last) in enumerate(edges.reshape(-1, 2)):
            label = None if index else "summary"
            curve.axvspan(first / rate, last / rate, color=_AMBER, alpha=0.5, linewidth=0, label=label)
    times = np.arange(count) / rate
    mean = users.mean(axis=0)
    one = len(users) == 1
    curve.plot(times, _stretched(mean), color=_GREEN, linewidth=1.0, label="the user" if one else "mean of the users")
    curve.plot(times, _stretched(scores), color=_BLUE, linewidth=1.4, label="score")
    curve.set(ylabel="least to greatest", ylim=(-0.04, 1.04), yticks=(0, 1), xlim=(0, count / rate))
    curve.set_title(title, parse_math=False)
    shaded = [] if shots is None else [_patch("every other shot")]
    handles, _ = curve.get_legend_handles_labels()
    curve.legend(handles=[*handles, *shaded], loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    extent = (0.0, count / rate, float(len(users)), 0.0)
    strip.imshow(users, aspect="auto", extent=extent, cmap="Greens", interpolation="nearest", vmin=users.min() - 0.3)
    strip.set(ylabel="user" if one else f"{len(users)} users", yticks=(), xlabel="time (s)" if fps else "frame")
    _save(figure, path)


def precision_recall(scores: np.ndarray, labels: np.ndarray, threshold: float | None, path: Path) -> None:
    """Draws precision against recall of all clips, with lines of equal F, to a PNG.

    Args:
      scores: (N,).
      labels: (N,) bool.
      threshold: what is marked on the curve; None = nothing.
      path: the file to write.
    """
    figure, axes = _figure(5.2, 4.6)
    for level in (0.2, 0.4, 0.6, 0.8):
        recalls = np.linspace(level / (2 - level), 1, 100)
        axes.plot(recalls, level * recalls / (2 * recalls - level), color="#cccccc", linewidth=0.8, zorder=1)
        axes.annotate(f"F {level}", (1.0, level / (2 - level)), (4, -3), textcoords="offset points", color="#999999")
    _, precisions, recalls = precision_recall_curve(scores, labels)
    area, share = average_precision(scores, labels), float(np.mean(labels)) if len(labels) else 0.0
    # From recall 0 on: the first threshold's precision holds up to its recall, as average precision counts it.
    axes.step(
        np.append(0, recalls),
        np.append(precisions[:1], precisions),
        where="pre",
        color=_BLUE,
        label=f"scores: average precision {area:.3f}",
    )
    axes.axhline(share, color=_GREY, linewidth=1.0, linestyle="--", label=f"chance: {share:.3f} of the clips are key")
    if threshold is not None:
        found = precision_recall_f(scores >= threshold, labels)
        label = f"threshold {threshold:.3g}: F {found.fscore:.3f}"
        axes.plot(found.recall, found.precision, "o", color=_AMBER, markeredgecolor="black", label=label, clip_on=False)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    _save(figure, path)


def calibration_curve(scores: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Draws the share of key clips against the score they were given, and how many there are, to a PNG.

    Args:
      scores: (N,) in 0-1.
      labels: (N,) bool.
      path: the file to write.
    """
    found = calibration(scores, labels)
    held = found.counts > 0
    figure, (curve, bars) = _figure(5.2, 4.8, rows=2, height_ratios=(3, 1), sharex=True)
    curve.plot((0, 1), (0, 1), color=_GREY, linewidth=1.0, linestyle="--", label="a score is a probability")
    label = f"clips by score: error {found.error:.3f}"
    curve.plot(found.scores[held], found.shares[held], "o-", color=_BLUE, label=label, clip_on=False)
    curve.set(ylabel="share of key clips", xlim=(0, 1), ylim=(0, 1.02))
    curve.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    width = 1 / len(found.counts)
    bars.bar((np.arange(len(found.counts)) + 0.5) * width, found.counts, width * 0.9, color=_BLUE)
    bars.set(xlabel="score", ylabel="clips", yscale="log", ylim=(0.7, 2.0 * max(found.counts.max(), 1)))
    _save(figure, path)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1, for curves of different units; equal ones in the middle."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)


def _patch(label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color="#000000", alpha=0.06, linewidth=0, label=label)


def _figure(width: float, height: float, rows: int = 1, sharex: bool = False, **grid: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # half a second, and no window system: pyplot is not needed

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, sharex=sharex, gridspec_kw=grid)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
