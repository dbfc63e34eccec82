"""The peak FLOP/s of devices, which model FLOPs utilization (MFU) is relative to."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from avmsnet_jax import hosts

# Dense FLOP/s of one JAX device, by `device_kind` and compute dtype at XLA's default precision: NVIDIA's tensor cores
# multiply float32 in TF32, TPUs in bf16. NVIDIA's data sheets mostly give rates with sparsity; dense is half of them.
# Whole names, because a part of a GPU (MIG) has a name with the same beginning.
_A100 = {"bfloat16": 312e12, "float32": 156e12}  # A100 data sheet: the same for all its forms
_HOPPER_SXM = {"bfloat16": 989e12, "float32": 494e12}  # H100 and H200 data sheets: 1,979 and 989 with sparsity
_HOPPER_NVL = {"bfloat16": 835e12, "float32": 417e12}  # the same, 1,671 and 835 with sparsity


def _tpu(rate: float) -> dict[str, float]:
    return {"bfloat16": rate, "float32": rate}


DATA_SHEETS: dict[str, dict[str, float]] = {
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA H100 80GB HBM3": _HOPPER_SXM,
    "NVIDIA H100 NVL": _HOPPER_NVL,
    "NVIDIA H100 PCIe": {"bfloat16": 756e12, "float32": 378e12},  # H100 PCIe data sheet: 1,513 and 756 with sparsity
    "NVIDIA H200": _HOPPER_SXM,
    "NVIDIA H200 NVL": _HOPPER_NVL,
    "NVIDIA B200": {"bfloat16": 2250e12, "float32": 1125e12},  # HGX B200: 36 and 18 petaFLOPS of eight with sparsity
    "NVIDIA L4": {"bfloat16": 121e12, "float32": 60e12},  # L4 data sheet: 242 and 120 with sparsity
    # Google Cloud's pages on TPU v4, v5e, v5p and v6e: bf16 a chip, which is one JAX device.
    "TPU v4": _tpu(275e12),
    "TPU v5 lite": _tpu(197e12),
    "TPU v5e": _tpu(197e12),
    "TPU v5": _tpu(459e12),
    "TPU v5p": _tpu(459e12),
    "TPU v6 lite": _tpu(918e12),
    "TPU v6e": _tpu(918e12),
}

_LONG_ENOUGH_S = 0.005  # minimum duration of a timed matrix product, so that launch overhead is negligible


class Peak(NamedTuple):
    """`rate`: FLOP/s of all devices together. `source`: where it is from."""

    rate: float
    source: str

    def __str__(self) -> str:
        scale, unit = next(
            ((size, unit) for unit, size in (("PFLOP/s", 1e15), ("TFLOP/s", 1e12)) if self.rate >= size),
            (1e9, "GFLOP/s"),
        )
        return f"{self.source} peak {self.rate / scale:.3g} {unit} (MFU is reported relative to it)"


def of(mesh: Mesh, dtype: str) -> Peak:
    """The peak of a mesh's devices: from data sheets, or measured if a device is not in them.

    Measuring needs all processes to call this at the same time.

    Args:
      mesh: devices, of all processes.
      dtype: the dtype of activations, float32 or bfloat16.
    """
    kinds = [device.device_kind for device in mesh.devices.flat]
    if set(kinds) <= DATA_SHEETS.keys():
        return Peak(sum(DATA_SHEETS[kind][dtype] for kind in kinds), "data-sheet")
    here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    hosts.wait_for_all("peak")  # processes may share a machine
    # The faster of bf16 and float32: CPUs without bf16 units emulate it slowly.
    rate = max(_measured(here, kind) for kind in sorted({dtype, "float32"}))
    return Peak(rate * len(kinds) / len(here), "measured")


def _measured(devices: Sequence[Any], dtype: str) -> float:
    """FLOP/s of square matrix products, run on all devices at once because virtual devices share a CPU."""
    mesh = Mesh(np.array(devices), ("device",))
    by_rows = PartitionSpec("device")
    product: Any = jax.jit(jax.shard_map(lambda x: x @ x, mesh=mesh, in_specs=by_rows, out_specs=by_rows))
    size, best = 512, 0.0
    while True:
        # Random values, because some devices multiply zeros faster.
        x = np.random.default_rng(0).standard_normal((size, size), np.float32)
        x = jax.device_put(jnp.tile(x.astype(dtype), (len(devices), 1)), NamedSharding(mesh, by_rows))
        times = []
        for _ in range(4):  # the first compiles
            began = time.perf_counter()
            jax.block_until_ready(product(x))
            times.append(time.perf_counter() - began)
        best = max(best, len(devices) * 2 * size**3 / min(times))
        if min(times) > _LONG_ENOUGH_S:
            return best
        size *= 2
