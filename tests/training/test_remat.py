"""Activation checkpointing changes only the memory of a step."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config, ModelConfig, TrainConfig
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.step import TrainState, batch_shapes, describe, make_step
from avmsnet_jax.weights import names
from tests.conftest import SMALL
from tests.training.test_layouts import batches, configured, run


def two_steps(remat: bool, accumulate: int, model: dict) -> tuple[list[float], list[TrainState]]:
    """Losses of two steps, and the state before, between and after; after the first the momentum is the gradient."""
    config = configured(1, remat=remat, accumulate=accumulate)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **model),
        optimizer=dataclasses.replace(config.optimizer, weight_decay=0.0),
    )
    with jax.checking_leaks():
        return run(config, batches(2), 2)


@pytest.mark.soak
def test_losses_gradients_and_statistics_are_the_same():
    model, bound = {"shortcut": "A"}, 1e-4
    losses, states = two_steps(False, 2, model)
    again, others = two_steps(True, 2, model)
    assert again == pytest.approx(losses, rel=bound)
    for state, other in zip(states, others, strict=True):
        pairs = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(other), strict=True)
        for (path, expected), found in pairs:
            if "['bias']" in jax.tree_util.keystr(path):  # before a BN or a softmax they move by rounding errors only
                continue
            np.testing.assert_allclose(found, expected, atol=bound * np.abs(expected).max(), err_msg=str(path))


def test_the_trunk_gives_the_same_output_gradients_and_statistics():
    expected, found = (results_of_the_stages(remat) for remat in (False, True))
    for before, after in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())


def results_of_the_stages(remat: bool) -> tuple[jax.Array, nnx.State, nnx.State]:
    """The output of the stages, the gradient of a weighted sum of it, and the new statistics, for random values."""
    stages, *shapes = stages_of(remat, depth=10, shortcut="A")
    rng = np.random.default_rng(0)
    # A variance is positive.
    values = jax.tree.map(lambda leaf: np.abs(rng.normal(size=leaf.shape)).astype(np.float32), shapes)

    @jax.jit
    def results(x: jax.Array, params: nnx.State, stats: nnx.State) -> tuple[jax.Array, nnx.State, nnx.State]:
        def weighted(params: nnx.State) -> tuple[jax.Array, tuple[jax.Array, nnx.State]]:
            y, new = stages(x, params, stats)
            return jnp.vdot(y, jnp.sin(jnp.arange(y.size))), (y, new)

        gradient, (y, new) = jax.grad(weighted, has_aux=True)(params)
        return y, gradient, new

    with jax.checking_leaks():
        return jax.device_get(results(*values))


@pytest.mark.parametrize("remat", [False, True])
def test_the_configuration_decides(remat: bool):
    config = configured(1, remat=remat)
    graphdef, state, _ = describe(config, make_optimizer(config, 5), mesh_lib.make_mesh(config.mesh))
    assert nnx.merge(graphdef, state.params, state.stats).trunk.recompute == remat


def test_only_block_inputs_are_stored_for_the_backward_pass():
    """The trunk stores only the input of each block; checked by shapes, without compiling."""
    inputs = 4 * sum(  # bytes of the input of each of the two blocks of a stage, for a clip
        np.prod(shape)
        for shape in [(4, 8, 8, 4), (4, 8, 8, 4), (4, 8, 8, 4), (2, 4, 4, 8), (2, 4, 4, 8), (1, 2, 2, 16)]
    )
    plain, again = kept_for_the_stages(False), kept_for_the_stages(True)
    assert again == 5 * inputs
    assert plain > 4 * again


def stages_of(remat: bool, **model: object) -> tuple[Callable, jax.ShapeDtypeStruct, nnx.State, nnx.State]:
    """The trunk's stages as a function, which returns output and new statistics; and the shapes of what it takes."""
    model = names.abstract_model(ModelConfig(**SMALL | model))
    model.train()
    model.trunk.recompute = remat
    model.set_attributes(platform="cpu")
    graphdef, params, stats = nnx.split(model.trunk, nnx.Param, nnx.BatchStat)

    def stages(x: jax.Array, params: nnx.State, stats: nnx.State) -> tuple[jax.Array, nnx.State]:
        trunk = nnx.merge(graphdef, params, stats, copy=True)
        y = trunk.stage(2, trunk.stage(1, trunk.stage(0, x)))
        return y, nnx.state(trunk, nnx.BatchStat)

    return stages, jax.ShapeDtypeStruct((5, 4, 8, 8, 4), np.float32), params, stats


def kept_for_the_stages(remat: bool) -> int:
    """Bytes that the forward pass of the trunk's stages keeps for the backward pass of 5 clips, besides parameters."""
    stages, *given = stages_of(remat, depth=18)
    pullback = jax.eval_shape(lambda *given: jax.vjp(lambda *given: stages(*given)[0], *given)[1], *given)
    leaves = [leaf for leaf in jax.tree.leaves(pullback) if leaf.ndim == 5 and leaf.shape[0] == 5]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def memory_of_a_step(remat: bool) -> int:
    """Bytes of temporary buffers of the compiled step; nothing is run."""
    model = ModelConfig(audiovisual=False, trunk_width=16, adjust_width=8, head_width=8)
    config = Config(model=model, train=TrainConfig(batch_size=8, remat=remat))
    mesh, optimizer = mesh_lib.make_mesh(config.mesh), make_optimizer(config, 100)
    graphdef, described, _ = describe(config, optimizer, mesh)
    lowered = make_step(graphdef, optimizer, config, described).lower(described, batch_shapes(config, mesh))
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.soak
def test_a_step_takes_less_memory():
    """0.71 of it was measured; with `jax.checkpoint` it would be more than without."""
    assert memory_of_a_step(remat=True) < 0.8 * memory_of_a_step(remat=False)
