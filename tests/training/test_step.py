import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config
from avmsnet_jax.errors import UserError
from avmsnet_jax.training.optimizer import make_optimizer
from avmsnet_jax.training.step import LOSSES, bce, describe, double_sigmoid, make_step, sum_of_squares

LOGITS = np.array([-30.0, -2.0, 0.0, 0.5, 3.0, 100.0], np.float32)
LABELS = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0], np.float32)


def test_bce_equals_pytorchs_loss_on_logits():
    torch = pytest.importorskip("torch")
    expected = torch.nn.BCEWithLogitsLoss()(torch.tensor(LOGITS), torch.tensor(LABELS))
    assert float(bce(LOGITS, LABELS)) == pytest.approx(float(expected), rel=1e-6)


def test_key_clips_may_weigh_more():
    torch = pytest.importorskip("torch")
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(7.0))(torch.tensor(LOGITS), torch.tensor(LABELS))
    assert float(bce(LOGITS, LABELS, 7.0)) == pytest.approx(float(expected), rel=1e-6)
    assert float(bce(jnp.array([0.0, 0.0]), jnp.array([0.0, 1.0]), 3.0)) == pytest.approx(2 * np.log(2))


def test_double_sigmoid_equals_the_released_codes_loss():
    torch = pytest.importorskip("torch")
    expected = torch.nn.BCEWithLogitsLoss()(torch.sigmoid(torch.tensor(LOGITS)), torch.tensor(LABELS))
    assert float(double_sigmoid(LOGITS, LABELS)) == pytest.approx(float(expected), rel=1e-6)


def test_losses_by_hand():
    assert float(bce(jnp.array([0.0, 0.0]), jnp.array([0.0, 1.0]))) == pytest.approx(np.log(2))
    assert float(bce(jnp.array([1000.0, -1000.0]), jnp.array([1.0, 0.0]))) == 0.0
    assert float(bce(jnp.array([1000.0]), jnp.array([0.0]))) == pytest.approx(1000)
    perfect = double_sigmoid(jnp.array([1000.0]), jnp.array([1.0]))
    assert float(perfect) == pytest.approx(np.log1p(np.exp(-1)))
    assert LOSSES["bce"] is bce
    assert LOSSES["double_sigmoid"] is double_sigmoid


def random_batch(config, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "clip": rng.integers(0, 256, (4, config.model.frames, 32, 32, 3), dtype=np.uint8),
        "sound": rng.normal(size=(4, config.model.audio_samples)).astype(np.float32) * 20,
        "label": np.array([0, 1, 1, 0], np.float32),
    }


def begin(config, platform=""):
    """The jitted step with that platform's forms of operations, the first state and the mesh."""
    optimizer = make_optimizer(config, steps_per_epoch=4)
    mesh = mesh_lib.make_mesh(config.mesh)
    graphdef, described, create = describe(config, optimizer, mesh, platform)
    return make_step(graphdef, optimizer, config, described, platform), create(), mesh


@pytest.mark.parametrize(("shape", "fsdp"), [((1029, 4096), 1), ((2058, 2048), 3), ((4096, 2048), 8), ((5, 7), 1)])
def test_the_sum_of_squares_of_large_layers_is_complete(shape, fsdp):
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    assert float(sum_of_squares(jnp.asarray(x), "cpu", fsdp)) == pytest.approx(
        np.sum(np.square(x, dtype=np.float64)), rel=1e-6
    )


@pytest.fixture(scope="module")
def config(small_config):
    """The small run with its sound, which other tests leave out."""
    return small_config.replace(model={"audiovisual": True})


@pytest.fixture(scope="module")
def steps(config):
    """Eight steps on one batch: losses, initial values as NumPy, last state, first state and the jitted step."""
    step, first, mesh = begin(config)
    before = jax.tree.map(np.array, (first.params, first.stats))  # copies: the buffers are donated
    losses, state = [], first
    for _ in range(8):
        state, measured = step(state, mesh_lib.place_batch(mesh, random_batch(config)))
        losses.append(float(measured.loss))
    return losses, before, state, first, step


def test_the_loss_of_a_fixed_batch_falls(steps):
    losses = steps[0]
    # The first step has no dampening, is ten times as large as later ones, and overshoots.
    assert all(after < before for before, after in itertools.pairwise(losses[1:]))
    assert losses[-1] < 0.6 * losses[0]


def test_steps_are_counted_and_compiled_once(steps):
    _, _, state, _, step = steps
    assert int(state.step) == 8
    assert step._cache_size() == 1  # a state returned with another sharding would compile again


def test_the_state_is_donated(steps):
    _, _, state, first, _ = steps
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("loudness", [np.nan, 1e25])
def test_a_nonfinite_step_changes_no_state(steps, config, loudness):
    """NaN, and sound so loud that only a variance in SoundNet overflows; then good batches."""
    _, _, state, _, step = steps
    nothing_changes(step, state, mesh_lib.make_mesh(config.mesh), random_batch(config, seed=1), loudness)


def nothing_changes(step, state, mesh, good, loudness):
    bad = good | {"sound": good["sound"].copy()}
    bad["sound"][1] = loudness
    before = jax.tree.map(np.array, state)
    state, told = jax.tree.map(jnp.copy, state), []  # the fixture's stays
    for batch in (bad, good, good):
        state, measured = step(state, mesh_lib.place_batch(mesh, batch))
        told.append(bool(measured.finite))
    assert told == [False, False, False]
    assert int(state.gone_bad_at) == int(before.step) + 1
    unchanged = state._replace(gone_bad_at=before.gone_bad_at)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(unchanged), strict=True):
        np.testing.assert_array_equal(new, old)


def test_the_gpu_forms_give_the_same_step(steps, config):
    """Convolutions, means and the guard in the forms for GPUs, run on this CPU."""
    step, state, mesh = begin(config, "gpu")
    losses = []
    for _ in range(3):
        state, measured = step(state, mesh_lib.place_batch(mesh, random_batch(config)))
        losses.append(float(measured.loss))
    nothing_changes(step, state, mesh, random_batch(config, seed=1), np.nan)
    # 1.2e-6 measured; 4.4e-7 at full optimization, where LLVM sums in vectors and so rounds less.
    assert losses[0] == pytest.approx(steps[0][0], rel=3e-6)
    np.testing.assert_allclose(losses[1:], steps[0][1:3], rtol=2e-3)  # 5e-4 measured: steps amplify rounding errors


def test_every_parameter_and_statistic_moves(steps):
    _, (params, stats), state, _, _ = steps
    for before, after in ((params, state.params), (stats, state.stats)):
        pairs = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
        still = [jax.tree_util.keystr(path) for (path, old), new in pairs if np.array_equal(old, new)]
        # The last bias of an attention module shifts all places equally, which softmax cancels.
        assert not [name for name in still if "['score']['bias']" not in name]


def test_too_many_devices_and_indivisible_batches_are_refused():
    config = Config()
    config = config.replace(mesh={"data": 99})
    with pytest.raises(UserError, match=r"mesh.data is 99, but there are \d+ devices"):
        mesh_lib.make_mesh(config.mesh)
    mesh = jax.sharding.AbstractMesh((2, 2), ("data", "fsdp"))
    mesh_lib.check_divides(mesh, 8, "train.batch_size")
    with pytest.raises(UserError, match=r"train.batch_size is 6, which 4 devices cannot share evenly"):
        mesh_lib.check_divides(mesh, 6, "train.batch_size")
