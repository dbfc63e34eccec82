"""Plots of scores, precision and recall, and calibration."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax.clock import clock
from avmsnet_jax.evaluation.calibration import calibration
from avmsnet_jax.evaluation.precision_recall import average_precision, precision_recall_curve, precision_recall_f

_BLUE, _AMBER, _GREY, _GREEN, _PURPLE = "#1b5e8c", "#f2b134", "#777777", "#3c8d5a", "#8a5fa8"
_ATTENTION = "attention scorer"
_MOST_POINTS = 400  # of a curve that is not smoothed; a plot is about 1,000 pixels wide
_MOST_SHADED = 150  # shots; more would be only a few pixels wide
_TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800)  # seconds between ticks


def score_curve(
    clips: Sequence[dict[str, Any]], threshold: float, context: str, path: Path, attention: Sequence[float] = ()
) -> None:
    """Draws the scores of one video over time, key moments shaded, to a PNG.

    Args:
      clips: of one video in order of time, each with `time_s` (seconds), `score` (0-1) and `label` (bool).
      threshold: drawn as a line.
      context: the subtitle.
      path: the file to write.
      attention: the attention scorer's score of each clip, drawn for comparison; empty = not drawn.
    """
    times = np.array([clip["time_s"] for clip in clips])
    spacing = float(np.diff(times).min()) if len(times) > 1 else 1.0
    figure, axes = _figure(10, 2.8)
    starts, ends = _runs(np.array([clip["label"] for clip in clips], bool))
    for index, (first, last) in enumerate(zip(starts, ends, strict=True)):
        edges = times[first] - spacing / 2, times[last - 1] + spacing / 2
        axes.axvspan(*edges, color=_AMBER, alpha=0.45, linewidth=0, label=None if index else "key moment")
    if len(attention):
        _curve(axes, times, np.array(attention), _PURPLE, _ATTENTION, band=False)
    _curve(axes, times, np.array([clip["score"] for clip in clips]), _BLUE, "score")
    axes.axhline(threshold, color=_GREY, linewidth=0.8, linestyle="--", label=f"threshold {threshold:g}")
    axes.set(ylabel="importance", ylim=(-0.03, 1.03), xlim=(times[0] - spacing / 2, times[-1] + spacing / 2))
    _time_axis(axes, float(times[-1]))
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    legend.set_title(None if len(starts) else "no key moment")
    _title(axes, clips[0]["video"], context)
    _save(figure, path)


def judged_curve(
    video: str,
    context: str,
    scores: np.ndarray,
    users: np.ndarray,
    shots: np.ndarray | None,
    chosen: np.ndarray | None,
    fps: float | None,
    path: Path,
    attention: np.ndarray | None = None,
) -> None:
    """Draws the scores of one video above its users' votes, with shots and summary, to a PNG.

    Args:
      video: its name.
      context: the subtitle.
      scores: (n_frames,).
      users: (users, n_frames), higher for frames that a user values more.
      shots: (S, 2) first and last frame of each, both inclusive, every other one shaded; None = unknown.
      chosen: (n_frames,) bool, the frames of the summary; None = no summary.
      fps: frames a second, for an axis in seconds; None = the axis is in frames.
      path: the file to write.
      attention: (n_frames,) the attention scorer's scores, drawn for comparison; None = not drawn.
    """
    figure, axes = _figure(10, 3.8, rows=2, height_ratios=(3, 1.1), sharex=True)
    curve, strip = axes
    rate, count = fps or 1.0, len(scores)
    shaded = shots is not None and len(shots) <= _MOST_SHADED
    if shots is not None and shaded:
        for first, last in shots[1::2]:
            curve.axvspan(first / rate, (last + 1) / rate, color="#000000", alpha=0.06, linewidth=0)
    if chosen is not None:
        for index, (first, last) in enumerate(zip(*_runs(chosen), strict=True)):
            label = None if index else "summary"
            curve.axvspan(first / rate, last / rate, color=_AMBER, alpha=0.5, linewidth=0, label=label)
    times = np.arange(count) / rate
    mean = users.mean(axis=0)
    one = len(users) == 1
    _curve(curve, times, _stretched(mean), _GREEN, "the user" if one else "mean of the users", band=False)
    if attention is not None:
        _curve(curve, times, _stretched(attention), _PURPLE, _ATTENTION, band=False)
    _curve(curve, times, _stretched(scores), _BLUE, "score")
    curve.set(ylabel="least to greatest", ylim=(-0.04, 1.04), yticks=(0, 1), xlim=(0, count / rate))
    _title(curve, video, context)
    handles, _ = curve.get_legend_handles_labels()
    handles += [_patch("every other shot")] * shaded
    curve.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    extent = (0.0, count / rate, float(len(users)), 0.0)
    strip.imshow(users, aspect="auto", extent=extent, cmap="Greens", interpolation="nearest", vmin=users.min() - 0.3)
    strip.set(ylabel="user" if one else f"{len(users)} users", yticks=(), xlabel="frame")
    if fps:
        _time_axis(strip, count / rate)
    _save(figure, path)


def precision_recall(
    context: str,
    scores: np.ndarray,
    labels: np.ndarray,
    threshold: float | None,
    path: Path,
    attention: np.ndarray | None = None,
) -> None:
    """Draws precision against recall of all clips, with lines of equal F, to a PNG.

    Without key clips the plot says that there is nothing to draw.

    Args:
      context: the title.
      scores: (N,).
      labels: (N,) bool.
      threshold: marked on the curve; None = no mark.
      path: the file to write.
      attention: (N,) the attention scorer's scores, drawn for comparison; None or empty = not drawn.
    """
    figure, axes = _figure(5.2, 4.8)
    figure.suptitle(_wrapped(context, 62), fontsize="small", color=_GREY, parse_math=False)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    if not labels.any():
        reason = f"None of {len(labels)} clips is a key moment:\nprecision and recall have no value."
        axes.text(0.5, 0.5, reason, ha="center", va="center")
        _save(figure, path)
        return
    for level in (0.2, 0.4, 0.6, 0.8):
        recalls = np.linspace(level / (2 - level), 1, 100)
        axes.plot(recalls, level * recalls / (2 * recalls - level), color="#cccccc", linewidth=0.8, zorder=1)
        axes.annotate(f"F {level}", (1.0, level / (2 - level)), (4, -3), textcoords="offset points", color="#999999")
    share = float(np.mean(labels))
    if attention is not None and len(attention):
        _precision_recall_steps(axes, attention, labels, _PURPLE, _ATTENTION)
    _precision_recall_steps(axes, scores, labels, _BLUE, "scores")
    axes.axhline(share, color=_GREY, linewidth=1.0, linestyle="--", label=f"chance: {share:.3f} of the clips are key")
    if threshold is not None:
        found, called = precision_recall_f(scores >= threshold, labels), bool((scores >= threshold).any())
        label = f"threshold {threshold:.3g}: " + (f"F {found.fscore:.3f}" if called else "no score reaches it")
        place = (found.recall, found.precision) if called else ((), ())
        axes.plot(*place, "o", color=_AMBER, markeredgecolor="black", label=label, clip_on=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    _save(figure, path)


def _precision_recall_steps(axes: Any, scores: np.ndarray, labels: np.ndarray, color: str, name: str) -> None:
    _, precisions, recalls = precision_recall_curve(scores, labels)
    label = f"{name}: average precision {average_precision(scores, labels):.3f}"
    # As in average precision, the precision at the first threshold holds from recall 0.
    axes.step(np.append(0, recalls), np.append(precisions[:1], precisions), where="pre", color=color, label=label)


def calibration_curve(context: str, scores: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Draws the share of key clips and the number of clips by score to a PNG.

    The area of a marker grows with the number of clips; a line gives the 95% interval of the share.

    Args:
      context: the title.
      scores: (N,) in 0-1.
      labels: (N,) bool.
      path: the file to write.
    """
    from scipy.stats import binomtest  # slow to import

    found = calibration(scores, labels)
    held = found.counts > 0
    counts, shares = found.counts[held], found.shares[held]
    figure, (curve, bars) = _figure(5.2, 5.0, rows=2, height_ratios=(3, 1), sharex=True)
    figure.suptitle(_wrapped(context, 62), fontsize="small", color=_GREY, parse_math=False)
    curve.plot((0, 1), (0, 1), color=_GREY, linewidth=1.0, linestyle="--", label="a score is a probability")
    label = f"clips by score: error {found.error:.3f}"
    curve.scatter(
        found.scores[held],
        shares,
        10 + 120 * counts / max(counts.max(), 100),
        color=_BLUE,
        label=label,
        clip_on=False,
        zorder=3,
    )
    trials = zip(np.rint(shares * counts).astype(int).tolist(), counts.tolist(), strict=True)
    edges = [binomtest(hits, count).proportion_ci(method="wilson") for hits, count in trials]
    low, high = [edge.low for edge in edges], [edge.high for edge in edges]
    interval = "95% interval of the share (Wilson)"
    curve.vlines(found.scores[held], low, high, color=_BLUE, linewidth=1.0, alpha=0.7, label=interval)
    curve.set(ylabel="share of key clips", xlim=(0, 1), ylim=(0, 1.02))
    curve.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    width = 1 / len(found.counts)
    bars.bar((np.arange(len(found.counts)) + 0.5) * width, found.counts, width * 0.9, color=_BLUE)
    bars.set(xlabel="score", ylabel="clips", yscale="log", ylim=(0.7, 4.0 * max(found.counts.max(), 1)))
    bars.tick_params(axis="y", which="both", left=False, labelleft=False)
    for place, count in zip((np.flatnonzero(held) + 0.5) * width, counts, strict=True):
        bars.annotate(f"{count}", (place, count), (0, 2), textcoords="offset points", ha="center", fontsize=7)
    _save(figure, path)


def _curve(axes: Any, times: np.ndarray, values: np.ndarray, color: str, label: str, band: bool = True) -> None:
    """A line through values over time; if they change too often, their moving mean over a band from least to most."""
    changes = np.count_nonzero(np.diff(values))
    if changes <= _MOST_POINTS:
        marker = "." if len(values) <= _MOST_POINTS / 3 else ""
        axes.plot(times, values, marker=marker, color=color, linewidth=1.4 if changes < 200 else 1.0, label=label)
        return
    starts = np.arange(_MOST_POINTS // 2) * len(values) // (_MOST_POINTS // 2)
    counts = np.diff(np.append(starts, len(values)))
    middles = np.add.reduceat(times, starts) / counts
    if band:
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        axes.fill_between(
            middles, low, high, color=color, alpha=0.25, linewidth=0, label=f"{label}, from least to most"
        )
    smooth = np.add.reduceat(values, starts) / counts
    axes.plot(middles, smooth, color=color, linewidth=1.2, label=f"{label}, smoothed")


def _time_axis(axes: Any, end_s: float) -> None:
    """Ticks as m:ss, or h:mm:ss from an hour on."""
    from matplotlib.ticker import MultipleLocator

    most = 9 if end_s >= 3600 else 12  # labels that fit side by side
    step = next((step for step in _TICKS_S if end_s / step <= most), 3600 * -int(-end_s // (3600 * most)))
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(lambda time_s, _: clock(time_s) if time_s >= 0 else "")
    axes.set_xlabel("time (h:mm:ss)" if end_s >= 3600 else "time (m:ss)")


def _title(axes: Any, video: str, context: str) -> None:
    """The video's name, in which $ is no markup, and a subtitle in gray."""
    axes.set_title(f"{video}\n", parse_math=False)
    axes.annotate(
        context, (0.5, 1), (0, 5), "axes fraction", "offset points", ha="center", color=_GREY, fontsize="small",
        parse_math=False,
    )  # fmt: skip


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _runs(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (exclusive) of runs of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return edges[::2], edges[1::2]


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values scaled to 0-1, to compare curves of different units; constant values become 0.5."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)


def _patch(label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color="#000000", alpha=0.06, linewidth=0, label=label)


def _figure(width: float, height: float, rows: int = 1, sharex: bool = False, **grid: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # slow to import; without pyplot, no window system is needed

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, sharex=sharex, gridspec_kw=grid)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
