"""Tables printed before a run: parameters, operations, devices and memory."""

import math
from collections import defaultdict
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.sharding import Mesh

from avmsnet_jax.config import Config, ModelConfig
from avmsnet_jax.models import flops
from avmsnet_jax.training.optimizer import Treatment, parameter_path, treatment
from avmsnet_jax.training.step import TrainState
from avmsnet_jax.weights import names


class Row(NamedTuple):
    """One parameter and how it is trained."""

    path: str
    shape: tuple[int, ...]
    treatment: Treatment


def parameters(config: Config, params: Any) -> list[Row]:
    """A row for each parameter of the network."""
    return [
        Row(parameter_path(path), leaf.shape, treatment(parameter_path(path), config))
        for path, leaf in jax.tree.leaves_with_path(params)
    ]


def each_parameter(rows: list[Row]) -> str:
    """A table of `parameter, shape, group, lr, decay`."""
    cells = [(row.path, _by(row.shape), row.treatment.group, *_rates(row.treatment)) for row in rows]
    return _aligned([("parameter", "shape", "group", "lr", "decay"), *cells], numbers=(3, 4))


def each_group(rows: list[Row]) -> str:
    """A table of `group, tensors, parameters, lr, decay`."""
    sizes: dict[Treatment, list[int]] = defaultdict(list)
    for row in rows:
        sizes[row.treatment].append(math.prod(row.shape))
    cells = [(how.group, str(len(counts)), f"{sum(counts):,}", *_rates(how)) for how, counts in sizes.items()]
    total = ("total", str(len(rows)), f"{sum(math.prod(row.shape) for row in rows):,}", "", "")
    return _aligned([("group", "tensors", "parameters", "lr", "decay"), *cells, total], numbers=(1, 2, 3, 4))


def each_operation(config: ModelConfig) -> str:
    """A table of the convolutions and matrix products for a clip, with their multiply-adds."""
    cells = [
        (each.name, _by(each.output), _by(each.summed), f"{each.multiply_adds:,}", f"{each.training_multiply_adds:,}")
        for each in flops.operations(config)
    ]
    total = ("total", "", "", f"{flops.forward_flops(config) // 2:,}", f"{flops.training_flops(config) // 2:,}")
    header = ("operation", "output", "sums over", "multiply-adds", "in training")
    forward, training = flops.forward_flops(config) / 1e9, flops.training_flops(config) / 1e9
    return (
        _aligned([header, *cells, total], numbers=(3, 4))
        + f"\nper clip {forward:.2f} GFLOP forward and {training:.2f} in training (2 FLOPs per multiply-add)"
    )


def devices(mesh: Mesh, batch_size: int) -> str:
    """A line about the mesh and the clips per device."""
    first = mesh.devices.flat[0]
    shape = " x ".join(f"{size} {axis}" for axis, size in mesh.shape.items())
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return (
        f"devices: {mesh.size} x {first.device_kind}{processes}, as {shape}; "
        f"{batch_size} clips per step, {batch_size // mesh.size} per device"
    )


def memory(described: TrainState, compiled: Any) -> str:
    """A line about the memory per device, for each part of the training state and temporary buffers."""
    parts = {
        "parameters": described.params,
        "optimizer": described.opt_state,
        "BN statistics": described.stats,
        "EMA": described.ema,
    }
    held = {name: _bytes_per_device(part) for name, part in parts.items()}
    told = [f"{name} {_size(size)}" for name, size in held.items() if size]
    analysis = compiled.memory_analysis()
    if analysis is not None:
        told.append(f"temporary buffers {_size(analysis.temp_size_in_bytes)}")
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return f"memory per device: {', '.join(told)}" + (f" (of {_size(limit)})" if limit else "")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _bytes_per_device(tree: Any) -> int:
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _rates(how: Treatment) -> tuple[str, str]:
    return ("frozen", "") if how.group == "frozen" else (f"{how.rate:g}", f"{how.decay:g}")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _aligned(cells: list[tuple[str, ...]], numbers: tuple[int, ...]) -> str:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column in numbers else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def shapes_of(config: Config) -> Any:
    """The network's parameters as shapes, without making them."""
    return nnx.state(names.abstract_model(config.model), nnx.Param)
