"""Ranks against scipy's."""

import numpy as np
import pytest
from scipy.stats import rankdata

from avmsnet_jax.ranks import mean_ranks


@pytest.mark.parametrize("kinds", [1, 2, 7, 10**5])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8])
def test_ranks_equal_scipy_s(kinds, dtype):
    rng = np.random.default_rng(kinds)
    for count in (1, 2, 50, 1000):
        values = (rng.integers(-kinds, kinds, count) / 7).astype(dtype)
        assert np.array_equal(mean_ranks(values), rankdata(values))


def test_nan_makes_all_ranks_nan():
    values = np.array([2.0, np.nan, 1.0])
    assert np.array_equal(mean_ranks(values), rankdata(values), equal_nan=True)
