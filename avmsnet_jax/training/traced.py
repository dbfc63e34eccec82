"""The step as JAX traced it, kept for the next start of a run: tracing takes longer than loading what XLA compiled."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.sharding import Mesh

import avmsnet_jax
from avmsnet_jax import compiled
from avmsnet_jax import config as config_lib
from avmsnet_jax.config import Config
from avmsnet_jax.models import conv3d
from avmsnet_jax.training.step import Batch, Measured, Step, TrainState, batch_shapes

_MOST = 20  # steps that are kept, half a megabyte each
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "optax")


def compile_step(
    step: Step, config: Config, steps_per_epoch: int, described: TrainState, mesh: Mesh
) -> tuple[Step, Any]:
    """The step as a program for the devices of a mesh, and XLA's own object of it, which knows its memory.

    Where `compiled.keep` keeps what XLA compiled, what JAX traced is kept beside it, if one device takes the step; the
    program is the same either way.

    Args:
      step: by `make_step`.
      config: what it was made of, and what the records add to that:
      steps_per_epoch: by which the learning rate falls.
      described: by `describe`.
      mesh: the devices.
    """
    arguments = described, batch_shapes(config, mesh)
    folder = compiled.folder()
    if folder is None or mesh.size > 1:
        program = step.lower(*arguments).compile()  # type: ignore[attr-defined]
        return program, program
    exported = _exported(step, folder / f"traced_{_key(config, steps_per_epoch, mesh)}", arguments)

    state = jax.tree.leaves(described)
    places = (*(leaf.sharding for leaf in state), *(None for _ in Measured._fields))
    structure = jax.tree.structure((described, Measured(*state[:3])))

    def again(*leaves: jax.Array) -> Any:
        return tuple(exported.call(*leaves))

    again.__name__ = "step"  # by which a profile and JAX's cache call it
    flat = conv3d.jit(again, donate_argnums=tuple(range(len(state))), out_shardings=places)
    program = flat.lower(*jax.tree.leaves(arguments)).compile()

    def taken(state: TrainState, batch: Batch) -> tuple[TrainState, Measured]:
        return jax.tree.unflatten(structure, program(*jax.tree.leaves((state, batch))))

    return taken, program


def _exported(step: Step, path: Path, arguments: tuple[Any, ...]) -> export.Exported:
    """The step as a function of its leaves: what `path` has or, where it has nothing to use, traced and put there."""
    leaves, structure = jax.tree.flatten(arguments)
    with contextlib.suppress(Exception):  # whatever a damaged file may come to
        exported = export.deserialize(bytearray(path.read_bytes()))
        path.touch()
        return exported

    def flat(*leaves: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(step(*jax.tree.unflatten(structure, leaves)))

    exported = export.export(jax.jit(flat))(*leaves)
    with contextlib.suppress(OSError):  # a full disk, say: the next start traces again
        descriptor, written = tempfile.mkstemp(dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                file.write(exported.serialize())
            os.replace(written, path)
        except BaseException:
            os.unlink(written)
            raise
        by_use = sorted(path.parent.glob("traced_*"), key=lambda kept: kept.stat().st_mtime)
        for old in by_use[:-_MOST]:
            old.unlink()
    return exported


def _key(config: Config, steps_per_epoch: int, mesh: Mesh) -> str:
    """Of everything that tracing reads: another package, line of code, setting or device is another key."""
    digest = hashlib.sha256()
    root = Path(avmsnet_jax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    versions = [platform.python_version(), *(importlib.metadata.version(name) for name in _PACKAGES)]
    devices = [device.device_kind for device in mesh.devices.flat]
    of_jax = sorted((name, repr(value)) for name, value in jax.config.values.items())
    facts = (versions, jax.default_backend(), devices, of_jax, config_lib.dumps(config), steps_per_epoch)
    digest.update(repr(facts).encode())
    return digest.hexdigest()
