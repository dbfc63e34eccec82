"""KTS written out plainly: the whole kernel, the scatter of every segment, a table over changes and ends. O(N^2 M)."""

import numpy as np


def normalized(features):
    """The rows over their L2 norm, in float64; rows of zeros stay zeros."""
    rows = np.array(features, np.float64)
    for row in rows:
        if row.any():
            row /= np.abs(row).max()
            row /= np.sqrt((row**2).sum())
    return rows


def penalty(m, n):
    """What m change points of n samples cost."""
    return m / (2 * n) * (np.log(n / m) + 1) if m else 0.0


def segment(features, max_change_points, tie=1e-9):
    """The change points; of equal segmentations the fewest, then the earliest from the last one on."""
    rows = normalized(features)
    n = len(rows)
    if not n:
        return []
    kernel = rows @ rows.T
    squares, energy = np.zeros((n + 1, n + 1)), np.zeros(n + 1)
    squares[1:, 1:] = kernel.cumsum(0).cumsum(1)
    energy[1:] = np.diag(kernel).cumsum()
    starts, ends = np.arange(n)[:, None], np.arange(n + 1)
    corner = np.diag(squares)
    sums = corner[None, :] + corner[:n, None] - squares[:n] - squares.T[:n]
    scatter = np.where(ends > starts, energy - energy[:n, None] - sums / np.maximum(ends - starts, 1), np.inf)
    table = [scatter[0]]
    for _ in range(min(max_change_points, n - 1)):
        table.append((table[-1][:n, None] + scatter).min(axis=0))
    totals = [row[n] / n + penalty(m, n) for m, row in enumerate(table)]
    m = next(m for m, total in enumerate(totals) if total <= min(totals) + tie / n)
    changes, end = [], n
    for left in range(m, 0, -1):
        costs = table[left - 1][:end] + scatter[:end, end]
        end = int(np.flatnonzero(costs <= costs.min() + tie)[0])
        changes.append(end)
    return changes[::-1]
