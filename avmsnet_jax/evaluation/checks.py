"""Checks of the arrays that are given to measures; each error is one line."""

import numpy as np
from numpy.typing import ArrayLike

from avmsnet_jax.errors import UserError

_MOST_WHOLE = 2.0**53  # beyond it float64 cannot represent every integer


def finite(values: ArrayLike, name: str, *shape: str) -> np.ndarray:
    """`values` as float64, with one axis for each name in `shape`.

    Raises:
      UserError: they are not numbers, have another number of axes, or include NaN or infinity.
    """
    wanted = f"({', '.join(shape)}{',' if len(shape) == 1 else ''})"
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError):  # lists of different lengths, or nested beyond NumPy's 64 axes
        raise UserError(f"{name} is not an array of numbers; give numbers of shape {wanted}") from None
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name} is of type {array.dtype}; give numbers of shape {wanted}")
    if array.ndim != len(shape):
        raise UserError(f"{name} has shape {array.shape}; give {wanted}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds NaN or infinity; correct or remove it")
    return array


def whole(values: ArrayLike, name: str, *shape: str) -> np.ndarray:
    """`values` as int64, with one axis for each name in `shape`; an empty list may have any type.

    Raises:
      UserError: a value is not a whole number, or see `finite`.
    """
    array = finite(values, name, *shape)
    if (array != np.rint(array)).any() or (np.abs(array) > _MOST_WHOLE).any():
        raise UserError(f"{name} holds fractions, or numbers beyond 9e15; give whole numbers")
    return array.astype(np.int64)


def binary(values: ArrayLike, name: str, *shape: str) -> np.ndarray:
    """`values` as bool, with one axis for each name in `shape`.

    Raises:
      UserError: a value is neither 0 nor 1, or see `finite`.
    """
    array = finite(values, name, *shape)
    if ((array != 0) & (array != 1)).any():
        raise UserError(f"{name} holds other values than 0 and 1; choose the frames first")
    return array.astype(bool)


def shots(bounds: ArrayLike, n_frames: int) -> np.ndarray:
    """`bounds` as (S, 2) int64: first and last frame of each shot, both inclusive, in ascending order.

    Raises:
      UserError: a shot is empty, overlaps the one before it or goes beyond the `n_frames` frames, or see `whole`.
    """
    found = whole(bounds, "shots", "shots", "first and last frame")
    if found.shape[1] != 2:
        raise UserError(f"shots has shape {found.shape}; give (shots, 2), the first and the last frame of each")
    edges = found.ravel()
    if len(edges) and (edges[0] < 0 or edges[-1] >= n_frames):
        raise UserError(f"shots go beyond the {n_frames} frames; first and last frames are inclusive and count from 0")
    if (found[:, 0] > found[:, 1]).any() or (found[1:, 0] <= found[:-1, 1]).any():
        raise UserError("shots are empty or overlap; give them one after the other, first and last frame inclusive")
    return found


def labeled(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores of clips as (N,) float64, and their labels as (N,) bool.

    Raises:
      UserError: the lengths differ, a score is NaN or infinite, or a label is neither 0 nor 1.
    """
    values, key = finite(scores, "scores", "clips"), binary(labels, "labels", "clips")
    if values.shape != key.shape:
        raise UserError(f"got {len(values)} scores and {len(key)} labels; give one label for each score")
    return values, key
