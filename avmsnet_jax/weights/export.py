"""Exporting a checkpoint under the published names, without PyTorch."""

import math
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import traverse_util
from safetensors.numpy import save

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import staged
from avmsnet_jax.weights import checkpoint as checkpoint_lib
from avmsnet_jax.weights import location, names
from avmsnet_jax.weights.checkpoint import Tree
from avmsnet_jax.weights.read import STORAGES

SUFFIXES = (".pth", ".pt", ".safetensors")


def state_dict(config: ModelConfig, tree: Tree, passengers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor of the published network, in its order, under its published name and shape.

    Args:
      config: the network's configuration.
      tree: its parameters, as from `checkpoint.model_tree` or `checkpoint.restore`.
      passengers: the tensors that the network does not use; missing ones are filled with zeros.
    """
    flat = traverse_util.flatten_dict(tree, sep="/")
    tensors = {}
    for name, tensor in names.published(config).items():
        if tensor.parameter:
            tensors[name] = names.relayout(np.asarray(flat[tensor.parameter]), names.reverse(tensor.layout))
        elif name in passengers and passengers[name].shape == tensor.shape:
            tensors[name] = passengers[name]
        else:
            dtype = np.int64 if tensor.unused == names.COUNTER else np.float32
            tensors[name] = np.zeros(tensor.shape, dtype)
    return tensors


def export(checkpoint: str, target: str, *, keep_unpublished: bool = False) -> str:
    """Writes a checkpoint's weights as a PyTorch state dict or safetensors file with the published names and shapes.

    Args:
      checkpoint: anything that `avmsnet_jax.load` takes.
      target: a new file; `.pth` and `.pt` are what `torch.load(..., weights_only=True)` reads, and load strictly into
        the published network.
      keep_unpublished: also write the converted file's tensors that the published network does not have (Kinetics'
        `layer4`, ...).

    Returns:
      a summary of what was written and where it came from, several lines.

    Raises:
      UserError: no such checkpoint, a target that exists or has another suffix, or one that cannot be written.
    """
    place = Path(target).absolute()
    if place.suffix not in SUFFIXES:
        raise UserError(f"--export {target}: the name must end in {', '.join(SUFFIXES)}")
    if os.path.lexists(place):
        raise UserError(f"{target} exists; choose another name or remove it")
    found = location.find(checkpoint)
    config, tree = checkpoint_lib.restore(found)
    passengers = checkpoint_lib.restore_passengers(found)
    try:
        tensors = state_dict(config, tree, passengers)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{checkpoint}: its weights do not fit its configuration ({error}); convert it again"
        ) from error
    table = names.published(config)
    riding = [n for n, t in table.items() if not t.parameter and tensors[n] is passengers.get(n)]
    filled = [n for n, t in table.items() if not t.parameter and tensors[n] is not passengers.get(n)]
    beyond = [name for name in passengers if name not in table]
    if keep_unpublished:
        tensors |= {name: passengers[name] for name in beyond}
    with staged(place) as stage:
        if place.suffix == ".safetensors":
            # safetensors ignores strides. np.ascontiguousarray would make scalars 1-D.
            stage.write_bytes(save({name: np.asarray(array, order="C") for name, array in tensors.items()}))
        else:
            write_pth(stage, tensors)

    lines = [f"{target}: {len(tensors)} tensors under their published names (depth {config.depth})"]
    lines.append(f"  {len(table) - len(riding) - len(filled):5d}  the network's parameters and BN statistics")
    if riding:
        lines.append(f"  {len(riding):5d}  never used by the network, as the converted file had them")
    if filled:
        lines.append(
            f"  {len(filled):5d}  never used by the network and not in the checkpoint: zeros, to load strictly"
        )
    if beyond and keep_unpublished:
        lines.append(f"  {len(beyond):5d}  not of the published network, as the converted file had them")
    elif beyond:
        lines.append(
            f"  left out {len(beyond)} that the published network does not have; --keep_unpublished writes them too"
        )
    return "\n".join(lines)


def write_pth(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the file format of `torch.save(dict_of_tensors)` without PyTorch.

    It is a zip archive of uncompressed records: `data.pkl` describes the tensors, and `data/0`, `data/1`, ... are their
    bytes (torch/serialization.py, `_save`).
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", _pickled(tensors))
        _add(archive, "byteorder", b"little")
        for index, array in enumerate(tensors.values()):
            array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
            _add(archive, f"data/{index}", array.reshape(-1).view(np.uint8).data)
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Adds a record whose bytes start at a multiple of 64, as PyTorch's do, so that they can be memory-mapped."""
    entry = zipfile.ZipInfo(f"weights/{name}")
    assert archive.fp is not None
    header = archive.fp.tell() + 30 + len(entry.filename) + 4
    padding = -header % 64
    entry.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    entry.file_size = len(data)
    with archive.open(entry, "w") as record:
        record.write(data)


def _pickled(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Pickle protocol 2 of {name: tensor}, with PyTorch's classes by name."""

    def plain(value: object) -> bytes:
        return pickle.dumps(value, protocol=2)[2:-1]  # without the PROTO and STOP opcodes

    def named(module: str, name: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{name}\n".encode()

    out = [pickle.PROTO, b"\x02", pickle.EMPTY_DICT, pickle.MARK]
    for index, (name, array) in enumerate(tensors.items()):
        strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        storage = [pickle.MARK, plain("storage"), named("torch", STORAGES[array.dtype.name]), plain(str(index))]
        storage += [plain("cpu"), plain(array.size), pickle.TUPLE, pickle.BINPERSID]
        hooks = [named("collections", "OrderedDict"), pickle.EMPTY_TUPLE, pickle.REDUCE]
        arguments = [plain(0), plain(array.shape), plain(strides), pickle.NEWFALSE]
        out += [plain(name), named("torch._utils", "_rebuild_tensor_v2"), pickle.MARK, *storage]
        out += [*arguments, *hooks, pickle.TUPLE, pickle.REDUCE]
    return b"".join([*out, pickle.SETITEMS, pickle.STOP])
