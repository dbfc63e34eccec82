"""The optimiser: which parameter learns how fast.

The published recipe splits the parameters into groups with learning rates of their own. Here every parameter gets the
name of its group, and Optax applies a chain of transformations to each group.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from avmsnet_jax.config import Config


class Group(NamedTuple):
    """How a group of parameters is treated: learning rate over the base rate, and whether weights decay."""

    rate: float
    decays: bool


class Treatment(NamedTuple):
    """How a parameter is trained: its group, the learning rate before warm-up and falls, and its weight decay."""

    group: str
    rate: float
    decay: float


class _MomentumState(NamedTuple):
    steps: jax.Array
    buffer: optax.Updates


def groups(audiovisual: bool) -> dict[str, Group]:
    """The published groups. Parameters that a visual-only network never evaluates are frozen."""
    base = 1 / 100 if audiovisual else 1 / 10
    table = {
        "global": Group(base, True),
        "attention": Group(1 / 100, True),
        "attention_bias": Group(2 / 100, False),
        "attention_score": Group(0.1 / 100, True),
        "attention_score_bias": Group(0.2 / 100, False),
    }
    if audiovisual:
        table |= {"sound": Group(1 / 10, True), "fusion": Group(1.0, True)}
    return table


def label(path: str, audiovisual: bool) -> str:
    """The group of a parameter.

    Args:
      path: its place in the network, names joined by slashes: `dams/0/conv/kernel`.
      audiovisual: the network listens.

    Returns:
      a key of `groups`, or "frozen".
    """
    parts = path.split("/")
    if parts[0] == "dams":
        name = "attention" if parts[2] == "conv" else "attention_score"
        return name + ("_bias" if parts[3] == "bias" else "")
    if parts[0] in ("soundnet", "alm"):
        return {"soundnet": "sound", "alm": "fusion"}[parts[0]] if audiovisual else "frozen"
    return "global"


def treatment(path: str, config: Config) -> Treatment:
    """What the configured optimiser does to a parameter; `path` as for `label`."""
    optimizer, group = config.optimizer, label(path, config.model.audiovisual)
    if group == "frozen":
        return Treatment(group, 0.0, 0.0)
    if optimizer.name == "adamw":
        if path.endswith("kernel"):
            return Treatment("kernels", optimizer.learning_rate, optimizer.weight_decay)
        return Treatment("other", optimizer.learning_rate, 0.0)
    rate, decays = groups(config.model.audiovisual)[group]
    return Treatment(group, optimizer.learning_rate * rate, optimizer.weight_decay if decays else 0.0)


def labels(params: Any, audiovisual: bool) -> Any:
    """`label` for every leaf of a parameter tree, as a tree of the same structure."""
    return jax.tree.map_with_path(lambda path, _: label(parameter_path(path), audiovisual), params)


def parameter_path(path: tuple[Any, ...]) -> str:
    """A JAX key path as names joined by slashes, without the wrapping of NNX variables."""
    keys = (getattr(entry, "key", None) for entry in path)
    return "/".join(str(key) for key in keys if key is not None)


def torch_momentum(momentum: float, dampening: float) -> optax.GradientTransformation:
    """PyTorch's momentum: the first gradient fills the buffer, later ones are damped.

    buffer_1 = g_1;  buffer_t = momentum * buffer_{t-1} + (1 - dampening) * g_t  (torch.optim.SGD, no Nesterov).
    """

    def init(params: optax.Params) -> _MomentumState:
        return _MomentumState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(grads: optax.Updates, state: Any, params: Any = None) -> tuple[optax.Updates, Any]:
        del params
        gain = jnp.where(state.steps == 0, 1.0, 1.0 - dampening)
        buffer = jax.tree.map(lambda b, g: momentum * b + gain * g, state.buffer, grads)
        return buffer, _MomentumState(state.steps + 1, buffer)

    return optax.GradientTransformation(init, update)


def schedule(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """The base learning rate by step, after a linear rise from 0 during `warmup_epochs`.

    steps: times `decay_factor` from 50% and again from 75% of the epochs.
    cosine: half a cosine from the rise's end down to 0 at the last step (Loshchilov and Hutter 2017, without restarts).
    """
    optimizer, epochs = config.optimizer, config.train.epochs
    rise = round(optimizer.warmup_epochs * steps_per_epoch)
    if optimizer.schedule == "cosine":
        fall: optax.Schedule = optax.cosine_decay_schedule(
            optimizer.learning_rate, max(epochs * steps_per_epoch - rise, 1)
        )
        return _after_rise(fall, rise, optimizer.learning_rate, shift=rise)
    boundaries: dict[int, float] = {}
    for epoch in (int(0.5 * epochs), int(0.75 * epochs)):
        if epoch:  # a run of one epoch has no half to wait for
            step = epoch * steps_per_epoch
            boundaries[step] = boundaries.get(step, 1.0) * optimizer.decay_factor
    steps = optax.piecewise_constant_schedule(optimizer.learning_rate, boundaries)
    return _after_rise(steps, rise, optimizer.learning_rate, shift=0)


def _after_rise(schedule: optax.Schedule, rise: int, peak: float, shift: int) -> optax.Schedule:
    """`schedule`, `shift` steps later, with the first `rise` steps at peak * (step + 1) / (rise + 1) instead."""
    if not rise:
        return schedule
    return lambda step: jnp.where(step < rise, peak * (step + 1) / (rise + 1), schedule(jnp.maximum(step - shift, 0)))


def learning_rates(config: Config, steps_per_epoch: int) -> Mapping[str, optax.Schedule]:
    """The learning rate of every group by step."""
    base = schedule(config, steps_per_epoch)
    if config.optimizer.name == "adamw":
        return {"all": base}

    def scaled(rate: float) -> optax.Schedule:
        return lambda step: base(step) * rate

    return {name: scaled(group.rate) for name, group in groups(config.model.audiovisual).items()}


def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """The configured optimiser as a partition of the parameters by group, after clipping where that is on.

    sgd: the published recipe, weight decay added to the gradient before the momentum as PyTorch does.
    adamw: one learning rate for all; kernels decay, biases and BN parameters do not.
    """
    optimizer, audiovisual = config.optimizer, config.model.audiovisual
    if optimizer.name == "adamw":
        rate = learning_rates(config, steps_per_epoch)["all"]
        adamw = optax.named_chain(  # optax.adamw, with names
            ("moments", optax.scale_by_adam()),
            ("decay", optax.add_decayed_weights(optimizer.weight_decay, _kernels)),
            ("rate", optax.scale_by_learning_rate(rate)),
        )
        by_group = optax.partition(
            {"all": adamw, "frozen": optax.set_to_zero()},
            lambda params: jax.tree.map(
                lambda group: "frozen" if group == "frozen" else "all", labels(params, audiovisual)
            ),
        )
        return _clipped(by_group, optimizer.clip_norm)
    by_group = optax.partition(sgd(config, steps_per_epoch), lambda params: labels(params, audiovisual))
    return _clipped(by_group, optimizer.clip_norm)


def sgd(config: Config, steps_per_epoch: int) -> dict[str, optax.GradientTransformation]:
    """What the published recipe does to the parameters of each group, by `label`."""
    optimizer, audiovisual = config.optimizer, config.model.audiovisual
    rates = learning_rates(config, steps_per_epoch)
    chains: dict[str, optax.GradientTransformation] = {
        name: optax.named_chain(
            ("decay", optax.add_decayed_weights(optimizer.weight_decay if group.decays else 0.0)),
            ("momentum", torch_momentum(optimizer.momentum, optimizer.dampening)),
            ("rate", optax.scale_by_learning_rate(rates[name])),
        )
        for name, group in groups(audiovisual).items()
    }
    return chains | {"frozen": optax.set_to_zero()}


def _clipped(groups: optax.GradientTransformation, norm: float) -> optax.GradientTransformation:
    """Clips the gradient by its global norm first, as torch's clip_grad_norm_ does; 0 = off."""
    clip = optax.clip_by_global_norm(norm) if norm else optax.identity()
    return optax.named_chain(("clip", clip), ("groups", groups))


def _kernels(params: Any) -> Any:
    return jax.tree.map_with_path(lambda path, _: parameter_path(path).endswith("kernel"), params)
