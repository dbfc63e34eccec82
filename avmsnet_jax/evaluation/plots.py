"""Scores as a person looks at them."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def score_curve(clips: Sequence[dict[str, Any]], threshold: float, path: Path) -> None:
    """Draws the scores of one video over its time, key moments shaded, to a PNG.

    Args:
      clips: of one video in order of time, each with `time_s` (seconds), `score` (0-1) and `label` (bool).
      threshold: drawn as a line.
      path: the file to write.
    """
    from matplotlib.figure import Figure  # half a second, and no window system: pyplot is not needed

    times = [clip["time_s"] for clip in clips]
    spacing = min((later - earlier for earlier, later in itertools.pairwise(times)), default=1.0)
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    axes = figure.subplots()
    key = [clip["time_s"] for clip in clips if clip["label"]]
    for index, time in enumerate(key):
        label = None if index else "key moment"
        axes.axvspan(time - spacing / 2, time + spacing / 2, color="#f2b134", alpha=0.45, linewidth=0, label=label)
    axes.plot(times, [clip["score"] for clip in clips], ".-", color="#1b5e8c", linewidth=1.4, label="score")
    axes.axhline(threshold, color="#777777", linewidth=0.8, linestyle="--", label=f"threshold {threshold:g}")
    axes.set(xlabel="time (s)", ylabel="importance", ylim=(-0.03, 1.03))
    axes.set_title(clips[0]["video"], parse_math=False)  # a name, whatever dollars it holds
    axes.margins(x=0.01)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
