"""The step that was traced before is taken where nothing has changed, and only there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from avmsnet_jax import compiled, xla
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig
from avmsnet_jax.training.step import Measured, TrainState, batch_shapes
from avmsnet_jax.training.traced import compile_step

CONFIG = Config(model=ModelConfig(frame_size=16), data=DataConfig(dir="somewhere"))
MESH = mesh_lib.make_mesh(MeshConfig(data=1))
SHARED = NamedSharding(MESH, PartitionSpec("fsdp"))


class TracedError(Exception):
    """Somebody traced the step."""


def double(state, batch):
    after = state._replace(step=state.step + 1, params=2 * state.params)
    return after, Measured(batch["label"].sum(), batch["sound"].sum(), state.step >= 0)


def never(state, batch):
    raise TracedError


def make(step, config=CONFIG, steps_per_epoch=5):
    """The program of a step whose state is three numbers, and its object."""
    numbers = jax.ShapeDtypeStruct((3,), jnp.float32, sharding=SHARED)
    count = jax.ShapeDtypeStruct((), jnp.int32, sharding=mesh_lib.replicated(MESH))
    described = TrainState(count, numbers, {}, (numbers,), None)
    return compile_step(xla.jit(step, "cpu", donate_argnums=0), config, steps_per_epoch, described, MESH)


def taken(step):
    """What the step makes of one, two, three."""
    place = mesh_lib.replicated(MESH)
    numbers = jnp.arange(1.0, 4)
    shared = [jax.device_put(each, SHARED) for each in (numbers, numbers + 7)]
    state = TrainState(jnp.array(6, device=place), shared[0], {}, (shared[1],), None)
    batch = {name: jnp.ones(of.shape, of.dtype, device=place) for name, of in batch_shapes(CONFIG, MESH).items()}
    before = jax.tree.leaves(state)
    after, measured = step(state, batch)
    return after, measured, before


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "_kept", tmp_path)
    return tmp_path


def test_what_was_traced_is_taken_and_does_the_same(folder):
    make(double)
    after, measured, before = taken(make(never)[0])
    assert int(after.step) == 7
    assert after.ema is None
    np.testing.assert_array_equal(after.params, [2, 4, 6])
    np.testing.assert_array_equal(after.opt_state[0], [8, 9, 10])
    assert (float(measured.loss), bool(measured.finite)) == (CONFIG.train.batch_size, True)
    assert (after.step.sharding, after.params.sharding) == (mesh_lib.replicated(MESH), SHARED)
    assert all(leaf.is_deleted() for leaf in before), "the state is donated, or its memory would be taken twice"


def test_what_xla_is_told_of_a_gpu_is_no_hindrance(monkeypatch):
    monkeypatch.setattr(xla, "_OPTIONS", {"cpu": xla._OPTIONS["gpu"]})
    make(double)
    assert int(taken(make(never)[0])[0].step) == 7


def test_whatever_changed_it_is_traced_again(folder, monkeypatch, tmp_path_factory):
    make(double)
    make(never)
    changed = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(learning_rate=0.5))
    with pytest.raises(TracedError):
        make(never, config=changed)
    with pytest.raises(TracedError):  # no setting, but what the learning rate falls by
        make(never, steps_per_epoch=6)
    with jax.default_matmul_precision("highest"), pytest.raises(TracedError):
        make(never)

    source = tmp_path_factory.mktemp("package")
    (source / "__init__.py").write_text("# a line of code\n")
    monkeypatch.setattr("avmsnet_jax.__file__", str(source / "__init__.py"))
    make(double)
    with pytest.raises(TracedError):  # who knows whether that line was there when it was imported
        make(never)
    monkeypatch.setattr(compiled, "BEGAN", compiled.BEGAN + 10**6)
    make(double)
    make(never)
    (source / "__init__.py").write_text("# another line of code\n")
    with pytest.raises(TracedError):
        make(never)


@pytest.mark.parametrize("harm", ["cut", "other", "gone", "changed"])
def test_a_damaged_file_is_of_no_matter(folder, harm):
    make(double)
    (path,) = folder.glob("traced_*")
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        middle = len(whole) // 2
        changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"cut": whole[:-200], "other": b"something else", "changed": changed}[harm])
    with pytest.raises(TracedError):
        make(never)
    make(double)
    make(never)


def test_only_the_last_are_kept(folder):
    for steps_per_epoch in range(1, 24):
        make(double, steps_per_epoch=steps_per_epoch)
    assert len(list(folder.iterdir())) == 20
    make(never, steps_per_epoch=23)
    with pytest.raises(TracedError):
        make(never, steps_per_epoch=1)


def test_where_nothing_is_kept_or_nothing_can_be(folder, monkeypatch):
    make(double)
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "_kept", None)
        with pytest.raises(TracedError):
            make(never)
        assert int(taken(make(double)[0])[0].step) == 7
    monkeypatch.setattr(compiled, "_kept", folder / "missing")
    assert int(taken(make(double)[0])[0].step) == 7
