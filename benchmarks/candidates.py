"""Variants of the training step that are faster on a GPU and not (yet) in the product.

`prepare` traces the step of the published recipe with any of `NAMES`:

    flat    small parameters, their gradients and optimizer state are one array for each group of the optimizer, and
            the statistics of batch normalization one array, so that few kernels update and check them
    onepass batch normalization takes mean and variance in one pass over the activations, shifted by one of their values

Both equal the product's step up to rounding (tests/benchmarks/test_candidates.py).
"""

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax import xla
from avmsnet_jax.config import Config
from avmsnet_jax.models.ops import batch_norm
from avmsnet_jax.training import optimizer as optimizer_lib
from avmsnet_jax.training import step as step_lib
from avmsnet_jax.training.step import Batch, Measured, TrainState

NAMES = ("flat", "onepass")
_SMALL = 2**20  # numbers; a parameter with more is an array of its own


class Prepared(NamedTuple):
    """A lowered training step, and conversions of the state: from the product's (`begin`), and back (`named`)."""

    lowered: Any
    begin: Callable[[TrainState], Any]
    named: Callable[[Any], TrainState]


def prepare(config: Config, graphdef: Any, described: TrainState, names: Collection[str], platform: str) -> Prepared:
    """Traces the step of `config` with the candidates `names`; `graphdef` and `described` are from `step.describe`."""
    mesh: Mesh = described.step.sharding.mesh  # type: ignore[attr-defined]
    batch = step_lib.batch_shapes(config, mesh)
    if unknown := set(names) - set(NAMES):
        raise ValueError(f"no candidate: {unknown}")
    with _one_pass() if "onepass" in names else contextlib.nullcontext():
        if "flat" not in names:
            optimizer = optimizer_lib.make_optimizer(config, steps_per_epoch=1000)
            step: Any = step_lib.make_step(graphdef, optimizer, config, described, platform)
            return Prepared(step.lower(described, batch), lambda state: state, lambda state: state)
        flat, place = _Flat(config, described), mesh_lib.replicated(mesh)
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            jax.eval_shape(flat.state, described),
        )
        step = xla.jit(_flat_step(graphdef, config, flat), platform, donate_argnums=0, out_shardings=(place, None))
        return Prepared(step.lower(shapes, batch), jax.jit(flat.state), flat.named)


@contextlib.contextmanager
def _one_pass() -> Iterator[None]:
    """Batch normalization takes the moments in one pass while a step is traced."""
    jax.clear_caches()  # JAX would reuse functions that were traced with the other moments
    try:
        with mock.patch.object(batch_norm, "moments", moments_in_one_pass):
            yield
    finally:
        jax.clear_caches()


def moments_in_one_pass(x: jax.Array, platform: str | None = None) -> tuple[jax.Array, jax.Array]:
    """`batch_norm.moments` about one of the values of each channel, which is within the spread of the others."""
    del platform
    axes = tuple(range(x.ndim - 1))
    shift = x[(0,) * len(axes)]
    apart = x - shift
    mean, square = jnp.mean(apart, axes), jnp.mean(jnp.square(apart), axes)
    return shift + mean, jnp.maximum(square - jnp.square(mean), 0.0)


class _Flat:
    """The arrays of a training state by group of the optimizer: large ones by name, all small ones as one vector."""

    def __init__(self, config: Config, described: TrainState):
        self._params, self._stats = described.params, described.stats
        self._config = config
        self.optimizer = optax.partition(optimizer_lib.sgd(config, steps_per_epoch=1000), self._labels)

    @staticmethod
    def _labels(flat: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
        return {group: dict.fromkeys(arrays, group) for group, arrays in flat.items()}

    def params(self, tree: nnx.State) -> dict[str, dict[str, Any]]:
        """A tree of parameters, or of their gradients, by group."""
        found: dict[str, dict[str, Any]] = {}
        small: dict[str, list[jax.Array]] = {}
        for path, leaf in jax.tree.leaves_with_path(tree):
            name = optimizer_lib.parameter_path(path)
            group = optimizer_lib.label(name, self._config.model.audiovisual)
            if leaf.size < _SMALL:
                small.setdefault(group, []).append(leaf.reshape(-1))
            else:
                found.setdefault(group, {})[name] = leaf
        for group, leaves in small.items():
            found.setdefault(group, {})["small"] = jnp.concatenate(leaves)
        return found

    def tree(self, flat: dict[str, dict[str, Any]]) -> nnx.State:
        """The parameters as a tree again."""
        used = dict.fromkeys(flat, 0)

        def take(path: Any, leaf: Any) -> jax.Array:
            name = optimizer_lib.parameter_path(path)
            group = optimizer_lib.label(name, self._config.model.audiovisual)
            if leaf.size >= _SMALL:
                return flat[group][name]
            used[group] += leaf.size
            return flat[group]["small"][used[group] - leaf.size : used[group]].reshape(leaf.shape)

        return jax.tree.map_with_path(take, self._params)

    @staticmethod
    def stats(tree: nnx.State) -> jax.Array:
        """All statistics as one vector."""
        return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])

    def stats_tree(self, flat: jax.Array) -> nnx.State:
        """The statistics as a tree again."""
        leaves, structure = jax.tree.flatten(self._stats)
        ends = itertools.accumulate(leaf.size for leaf in leaves)
        parts = [flat[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
        return jax.tree.unflatten(structure, parts)

    def state(self, first: TrainState) -> TrainState:
        """The first state."""
        params: Any = self.params(first.params)
        stats: Any = self.stats(first.stats)
        return TrainState(first.step, params, stats, self.optimizer.init(params), None, first.gone_bad_at)

    def named(self, state: Any) -> TrainState:
        """A state with parameters and statistics as the product has them; the optimizer's part is left out."""
        return TrainState(
            state.step, self.tree(state.params), self.stats_tree(state.stats), (), None, state.gone_bad_at
        )


def _flat_step(graphdef: Any, config: Config, flat: _Flat) -> Callable[[Any, Batch], tuple[Any, Measured]]:
    """The product's step on one device, on a state by `_Flat`."""
    loss = step_lib.LOSSES[config.train.loss]

    def step(state: Any, batch: Batch) -> tuple[Any, Measured]:
        stats = flat.stats_tree(state.stats)

        def forward(params: nnx.State) -> tuple[jax.Array, nnx.State]:
            model = nnx.merge(graphdef, params, stats, copy=True)
            logits = model(batch["clip"], batch["sound"]).logits
            return loss(logits, batch["label"], config.train.positive_weight), nnx.state(model, nnx.BatchStat)

        (value, after), tree = jax.value_and_grad(forward, has_aux=True)(flat.tree(state.params))
        grads, new_stats = flat.params(tree), flat.stats(after)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(grads)))
        finite = jnp.isfinite(value) & jnp.isfinite(norm) & (state.gone_bad_at == 0) & jnp.isfinite(new_stats).all()
        updates, opt_state = flat.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = state._replace(step=state.step + 1, params=params, stats=new_stats, opt_state=opt_state)
        bad_since = jnp.where(state.gone_bad_at == 0, state.step + 1, state.gone_bad_at)
        old = state._replace(gone_bad_at=bad_since)
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old), Measured(value, norm, finite)

    return step
