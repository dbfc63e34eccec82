"""Shared by the comparisons with PyTorch."""

from collections.abc import Mapping

import numpy as np
import pytest
from flax import nnx

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.models import alm, dam, resnet3d, soundnet

torch = pytest.importorskip("torch")

from tests.reference.jax_weights import build  # noqa: E402 - they need torch
from tests.reference.random_state import random_state  # noqa: E402
from tests.reference.torch_network import MEAN, TorchAVMSNet, TorchOutput  # noqa: E402

# Small enough to compile and run in seconds, with no two widths alike that could be taken for one another.
TINY = {
    "trunk_width": 4,
    "soundnet_width": 2,
    "alm_width": 5,
    "alm_channels": 3,
    "adjust_width": 12,
    "head_width": 20,
    "frame_size": 32,
}
_JITTED = {kind: nnx.jit(kind.__call__) for kind in (resnet3d.Block, dam.DAM, soundnet.SoundNet, alm.ALM)}


@pytest.fixture
def blockwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles the network a block at a time, for calls outside `jit`.

    XLA compiles every block of a jitted network anew, minutes for depth 200; a block at a time there are six.
    """
    for kind, jitted in _JITTED.items():
        monkeypatch.setattr(kind, "__call__", jitted)


def worst(ours: object, reference: object) -> float:
    """The worst element's error over the reference's largest magnitude; an all-zero reference must be met exactly."""
    if isinstance(reference, torch.Tensor):
        reference = reference.detach().numpy()
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    assert ours.shape == reference.shape
    error, scale = np.abs(ours - reference).max(), np.abs(reference).max()
    return 0.0 if error == 0 else float(error / scale) if scale else float("inf")


def pair(config: ModelConfig, known: Mapping[str, "torch.Tensor"] = {}):
    """The same random weights in both: `(AVMSNet, TorchAVMSNet in float64)`, in evaluation mode.

    Args:
      config: of both networks.
      known: tensors of `random_state` made before, to save their making.
    """
    state = states(config, known)
    return build(config, state), torch_network(config, state)


def states(config: ModelConfig, known: Mapping[str, "torch.Tensor"] = {}) -> dict[str, "torch.Tensor"]:
    """The random state dict of a configuration; see `pair`."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in TorchAVMSNet(config).state_dict().items()}
    same = {name: known[name] for name, shape in shapes.items() if name in known and known[name].shape == shape}
    fresh = random_state({name: shape for name, shape in shapes.items() if name not in same})
    return {name: same.get(name, fresh.get(name)) for name in shapes}


def torch_network(config: ModelConfig, state: Mapping[str, "torch.Tensor"], dtype: object = None) -> TorchAVMSNet:
    """The PyTorch network with `state`, in evaluation mode and float64 unless told otherwise."""
    with torch.device("meta"):  # no initial weights, which would only be thrown away
        network = TorchAVMSNet(config)
    network.load_state_dict(state, assign=True)
    network.mean = torch.tensor(MEAN, dtype=torch.float64)
    return network.to(dtype or torch.float64).eval()


def clips(config: ModelConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Random video (B, T, H, W, 3) uint8 and audio (B, samples) float32; the golden inputs at the published sizes."""
    size = config.frame_size
    video = np.random.default_rng(0).integers(0, 256, (batch, config.frames, size, size, 3), dtype=np.uint8)
    audio = np.random.default_rng(1).standard_normal((batch, config.audio_samples)) * 20
    return video, audio.astype(np.float32)


def differences(ours: object, theirs: TorchOutput) -> dict[str, float]:
    """`worst` of everything an Output holds: stages, attention maps, localization, features and logits."""
    found = {"logits": worst(ours.logits, theirs.logits)}
    assert ours.activations.keys() == theirs.activations.keys()
    for name, value in ours.activations.items():
        found[name] = worst(value, theirs.activations[name].movedim(1, -1))
    assert len(ours.attention) == len(theirs.attention)
    for i, (a, b) in enumerate(zip(ours.attention, theirs.attention, strict=True)):
        found[f"attention{i + 1}"] = worst(a, b)
    found["localization"] = worst(ours.localization, theirs.localization.movedim(1, -1))
    return found
