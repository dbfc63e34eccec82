"""How the devices are arranged, and where arrays go on them."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avmsnet_jax.config import MeshConfig
from avmsnet_jax.errors import UserError

Product = Callable[..., jax.Array]


def make_mesh(config: MeshConfig) -> Mesh:
    """A mesh over the configured devices with two axes, `data` and `fsdp`; both share a batch.

    Raises:
      UserError: more devices are asked for than there are.
    """
    devices = jax.devices()
    groups = len(devices) // config.fsdp if config.data == -1 else config.data
    count = groups * config.fsdp
    if not 0 < count <= len(devices):
        if config.fsdp == 1:
            raise UserError(f"mesh.data is {groups}, but there are {len(devices)} devices; lower --config.mesh.data")
        raise UserError(
            f"mesh.data={config.data} and mesh.fsdp={config.fsdp} take {max(groups, 1) * config.fsdp} devices, "
            f"but there are {len(devices)}; lower one of them"
        )
    if jax.process_count() > 1 and count != len(devices):
        raise UserError(
            f"mesh.data={config.data} and mesh.fsdp={config.fsdp} leave out some of the {len(devices)} devices of "
            f"{jax.process_count()} processes; all have to take part"
        )
    # Auto: the compiler propagates shardings, which makes the batch statistics of BN global.
    shape, axes = (groups, config.fsdp), ("data", "fsdp")
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices[:count])


def platform(mesh: Mesh) -> str:
    """What programs for a mesh are compiled for: "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def check_divides(mesh: Mesh, batch_size: int, field: str) -> None:
    """Raises UserError where a batch cannot be dealt out evenly."""
    devices = mesh.size
    if batch_size % devices:
        raise UserError(f"{field} is {batch_size}, which {devices} devices cannot share evenly; use a multiple of them")


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_state(mesh: Mesh, state: Any) -> Any:
    """Where each array of a training state goes, as a tree of the same structure.

    The first linear layer, which has 70% of the published network's parameters, and what the optimiser keeps of it
    are dealt out over `fsdp` by rows; everything else is on every device.

    Args:
      mesh: the devices.
      state: arrays or their shapes; parameters keep their names in it wherever they stand.

    Raises:
      UserError: `fsdp` does not divide the rows.
    """
    parts = mesh.shape["fsdp"]

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        if parts == 1 or not {"fc1", "kernel"} <= {getattr(entry, "key", None) for entry in path}:
            return replicated(mesh)
        if leaf.shape[0] % parts:
            raise UserError(
                f"mesh.fsdp is {parts}, which does not divide the {leaf.shape[0]} rows of the first linear layer"
            )
        return NamedSharding(mesh, PartitionSpec("fsdp"))

    return jax.tree.map_with_path(place, state)


def shared_layer(mesh: Mesh, product: Product) -> Product:
    """`product` (of activations and a kernel) for the layer whose rows `of_state` deals out.

    Each device has its clips and a part of the kernel. Here the devices of a group exchange activations, so that each
    has of the group's clips what its rows take, and give back sums. Left alone the compiler gathers the kernel and adds
    up its whole gradient on every device, 797 MB a step instead of 215 for the published network on 8 x 8 devices
    (benchmarks/scaling.py): activations are so much smaller.
    """
    by_clip = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    by_row = NamedSharding(mesh, PartitionSpec("data", "fsdp"))

    def exchanged(x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
        # First as it comes, or the exchange would spread to the layers before.
        x = jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(x, by_clip), by_row)
        return jax.lax.with_sharding_constraint(product(x, kernel, *arguments, **options), by_clip)

    return exchanged


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """Puts arrays (B, ...) on the devices, each its share of the first axis. Returns before the copy is done.

    Where several processes share the mesh, each gives the part of the batch that its own devices take.
    """
    sharding = shared_batch(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(sharding, part), batch)


def shared_batch(mesh: Mesh) -> NamedSharding:
    """Every device its share of the first axis."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
