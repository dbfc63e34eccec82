"""Maximum pooling against PyTorch's, with ties and NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avmsnet_jax.models.ops import pool

torch = pytest.importorskip("torch")
FUNCTIONS = {
    "cubes": (pool.cubes, lambda x: torch.nn.functional.max_pool3d(x, 3, 2, 1), (2, 4, 6, 8, 3)),
    "runs of 4": (lambda x: pool.runs(x, 4), lambda x: torch.nn.functional.max_pool1d(x, 4), (2, 23, 3)),
    "runs of 1": (lambda x: pool.runs(x, 1), lambda x: torch.nn.functional.max_pool1d(x, 1), (2, 5, 3)),
}


def to_torch(x):
    return torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ties_give_the_gradient_to_the_first_maximum_and_nan_propagates(name):
    ours, theirs, shape = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, shape).astype(np.float32)
    tx = to_torch(x).requires_grad_()
    ty = theirs(tx)
    weights = rng.standard_normal(np.moveaxis(ty.detach().numpy(), 1, -1).shape).astype(np.float32)
    ty.backward(to_torch(weights))
    y, pull = jax.vjp(ours, jnp.asarray(x))
    np.testing.assert_array_equal(np.moveaxis(np.array(y), -1, 1), ty.detach().numpy())
    np.testing.assert_allclose(to_torch(pull(jnp.asarray(weights))[0]), tx.grad, rtol=1e-6)

    x[0, 2] = np.nan
    np.testing.assert_array_equal(np.moveaxis(np.array(ours(x)), -1, 1), theirs(to_torch(x)).numpy())
