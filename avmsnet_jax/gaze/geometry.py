"""Where a film lay on the screen that viewers looked at."""

import dataclasses

import numpy as np

from avmsnet_jax.gaze.concentration import SIGMA_DEG, SIGMA_WIDTH


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The film, the screen, and the angle under which it was seen.

    Attributes:
      width: of the film as it is shown, pixels.
      height: of the film as it is shown, pixels.
      duration_s: of the film.
      screen: width and height of the screen in the recordings' pixels; None = as the recordings say, or unknown.
      film: left, top, width and height of the film on the screen, in the same pixels; None = as large as the screen
        allows, in its middle.
      degrees: visual angle of the film's width; None = unknown.
    """

    width: int
    height: int
    duration_s: float
    screen: tuple[float, float] | None = None
    film: tuple[float, float, float, float] | None = None
    degrees: float | None = None

    @property
    def aspect(self) -> float:
        """The film's width over its height."""
        return self.width / self.height

    @property
    def sigma(self) -> float:
        """Standard deviation of the Gaussian about a viewer's gaze, in widths of the film."""
        return SIGMA_WIDTH if self.degrees is None else SIGMA_DEG / self.degrees

    def shares(self, x: np.ndarray, y: np.ndarray, screen: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """Positions on a screen, in its pixels, as shares of the film's width and height."""
        width, height = screen
        if self.film is not None:
            left, top, shown_width, shown_height = self.film
        else:
            scale = min(width / self.width, height / self.height)
            shown_width, shown_height = scale * self.width, scale * self.height
            left, top = (width - shown_width) / 2, (height - shown_height) / 2
        return (x - left) / shown_width, (y - top) / shown_height
