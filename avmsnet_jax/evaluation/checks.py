"""What the measures ask of their arrays, in one line where it is not so."""

import numpy as np
from numpy.typing import ArrayLike

from avmsnet_jax.errors import UserError


def finite(values: ArrayLike, name: str, *shape: str) -> np.ndarray:
    """`values` as float64 with one axis for each word of `shape`.

    Raises:
      UserError: it is not made of numbers, has other axes, or holds NaN or infinity.
    """
    array = np.asarray(values)
    wanted = f"({', '.join(shape)}{',' if len(shape) == 1 else ''})"
    if array.dtype.kind not in "fiub":
        raise UserError(f"{name} is of type {array.dtype}; give numbers of shape {wanted}")
    if array.ndim != len(shape):
        raise UserError(f"{name} has shape {array.shape}; give {wanted}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds NaN or infinity; mend or remove it")
    return array


def whole(values: ArrayLike, name: str, *shape: str) -> np.ndarray:
    """`values` as int64 with one axis for each word of `shape`; an empty list has any type.

    Raises:
      UserError: a value is not a whole number, or see `finite`.
    """
    array = finite(values, name, *shape)
    if (array != np.rint(array)).any():
        raise UserError(f"{name} holds fractions; give whole numbers")
    return array.astype(np.int64)


def binary(values: ArrayLike, name: str, *shape: str) -> np.ndarray:
    """`values` as bool with one axis for each word of `shape`.

    Raises:
      UserError: a value is neither 0 nor 1, or see `finite`.
    """
    array = finite(values, name, *shape)
    if ((array != 0) & (array != 1)).any():
        raise UserError(f"{name} holds other values than 0 and 1; choose the frames first")
    return array.astype(bool)
