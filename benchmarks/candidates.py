"""Changes of the training step on a GPU that are tried before one of them becomes the product's.

`prepare` makes the step of the published recipe with any of `NAMES`:

    flat    the state and the gradients of small parameters are one array for each group of the optimizer, and the
            statistics of batch normalization one array: few kernels update them and look for what is not finite
    onepass batch normalization takes mean and variance in one pass over the activations, about one of their values
    pool    the pool after the stem keeps which of its 27 inputs was the largest, and its gradient reads that alone; in
            bfloat16
    layout  the gradient of what an attention module takes keeps time before height and width in memory; left alone, XLA
            puts time next to the channels there and back again afterwards

All give the step's numbers but for rounding (tests/benchmarks/test_candidates.py).
"""

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax import xla
from avmsnet_jax.config import Config
from avmsnet_jax.models.dam import DAM
from avmsnet_jax.models.ops import batch_norm, pool
from avmsnet_jax.training import optimizer as optimizer_lib
from avmsnet_jax.training import step as step_lib
from avmsnet_jax.training.step import Batch, Measured, TrainState

NAMES = ("flat", "onepass", "pool", "layout")
_SMALL = 2**20  # numbers; a parameter with more is an array of its own


class Prepared(NamedTuple):
    """A training step, lowered, and how its state is had from the product's and given back as such."""

    lowered: Any
    begin: Callable[[TrainState], Any]
    named: Callable[[Any], TrainState]


def prepare(config: Config, graphdef: Any, described: TrainState, names: Collection[str], platform: str) -> Prepared:
    """Traces the step of `config` with the candidates `names`; the others as `step.describe` gives and takes them."""
    mesh: Mesh = described.step.sharding.mesh  # type: ignore[attr-defined]
    batch = step_lib.batch_shapes(config, mesh)
    with _applied(names):
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
def _applied(names: Collection[str]) -> Iterator[None]:
    """The operations of the network are those of the candidates while their step is traced."""
    if unknown := set(names) - set(NAMES):
        raise ValueError(f"no candidate: {unknown}")
    with contextlib.ExitStack() as stack:
        if names:  # functions that were traced with other operations must not be found again
            jax.clear_caches()
            stack.callback(jax.clear_caches)
        if "onepass" in names:
            stack.enter_context(mock.patch.object(batch_norm, "moments", moments_in_one_pass))
        if "pool" in names:
            stack.enter_context(mock.patch.object(pool, "cubes", _cubes))
        if "layout" in names:
            plain = DAM.__call__
            stack.enter_context(mock.patch.object(DAM, "__call__", lambda dam, x: plain(dam, in_order(x))))
        yield


def moments_in_one_pass(x: jax.Array, platform: str | None = None) -> tuple[jax.Array, jax.Array]:
    """`batch_norm.moments` about one of the values of each channel, which is within the spread of the others."""
    del platform
    axes = tuple(range(x.ndim - 1))
    shift = x[(0,) * len(axes)]
    apart = x - shift
    mean, square = jnp.mean(apart, axes), jnp.mean(jnp.square(apart), axes)
    return shift + mean, jnp.maximum(square - jnp.square(mean), 0.0)


def _cubes(x: jax.Array, plain: Callable[[jax.Array], jax.Array] = pool.cubes) -> jax.Array:
    return indexed_cubes(x) if x.dtype == jnp.bfloat16 else plain(x)


@jax.custom_vjp
def indexed_cubes(x: jax.Array) -> jax.Array:
    """`pool.cubes` of bfloat16; of two zeros the positive one is larger here."""
    return _cubes_and_taps(x)[0]


def _cubes_and_taps(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maxima, and of each the place in its window: 9 t + 3 h + w, each from 0 to 2.

    A value and its place are one integer, so that 27 of them are compared in one pass: XLA on GPU splits a chain that
    uses each partial result twice, and every part reads all of `x`.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32)
    rank = jnp.where(bits < 0x8000, bits | 0x8000, bits ^ 0xFFFF)  # in the order of the numbers
    rank = jnp.where(bits & 0x7FFF > 0x7F80, 0xFFFF, rank)  # NaN is the largest
    keys = jax.lax.pad(rank << 16, jnp.uint32(0), ((0, 0, 0), *((1, 0, 0),) * 3, (0, 0, 0)))
    best = jnp.uint32(0)
    for place, start in enumerate(itertools.product(range(3), repeat=3)):
        window = tuple(slice(s, s + size, 2) for s, size in zip(start, x.shape[1:4], strict=True))
        best = jnp.maximum(best, keys[(slice(None), *window)] | np.uint32(26 - place))
    rank = best >> 16
    bits = jnp.where(rank < 0x8000, rank ^ 0xFFFF, rank ^ 0x8000)
    y = jax.lax.bitcast_convert_type(bits.astype(jnp.uint16), jnp.bfloat16)
    return y, (26 - (best & 31)).astype(jnp.uint8)


def _moved(x: jax.Array, axis: int, by: int, fill: Any) -> jax.Array:
    """`x[i - by]` at `i`, and `fill` where there is none; `by` is 1, 0 or -1."""
    ends = [(0, 0, 0)] * x.ndim
    ends[axis] = (by, -by, 0)
    return jax.lax.pad(x, jnp.asarray(fill, x.dtype), ends)


def _cubes_backward(taps: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    """Each input is in one or two windows along each axis: at an even place in one, at an odd place in two."""
    batch, *sizes, channels = dy.shape
    total: Any = 0.0
    for windows in itertools.product((0, 1), repeat=3):
        theirs, gradient = taps, dy
        for axis, window in enumerate(windows, start=1):
            theirs, gradient = _moved(theirs, axis, -window, 255), _moved(gradient, axis, -window, 0)
        # The place in that window, by whether the input's own place is even or odd along each axis.
        place = np.full((2, 2, 2), 254, np.uint8)
        for odd in itertools.product((0, 1), repeat=3):
            if all(o or not w for o, w in zip(odd, windows, strict=True)):
                along = [0 if w else 1 + o for o, w in zip(odd, windows, strict=True)]
                place[odd] = 9 * along[0] + 3 * along[1] + along[2]
        spread = (batch, sizes[0], 1, sizes[1], 1, sizes[2], 1, channels)
        chosen = theirs.reshape(spread) == place.reshape(1, 1, 2, 1, 2, 1, 2, 1)
        total = total + jnp.where(chosen, gradient.reshape(spread).astype(jnp.float32), 0.0)
    dx = total.astype(dy.dtype).reshape(batch, *(2 * size for size in sizes), channels)
    return (jax.lax.optimization_barrier(dx),)  # written once, not computed by each of its readers


indexed_cubes.defvjp(_cubes_and_taps, _cubes_backward)


@jax.custom_vjp
def in_order(x: jax.Array) -> jax.Array:
    """`x` itself; its gradient lies in memory in the order of its axes."""
    return x


def _gradient_in_order(_: None, dy: jax.Array) -> tuple[jax.Array]:
    return (with_layout_constraint(dy, Layout(major_to_minor=tuple(range(dy.ndim)))),)


in_order.defvjp(lambda x: (x, None), _gradient_in_order)


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
