"""Untrusted checkpoints: bad ones give one line, take little memory, and make the reader open nothing outside them."""

import contextlib
import json
import os
import random
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zstandard

import avmsnet_jax
from avmsnet_jax.errors import UserError
from avmsnet_jax.weights import checkpoint
from avmsnet_jax.weights.export import export
from tests.conftest import wait_until
from tests.weights.conftest import TINY, state
from tests.weights.test_checkpoint import tree_of


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest") / "model"
    passengers = {"bn1.num_batches_tracked": np.asarray(3, np.int64), "layer4.0.conv1.weight": np.ones((3, 2), "f4")}
    checkpoint.write(folder, TINY, tree_of(state()), passengers)
    return folder


@pytest.fixture
def planted(honest: Path, tmp_path: Path) -> Path:
    """A copy of an honest checkpoint, to be changed."""
    return Path(shutil.copytree(honest, tmp_path / "planted"))


def refused(read: Callable[[], object], complaint: str) -> None:
    """Asserts that `read` fails with one line that matches, and takes little memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=complaint) as caught:
        read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kB
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def store(item: Path) -> tensorstore.KvStore:
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}}).result()


def write(item: Path, key: str, value: bytes) -> None:
    """Changes a value of the store; the lock files of tensorstore may outlive the write."""
    store(item).write(key, value).result()
    wait_until(lambda: not list(item.rglob("*.__lock")))


def describe(item: Path, name: str, **changes: object) -> None:
    """Changes what an array's description says."""
    key = f"{name}/.zarray"
    held = json.loads(store(item).read(key).result().value)
    write(item, key, json.dumps(held | changes).encode())


def bomb(size: int) -> bytes:
    """`size` zeros in a few kB; nothing of them is in memory at once."""
    compressor = zstandard.ZstdCompressor().compressobj(size=size)
    part = bytes(2**20)
    return b"".join(compressor.compress(part) for _ in range(size // len(part))) + compressor.flush()


def listed(item: Path, change: Callable[[dict], object]) -> None:
    path = item / "_METADATA"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


CLAIMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shape of 10^13": (
        lambda p: describe(p / "model", "fc3.bias", shape=[10**13], chunks=[10**13]),
        r"not the weights of this network .*fc3/bias is float32\[10000000000000\], not float32\[1\]",
    ),
    "a shape of 10^40": (lambda p: describe(p / "model", "fc3.bias", shape=[10**40]), "fc3.bias is described as"),
    "a chunk larger than its array": (
        lambda p: describe(p / "model", "fc3.bias", chunks=[10**13]),
        "damaged .*fc3.bias is described as",
    ),
    "countless chunks": (
        lambda p: describe(p / "model", "fc1.kernel", shape=[10**6, 10**6], chunks=[1, 1]),
        "damaged .*fc1.kernel is described as",
    ),
    "a negative shape": (lambda p: describe(p / "model", "fc3.bias", shape=[-1]), "fc3.bias is described as"),
    "a chunk of nothing": (lambda p: describe(p / "model", "fc3.bias", chunks=[0]), "fc3.bias is described as"),
    "no numbers": (lambda p: describe(p / "model", "fc3.bias", shape=["1"]), "damaged .*fc3.bias"),
    "fractions": (lambda p: describe(p / "model", "fc3.bias", chunks=[0.5]), "fc3.bias is described as"),
    "another dtype": (lambda p: describe(p / "model", "fc3.bias", dtype="<f8"), r"fc3/bias is float64\[1\]"),
    "objects": (lambda p: describe(p / "model", "fc3.bias", dtype="|O"), "fc3.bias is not described"),
    "blosc": (lambda p: describe(p / "model", "fc3.bias", compressor={"id": "blosc"}), "fc3.bias is described as"),
    "gzip": (lambda p: describe(p / "model", "fc3.bias", compressor={"id": "gzip"}), "fc3.bias is described as"),
    "filters": (lambda p: describe(p / "model", "fc3.bias", filters=[{"id": "delta"}]), "fc3.bias is described as"),
    "deep nesting": (
        lambda p: write(p / "model", "fc3.bias/.zarray", b"[" * 100_000),
        "fc3/bias is nested too deeply",
    ),
    "500 MB of zeros in a chunk": (
        lambda p: write(p / "model", "fc3.bias/0", bomb(2**29)),
        "damaged .*does not unpack to the 4 bytes",
    ),
    "a chunk that is too short": (
        lambda p: write(p / "model", "fc3.bias/0", zstandard.compress(b"abc")),
        "damaged .*does not unpack to the 4 bytes",
    ),
    "an unpacked chunk of another size": (
        lambda p: (describe(p / "model", "fc3.bias", compressor=None), write(p / "model", "fc3.bias/0", b"abc")),
        "damaged .*has [0-9]+ bytes, not 4",
    ),
    "a chunk that is lost": (
        lambda p: store(p / "model").delete_range(tensorstore.KvStore.KeyRange("fc3.bias/0", "fc3.bias/1")).result(),
        "damaged .*values are missing",
    ),
    "a node of 500 MB of zeros": (
        lambda p: (p / "model" / "d" / "x").write_bytes(b"\x0c\xdb\x20\xde" + bytes(8) + b"\0\1" + bomb(2**29)),
        "damaged .*unpacks to more than it can hold",
    ),
    "a manifest of 500 MB of zeros": (
        lambda p: (p / "model" / "manifest.ocdbt").write_bytes(b"\x0c\xdb\x3a\x2a" + bytes(8) + b"\0\1" + bomb(2**29)),
        "damaged .*unpacks to more than it can hold",
    ),
    "a node that begins in one window of the search and ends in the next": (
        lambda p: (p / "model" / "d" / "x").write_bytes(
            bytes(2**20 - 9) + b"\x0c\xdb\x3a\x2a" + bytes(8) + b"\0\1" + bomb(2**29)
        ),
        "damaged .*unpacks to more than it can hold",
    ),
    "values of 64 GB that take no room on the disk": (
        lambda p: (p / "model" / "d" / "x").open("wb").truncate(2**36),
        "damaged .*more than Orbax puts into a file",
    ),
    "many nodes": (
        lambda p: (p / "model" / "d" / "x").write_bytes((b"\x0c\xdb\x20\xde" + bytes(8) + b"\0\1" + bomb(2**23)) * 20),
        "damaged .*unpacks to more than it can hold",
    ),
    "a list that nests deeply": (lambda p: (p / "model" / "_METADATA").write_text("[" * 10**6), "nested too deeply"),
    "a list of nothing": (lambda p: (p / "model" / "_METADATA").write_text("[]"), "damaged .*not a list of arrays"),
    "an empty list": (
        lambda p: listed(p / "model", lambda v: v["tree_metadata"].clear()),
        r"not the weights .*is missing; .* and \d+ more",
    ),
    "a list with keys that are no text": (
        lambda p: listed(p / "model", lambda v: v["tree_metadata"].update(x={"key_metadata": [{"key": 3}]})),
        "damaged .*not a list of arrays",
    ),
    "a list with one array too many": (
        lambda p: listed(p / "model", lambda v: v["tree_metadata"].update(x={"key_metadata": [{"key": "more"}]})),
        "damaged .*values are missing",
    ),
    "a list with a name that is none": (
        lambda p: listed(p / "model", lambda v: v["tree_metadata"].update(x={"key_metadata": [{"key": "\ud800\x1b"}]})),
        "damaged .*names an array",
    ),
    "a newer format": (lambda p: listed(p / "model", lambda v: v.update(use_zarr3=True)), "update avmsnet_jax"),
    "another format": (lambda p: listed(p / "model", lambda v: v.update(use_ocdbt=False)), "update avmsnet_jax"),
    "Zarr 3": (lambda p: describe(p / "model", "fc3.bias", zarr_format=3), r"does not read \(Zarr 3\); update"),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_claimed_sizes_are_checked_before_memory_is_allocated(planted: Path, case: str) -> None:
    plant, complaint = CLAIMS[case]
    plant(planted)
    refused(lambda: checkpoint.restore(planted), complaint)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("frames", 8 * 10**15),
        ("frames", -16),
        ("frame_size", 10**300 * 16),
        ("frame_size", float("nan")),
        ("head_width", 2**31),
        ("trunk_width", 10**4000),
        ("soundnet_width", "2"),
        ("alm_width", "٢"),
        ("alm_channels", [[3]]),
        ("adjust_width", 0),
        ("depth", 10**4000),
        ("depth", True),
        ("shortcut", "B" * 10**4),
        ("dtype", None),
        ("a" * 10**4, 1),
    ],
)
def test_senseless_numbers_in_the_configuration_are_refused(planted: Path, name: str, values: object) -> None:
    path = planted / "config" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: values}, ensure_ascii=False), encoding="utf-8")
    refused(
        lambda: avmsnet_jax.load(planted), r"config/metadata: (model\.\w+ is |no configuration field named model.a)"
    )


@pytest.mark.parametrize("text", ["[" * 10**5, "{" * 10, "[]", "\xff", '{"depth": 1%s}' % ("0" * 5000), " " * 10**6])
def test_a_file_that_is_no_configuration_is_refused(planted: Path, text: str) -> None:
    (planted / "config" / "metadata").write_bytes(text.encode("latin1"))
    refused(lambda: checkpoint.restore(planted), "config/metadata")


def test_huge_arrays_in_tiny_files_are_refused(planted: Path) -> None:
    """All that a converted file held besides the network rides along, and has no shape to be compared with."""
    item = planted / "passengers"
    describe(item, "layer4.0.conv1.weight", shape=[2**17, 2**17], chunks=[2**17, 2**17])
    refused(lambda: export(str(planted), str(planted / "back.pth")), "damaged .*claim to hold arrays of 68,719,476,7")
    assert not (planted / "back.pth").exists()


# --- data outside the folder -------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["model", "config", "config/metadata", "model/_METADATA", "model/d", "model/ocdbt.process_0/d/*"]
)
def test_links_out_of_a_checkpoint_are_not_followed(planted: Path, where: str, tmp_path: Path) -> None:
    for number, path in enumerate(list(planted.glob(where))):
        shutil.move(path, tmp_path / f"elsewhere{number}")
        path.symlink_to(tmp_path / f"elsewhere{number}")
    refused(lambda: checkpoint.restore(planted), "damaged .* is a link; cp -rL makes a copy")


@pytest.mark.parametrize("where", ["config/metadata", "model/_METADATA", "model/d/pipe", "model/manifest.ocdbt"])
def test_pipes_in_a_checkpoint_are_not_opened(planted: Path, where: str) -> None:
    (planted / where).unlink(missing_ok=True)
    os.mkfifo(planted / where)
    refused(lambda: checkpoint.restore(planted), "damaged .*neither a file nor a folder")


def test_a_step_linked_from_elsewhere_is_not_loaded(honest: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(honest.parent)
    shutil.copytree(honest, tmp_path / "7")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "7").symlink_to(tmp_path / "7")
    refused(lambda: avmsnet_jax.load(tmp_path / "other"), "is a link out of .*; give .* itself if you trust it")
    (tmp_path / "latest").symlink_to(honest)
    avmsnet_jax.load(tmp_path / "latest")  # what the user names may be a link


def test_data_files_outside_the_folder_are_not_read(planted: Path, tmp_path: Path) -> None:
    """A store's manifest names the file that holds its root; here one beside the checkpoint."""
    item = planted / "model"
    shutil.rmtree(item / "d")
    shutil.rmtree(item / "ocdbt.process_0")
    (item / "manifest.ocdbt").unlink()
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{item}/"}, "config": {"compression": None}}
    tensorstore.KvStore.open(spec).result().write("adjust.bias/.zarray", b"{}" * 500).result()
    manifest = (item / "manifest.ocdbt").read_bytes()[:-4]
    name = manifest[manifest.index(b"d/") :][:34]
    shutil.move(item / name.decode(), planted / ("n" * 31))
    manifest = manifest.replace(name, b"../" + b"n" * 31)
    (item / "manifest.ocdbt").write_bytes(manifest + struct.pack("<I", crc32c(manifest)))
    refused(lambda: checkpoint.restore(planted), "damaged .*Error reading")


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# --- which step ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["٣", "007", "1" * 200, "-1", "1.0"])
def test_folders_with_nearly_numeric_names_are_no_steps(honest: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(honest, tmp_path / "5")
    (tmp_path / name).mkdir()
    assert checkpoint.find(tmp_path).name == "5"


@pytest.mark.parametrize(
    "text", ["[" * 10**5, "", "[]", "{}", '{"average_precision": NaN}', '{"average_precision": "1"}', "\xff", None]
)
def test_a_damaged_validation_file_makes_no_step_the_best(honest: Path, tmp_path: Path, text: str | None) -> None:
    for step, content in (("5", '{"average_precision": 0.5}'), ("6", text)):
        shutil.copytree(honest, tmp_path / step)
        (tmp_path / step / "validation").mkdir()
        if content is None:
            os.mkfifo(tmp_path / step / "validation" / "metadata")
        else:
            (tmp_path / step / "validation" / "metadata").write_text(content, encoding="latin1")
    assert checkpoint.find(tmp_path).name == "5"


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_command_refuses_nonfinite_weights(tmp_path: Path, value: float) -> None:
    tree = tree_of(state())
    tree["fc2"]["kernel"][1, 2:4] = value
    tree["alm"]["bias"][0] = value
    checkpoint.write(tmp_path / "model", TINY, tree)
    complaint = r"model: weights are NaN or infinite: alm/bias \(1 values\); fc2/kernel \(2 values\); "
    refused(lambda: avmsnet_jax.load(tmp_path / "model", finite=True), complaint)
    model = avmsnet_jax.load(tmp_path / "model")
    refused(lambda: checkpoint.initialize(model, tmp_path / "model"), complaint)


# --- random damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_a_mutated_checkpoint_loads_unchanged_or_gives_one_line(planted: Path, seed: int) -> None:
    """Bytes changed, files cut, dropped or swapped, JSON edited."""
    chance = random.Random(seed)
    files = sorted(path for path in planted.rglob("*") if path.is_file())
    for _ in range(chance.randint(1, 3)):
        path = chance.choice(files)
        data = bytearray(path.read_bytes())
        kind = chance.choice(["bytes", "cut", "grow", "swap", "edit", "repeat"])
        if kind == "bytes" and data:
            for _ in range(chance.choice([1, 1, 4, 64])):
                data[chance.randrange(len(data))] = chance.randrange(256)
        elif kind == "cut":
            del data[chance.randrange(len(data) + 1) :]
        elif kind == "grow":
            data += bytes(chance.randrange(256) for _ in range(chance.randrange(1, 1000)))
        elif kind == "swap":
            data = bytearray(chance.choice(files).read_bytes())
        elif kind == "edit":
            old, new = chance.choice([(b"true", b"false"), (b"2", b"99"), (b'"', b""), (b"}", b"]"), (b"f4", b"f8")])
            data = data.replace(old, new, chance.choice([1, -1]))
        elif data:
            start = chance.randrange(len(data))
            data[start:start] = data[start : start + chance.randrange(1, 100)]
        path.write_bytes(data)
    with contextlib.suppress(UserError):
        config, tree = checkpoint.restore(planted)
        checkpoint.restore_passengers(planted)
        assert tree["fc3"]["bias"].shape == (1,)
        assert config.depth == 10
