"""The optimizer: parameter groups, learning-rate schedule, SGD and AdamW.

The published recipe has parameter groups with their own learning rates and weight decay. `label` gives the group of a
parameter, and Optax applies a chain of transformations to each group.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from avmsnet_jax.config import Config


class Group(NamedTuple):
    """A parameter group: its learning rate relative to the base rate, and whether it has weight decay."""

    rate: float
    decays: bool


class Treatment(NamedTuple):
    """How a parameter is trained: its group, learning rate before warm-up and decay, and weight decay."""

    group: str
    rate: float
    decay: float


class _MomentumState(NamedTuple):
    steps: jax.Array
    buffer: optax.Updates


def groups(audiovisual: bool) -> dict[str, Group]:
    """The published groups. A visual-only network has no groups for its audio parameters, which are frozen."""
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
      path: its names in the network joined by slashes, as in `dams/0/conv/kernel`.
      audiovisual: whether the network is audio-visual.

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
    """How the configured optimizer trains a parameter; `path` as for `label`."""
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
    """The group of each leaf of a parameter tree, as a tree of the same structure."""
    return jax.tree.map_with_path(lambda path, _: label(parameter_path(path), audiovisual), params)


def parameter_path(path: tuple[Any, ...]) -> str:
    """A JAX key path as names joined by slashes, without the wrapper of NNX variables."""
    keys = (getattr(entry, "key", None) for entry in path)
    return "/".join(str(key) for key in keys if key is not None)


def torch_momentum(momentum: float, dampening: float) -> optax.GradientTransformation:
    """PyTorch's momentum with dampening: the first gradient fills the buffer undamped.

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
    """The base learning rate by step, with linear warm-up over `warmup_epochs`.

    steps: multiplied by `decay_factor` at 50% and at 75% of the epochs.
    cosine: half a cosine from the end of warm-up to 0 at the last step (Loshchilov and Hutter 2017, without restarts).
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
        if epoch:  # a run of one epoch does not decay
            step = epoch * steps_per_epoch
            boundaries[step] = boundaries.get(step, 1.0) * optimizer.decay_factor
    steps = optax.piecewise_constant_schedule(optimizer.learning_rate, boundaries)
    return _after_rise(steps, rise, optimizer.learning_rate, shift=0)


def _after_rise(schedule: optax.Schedule, rise: int, peak: float, shift: int) -> optax.Schedule:
    """`schedule` delayed by `shift` steps, with `rise` steps of warm-up: peak * (step + 1) / (rise + 1)."""
    if not rise:
        return schedule
    return lambda step: jnp.where(step < rise, peak * (step + 1) / (rise + 1), schedule(jnp.maximum(step - shift, 0)))


def relative_rates(config: Config) -> dict[str, float]:
    """The learning rate of each group as a multiple of `schedule`."""
    if config.optimizer.name == "adamw":
        return {"all": 1.0}
    return {name: group.rate for name, group in groups(config.model.audiovisual).items()}


def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """The configured optimizer: gradient clipping, then a transformation for each group.

    sgd: the published recipe; weight decay is added to the gradient before the momentum, as in PyTorch.
    adamw: one learning rate for all; weight decay for kernels only, not for biases and BN parameters.
    """
    optimizer, audiovisual = config.optimizer, config.model.audiovisual
    if optimizer.name == "adamw":
        adamw = optax.named_chain(  # optax.adamw, with names
            ("moments", optax.scale_by_adam()),
            ("decay", optax.add_decayed_weights(optimizer.weight_decay, _kernels)),
            ("rate", optax.scale_by_learning_rate(schedule(config, steps_per_epoch))),
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
    """The published recipe's transformation of each group, by name."""
    optimizer, audiovisual = config.optimizer, config.model.audiovisual
    base = schedule(config, steps_per_epoch)

    def scaled(rate: float) -> optax.Schedule:
        return lambda step: base(step) * rate

    chains: dict[str, optax.GradientTransformation] = {
        name: optax.named_chain(
            ("decay", optax.add_decayed_weights(optimizer.weight_decay if group.decays else 0.0)),
            ("momentum", torch_momentum(optimizer.momentum, optimizer.dampening)),
            ("rate", optax.scale_by_learning_rate(scaled(group.rate))),
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
