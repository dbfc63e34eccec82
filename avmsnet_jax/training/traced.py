"""The step as JAX traced it, kept for the next start of a run: tracing takes longer than loading what XLA compiled."""

import contextlib
import hashlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.sharding import Mesh

import avmsnet_jax
from avmsnet_jax import compiled, xla
from avmsnet_jax import config as config_lib
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import Config
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import staged
from avmsnet_jax.training.step import Batch, Measured, Step, TrainState, batch_shapes

_MOST = 20  # steps that are kept, half a megabyte each
_MARGIN_S = 2  # the first modules were imported before, and not every file system is exact
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "optax")


def compile_step(
    step: Step, config: Config, steps_per_epoch: int, described: TrainState, mesh: Mesh
) -> tuple[Step, Any]:
    """The step as a program for the devices of a mesh, and XLA's own object of it, which knows its memory.

    Where `compiled.keep` keeps what XLA compiled, what JAX traced is kept beside it, if one device takes the step; the
    program is the same either way.

    Args:
      step: by `make_step`.
      config: what it was made of.
      steps_per_epoch: of the records; the learning rate falls by it.
      described: by `describe`.
      mesh: the devices.
    """
    arguments = described, batch_shapes(config, mesh)
    path = _place(config, steps_per_epoch, mesh)
    if path is None:
        program = step.lower(*arguments).compile()  # type: ignore[attr-defined]
        return program, program
    exported = _exported(step, path, arguments)

    state = jax.tree.leaves(described)
    places = (*(leaf.sharding for leaf in state), *(None for _ in Measured._fields))
    structure = jax.tree.structure((described, Measured(*state[:3])))

    def again(*leaves: jax.Array) -> Any:
        return tuple(exported.call(*leaves))

    again.__name__ = "step"  # by which a profile and JAX's cache call it
    flat = xla.jit(again, mesh_lib.platform(mesh), donate_argnums=tuple(range(len(state))), out_shardings=places)
    program = flat.lower(*jax.tree.leaves(arguments)).compile()

    def taken(state: TrainState, batch: Batch) -> tuple[TrainState, Measured]:
        return jax.tree.unflatten(structure, program(*jax.tree.leaves((state, batch))))

    return taken, program


def _exported(step: Step, path: Path, arguments: tuple[Any, ...]) -> export.Exported:
    """The step as a function of its leaves: what `path` has or, where it has nothing to use, traced and put there."""
    leaves, structure = jax.tree.flatten(arguments)
    if (kept := _kept(path)) is not None:
        return kept
    # Not the jitted one, whose options for XLA are for a program of its own.
    pure = step.__wrapped__  # type: ignore[attr-defined]

    def flat(*leaves: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(pure(*jax.tree.unflatten(structure, leaves)))

    flat.__name__ = "step"  # as above
    exported = export.export(jax.jit(flat))(*leaves)
    with contextlib.suppress(OSError, UserError):  # a full disk, say: the next start traces again
        data = bytes(exported.serialize())
        with staged(path) as stage:
            stage.write_bytes(hashlib.sha256(data).digest() + data)
        by_use = sorted(path.parent.glob("traced_*"), key=lambda kept: kept.stat().st_mtime)
        for old in by_use[:-_MOST]:
            old.unlink()
    return exported


def _kept(path: Path) -> export.Exported | None:
    """What `path` has, if it is whole."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    digest, data = whole[:32], whole[32:]
    if hashlib.sha256(data).digest() != digest:
        return None
    with contextlib.suppress(OSError):
        path.touch()
    return export.deserialize(bytearray(data))


def _place(config: Config, steps_per_epoch: int, mesh: Mesh) -> Path | None:
    """Where the step is kept: another version, line of this package, setting or device is another place.

    What a program changes of the package while it runs is not seen. None where nothing is kept, for several devices,
    and if the package was changed since this start began: what was read then is not what is there now.
    """
    folder = compiled.folder()
    if folder is None or mesh.size > 1:
        return None
    digest = hashlib.sha256()
    root = Path(avmsnet_jax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        status = path.stat()
        if max(status.st_mtime, status.st_ctime) >= compiled.BEGAN - _MARGIN_S:
            return None
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    versions = [platform.python_version(), *(importlib.metadata.version(name) for name in _PACKAGES)]
    devices = [device.device_kind for device in mesh.devices.flat]
    of_jax = sorted((name, repr(value)) for name, value in jax.config.values.items())
    facts = (versions, mesh_lib.platform(mesh), devices, of_jax, config_lib.dumps(config), steps_per_epoch)
    digest.update(repr(facts).encode())
    return folder / f"traced_{digest.hexdigest()}"
