"""Saves small networks with weights that NumPy makes: JAX would compile ninety programs to draw them."""

import math
import os
from collections.abc import Callable

import numpy as np
from flax import traverse_util

import avmsnet_jax
from avmsnet_jax.config import ModelConfig
from avmsnet_jax.weights import checkpoint, names
from tests.conftest import SMALL

Weights = Callable[[str, tuple[int, ...]], np.ndarray]


def save_network(directory: str | os.PathLike[str], weights: Weights, **fields: object) -> None:
    """Saves the network of `SMALL`, changed by `fields`; `weights` gives each array for its path and shape."""
    model = names.abstract_model(ModelConfig(**SMALL | fields))
    tree = {path: weights(path, leaf.shape).astype(np.float32) for path, leaf in names.held_by(model).items()}
    checkpoint.set_model_tree(model, traverse_util.unflatten_dict(tree, sep="/"))
    avmsnet_jax.save(model, directory)


def untrained(seed: int = 0) -> Weights:
    """Weights like the first ones: kernels of the published standard deviations, batch norm that changes nothing."""
    rng = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if not path.endswith("kernel"):
            return np.full(shape, float(path.endswith(("scale", "var"))))
        kaiming = math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1]))
        return rng.normal(scale=0.001 if path.startswith(("soundnet", "dams", "fusion")) else kaiming, size=shape)

    return draw


def filled(value: float) -> Weights:
    """The same value everywhere."""
    return lambda path, shape: np.full(shape, value)
