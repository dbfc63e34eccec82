"""Simulated viewers of a toy movie: their gaze, as an eye tracker writes it.

While an object is heard with its own sound, every viewer looks at it. At other times viewers look at different places,
nearer to the center than to the edges, and some of them at what moves in silence. They react late, blink, differ by a
constant calibration error, and some join after the film has begun.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from avmsnet_jax.toy import picture
from avmsnet_jax.toy.script import Event, Script

Elsewhere = Callable[[np.random.Generator], np.ndarray]

VIEWERS = 20
RATE = 50  # samples a second
_FIXATION_S = (0.2, 0.45)
_SACCADE_S = 0.03
_BLINK_S, _BLINKS = 0.15, 0.06  # how long a blink lasts, and the share of fixations that end in one
_REACTION_S = (0.12, 0.22)
_LATE_S = (2.0, 8.0)  # when late viewers join, every tenth of all
_DISTRACTED = 0.25  # chance that a fixation goes to an object that is not heard with its own sound
_SCATTER = 0.22  # standard deviation of undirected gaze, as a share of the picture
_OFFSET, _JITTER, _NOISE = 0.008, 0.012, 0.003  # standard deviations: of calibration, a fixation and a sample


def near_center(rng: np.random.Generator) -> np.ndarray:
    """Draws a place for undirected gaze, (2,): more often near the center, as with real viewers."""
    return np.clip(rng.normal(0.5, _SCATTER, 2), 0.02, 0.98)


def write_gaze(folder: Path, script: Script, elsewhere: Elsewhere = near_center) -> None:
    """Writes the gaze of all viewers of a film to the new folder `folder`, as `observer,time_s,x,y`.

    Args:
      folder: the folder to create.
      script: the film.
      elsewhere: draws a place for undirected gaze, (2,), as shares of the picture.
    """
    folder.mkdir()
    lines = ["observer,time_s,x,y"]
    for viewer in range(VIEWERS):
        times, x, y = samples(script, viewer, elsewhere)
        for time, across, down in zip(times, x, y, strict=True):
            place = "," if np.isnan(across) else f"{across:.4f},{down:.4f}"
            lines.append(f"viewer{viewer:02d},{time:.3f},{place}")
    (folder / "viewers.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def samples(
    script: Script, viewer: int, elsewhere: Elsewhere = near_center
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) times in seconds, x and y as shares of the picture; NaN during blinks, on the way during saccades."""
    rng = np.random.default_rng((script.seed, 2 << 20, viewer))
    fixations = _fixations(script, rng, rng.uniform(*_LATE_S) if viewer % 10 == 9 else 0.0, elsewhere)
    times = np.arange(np.ceil(fixations[0, 0] * RATE), script.seconds * RATE) / RATE
    edges = fixations[:, :2].ravel()  # a place is held from a fixation's start to its end; saccades connect them
    found = []
    for column in (2, 3):
        values = np.interp(times, edges, fixations[:, column].repeat(2)) + rng.normal(0, _NOISE, len(times))
        found.append(values + rng.normal(0, _OFFSET))
    starts, ends = fixations[1:, 0], fixations[:-1, 1]
    blinks = np.flatnonzero(starts - ends > 2 * _SACCADE_S)
    blinking = ((times[:, None] >= ends[blinks]) & (times[:, None] < starts[blinks])).any(axis=1)
    x, y = (np.where(blinking, np.nan, values) for values in found)
    return times, x, y


def _fixations(script: Script, rng: np.random.Generator, start_s: float, elsewhere: Elsewhere) -> np.ndarray:
    """(F, 4) start and end in seconds, x, y."""
    rows, now, delay = [], start_s, rng.uniform(*_REACTION_S)
    onsets = [event.span[0] + delay for event in script.events if event.key]
    while now < script.seconds:
        event = _visible(script, now - delay)
        length = rng.uniform(*_FIXATION_S)
        if event is not None and (event.key or rng.random() < _DISTRACTED):
            place = np.array(picture.middle(event, now - event.time, script.seed)) + rng.normal(0, _JITTER, 2)
        else:
            place = elsewhere(rng)
        end = min([now + length, *(onset for onset in onsets if onset > now)])  # a key event attracts the eyes at once
        rows.append((now, end, *place))
        now = end + (_BLINK_S if rng.random() < _BLINKS else _SACCADE_S)
    return np.array(rows)


def _visible(script: Script, time: float) -> Event | None:
    """The event that is seen at a time, if there is one."""
    return next((event for event in script.events if event.sight and event.span[0] <= time < event.span[1]), None)
