"""A scorer whose scores are NaN or infinite."""

from pathlib import Path

import numpy as np
import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.writer import write_movie
from avmsnet_jax.scoring.film import watch
from tests.media.films import numbered
from tests.scoring.stub import Stub


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_scores_are_a_user_error(folder: Path, value: float) -> None:
    write_movie(folder / "film.mp4", [numbered(number) for number in range(1, 41)], 10, None)
    scorer = Stub(lambda clip: value if clip.frame > 20 else 0.5)
    with pytest.raises(UserError, match=r"film\.mp4: the network's scores are NaN"):
        watch(folder / "film.mp4", scorer)
