"""Export under the published names, and the round trip through import and export."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from avmsnet_jax.errors import UserError
from avmsnet_jax.weights import checkpoint, names
from avmsnet_jax.weights.convert import convert
from avmsnet_jax.weights.export import export, write_pth
from tests.weights.conftest import TINY, assert_same_bits, only, state
from tests.weights.test_checkpoint import tree_of
from tests.weights.test_convert import Write, kinetics


def test_converting_and_exporting_is_bit_exact(tmp_path: Path, write: Write) -> None:
    tensors = state(finite=False)
    source = write("whole", {f"module.{name}": array for name, array in tensors.items()})
    convert([source], str(tmp_path / "out"), allow_nonfinite=True)
    lines = export(str(tmp_path / "out"), str(tmp_path / "back.safetensors"))
    back = load_file(tmp_path / "back.safetensors")
    assert_same_bits({name: back[name] for name in tensors}, tensors)
    assert len(back) == len(tensors)
    unused = sum(bool(tensor.unused) for tensor in names.published(TINY).values())
    assert f"{unused:5d}  never used by the network, as the converted file had them" in lines


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pth_comes_back_bit_for_bit_and_in_order(tmp_path: Path, legacy: bool) -> None:
    torch = pytest.importorskip("torch")
    tensors = state(finite=False)
    source = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save(source, tmp_path / "whole.pth", _use_new_zipfile_serialization=not legacy)
    convert([str(tmp_path / "whole.pth")], str(tmp_path / "out"), allow_nonfinite=True)
    export(str(tmp_path / "out"), str(tmp_path / "back.pth"))
    for mapped in (False, True):
        back = torch.load(tmp_path / "back.pth", weights_only=True, mmap=mapped)
        assert_same_bits({name: tensor.numpy() for name, tensor in back.items()}, tensors)
        assert all(tensor.is_contiguous() and tensor.data_ptr() % 64 == 0 for tensor in back.values() if mapped)


def test_a_model_from_scratch_exports_a_file_that_loads_strictly(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from tests.reference.torch_network import TorchAVMSNet

    tensors = state()
    checkpoint.write(tmp_path / "model", TINY, tree_of(tensors))
    lines = export(str(tmp_path / "model"), str(tmp_path / "model.pt"))
    back = torch.load(tmp_path / "model.pt", weights_only=True)
    TorchAVMSNet(TINY).load_state_dict(back, strict=True)
    for name, tensor in names.published(TINY).items():
        if tensor.unused:
            assert not back[name].any(), name
            assert back[name].dtype == (torch.int64 if name.endswith("tracked") else torch.float32)
        else:
            assert back[name].numpy().tobytes() == tensors[name].tobytes(), name
    assert "zeros, to load strictly" in lines


def test_parameters_beyond_the_published_ones_are_written_on_request(tmp_path: Path, write: Write) -> None:
    tensors = state()
    convert([write("a", tensors), write("b", kinetics(tensors))], str(tmp_path / "out"))
    lines = export(str(tmp_path / "out"), str(tmp_path / "strict.safetensors"))
    assert set(load_file(tmp_path / "strict.safetensors")) == set(tensors)
    assert "left out 2" in lines
    export(str(tmp_path / "out"), str(tmp_path / "all.safetensors"), keep_unpublished=True)
    beyond = load_file(tmp_path / "all.safetensors")
    assert set(beyond) - set(tensors) == {"layer4.0.conv1.weight", "fc.weight"}
    assert (beyond["fc.weight"] == 1).all()


def test_extra_tensors_of_every_dtype_are_written(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import ml_dtypes

    dtypes = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.int16, np.int8, np.uint8]
    tensors = {np.dtype(dtype).name: np.arange(6).reshape(2, 3).astype(dtype) for dtype in dtypes}
    tensors |= {"bool": np.array([True, False]), "scalar": np.array(2**40), "turned": np.ones((2, 3), np.float32).T}
    tensors |= {"swapped": np.arange(3, dtype=">f4")}
    write_pth(tmp_path / "file.pth", tensors)
    back = torch.load(tmp_path / "file.pth", weights_only=True)
    for name, array in tensors.items():
        assert back[name].shape == array.shape
        assert str(back[name].dtype).removeprefix("torch.") == array.dtype.name
        assert back[name].double().tolist() == array.astype(np.float64).tolist()


def test_the_archive_is_a_plain_zip_file(tmp_path: Path) -> None:
    write_pth(tmp_path / "file.pth", only(state(), "fc3."))
    with zipfile.ZipFile(tmp_path / "file.pth") as archive:
        assert archive.testzip() is None
        assert {"weights/data.pkl", "weights/byteorder", "weights/version"} <= set(archive.namelist())


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("taken.pth", "taken.pth exists"),
        ("model.npz", r"must end in \.pth, \.pt, \.safetensors"),
        ("model", "must end in"),
        ("taken.pth/model.pth", "cannot write"),
    ],
)
def test_an_unsuitable_target_gives_one_line_and_is_left_alone(tmp_path: Path, target: str, complaint: str) -> None:
    checkpoint.write(tmp_path / "model.dir", TINY, tree_of(state()))
    (tmp_path / "taken.pth").write_text("precious")
    with pytest.raises(UserError, match=complaint):
        export(str(tmp_path / "model.dir"), str(tmp_path / target))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.dir", "taken.pth"]
    assert (tmp_path / "taken.pth").read_text() == "precious"


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path / "model", TINY, tree_of(state()))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    with pytest.raises(UserError, match=r"cannot write .*model\.pth: No space left on device"):
        export(str(tmp_path / "model"), str(tmp_path / "new" / "model.pth"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    with pytest.raises(UserError, match="no checkpoint at"):
        export(str(tmp_path / "nowhere"), str(tmp_path / "new" / "model.pth"))
