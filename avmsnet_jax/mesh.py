"""The device mesh and the shardings of arrays over it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from avmsnet_jax.config import MeshConfig
from avmsnet_jax.errors import UserError

Product = Callable[..., jax.Array]


def make_mesh(config: MeshConfig) -> Mesh:
    """A mesh of the configured devices with the axes `data` and `fsdp`. A batch is sharded over both.

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
    """The platform that programs for a mesh are compiled for: "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def check_divides(mesh: Mesh, batch_size: int, field: str) -> None:
    """Raises UserError if a batch cannot be divided evenly among the devices."""
    devices = mesh.size
    if batch_size % devices:
        raise UserError(f"{field} is {batch_size}, which {devices} devices cannot share evenly; use a multiple of them")


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds a copy of."""
    return NamedSharding(mesh, PartitionSpec())


def shardings(mesh: Mesh, state: Any) -> Any:
    """The sharding of each array of a training state, as a tree of the same structure.

    Arrays are replicated unless their layer says otherwise (`out_sharding` of the parameter, which the optimizer's
    arrays of that parameter inherit).

    Args:
      mesh: the devices.
      state: arrays or their shapes, wrapped in the variables of the network where they belong to one.

    Raises:
      UserError: a mesh axis does not divide the rows of a parameter.
    """

    def sharding(variable: Any, leaf: Any) -> NamedSharding:
        axes = variable.get_metadata("out_sharding", None) if isinstance(variable, nnx.Variable) else None
        if not axes or mesh.shape[axes[0]] == 1:
            return replicated(mesh)
        if leaf.shape[0] % mesh.shape[axes[0]]:
            raise UserError(
                f"mesh.{axes[0]} is {mesh.shape[axes[0]]}, which does not divide the {leaf.shape[0]} rows of the first "
                "linear layer"
            )
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(
        lambda node: jax.tree.map(functools.partial(sharding, node), node),
        state,
        is_leaf=lambda node: isinstance(node, nnx.Variable),
    )


def shared_layer(mesh: Mesh, product: Product) -> Product:
    """`product` (of activations and a kernel) for the linear layer whose rows are sharded over `fsdp`.

    Each device holds its clips and a shard of the kernel's rows. The devices of an fsdp group exchange activations:
    each receives the columns that its rows multiply, for all clips of the group, and returns partial sums. Without
    these constraints, the compiler gathers the much larger kernel and reduces its whole gradient on every device:
    797 MB a step instead of 215 for the published network on 8 x 8 devices (benchmarks/scaling.py).
    """
    by_clip = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    by_row = NamedSharding(mesh, PartitionSpec("data", "fsdp"))

    def exchanged(x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any) -> jax.Array:
        # The first constraint keeps the exchange from spreading to earlier layers.
        x = jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(x, by_clip), by_row)
        return jax.lax.with_sharding_constraint(product(x, kernel, *arguments, **options), by_clip)

    return exchanged


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """Copies arrays (B, ...) to the devices, sharded over the first axis; returns before the copy is done.

    If several processes share the mesh, each passes the part of the batch for its own devices.
    """
    sharding = shared_batch(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(sharding, part), batch)


def shared_batch(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
