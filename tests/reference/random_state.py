"""A reproducible state dict, made with NumPy, for which all activations of the network are well scaled.

The outputs of the published network in `tests/data/golden.npz` were computed with it.
"""

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch


def random_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Random weights and batch statistics for the published names.

    Args:
      shapes: shape of each tensor by its published name.

    Returns:
      float32 tensors (int64 for `num_batches_tracked`); each depends on its own name and shape alone.
    """
    normalizations = {name.rsplit(".", 1)[0] for name in shapes if name.endswith("running_var")}
    return {name: torch.from_numpy(_value(name, tuple(shape), normalizations)) for name, shape in shapes.items()}


def _value(name: str, shape: tuple[int, ...], normalizations: set[str]) -> np.ndarray:
    module, kind = name.rsplit(".", 1)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var":
        value = 0.5 + rng.random(shape)
        if name == "bn1.running_var":
            value *= 20000  # pictures are in 0-255
    elif kind == "running_mean":
        value = 0.2 * rng.standard_normal(shape)
    elif module in normalizations:
        value = 0.7 + 0.6 * rng.random(shape) if kind == "weight" else 0.1 * rng.standard_normal(shape)
    elif kind == "bias":
        value = 0.05 * rng.standard_normal(shape)
    else:
        value = rng.standard_normal(shape) * math.sqrt(1.6 / math.prod(shape[1:]))
        if name == "fc3.weight":
            value *= 0.003
    return value.astype(np.float32)
