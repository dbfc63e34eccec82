"""How the devices are arranged, and where arrays go on them."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avmsnet_jax.config import MeshConfig
from avmsnet_jax.errors import UserError


def make_mesh(config: MeshConfig) -> Mesh:
    """A mesh with one axis, `data`, over the configured number of devices.

    Raises:
      UserError: more devices are asked for than there are.
    """
    devices = jax.devices()
    count = len(devices) if config.data == -1 else config.data
    if count > len(devices):
        raise UserError(f"mesh.data is {count}, but there are {len(devices)} devices; lower --config.mesh.data")
    # Auto: the compiler propagates shardings, which makes the batch statistics of BN global.
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])


def check_divides(mesh: Mesh, batch_size: int, field: str) -> None:
    """Raises UserError where a batch cannot be dealt out evenly."""
    devices = mesh.shape["data"]
    if batch_size % devices:
        raise UserError(f"{field} is {batch_size}, which {devices} devices cannot share evenly; use a multiple of them")


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """Puts arrays (B, ...) on the devices, each its share of the first axis. Returns before the copy is done."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
