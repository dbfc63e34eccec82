"""A prepared data set as text and as a contact sheet."""

import datetime
import itertools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avmsnet_jax.data.manifest import Manifest, inside, read_manifest
from avmsnet_jax.data.pipeline import Record, Records
from avmsnet_jax.media.audio import SAMPLE_RATE

COLORS = {"key": "#d98e04", "other": "#5b7083", "no label": "#999999"}
_SHOWN, _COLUMNS, _STRIP = 12, 3, 4  # clips on a sheet, clips in a row, frames of a clip
_MOST_READ = 2000  # records looked at to find key clips and others


def account(directory: Path, users: int) -> str:
    """Describes a data set in a few lines: splits, films, durations, sound, users, folds, settings and size.

    Args:
      directory: the prepared data set.
      users: number of users who scored the films; 0 = records hold labels only.

    Raises:
      UserError: there is no such data set, or its manifest is damaged.
    """
    manifest = read_manifest(directory)
    stored = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    lines = [*_told(manifest, users), *_reliabilities(manifest, directory)]
    return "\n".join([f"{directory}: {lines[0]}", *lines[1:], f"  on disk:    {stored / 1e6:,.1f} MB"])


def _reliabilities(manifest: Manifest, directory: Path) -> list[str]:
    """For films labeled by gaze, how well the curves of two halves of the observers agree."""
    if manifest.dataset != "gaze":
        return []
    from avmsnet_jax.gaze import viewed  # these take a second to import
    from avmsnet_jax.gaze.concentration import split_half

    lines = []
    for name, file in manifest.annotations.items():
        kept = viewed.read(inside(directory, file))
        reliability, observers = split_half(kept.halves), len(kept.positions)
        word = "no agreement, so its labels are meaningless" if not reliability > _AGREES else ""
        lines.append(f"  {name + ':':12}{observers} observers, split-half {reliability:.2f} {word}".rstrip())
    return lines


_AGREES = 0.2  # smallest split-half reliability that is more than chance agreement


def _told(manifest: Manifest, users: int) -> list[str]:
    """A manifest as lines of text."""
    films, frames, size = manifest.films, manifest.frames, manifest.frame_size
    every = f", one every {manifest.spacing} frames" if manifest.spacing else ""
    lines = [f"{manifest.dataset}, clips of {frames} frames of {size}x{size}{every}"]
    for split, counts in manifest.splits.items():
        seconds = sum(film.clips.get(split, 0) * frames / film.fps for film in films)
        key = "no labels" if split == "unlabelled" else f"{counts.positives / counts.clips:.1%} key"
        lines.append(
            f"  {split + ':':12}{counts.clips} clips of {_films(counts.videos)}, {key}, {_clock(seconds)} in the clips"
        )
    heard = sum(film.has_sound for film in films)
    running = sum(film.frames / film.fps for film in films)
    lines.append(f"  films:      {len(films)}, {_clock(running)} of running time, {heard} with sound")
    if users:
        lines.append(f"  users:      {users} at most gave a film's scores")
    if folds := manifest.folds:
        parts = [
            f"{split} {_extent(sum(stop - start for start, stop in fold.get(split, ())) for fold in folds)} clips"
            for split in ("train", "test")
        ]
        lines.append(f"  folds:      {len(folds)}, {', '.join(parts)}")
    if skipped := manifest.skipped:
        lines.append(f"  skipped:    {len(skipped)}, of which the first: {': '.join(skipped[0])}")
    return lines


def choose(records: Records, count: int) -> list[tuple[int, Record]]:
    """Chooses clips from all parts of a split, half of them key and half not if there are enough.

    Args:
      records: an opened split.
      count: how many.

    Returns:
      numbers and records, in order; the same for each call. If one kind is rarer than one in a thousand, it may be
      missing.
    """
    n = len(records)
    stride = max(round(n * (math.sqrt(5) - 1) / 2), 1)  # golden section: each step falls between earlier ones
    while math.gcd(stride, n) > 1:
        stride += 1
    kinds: dict[str, list[tuple[int, Record]]] = {kind: [] for kind in COLORS}
    for step in range(min(n, _MOST_READ)):
        index = step * stride % n
        record = records[index]
        found = kinds[kind_of(record)]
        if len(found) < count:
            found.append((index, record))
        if len(kinds["no label"]) == count or min(len(kinds["key"]), len(kinds["other"])) >= count // 2:
            break
    key, other = kinds["key"], kinds["other"] + kinds["no label"]
    keys = min(len(key), max(count // 2, count - len(other)))
    return sorted(key[:keys] + other[: count - keys], key=lambda item: item[0])


def kind_of(record: Record) -> str:
    """How a clip is labeled: one of `COLORS`."""
    return "no label" if np.isnan(record["label"]) else "key" if record["label"] else "other"


def draw_sheet(records: Records, path: Path) -> None:
    """Draws a contact sheet of a split to a PNG: for each clip a few frames, their sound, label, film and time.

    Args:
      records: an opened split.
      path: the file to write.
    """
    import matplotlib  # takes half a second to import; pyplot would need a window system
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = [record for _, record in choose(records, _SHOWN)]
    loudest = max(*(float(np.abs(record["sound"]).max()) for record in shown), 1e-6)
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    with matplotlib.rc_context({"text.parse_math": False}):  # names may hold dollar signs
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.04, hspace=0, wspace=0)
        figure = Figure(figsize=(4.6 * columns + 0.4, 1.9 * rows + 0.6), layout=layout)
        name = f"{records.directory.absolute().name}, {records.split}: {len(shown)} of {len(records)} clips"
        figure.suptitle(name, fontsize=11)
        cells = figure.subfigures(rows, columns, squeeze=False).flat
        for cell, record in itertools.zip_longest(cells, shown):
            if record is not None:
                _draw_clip(cell, record, loudest)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # matplotlib's font lacks some scripts and shows boxes
            figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _draw_clip(cell: Any, record: Record, loudest: float) -> None:
    """Draws a clip: a strip of frames, and the sound of the same time."""
    kind = kind_of(record)
    color = COLORS[kind]
    frames = record["clip"][np.linspace(0, len(record["clip"]) - 1, _STRIP).round().astype(int)]
    pictures, sound = cell.subplots(2, 1, height_ratios=(3, 1))
    pictures.imshow(np.concatenate(frames, axis=1), aspect="auto", interpolation="antialiased")
    for number in range(1, _STRIP):
        pictures.axvline(number * frames.shape[2] - 0.5, color="white", linewidth=2)
    pictures.set_title(f"{_shortened(str(record['video']))}  {_clock(float(record['time_s']))}", loc="left", fontsize=8)
    users = record.get("scores", np.zeros(0))
    given = f", users' mean {np.nanmean(users):.2f}" if np.isfinite(users).any() else ""
    pictures.set_title(kind + given, loc="right", fontsize=8, color=color, fontweight="bold")

    samples = min(round(len(record["clip"]) / float(record["fps"]) * SAMPLE_RATE), len(record["sound"]))
    first = (len(record["sound"]) - samples) // 2
    heard = record["sound"][first : first + samples]
    if record["has_sound"]:
        # Square roots of amplitudes, so that sound 30 dB below the loudest is still visible.
        parts = np.array_split(np.sign(heard) * np.sqrt(np.abs(heard) / loudest), min(400, len(heard)))
        times = np.linspace(0, 1, len(parts))
        sound.fill_between(times, [part.min() for part in parts], [part.max() for part in parts], color=color, lw=0.5)
    else:
        sound.text(
            0.5, 0.5, "no sound", transform=sound.transAxes, ha="center", va="center", fontsize=8, color="#999999"
        )
    sound.set(xlim=(0, 1), ylim=(-1.05, 1.05))
    for axes in (pictures, sound):
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color=color, linewidth=2.5 if kind == "key" else 1)


def _films(count: int) -> str:
    return f"{count} film{'s' * (count != 1)}"


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _extent(values: Any) -> str:
    """The range of some counts."""
    held: Sequence[int] = sorted(set(values))
    return str(held[0]) if len(held) == 1 else f"{held[0]} to {held[-1]}"


def _shortened(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most - 12]}…{name[-11:]}"
