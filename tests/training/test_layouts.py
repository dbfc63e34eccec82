"""Training on several devices, and with gradient accumulation, takes the same steps as on one device.

Eight virtual devices need a process of their own.
"""

import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.step import Step, TrainState, batch_shapes, describe, make_step
from benchmarks.collectives import collectives
from tests.conftest import QUICK, ROOT, SMALL

BATCH = 16
EIGHT_DEVICES = {"XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count=8"}


STEPS_PER_EPOCH = 4


def batches(count: int, size: int = BATCH) -> list[dict[str, np.ndarray]]:
    """Scenes of large patches with a tone each: clips of white noise would look alike to the network."""
    rng = np.random.default_rng(0)
    times = np.arange(17640) / 22050
    return [
        {
            "clip": rng.integers(0, 256, (size, 8, 4, 4, 3), dtype=np.uint8).repeat(8, 2).repeat(8, 3),
            "sound": np.stack(
                [
                    loudness * np.sin(2 * np.pi * hertz * times)
                    for loudness, hertz in rng.uniform((10, 100), (200, 5000), (size, 2))
                ]
            ).astype(np.float32),
            "label": (np.arange(size) % 3 == 0).astype(np.float32),
        }
        for _ in range(count)
    ]


def begin(config: Config) -> tuple[Mesh, TrainState, Callable[[], TrainState], Step]:
    """The mesh, the shapes of the state, a function that makes the first state, and the jitted step."""
    mesh, optimizer = mesh_lib.make_mesh(config.mesh), make_optimizer(config, STEPS_PER_EPOCH)
    graphdef, described, create = describe(config, optimizer, mesh)
    return mesh, described, create, make_step(graphdef, optimizer, config, described)


def run(config: Config, pool: list[dict[str, np.ndarray]], steps: int) -> tuple[list[float], list[TrainState]]:
    """The losses of some steps over the batches of `pool` in turn; and the states before the first and after each."""
    mesh, _, create, step = begin(config)
    state = create()
    losses, states = [], [jax.tree.map(np.array, state)]
    for index in range(steps):
        state, measured = step(state, mesh_lib.place_batch(mesh, pool[index % len(pool)]))
        losses.append(float(measured.loss))
        states.append(jax.tree.map(np.array, state) if index + 1 < steps else state)
    return losses, states


def configured(data: int = -1, fsdp: int = 1, audiovisual: bool = False, **train) -> Config:
    return Config(
        model=ModelConfig(**SMALL, audiovisual=audiovisual),
        # A visual-only network takes ten times the share of the rate, and larger steps amplify rounding errors.
        optimizer=OptimizerConfig(learning_rate=1e-2 if audiovisual else 1e-3),
        train=TrainConfig(**{"epochs": 4, "batch_size": BATCH} | train),
        mesh=MeshConfig(data=data, fsdp=fsdp),
    )


def bytes_on_a_device(state: TrainState) -> int:
    """The most that any device holds."""
    held: dict[int, int] = {}
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            held[shard.device.id] = held.get(shard.device.id, 0) + shard.data.nbytes
    return max(held.values())


def compare(layouts: list[tuple[int, int]], steps: int, audiovisual: bool, norm_clips: int = 0) -> None:
    """Compares each layout with one device. Runs in the process with eight devices."""
    first_layer = 4 * 32 * SMALL["head_width"] * 2  # its kernel and the momentum of that, bytes
    reference, states = run(configured(1, 1, audiovisual, norm_clips=norm_clips), batches(4), steps)
    held = bytes_on_a_device(states[-1])
    for data, fsdp in layouts:
        losses, states = run(configured(data, fsdp, audiovisual, norm_clips=norm_clips), batches(4), steps)
        worst = np.max(np.abs(np.array(losses) / reference - 1))
        saved = held - bytes_on_a_device(states[-1])
        print(f"{data} x {fsdp}: losses within {worst:.1e}, {saved} bytes less on a device", flush=True)
        # A change of one unit in the last place of the initial weights grows to 3e-5 in 20 steps.
        assert worst < 1e-4
        assert saved == first_layer - first_layer // fsdp


def compiled(config: Config) -> jax.stages.Compiled:
    """The compiled program of a training step."""
    mesh, described, _, step = begin(config)
    return step.lower(described, batch_shapes(config, mesh)).compile()


def count_collectives(audiovisual: bool) -> None:
    """Compares what devices exchange in a step with and without groups of clips. Runs with eight devices."""
    found = {}
    for norm_clips, fsdp in ((0, 1), (2, 1), (2, 4)):
        config = configured(8 // fsdp, fsdp, audiovisual, norm_clips=norm_clips)
        found[norm_clips, fsdp] = collectives(compiled(config).as_text())
    print({key: len(each) for key, each in found.items()})
    assert len(found[0, 1]) > 20  # each batch norm waits for all devices, in both passes
    (total,) = found[2, 1]  # gradients, new statistics and the loss, combined by XLA
    assert total.kind == "all-reduce"
    small = [each for each in found[2, 4] if each.size < total.size / 2]
    assert len(small) == len(found[2, 4]) - 1
    assert len(small) <= 6  # the sharded layer's, and the norm of its gradient


@pytest.mark.soak
@pytest.mark.parametrize(
    "call",
    [
        "compare([(2, 1), (4, 1), (8, 1), (4, 2), (2, 4), (1, 8)], steps=20, audiovisual=True)",
        "compare([(2, 1), (2, 4)], steps=20, audiovisual=True, norm_clips=8)",
        "count_collectives(audiovisual=True)",
    ],
    ids=["all layouts", "all layouts in groups", "collectives"],
)
def test_every_layout_gives_the_same_losses(environment, call):
    """A short form of it is `test_a_run_resumes_on_four_devices_that_train_as_one_and_back` of test_loop.py."""
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.training import test_layouts as t; t.{call}"],
        cwd=ROOT,
        env=environment | EIGHT_DEVICES,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.soak
def test_gradient_accumulation_equals_the_whole_batch():
    """Micro-batches hold whole groups of clips that BN normalizes together, so they give the same numbers."""
    whole, (_, *others) = run(configured(1, norm_clips=4), batches(1), 3)
    parts, states = run(configured(1, norm_clips=4, accumulate=2), batches(1), 3)
    assert parts == pytest.approx(whole, rel=1e-5)
    for state, other in zip(states[1:], others, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.stats, other.stats)


# A batch of two groups of clips, each of which is a micro-batch.
ACCUMULATION = configured(1, batch_size=8, accumulate=2, norm_clips=4, ema_decay=0.75)


@pytest.fixture(scope="module")
def accumulating():
    return compiled(ACCUMULATION)


def test_a_step_over_two_micro_batches_is_the_mean_of_their_steps_and_the_ema_averages_the_weights(accumulating):
    """Parameters, momentum and statistics are linear in the gradient and in the statistics of a batch."""
    mesh, described, create, alone = begin(configured(1, batch_size=4))  # the step of `small_config`
    ((whole,), first) = batches(1, 8), create()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, described)
    micro_batches = [{name: x[start : start + 4] for name, x in whole.items()} for start in (0, 4)]
    ema = jax.tree.map(np.array, first.params)
    state = first._replace(ema=jax.tree.map(jnp.copy, first.params))
    for _ in range(3):
        before = jax.tree.map(np.array, state)
        losses, after = [], []
        for part in micro_batches:
            start = jax.device_put(before._replace(ema=None), shardings)
            new, measured = alone(start, mesh_lib.place_batch(mesh, part))
            losses.append(float(measured.loss))
            after.append(jax.tree.map(np.array, new._replace(ema=None)))
        state, measured = accumulating(state, mesh_lib.place_batch(mesh, whole))
        assert float(measured.loss) == pytest.approx(np.mean(losses), rel=1e-6)
        expected = jax.tree.map(lambda a, b: (a + b) / 2, *after)
        for found, mean in zip(jax.tree.leaves(state._replace(ema=None)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-6)
        ema = jax.tree.map(lambda mean, new: 0.75 * mean + 0.25 * np.asarray(new), ema, state.params)
        jax.tree.map(lambda mean, kept: np.testing.assert_allclose(kept, mean, atol=1e-6), ema, state.ema)


def test_gradient_accumulation_on_cpu_leaves_all_convolutions_to_eigen(accumulating):
    """XLA on CPU gives Eigen only the convolutions outside of loops; the others take thirty times as long."""
    program = accumulating.as_text()
    assert program.count(" convolution(") > 50
    assert " while(" not in program


def test_impossible_meshes_are_refused():
    with pytest.raises(UserError, match=r"mesh.data=-1 and mesh.fsdp=99 take 99 devices, but there are \d+"):
        mesh_lib.make_mesh(MeshConfig(fsdp=99))
    config = configured()
    mesh = jax.sharding.AbstractMesh((1, 5), ("data", "fsdp"))
    with pytest.raises(UserError, match=r"mesh.fsdp is 5, which does not divide the 32 rows of the first linear layer"):
        describe(config, make_optimizer(config, 5), mesh, "cpu")
