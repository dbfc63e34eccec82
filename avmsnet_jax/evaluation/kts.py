"""Kernel temporal segmentation: the change points at which shots begin."""

import itertools
import math
import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike

from avmsnet_jax import cores
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import checks

# Scatters closer than this are equal: float64 sums of a long film's unit vectors are no more exact than that.
_TIE = 1e-9
# Segment ends per matrix product. Large, because each call starts and stops the threads of the BLAS.
_ENDS = 512
_WORTH_THREADS = 2**20  # additions per segment end below which starting threads takes longer than the work


def kts(features: ArrayLike, max_change_points: int) -> np.ndarray:
    """Kernel temporal segmentation (Potapov et al., Category-Specific Video Summarization, ECCV 2014), exact.

    With x the N rows of `features` divided by their L2 norm, it finds the m <= `max_change_points` change points that
    minimize

        J_m / N + m / (2 N) (log(N / m) + 1),

    where J_m is the scatter within the m + 1 segments: the sum over segments of sum |x|^2 - |sum x|^2 / length. For
    m = 0 the penalty is 0, the limit of m log(N / m). Rows of zeros stay zeros.

    Segmentations whose J differ by less than 1e-9 are ties. A tie goes to the fewest change points, then to the
    earliest last change point, then to the earliest one before it, and so on.

    Dynamic programming over blocks of segment ends takes at most O(N^2 (d + m)) time, and 8 N (d + m + 600) bytes
    beside the features: inner products exist for 512 ends at a time, scatters for 64. The penalty bounds m. It uses all
    CPU cores. The first call compiles for some seconds and caches the result.

    Args:
      features: (N, d) of any real type, one row per sample, evenly spaced in time.
      max_change_points: at least 0; more than N - 1 means N - 1, the field's usual choice.

    Returns:
      (m,) int64, ascending, in 1..N - 1: the samples that begin a new segment. `shots` converts them to frames.

    Raises:
      UserError: `features` is not such an array, or holds NaN or infinity; `max_change_points` is negative.
    """
    rows = _unit_rows(features)
    if max_change_points < 0:
        raise UserError(f"max_change_points is {max_change_points}; give 0 or more")
    samples = len(rows)
    if samples < 2:
        return np.zeros(0, np.int64)
    energy = np.concatenate([[0.0], np.cumsum(rows.any(axis=1), dtype=np.float64)])
    penalties = _penalty(np.arange(min(max_change_points, samples - 1) + 1), samples)
    # The penalty rises with m and J is never negative, so more change points than this are worse than even segments.
    reached = min(even + penalties[m] for m, even in _even_scatters(rows, energy[-1]) if m < len(penalties))
    most = int(np.searchsorted(penalties, reached + _TIE, side="right")) - 1
    if most < 1:
        return np.zeros(0, np.int64)

    from avmsnet_jax.evaluation import kts_loops as loops  # slow to import

    cost = _least_scatter(rows, energy, most)
    objective = cost[:, -1] / samples + penalties[: most + 1]
    changes = int(np.argmax(objective <= objective.min() + _TIE / samples))
    found, end = np.zeros(changes, np.int64), samples
    for m in range(changes, 0, -1):
        end = loops.last_change(rows, energy, cost[m - 1], end, m, _TIE)
        found[m - 1] = end
    return found


def _unit_rows(features: ArrayLike) -> np.ndarray:
    rows = checks.finite(features, "features", "samples", "dimensions")
    # Divide by the largest element first: squares of very large or small elements overflow or underflow.
    rows /= _or_one(np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0)))
    rows /= _or_one(np.linalg.norm(rows, axis=1))
    return rows


def _or_one(sizes: np.ndarray) -> np.ndarray:
    return np.where(sizes > 0, sizes, 1.0)[:, None]


def _even_scatters(rows: np.ndarray, energy: float) -> Iterator[tuple[int, float]]:
    """Yields m and J_m / N of segments of 1, 2, 4, ... samples, and of one segment (m = 0)."""
    samples, length = len(rows), 1
    while length < 2 * samples:
        starts = np.arange(0, samples, length)
        sums = np.add.reduceat(rows, starts, axis=0)
        lengths = np.diff([*starts, samples])
        yield len(starts) - 1, (energy - float(np.sum(np.square(sums).sum(axis=1) / lengths))) / samples
        length *= 2


def _penalty(changes: np.ndarray, samples: int) -> np.ndarray:
    return changes / (2 * samples) * (np.log(samples / np.maximum(changes, 1)) + 1)


def _least_scatter(rows: np.ndarray, energy: np.ndarray, most: int) -> np.ndarray:
    """(most + 1, N + 1) float64: J_m of the first j samples at [m, j], undefined if j <= m."""
    from avmsnet_jax.evaluation import kts_loops as loops

    samples, block = len(rows), loops.BLOCK
    # Up to half of it is never written, and takes no memory. NumPy would ask for huge pages, which are taken whole.
    shape = most + 1, samples + 1
    cost = np.ndarray(shape, buffer=mmap.mmap(-1, 8 * math.prod(shape), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    sums, best = np.zeros(samples), np.empty((most + 1, block))
    threads_at_once = cores.count()
    parts = np.unique(np.linspace(1, most + 1, 4 * threads_at_once + 1).astype(int))
    with ThreadPoolExecutor(threads_at_once) as threads:
        for start in range(0, samples, block):
            if start % _ENDS == 0:
                products = rows[: start + _ENDS] @ rows[start : start + _ENDS].T
            stop, column = min(start + block, samples), start % _ENDS
            scatter = np.zeros((stop, block))
            scatter[:, : stop - start] = products[:stop, column : column + block]
            loops.scatters(scatter, start, sums, energy)
            if most * start < _WORTH_THREADS:
                loops.from_earlier_blocks(cost, scatter, start, best, 1, most + 1)
            else:
                done = [
                    threads.submit(loops.from_earlier_blocks, cost, scatter, start, best, first, last)
                    for first, last in itertools.pairwise(parts)
                ]
                for part in done:
                    part.result()
            loops.from_this_block(cost, scatter, start, best)
    return cost
