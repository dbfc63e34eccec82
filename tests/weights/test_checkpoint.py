"""Saving and loading models: what `save` replaces, and what it refuses to replace."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

import avmsnet_jax
from avmsnet_jax.errors import UserError
from avmsnet_jax.models.avmsnet import AVMSNet
from avmsnet_jax.weights import checkpoint, names
from tests.conftest import Run
from tests.weights.conftest import TINY, assert_same_bits, state


def tree_of(tensors: dict[str, np.ndarray], config: avmsnet_jax.ModelConfig = TINY) -> checkpoint.Tree:
    """The parameters among published tensors, as the model holds them."""
    table = names.published(config)
    flat = {t.parameter: names.relayout(tensors[n], t.layout).copy() for n, t in table.items() if t.parameter}
    return traverse_util.unflatten_dict(flat, sep="/")


def model_of(seed: int = 0, config: avmsnet_jax.ModelConfig = TINY) -> AVMSNet:
    model = names.abstract_model(config)
    checkpoint.set_model_tree(model, tree_of(state(config, seed), config))
    model.eval()
    return model


def arrays(model: AVMSNet) -> dict[str, np.ndarray]:
    flat = traverse_util.flatten_dict(checkpoint.model_tree(model), sep="/")
    return {name: np.asarray(flat[name]) for name in sorted(flat)}


def test_a_loaded_model_is_the_saved_one_bit_for_bit_and_ready_for_inference(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, audiovisual=False, dtype="bfloat16")
    model = model_of(config=config)
    model.train()
    avmsnet_jax.save(model, tmp_path / "new" / "model")
    loaded = avmsnet_jax.load(str(tmp_path / "new" / "model"))
    assert_same_bits(arrays(loaded), arrays(model))
    assert loaded.config == config
    assert loaded.fc1_bn.use_running_average
    assert loaded.trunk.stages[0][0].bns[0].use_running_average
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(checkpoint.model_tree(loaded)))


def test_saving_again_replaces_the_saved_model(tmp_path: Path) -> None:
    avmsnet_jax.save(model_of(1), tmp_path / "model")
    avmsnet_jax.save(model_of(2), tmp_path / "model")
    assert_same_bits(arrays(avmsnet_jax.load(tmp_path / "model")), arrays(model_of(2)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("other", ["notes.txt", "optimizer/notes.txt"])
def test_saving_over_anything_else_is_refused(tmp_path: Path, other: str) -> None:
    """A directory of the user's, or a step of a training run with its optimizer."""
    target = tmp_path / "place"
    if "/" in other:
        avmsnet_jax.save(model_of(), target)
    (target / other).parent.mkdir(parents=True, exist_ok=True)
    (target / other).write_text("precious")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match="place exists and is not a saved model"):
        avmsnet_jax.save(model_of(), target)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_a_failed_save_keeps_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, old = model_of(2), model_of(1)
    avmsnet_jax.save(old, tmp_path / "model")
    real = ocp.Checkpointer.save
    failures: list[Exception] = [ValueError("RESOURCE_EXHAUSTED: No space left on device")]
    failures += [OSError(28, "No space"), OSError(28, "No space")]

    def fails_at_the_end(self: ocp.Checkpointer, *args: object, **kwargs: object) -> None:
        real(self, *args, **kwargs)
        raise failures.pop(0)

    monkeypatch.setattr(ocp.Checkpointer, "save", fails_at_the_end)
    for target in (tmp_path / "model", tmp_path / "model", tmp_path / "new" / "deep" / "model"):
        with pytest.raises(UserError, match=r"cannot write .*model.*No space"):
            avmsnet_jax.save(model, target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert_same_bits(arrays(avmsnet_jax.load(tmp_path / "model")), arrays(old))


def test_a_place_that_cannot_be_written_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/model"):
        avmsnet_jax.save(model_of(), tmp_path / "file" / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_loading_a_run_loads_its_latest_step(tmp_path: Path) -> None:
    for step in (9, 10):
        checkpoint.write(tmp_path / "checkpoints" / str(step), TINY, tree_of(state(seed=step)))
    (tmp_path / "checkpoints" / "11.orbax-checkpoint-tmp").mkdir()  # what a killed run leaves
    for given, step in ((".", 10), ("checkpoints", 10), ("checkpoints/9", 9)):
        assert_same_bits(arrays(avmsnet_jax.load(tmp_path / given)), arrays(model_of(step)))


TRAINED_ON_FOUR_DEVICES = """
import sys, jax, orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec
from avmsnet_jax import config
from tests.weights.conftest import TINY, state
from tests.weights.test_checkpoint import tree_of

assert jax.device_count() == 4
everywhere = NamedSharding(jax.make_mesh((4,), ("data",)), PartitionSpec())
tree = jax.device_put(tree_of(state()), everywhere)
for step, kind in ((1, ocp.args.PyTreeSave), (2, ocp.args.StandardSave)):
    with ocp.CheckpointManager(sys.argv[1] + "/checkpoints") as manager:
        items = dict(model=kind(tree), optimizer=kind({"step": jax.numpy.zeros(())}))
        items["config"] = ocp.args.JsonSave(config.to_dict(TINY))
        manager.save(step, args=ocp.args.Composite(**items))
"""


def test_a_checkpoint_saved_on_four_devices_loads_on_one(forked: Run, tmp_path: Path) -> None:
    (tmp_path / "trained.py").write_text(TRAINED_ON_FOUR_DEVICES)
    done = forked("-m", "tests.virtual_devices", 4, tmp_path / "trained.py", tmp_path)
    assert done.returncode == 0, done.stderr
    for step in ("1", "2"):
        model = avmsnet_jax.load(tmp_path / "checkpoints" / step)
        assert_same_bits(arrays(model), arrays(model_of()))
        assert {len(leaf.devices()) for leaf in jax.tree.leaves(checkpoint.model_tree(model))} == {1}


def _break(how: str, place: Path) -> None:
    if how == "missing":
        shutil.rmtree(place)
    elif how == "a file":
        shutil.rmtree(place)
        place.write_text("")
    elif how == "empty":
        shutil.rmtree(place)
        place.mkdir()
    elif how == "no model":
        shutil.rmtree(place / "model")
    elif how == "data cut":
        for data in (place / "model").rglob("d/*"):
            data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif how == "data lost":
        for data in list((place / "model").rglob("d/*")):
            data.unlink()
    elif how == "no metadata":
        (place / "model" / "_METADATA").unlink()
    elif how == "config cut":
        (place / "config" / "metadata").write_text('{"depth": 1')
    elif how == "config foreign":
        (place / "config" / "metadata").write_text('{"depht": 10}')
    elif how == "config wrong":
        values = json.loads((place / "config" / "metadata").read_text())
        (place / "config" / "metadata").write_text(json.dumps(values | {"head_width": 9}))


@pytest.mark.parametrize(
    ("how", "complaint"),
    {
        "missing": "no checkpoint at .*model.*no such directory",
        "a file": "no checkpoint at .*model",
        "empty": "no checkpoint in .*model",
        "no model": "no checkpoint in .*model",
        "data cut": "checkpoint .*model is damaged",
        "data lost": "checkpoint .*model is damaged",
        "no metadata": "checkpoint .*model is damaged",
        "config cut": "model/config/metadata is not valid JSON .*; convert or train it again",
        "config foreign": "depht",
        "config wrong": r"model: not the weights of this network .*fc1/kernel is .*; .* and \d+ more",
    }.items(),
)
def test_an_unloadable_checkpoint_gives_one_line(tmp_path: Path, how: str, complaint: str) -> None:
    checkpoint.write(tmp_path / "model", TINY, tree_of(state()))
    _break(how, tmp_path / "model")
    with pytest.raises(UserError, match=complaint) as caught:
        avmsnet_jax.load(tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_weights_of_another_network_leave_the_model_as_it_was() -> None:
    model = model_of()
    before = arrays(model)
    tree = tree_of(state(seed=1))
    del tree["fc3"]
    tree["trunk"]["conv"]["kernel"] = tree["trunk"]["conv"]["kernel"].astype(np.float64)
    with pytest.raises(UserError, match=r"there: .*fc3/bias is missing; .*trunk/conv/kernel is float64.*") as caught:
        checkpoint.set_model_tree(model, tree, "there")
    assert "fc3/kernel is missing" in str(caught.value)
    assert_same_bits(arrays(model), before)


def test_training_starts_from_a_checkpoint_of_another_variant(tmp_path: Path) -> None:
    for saved, wanted in ((False, True), (True, False), (True, True)):
        place = tmp_path / f"{saved} {wanted}"
        config = dataclasses.replace(TINY, dam4=saved, audiovisual=False)
        tree = tree_of(state(config, 1), config)
        checkpoint.write(place, config, tree)
        model = model_of(2, dataclasses.replace(TINY, dam4=wanted))
        before, given = arrays(model), traverse_util.flatten_dict(tree, sep="/")
        assert any(name.startswith("dams/3/") for name in before) == wanted
        checkpoint.initialize(model, place)
        assert_same_bits(arrays(model), before | {name: given[name] for name in before if name in given})
        assert model.config.audiovisual


def test_importing_the_package_imports_neither_jax_nor_orbax_nor_torch() -> None:
    program = "import sys, avmsnet_jax; print([name for name in ('jax', 'orbax', 'torch') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"
