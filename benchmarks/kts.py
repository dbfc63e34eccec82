"""How long KTS takes: side by side with its formula in plain numpy, and for longer and longer films.

    python -m benchmarks.kts --plot=docs/images/kts.png

Side by side: 1,200 samples of 1,024 float32 with up to 1,199 change points, the field's usual choice. The numpy side
(tests/reference) uses whole N x N arrays; both must find the same change points. Growth: at most N / 10 change points,
each size in a process of its own, whose peak memory includes Python, numpy and numba. "film" has a shot for every ten
samples; "noise" has none, so that nothing can be skipped. Three minutes on two CPU cores.
"""

import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from avmsnet_jax import command_line
from avmsnet_jax.evaluation import kts

_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds side by side; each runs both")
_PLOT = flags.DEFINE_string("plot", "", "PNG file for the growth")
_DIMENSIONS = 1024
_SIZES = (1800, 3600, 7200, 14400)


def main(_: list[str]) -> None:
    """Measures and prints."""
    kts(_features("film", 300), 30)  # compiles
    ratios = _side_by_side()
    low, median, high = np.quantile(ratios, [0.1, 0.5, 0.9])
    print(f"1200 samples, numpy's time over ours: median {median:.1f} (10% {low:.1f}, 90% {high:.1f})")
    rows = []
    print(f"{'':6}{'samples':>9}{'at most':>9}{'found':>7}{'seconds':>9}{'MB':>7}")
    for kind in ("film", "noise"):
        for samples in _SIZES:
            with multiprocessing.get_context("spawn").Pool(1) as process:
                rows.append(process.apply(_measure, (kind, samples)))
            row = rows[-1]
            print(
                f"{kind:6}{samples:9}{samples // 10:9}{row['found']:7}{row['seconds']:9.2f}{row['megabytes']:7}",
                flush=True,
            )
    if _PLOT.value:
        _draw(rows, Path(_PLOT.value))


def _features(kind: str, samples: int) -> np.ndarray:
    """(samples, dimensions) float32: noise, or shots of ten samples that share three quarters of their energy."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((samples, _DIMENSIONS), np.float32)
    if kind == "noise":
        return noise
    cuts = np.sort(rng.choice(np.arange(1, samples), samples // 10, replace=False))
    places = rng.standard_normal((len(cuts) + 1, _DIMENSIONS), np.float32)
    return places[np.searchsorted(cuts, np.arange(samples), "right")] + noise / np.float32(np.sqrt(3))


def _side_by_side() -> list[float]:
    from tests.reference.kts import segment

    features, ratios = _features("film", 1200), []
    for _round in range(_ROUNDS.value):
        start = time.perf_counter()
        ours = kts(features, 1199)
        middle = time.perf_counter()
        theirs = segment(features, 1199)
        ratios.append((time.perf_counter() - middle) / (middle - start))
        if ours.tolist() != theirs:
            raise AssertionError("the two find different change points")
    return ratios


def _measure(kind: str, samples: int) -> dict[str, Any]:
    features = _features(kind, samples)
    kts(features[:300], 30)  # loads what was compiled
    start = time.perf_counter()
    found = len(kts(features, samples // 10))
    seconds = time.perf_counter() - start
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "kind": kind,
        "samples": samples,
        "found": found,
        "seconds": seconds,
        "megabytes": round(kilobytes * 1024 / 1e6),
    }


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for kind, color, name, below in (
        ("noise", "#c1440e", "noise: nothing to skip", 7),
        ("film", "#1b5e8c", "film: a shot for every ten samples", -14),
    ):
        points = [(row["samples"], row["seconds"]) for row in rows if row["kind"] == kind]
        time_axes.plot(*zip(*points, strict=True), "o-", color=color, label=name)
        for point in points:
            time_axes.annotate(
                f"{point[1]:.1f}", point, (0, below), textcoords="offset points", ha="center", fontsize=8, color=color
            )
    largest = [(size, max(row["megabytes"] for row in rows if row["samples"] == size)) for size in _SIZES]
    memory_axes.plot(*zip(*largest, strict=True), "o-", color="#1b5e8c")
    for point in largest:
        memory_axes.annotate(f"{point[1]}", point, (0, -14), textcoords="offset points", ha="center", fontsize=8)
    time_axes.set(yscale="log", title="seconds")
    time_axes.axhline(20, color="#777777", linewidth=0.8, linestyle="--", label="20 s")
    time_axes.legend(frameon=False, fontsize=8, loc="upper left")
    memory_axes.set(title="greatest memory of the process, MB", ylim=(0, 1.15 * largest[-1][1]))
    for axes in (time_axes, memory_axes):
        axes.set(xscale="log", xlabel="samples (one a second: 7,200 are two hours)")
        axes.set_xticks(_SIZES, [f"{size:,}" for size in _SIZES])
        axes.minorticks_off()
        axes.margins(0.1, 0.2)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    command_line.run(main)
