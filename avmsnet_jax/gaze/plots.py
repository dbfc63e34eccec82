"""Plots a film's gaze: the curve of concentration, and frames of high and low concentration with the gaze on them."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from avmsnet_jax.clock import clock
from avmsnet_jax.errors import printable
from avmsnet_jax.gaze.concentration import LEAST_OBSERVERS, Concentration
from avmsnet_jax.media.movie import Movie

_BLUE, _AMBER, _GREY, _RED = "#1b5e8c", "#f2b134", "#777777", "#d0342c"
_SHOWN = 3  # frames of the highest, and of the lowest concentration
_APART_S = 4.0  # from one of these to the next


def draw(
    film: Path, rate: float, curve: Concentration, labels: np.ndarray, positions: np.ndarray, output: Path
) -> None:
    """Draws a film's curve of concentration, its key frames, how many looked, and six frames with the gaze on them.

    Args:
      film: the film; read once.
      rate: frames a second.
      curve: of N frames.
      labels: (N,) 1 = key, 0 = not, -1 = no value.
      positions: (U, N, 2) as `gaze.concentration.concentration` takes them.
      output: the PNG to write.
    """
    highest, lowest = _apart(curve.values, rate), _apart(-curve.values, rate)
    chosen = sorted({*highest, *lowest})
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    grid = figure.add_gridspec(3, max(len(chosen), 1), height_ratios=(2.2, 0.8, 1.5))
    above = figure.add_subplot(grid[0, :])
    times = np.arange(len(labels)) / rate
    above.fill_between(
        times, 0, 1, where=labels == 1, color=_AMBER, alpha=0.5, linewidth=0, transform=above.get_xaxis_transform()
    )
    above.plot(times, curve.values, color=_BLUE, linewidth=1)
    above.set(ylabel="concentration", xlim=(0, times[-1] if len(times) > 1 else 1))
    above.set_title(f"{printable(film.name)}: concentration of gaze, key frames shaded", fontsize=10, loc="left")
    below = figure.add_subplot(grid[1, :], sharex=above)
    below.plot(times, curve.observers, color=_GREY, linewidth=1)
    below.axhline(LEAST_OBSERVERS, color=_RED, linewidth=0.8, linestyle="--")
    below.set(ylabel="observers", ylim=(0, len(positions) + 1))
    below.xaxis.set_major_formatter(lambda value, _: clock(value))
    for place, (frame, picture) in enumerate(_pictures(film, chosen).items()):
        axes = figure.add_subplot(grid[2, place])
        height, width = picture.shape[:2]
        axes.imshow(picture, extent=(0, 1, 1, 0), aspect=height / width)
        axes.plot(*positions[:, frame].T, "o", color=_RED, markersize=4, markeredgecolor="white", markeredgewidth=0.6)
        axes.set(xlim=(0, 1), ylim=(1, 0))
        axes.axis("off")
        what = "high" if frame in highest else "low"
        axes.set_title(f"{clock(frame / rate)}, {what} ({curve.values[frame]:.1f})", fontsize=8)
    figure.savefig(output, format="png", dpi=100, metadata={"Software": None})


def _apart(values: np.ndarray, rate: float) -> list[int]:
    """The frames with the highest values, some seconds from each other."""
    left = np.where(np.isfinite(values), values, -np.inf)
    found: list[int] = []
    while len(found) < _SHOWN and len(left) and np.isfinite(left.max()):
        found.append(int(left.argmax()))
        around = slice(max(round(found[-1] - _APART_S * rate), 0), round(found[-1] + _APART_S * rate) + 1)
        left[around] = -np.inf
    return found


def _pictures(film: Path, frames: list[int]) -> dict[int, np.ndarray]:
    """The pictures of some frames, counted from 0."""
    found: dict[int, np.ndarray] = {}
    for frame in Movie(film).frames(constant_rate=True):
        if frame.number - 1 in frames:
            found[frame.number - 1] = frame.rgb()
        if len(found) == len(frames):
            break
    return found
