"""Candidates for a faster training step on a GPU give the same numbers as the package's step."""

import jax
import numpy as np
import pytest

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config, MeshConfig, ModelConfig, TrainConfig
from avmsnet_jax.models.ops import batch_norm
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.step import describe
from benchmarks import candidates
from benchmarks.torch_side import clips
from tests.conftest import SMALL

CONFIG = Config(
    model=ModelConfig(**SMALL | {"trunk_width": 8}),
    train=TrainConfig(batch_size=4),
    mesh=MeshConfig(data=1),
)


def prepared(names):
    """The training step with candidates, in the forms of a GPU; how its first state is made; the mesh."""
    mesh = mesh_lib.make_mesh(CONFIG.mesh)
    graphdef, described, create = describe(CONFIG, make_optimizer(CONFIG, 1000), mesh, "gpu")
    return candidates.prepare(CONFIG, graphdef, described, names, "gpu"), described, create, mesh


def two_steps(names):
    """The losses and gradient norms of two steps, and the parameters and statistics after them."""
    step, _, create, mesh = prepared(names)
    program = step.lowered.compile()
    state, told = step.begin(create()), []
    for _ in range(2):
        state, measured = program(state, mesh_lib.place_batch(mesh, clips(CONFIG.model, 4)))
        assert bool(measured.finite)
        told += [float(measured.loss), float(measured.gradient_norm)]
    named = step.named(state)
    return told, jax.tree.map(np.asarray, (named.params, named.stats))


@pytest.mark.soak
def test_two_steps_with_all_candidates_are_those_of_the_product():
    (told, state), (product_told, product) = two_steps(candidates.NAMES), two_steps(())
    np.testing.assert_allclose(told, product_told, rtol=1e-3)
    for found, expected in zip(jax.tree.leaves(state), jax.tree.leaves(product), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * max(np.abs(expected).max(), 1e-3))


def test_all_candidates_trace_and_keep_every_parameter_and_statistic():
    step, described, _, _ = prepared(candidates.NAMES)
    leaves, structure = jax.tree.flatten(described)
    numbers = iter(range(10**9))
    state = structure.unflatten(
        [np.fromiter(numbers, leaf.dtype, leaf.size).reshape(leaf.shape) for leaf in leaves]  # no two alike
    )
    named = step.named(step.begin(state))
    for part in ("params", "stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(named, part), getattr(state, part))


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (1000.0, 0.1), (-3.0, 50.0)])
def test_moments_in_one_pass_keep_their_digits(mean, spread):
    x = np.random.default_rng(0).normal(mean, spread, (4, 3, 5, 6, 7)).astype(np.float32)
    for found, expected in zip(candidates.moments_in_one_pass(x), batch_norm.moments(x, "gpu"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * spread)
