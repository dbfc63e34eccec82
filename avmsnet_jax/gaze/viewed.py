"""What prepared records keep of a film's viewers."""

import dataclasses
from pathlib import Path

import numpy as np

from avmsnet_jax import array_file
from avmsnet_jax.errors import UserError

REMEDY = "prepare the data again"


@dataclasses.dataclass(frozen=True)
class Viewed:
    """A film's viewers, as `data.sources.gaze.Watched.annotations` describes them.

    Attributes:
      curve: (N,) concentration of each frame; NaN = unknown.
      halves: (D, 2, N) the curves of both halves of the viewers, in D divisions.
      key_share: share of the frames that are key.
      positions: (U, N, 2) where each viewer looked, shares of the picture; NaN = did not look.
      aspect: width of the picture over its height.
      sigma: of the Gaussian about a viewer's gaze, in widths of the picture.
    """

    curve: np.ndarray
    halves: np.ndarray
    key_share: float
    positions: np.ndarray
    aspect: float
    sigma: float


def read(place: Path) -> Viewed:
    """Reads the file of a film.

    Raises:
      UserError: it is missing, damaged or of another kind.
    """
    held = array_file.read_npz(place, REMEDY)
    try:
        numbers = [float(held[name].item()) for name in ("key_share", "aspect", "sigma")]
        found = Viewed(
            held["concentration"], held["halves"], numbers[0], held["gaze"].astype(np.float64), numbers[1], numbers[2]
        )
        count = len(found.curve)
        if not (
            count
            and found.curve.shape == (count,)
            and found.halves.ndim == 3
            and found.halves.shape[1:] == (2, count)
            and found.positions.ndim == 3
            and found.positions.shape[1:] == (count, 2)
            and 0 <= found.key_share <= 1
            and 0.05 <= found.aspect <= 20
            and 0 < found.sigma <= 1
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{place} does not hold the gaze of a film's viewers; {REMEDY}") from None
    return found
