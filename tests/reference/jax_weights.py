"""Moves tensors between the published names and an AVMSNet, for tests.

Independent of `avmsnet_jax.weights`, which it checks: here the names are written out layer by layer, there they come
from a table of patterns.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.models.avmsnet import AVMSNet
from tests.reference.torch_network import BASIC, BOTTLENECK

Path = tuple[str | int, ...]


def paths(config: ModelConfig) -> dict[str, Path]:
    """For each published tensor that the network reads: where it is in `nnx.state(AVMSNet(config))`."""
    found: dict[str, Path] = {}

    def layer(name: str, *path: str | int, kernel: str = "kernel") -> None:
        found[f"{name}.weight"] = (*path, kernel)
        found[f"{name}.bias"] = (*path, "bias")

    def conv(name: str, *path: str | int) -> None:
        found[f"{name}.weight"] = (*path, "kernel")

    def norm(name: str, *path: str | int) -> None:
        layer(name, *path, kernel="scale")
        found[f"{name}.running_mean"] = (*path, "mean")
        found[f"{name}.running_var"] = (*path, "var")

    conv("conv1", "trunk", "conv")
    norm("bn1", "trunk", "bn")
    growth = 4 if config.depth in BOTTLENECK else 1
    for stage, blocks in enumerate((BOTTLENECK | BASIC)[config.depth]):
        for block in range(blocks):
            there: Path = ("trunk", "stages", stage, block)
            for i in range(3 if growth == 4 else 2):
                conv(f"layer{stage + 1}.{block}.conv{i + 1}", *there, "convs", i)
                norm(f"layer{stage + 1}.{block}.bn{i + 1}", *there, "bns", i)
            # layer1 of the basic kind keeps both size and channels.
            if config.shortcut == "B" and block == 0 and (stage > 0 or growth == 4):
                conv(f"layer{stage + 1}.0.downsample.0", *there, "shortcut", "conv")
                norm(f"layer{stage + 1}.0.downsample.1", *there, "shortcut", "bn")
    for i in range(4 if config.dam4 else 3):
        layer(f"score_dsn.{i}.side_prep", "dams", i, "conv")
        layer(f"score_dsn.{i}.score_dsn", "dams", i, "score")
    for i, position in enumerate((0, 4, 8, 11, 14, 18, 21)):
        layer(f"soundnet8.{position}", "soundnet", "convs", i)
        norm(f"soundnet8.{position + 1}", "soundnet", "bns", i)
    layer("fusion4.affine_rgb", "alm", "visual")
    layer("fusion4.affine_audio", "alm", "sound")
    layer("fusion4.w_a_rgb", "alm")
    layer("downsamplelayer", "adjust")
    norm("bn3d", "adjust_bn")
    layer("fuselayer", "fusion")
    norm("bn2d", "fusion_bn")
    for fc in ("fc1", "fc2"):
        layer(f"{fc}.0", fc)
        norm(f"{fc}.1", f"{fc}_bn")
    layer("fc3", "fc3")
    return found


def to_jax(name: str, tensor: torch.Tensor) -> jax.Array:
    """A published tensor in JAX's layout: kernels (taps..., in, out), linear layers (in, out)."""
    if name == "fusion4.w_a_rgb.weight":
        return jnp.asarray(tensor.numpy())
    if name.startswith("soundnet8.") and tensor.ndim == 4:
        tensor = tensor[:, :, 0]
    order = {5: (2, 3, 4, 1, 0), 4: (2, 3, 1, 0), 3: (2, 1, 0), 2: (1, 0), 1: (0,)}[tensor.ndim]
    return jnp.asarray(tensor.permute(order).numpy())


def build(config: ModelConfig, tensors: Mapping[str, torch.Tensor]) -> AVMSNet:
    """The network with `tensors`, in evaluation mode.

    Raises:
      AssertionError: a parameter or statistic of the network that `tensors` does not give, or of another shape.
    """
    graph, abstract = nnx.split(nnx.eval_shape(lambda: AVMSNet(config, rngs=nnx.Rngs(0))))
    flat = dict(nnx.to_flat_state(abstract))
    names = paths(config)
    assert set(names.values()) == set(flat), set(names.values()) ^ set(flat)
    for name, path in names.items():
        value = to_jax(name, tensors[name])
        assert value.shape == flat[path].shape, (name, value.shape, flat[path].shape)
        flat[path] = flat[path].replace(value)
    model = nnx.merge(graph, nnx.from_flat_state(flat))
    model.eval()
    return model


def by_published_name(config: ModelConfig, state: nnx.State) -> dict[str, np.ndarray]:
    """Leaves of a state (parameters, their gradients, statistics) by published name, still in JAX's layout."""
    flat = dict(nnx.to_flat_state(state))
    return {name: np.asarray(flat[path][...]) for name, path in paths(config).items() if path in flat}
