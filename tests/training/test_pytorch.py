"""Training steps equal PyTorch's: network, loss, optimizer and statistics together.

In float64, for the reason given in tests/models/test_gradients.py. For float32 and the published sizes, run
`python -m tests.training.test_pytorch --depth=18`, which takes some minutes.
"""

import argparse
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig
from avmsnet_jax.models.ops.batch_norm import BatchNorm
from avmsnet_jax.models.ops.conv3d import Conv3d
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.step import begin, describe, make_step

torch = pytest.importorskip("torch")

from tests.models.conftest import TINY, states, torch_network  # noqa: E402 - they need torch
from tests.models.test_gradients import no_gradient  # noqa: E402
from tests.reference.jax_weights import build, by_published_name, to_jax  # noqa: E402

STEPS_PER_EPOCH = 1
# The published groups, by the first part of a name: learning rate over the base rate, and whether weights decay.
GROUPS = [
    (lambda name: name.startswith("score_dsn") and "side_prep.weight" in name, 1 / 100, True),
    (lambda name: name.startswith("score_dsn") and "side_prep.bias" in name, 2 / 100, False),
    (lambda name: name.startswith("score_dsn") and "score_dsn.weight" in name.split(".", 2)[2], 0.1 / 100, True),
    (lambda name: name.startswith("score_dsn") and "score_dsn.bias" in name.split(".", 2)[2], 0.2 / 100, False),
    (lambda name: name.startswith("soundnet8"), 1 / 10, True),
    (lambda name: name.startswith("fusion4"), 1.0, True),
    (lambda name: name.startswith("score_dsn") or name.startswith(("fuse.", "fuseav.")), 0.0, False),
    (lambda name: True, 1 / 100, True),
]


def batches(config: ModelConfig, size: int, steps: int) -> list[dict[str, np.ndarray]]:
    """A batch for each step: scenes of large patches with a tone each, as clips of mere noise would be alike."""
    rng, patches = np.random.default_rng(0), config.frame_size // 8
    times = np.arange(config.audio_samples) / 22050
    made = []
    for _ in range(steps):
        scenes = rng.integers(0, 256, (size, config.frames, patches, patches, 3), dtype=np.uint8)
        sounds = [a * np.sin(2 * np.pi * hertz * times) for a, hertz in rng.uniform((10, 100), (200, 5000), (size, 2))]
        made.append(
            {
                "clip": scenes.repeat(8, 2).repeat(8, 3),
                "sound": np.stack(sounds).astype(np.float32),
                "label": (np.arange(size) % 3 == 0).astype(np.float32),
            }
        )
    return made


def in_groups(network: object, clip: object, sound: object, size: int) -> object:
    """The logits where each group of `size` clips goes through BN by itself, as nn.DataParallel's replicas do.

    DataParallel keeps the running estimates of the first replica; ours are the mean over all.
    """
    statistics = {name: value for name, value in network.named_buffers() if value.is_floating_point()}
    before = {name: value.clone() for name, value in statistics.items()}
    logits, after = [], []
    for start in range(0, len(clip), size):
        for name, value in statistics.items():
            value.data = before[name].clone()
        logits.append(network(clip[start : start + size], sound[start : start + size]).logits)
        after.append({name: value.clone() for name, value in statistics.items()})
    for name, value in statistics.items():
        value.data = torch.stack([each[name] for each in after]).mean(0)
    return torch.cat(logits)


def train_torch(config: Config, state: dict, pool: list, dtype: object) -> tuple[list[float], dict[str, np.ndarray]]:
    """The losses, and every parameter and statistic after the last step, by published name in JAX's layout."""
    network = torch_network(config.model, {name: value.clone() for name, value in state.items()}, dtype).train()
    network.mean = network.mean.to(dtype)
    left, groups = dict(network.named_parameters()), []
    for belongs, rate, decays in GROUPS:
        names = [name for name in left if belongs(name)]
        groups.append(
            {
                "params": [left.pop(name) for name in names],
                "lr": config.optimizer.learning_rate * rate,
                "weight_decay": config.optimizer.weight_decay * decays,
            }
        )
    optimizer = torch.optim.SGD(groups, momentum=0.9, dampening=0.9)
    milestones = [int(0.5 * config.train.epochs), int(0.75 * config.train.epochs)]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    losses = []
    for count, batch in enumerate(pool, start=1):
        clip, sound, label = (torch.from_numpy(batch[name]).to(dtype) for name in ("clip", "sound", "label"))
        logits = in_groups(network, clip, sound, config.train.norm_clips or len(clip))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if not count % STEPS_PER_EPOCH:
            scheduler.step()
    return losses, {name: value.detach() for name, value in network.state_dict().items()}


def train_jax(
    config: Config, state: dict, pool: list, dtype: object, convolutions: str
) -> tuple[list[float], dict[str, np.ndarray]]:
    """The same of ours, by the step that `train.py` runs; 3-D convolutions take the forms of that platform."""
    model = build(config.model, {name: value.to(dtype) for name, value in state.items()})
    model.train()
    optimizer, mesh = make_optimizer(config, STEPS_PER_EPOCH), mesh_lib.make_mesh(config.mesh)
    _, described, _ = describe(config, optimizer, mesh)
    model.set_attributes(platform=mesh_lib.platform(mesh))
    model.set_attributes(Conv3d, platform=convolutions)
    model.set_attributes(BatchNorm, norm_clips=config.train.norm_clips)
    graphdef, *parts = nnx.split(model, nnx.Param, nnx.BatchStat)
    training = jax.device_put(begin(config, optimizer, *parts), mesh_lib.replicated(mesh))
    step, losses = make_step(graphdef, optimizer, config, described), []
    for batch in pool:
        training, measured = step(training, mesh_lib.place_batch(mesh, batch))
        losses.append(float(measured.loss))
    named = by_published_name(config.model, nnx.merge_state(training.params, training.stats))
    return losses, named


def compare(config: Config, dtype: object, convolutions: str) -> tuple[float, dict[str, float], dict[str, float]]:
    """The worst relative difference of a loss; of each parameter and statistic, over its scale; and of how it moved.

    The losses, ours and PyTorch's, are printed.
    """
    state, pool = (
        states(config.model),
        batches(config.model, config.train.batch_size, config.train.epochs * STEPS_PER_EPOCH),
    )
    theirs, expected = train_torch(config, state, pool, dtype)
    ours, found = train_jax(config, state, pool, dtype, convolutions)
    print("losses", [round(loss, 6) for loss in ours], "PyTorch's", [round(loss, 6) for loss in theirs])
    values, moves = {}, {}
    for name, value in found.items():
        reference = np.asarray(to_jax(name, expected[name]), np.float64)
        first = np.asarray(to_jax(name, state[name]), np.float64)
        error = np.abs(np.asarray(value, np.float64) - reference).max()
        values[name] = float(error / np.abs(reference).max())
        if not no_gradient(name) and (reference != first).any():
            moves[name] = float(error / np.abs(reference - first).max())
    return float(np.abs(np.array(ours) / theirs - 1).max()), values, moves


def configured(model: ModelConfig, norm_clips: int = 0, steps: int = 10) -> Config:
    """The published recipe, with a decay that is large enough to be seen, over both milestones."""
    return Config(
        model=model,
        optimizer=OptimizerConfig(learning_rate=0.02, weight_decay=1e-3),
        train=TrainConfig(epochs=steps, batch_size=4, norm_clips=norm_clips),
    )


@pytest.mark.parametrize(
    ("steps", "depth", "frames", "norm_clips"),
    [
        (4, 10, 8, 2),  # each milestone of the learning rate lies between two of these steps
        *(pytest.param(10, depth, 16, group, marks=pytest.mark.soak) for depth in (10, 18) for group in (0, 2)),
    ],
)
def test_steps_equal_pytorchs(monkeypatch, steps, depth, frames, norm_clips):
    monkeypatch.setattr(ModelConfig, "__post_init__", lambda self: None)
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        config = configured(ModelConfig(depth=depth, frames=frames, dtype="float64", **TINY), norm_clips, steps)
        loss, values, moves = compare(config, torch.float64, "tpu")  # the form that compiles fastest
    assert loss < 1e-9
    assert max(values.values()) < 1e-9
    # What each parameter has moved by, too, which a wrong learning rate or decay would change.
    assert max(moves.values()) < 1e-6, max(moves, key=moves.get)
    assert len(moves) > 60


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    options = parser.parse_args()
    settings = configured(ModelConfig(depth=options.depth))
    settings = settings.replace(
        optimizer={"learning_rate": options.learning_rate, "weight_decay": 1e-5}, train={"batch_size": options.batch}
    )
    loss, values, moves = compare(settings, torch.float32, jax.devices()[0].platform)
    print(f"losses within {loss:.1e}")
    for title, errors in (("values over their scale", values), ("movement over its scale", moves)):
        worst = sorted(errors.items(), key=lambda item: -item[1])
        print(f"{title}: worst", ", ".join(f"{name} {error:.1e}" for name, error in itertools.islice(worst, 5)))
