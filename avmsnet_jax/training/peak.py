"""How many operations a second devices can do at most: what the utilisation of a run is a share of."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from avmsnet_jax import hosts

# Dense operations a second of one JAX device, by `device_kind` and compute type at the precision that XLA takes for it
# by default: float32 is multiplied in TF32 by NVIDIA's tensor cores and in bf16 by TPUs. NVIDIA's data sheets give most
# rates with sparsity, half of which is dense. Names are whole, as a part of a GPU (MIG) has one that begins alike.
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

_LONG_ENOUGH_S = 0.005  # for a product: what it takes to start one does not tell then


class Peak(NamedTuple):
    """`rate`: operations a second of all devices together. `source`: where it is from, for the user."""

    rate: float
    source: str

    def __str__(self) -> str:
        for unit, size in (("PFLOP/s", 1e15), ("TFLOP/s", 1e12)):
            if self.rate >= size:
                return f"MFU against {self.source} {self.rate / size:.3g} {unit}"
        return f"MFU against {self.source} {self.rate / 1e9:.3g} GFLOP/s"


def of(mesh: Mesh, dtype: str) -> Peak:
    """The most that the devices of a mesh can do together: by data sheets or, if one is of no known kind, measured.

    Where it is measured, all processes have to call this at the same time.

    Args:
      mesh: devices, of all processes.
      dtype: what activations are computed in, float32 or bfloat16.
    """
    kinds = [device.device_kind for device in mesh.devices.flat]
    if set(kinds) <= DATA_SHEETS.keys():
        return Peak(sum(DATA_SHEETS[kind][dtype] for kind in kinds), "the data sheets'")
    here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    hosts.wait_for_all("peak")  # processes may share a machine
    # Not what a processor without bf16 units makes of bf16: it could do better in float32.
    rate = max(_measured(here, kind) for kind in sorted({dtype, "float32"}))
    return Peak(rate * len(kinds) / len(here), "a measured")


def _measured(devices: Sequence[Any], dtype: str) -> float:
    """Operations a second of square matrix products, one on each device at the same time: virtual ones share a CPU."""
    mesh = Mesh(np.array(devices), ("device",))
    by_rows = PartitionSpec("device")
    product: Any = jax.jit(jax.shard_map(lambda x: x @ x, mesh=mesh, in_specs=by_rows, out_specs=by_rows))
    size, best = 512, 0.0
    while True:
        # Of no particular values: some devices do zeros faster.
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
