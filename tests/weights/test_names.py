"""The table of names against the published list and a second implementation."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from avmsnet_jax.config import DEPTHS, ModelConfig
from avmsnet_jax.weights import names
from tests.weights.conftest import TINY, state

KEYS = Path(__file__).parent.parent / "data" / "checkpoint_keys.json"


def test_depth_50_has_the_published_names_in_their_order_with_their_shapes() -> None:
    expected = json.loads(KEYS.read_text())
    found = {name: list(tensor.shape) for name, tensor in names.published(ModelConfig()).items()}
    assert list(found) == list(expected)
    assert found == expected


SHORT = {(10, "A"), (18, "B"), (34, "A"), (50, "B")}


@pytest.mark.parametrize(
    ("depth", "shortcut", "dam4"),
    [
        pytest.param(depth, shortcut, shortcut == "B", marks=[] if (depth, shortcut) in SHORT else pytest.mark.soak)
        for depth in DEPTHS
        for shortcut in "AB"
    ],
)
def test_every_parameter_has_one_published_name_and_every_other_name_a_reason(
    depth: int, shortcut: str, dam4: bool
) -> None:
    config = dataclasses.replace(TINY, depth=depth, shortcut=shortcut, dam4=dam4)
    table = names.published(config).values()
    model = names.abstract_model(config)
    held = [names.path(key) for key, _ in nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))]
    assert sorted(tensor.parameter for tensor in table if tensor.parameter) == sorted(held)
    assert all(bool(tensor.parameter) != bool(tensor.unused) for tensor in table)


@pytest.mark.parametrize(
    ("depth", "shortcut", "dam4"),
    [(10, "B", False), (18, "A", False), (34, "B", True), (50, "B", False), (101, "A", True)],
)
def test_the_name_table_equals_a_list_written_out_layer_by_layer(depth: int, shortcut: str, dam4: bool) -> None:
    torch = pytest.importorskip("torch")
    from tests.reference import jax_weights

    config = dataclasses.replace(TINY, depth=depth, shortcut=shortcut, dam4=dam4)
    tensors = state(config)
    table = names.published(config)
    expected = jax_weights.paths(config)
    assert {name for name, tensor in table.items() if tensor.parameter} == set(expected)
    for name, path in expected.items():
        assert table[name].parameter == names.path(path)
        theirs = np.asarray(jax_weights.to_jax(name, torch.from_numpy(tensors[name])))
        assert names.relayout(tensors[name], table[name].layout).tobytes() == theirs.tobytes(), name


def test_each_abstract_network_is_a_new_one() -> None:
    one, other = names.abstract_model(TINY), names.abstract_model(TINY)
    one.fc1.kernel.set_value(np.zeros(1))
    for untouched in (other, names.abstract_model(TINY)):
        assert isinstance(untouched.fc1.kernel.get_value(), jax.ShapeDtypeStruct)
