"""Checkpoint files: the names in them, and checkpoints of earlier versions."""

import json
import shutil

import jax
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, traverse_util

from avmsnet_jax.training.loop import train
from avmsnet_jax.training.optimizer import labels, parameter_path, torch_momentum
from avmsnet_jax.weights import checkpoint, names
from avmsnet_jax.weights.array_reader import Item
from tests.training.test_loop import assert_same_weights, losses

pytestmark = pytest.mark.usefixtures("compiled_before", "shared_steps")

PARTS = {0: "decay", 1: "momentum", 2: "rate"}  # of the chain for each group


def as_before(step, config):
    """Rewrites a checkpoint as version 0.1.0 had it at first: arrays and checksums by their position in a tree.

    The tree was `(step, optimizer state)`, the latter a partition by group of a chain without names.
    """
    arrays = Item(step / "training", "").read()
    params = nnx.state(names.abstract_model(config.model), nnx.Param)
    chain = optax.chain(
        optax.add_decayed_weights(0.1), torch_momentum(0.9, 0.9), optax.scale_by_learning_rate(lambda count: 0.1)
    )
    groups = labels(params, config.model.audiovisual)
    chains = dict.fromkeys(jax.tree.leaves(groups), chain) | {"frozen": optax.set_to_zero()}
    partition = optax.partition(chains, groups)
    old = ["step"]
    for path, _ in jax.tree.leaves_with_path(jax.eval_shape(partition.init, params)):
        group, part, field = path[1].key, PARTS[path[3].idx], path[4].name
        place = parameter_path(path[5:])
        old.append("/".join(filter(None, ["opt_state/groups", group, part, field, place])))
    assert sorted(old) == sorted(arrays)
    shutil.rmtree(step / "training")
    numbered = {f"{index:05d}": arrays[name] for index, name in enumerate(old)}
    with ocp.StandardCheckpointer() as checkpointer:  # waits until it is written
        checkpointer.save(step.absolute() / "training", numbered)
    sums = json.loads((step / "fingerprint" / "metadata").read_text())
    # Of the whole state: its step, the parameters, the statistics, then the optimizer's.
    order = ["step", *sorted_names(sums, "params"), *sorted_names(sums, "stats"), *old[1:]]
    assert sorted(order) == sorted(sums)
    (step / "fingerprint" / "metadata").write_text(json.dumps([sums[name] for name in order]))


def sorted_names(sums, part):
    """The names of a part as JAX orders the keys of dictionaries: numbers by their value."""
    found = [name.split("/") for name in sums if name.startswith(f"{part}/")]
    key = [[(0, int(word), "") if word.isdigit() else (1, 0, word) for word in name] for name in found]
    return ["/".join(name) for _, name in sorted(zip(key, found, strict=True))]


@pytest.fixture
def cut(small_run, tmp_path):
    """A run as it was at its third checkpoint."""
    run = shutil.copytree(small_run, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "16")
    return run


def test_a_checkpoint_of_an_earlier_version_restores(small_run, small_config, cut):
    step = cut / "checkpoints" / "12"
    as_before(step, small_config)
    train(small_config, cut)
    assert not (cut / "damaged").exists()
    assert_same_weights(cut, small_run)
    assert losses(cut) == losses(small_run)
    last = Item(cut / "checkpoints" / "16" / "training", "")
    assert "opt_state/groups/global/momentum/buffer/fc1/kernel" in last.arrays


def test_optimizer_state_is_saved_by_the_names_of_parameters(small_run, small_config):
    step = small_run / "checkpoints" / "16"
    saved = Item(step / "training", "").arrays
    parameters = traverse_util.flatten_dict(checkpoint.restore(step)[1], sep="/")
    buffers = {name.split("/buffer/")[1]: array for name, array in saved.items() if "/buffer/" in name}
    assert buffers.keys() <= parameters.keys()
    assert {name: array.shape for name, array in buffers.items()} == {n: parameters[n].shape for n in buffers}
    checked = json.loads((step / "fingerprint" / "metadata").read_text())
    assert {"step", "params/fc1/kernel", "stats/fc1_bn/mean"} < checked.keys()
