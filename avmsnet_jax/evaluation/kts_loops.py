"""The compiled inner loops of `kts`, in a module of their own because Numba takes a second to import.

They release the GIL. The caller starts the threads, because two threads may not enter Numba's default pool at once. The
innermost loops run over the contiguous columns of a block so that LLVM vectorizes them.
"""

import numpy as np

from avmsnet_jax.numba_cache import compiled

BLOCK = 64  # segment ends at once; a tile of TILE x BLOCK float64 fits the L1 and L2 caches
TILE = 32


@compiled
def scatters(kernel: np.ndarray, start: int, sums: np.ndarray, energy: np.ndarray) -> None:
    """Replaces inner products by the scatter of segments, in place.

    With W(a, q) the sum of K over the square a..q, the scatter of the samples a to q is their energy minus
    W(a, q) / (q - a + 1), and W(a, q) = W(a, q - 1) + 2 (K(a, q) + ... + K(q - 1, q)) + K(q, q). Only the segment's own
    elements are summed, so short segments late in a long film are as exact as early ones.

    Args:
      kernel: (start + width, BLOCK) float64, K(a, start + c); on return the scatter of a..start + c, infinite for
        a > start + c and beyond the width.
      start: the first segment end of the block.
      sums: (N,) W(a, start - 1) on entry, W(a, start + width - 1) on return.
      energy: (N + 1,) cumulative sum of |x|^2, from 0.
    """
    stop = kernel.shape[0]
    width = stop - start
    diagonal = np.zeros(BLOCK)
    for column in range(width):
        diagonal[column] = kernel[start + column, column]
    above = np.zeros(BLOCK)
    for a in range(stop - 1, -1, -1):
        total = sums[a]
        for column in range(BLOCK):
            q = start + column
            if q < a or column >= width:
                kernel[a, column] = np.inf
            elif q == a:
                total = diagonal[column]
                kernel[a, column] = 0.0
            else:
                above[column] += kernel[a, column]
                total += 2 * above[column] + diagonal[column]
                kernel[a, column] = max(energy[q + 1] - energy[a] - total / (q - a + 1), 0.0)
        sums[a] = total


@compiled
def from_earlier_blocks(
    cost: np.ndarray, scatter: np.ndarray, start: int, best: np.ndarray, first: int, last: int
) -> None:
    """best[m, c] = the least cost[m - 1, i] + scatter[i, c] over i <= start, for m in first..last - 1.

    A tile of i that cannot hold the minimum is skipped. cost[m - 1, i] does not fall with i and scatter[i, c] does not
    rise, so the tile's first cost plus its last scatter is a lower bound of its sums. Nearer tiles come first, because
    they usually hold the minimum.

    Args:
      cost: (M + 1, N + 1), filled up to column `start`.
      scatter: as `scatters` leaves it.
      start: the first segment end of the block.
      best: (M + 1, BLOCK); rows first..last - 1 are written.
      first: at least 1.
      last: at most M + 1.
    """
    best[first:last] = np.inf
    for tile in range(start // TILE * TILE, -1, -TILE):
        end = min(tile + TILE, start + 1)
        for m in range(first, min(last, end)):
            low = max(tile, m)
            row = best[m]
            floor, nearest = cost[m - 1, low], scatter[end - 1]
            hopeful = 0
            for c in range(BLOCK):
                hopeful += floor + nearest[c] < row[c]
            if not hopeful:
                continue
            i = low
            while i + 4 <= end:  # four at once, for a quarter of the reads and writes of `row`
                f0, f1, f2, f3 = cost[m - 1, i], cost[m - 1, i + 1], cost[m - 1, i + 2], cost[m - 1, i + 3]
                s0, s1, s2, s3 = scatter[i], scatter[i + 1], scatter[i + 2], scatter[i + 3]
                for c in range(BLOCK):
                    v0, v1, v2, v3 = f0 + s0[c], f1 + s1[c], f2 + s2[c], f3 + s3[c]
                    v0 = v1 if v1 < v0 else v0
                    v2 = v3 if v3 < v2 else v2
                    v0 = v2 if v2 < v0 else v0
                    row[c] = v0 if v0 < row[c] else row[c]
                i += 4
            while i < end:
                f0, s0 = cost[m - 1, i], scatter[i]
                for c in range(BLOCK):
                    v0 = f0 + s0[c]
                    row[c] = v0 if v0 < row[c] else row[c]
                i += 1


@compiled
def from_this_block(cost: np.ndarray, scatter: np.ndarray, start: int, best: np.ndarray) -> None:
    """Adds the predecessors within the block to `best` and writes the block's columns of `cost`.

    Sequential in m, because the predecessors have one change point fewer and lie in the same columns.
    """
    width = scatter.shape[0] - start
    cost[0, start + 1 : start + 1 + width] = scatter[0, :width]
    for m in range(1, min(cost.shape[0], start + width)):  # more change points than samples are impossible
        row = best[m]
        for i in range(max(start + 1, m), start + width):
            f, s = cost[m - 1, i], scatter[i]
            for c in range(i - start, width):
                v = f + s[c]
                row[c] = v if v < row[c] else row[c]
        cost[m, start + 1 : start + 1 + width] = row[:width]


@compiled
def last_change(rows: np.ndarray, energy: np.ndarray, cost: np.ndarray, end: int, first: int, tolerance: float) -> int:
    """The earliest i in first..end - 1 whose cost[i] + scatter(i..end - 1) is within `tolerance` of the minimum.

    The scatter is computed from the features, backwards from `end`, until it alone exceeds the minimum.
    """
    total = np.zeros(rows.shape[1])
    least, found = np.inf, end - 1
    for i in range(end - 1, first - 1, -1):
        total += rows[i]
        scatter = max(energy[end] - energy[i] - np.dot(total, total) / (end - i), 0.0)
        if scatter > least + tolerance:
            break
        value = cost[i] + scatter
        if value <= least + tolerance:
            found = i
            least = min(least, value)
    return found
