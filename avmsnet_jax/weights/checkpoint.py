"""Checkpoints on disk: an Orbax directory that holds the parameters and the configuration they belong to.

A saved directory, and each step of a training run, has the items

  model        nested dictionaries of the parameters and BN statistics, float32, keyed by their path in the network
  config       the `ModelConfig` as JSON
  passengers   optional: tensors of a converted file that the network does not use, by their published names

Training adds items: the average precision on held-out films (`validation`, JSON), by which the best step is chosen, and
others that are not read here (optimizer, data position).
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx, traverse_util

from avmsnet_jax import config as config_lib
from avmsnet_jax import json_file, storage
from avmsnet_jax.config import ModelConfig
from avmsnet_jax.errors import UserError, brief, few
from avmsnet_jax.models.avmsnet import AVMSNet
from avmsnet_jax.regular_file import regular_files
from avmsnet_jax.staging import remove_from_under
from avmsnet_jax.weights import names
from avmsnet_jax.weights.array_reader import Item, UnknownFormatError
from avmsnet_jax.weights.location import CONFIG, MODEL, MOST_CONFIG_BYTES, PASSENGERS, find

_OURS = {MODEL, CONFIG, PASSENGERS}
_REMEDY = "convert or train it again"

Tree = dict[str, Any]


def model_tree(model: AVMSNet) -> Tree:
    """The parameters and BN statistics of `model` as nested dictionaries of its own float32 arrays.

    All keys are text, indices included (`tree["trunk"]["stages"]["0"]...`), because Orbax restores them as text.
    """
    flat = {names.path(key): leaf[...] for key, leaf in nnx.to_flat_state(names.parameters(model))}
    return traverse_util.unflatten_dict(flat, sep="/")


def set_model_tree(model: AVMSNet, tree: Tree, source: str = "the weights") -> None:
    """Gives `model` the arrays of `tree`, the counterpart of `model_tree`.

    Arrays get the device and sharding of those that they replace; in an abstract model that of the shapes, or else the
    default device.

    Args:
      model: the network to fill; left as it was when an error is raised.
      tree: nested dictionaries of float32 arrays (NumPy or JAX).
      source: what the tree came from, named in errors.

    Raises:
      UserError: arrays are missing, too many, or of another shape or dtype; one line names the first and the count.
    """
    state = nnx.to_flat_state(names.parameters(model))
    flat = traverse_util.flatten_dict(tree, sep="/")
    _check_fit(names.held_by(model), flat, _not_of(model.config, source))
    filled = []
    for key, leaf in state:
        ours = leaf.get_value()
        sharding = getattr(ours, "sharding", None)  # a ShapeDtypeStruct may have one, too
        filled.append((key, leaf.replace(jax.device_put(flat[names.path(key)], sharding))))
    nnx.update(model, nnx.from_flat_state(filled))


def save(model: AVMSNet, directory: str | os.PathLike[str]) -> None:
    """Writes `model` and its configuration to `directory`, whole or not at all.

    A directory made by an earlier `save` or a conversion is replaced, but not on a store. Anything else that is not
    empty is left as it is, including a training run's step.

    Raises:
      UserError: `directory` holds something else, or cannot be written.
    """
    place = os.fspath(directory)
    if storage.taken(place) and (storage.is_remote(place) or not _replaceable(Path(place))):
        raise UserError(f"{directory} exists and is not a saved model; choose another directory or remove it")
    write(place, model.config, model_tree(model))


def load(directory: str | os.PathLike[str], *, finite: bool = False) -> AVMSNet:
    """The network saved in `directory`, ready for inference (`eval()` is set), on the default device.

    Args:
      directory: what `save` or `convert` wrote, or a training run: its working directory, its
        `checkpoints` (of these the step with the best validation is loaded, or the latest without validation), or one
        step. It may have been written by any number of devices.
      finite: refuse weights that are NaN or infinite, as every command does.

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    found = find(directory)
    model = names.abstract_model(_read_config(found))
    tree = _read_model(found, model.config, names.held_by(model), storage.shown(directory))
    if finite:
        _check_finite(tree, storage.shown(directory))
    set_model_tree(model, tree, storage.shown(directory))
    model.eval()
    return model


def initialize(model: AVMSNet, directory: str | os.PathLike[str]) -> None:
    """Initializes `model` for training from a checkpoint whose variant may differ.

    Depth, shortcut and widths must agree. If only `model` has a fourth attention module (`dam4`), that keeps its
    values; if only the checkpoint has one, it is ignored.

    Args:
      model: the network to fill, on the devices it is on; its configuration and mode do not change.
      directory: anything that `load` takes.

    Raises:
      UserError: there is no checkpoint, it is damaged, not finite, or of another network.
    """
    config, tree = restore(directory)
    _check_finite(tree, storage.shown(directory))
    if config.dam4 != model.config.dam4:
        fourth = model_tree(model)["dams"].get("3")
        tree["dams"] = {index: dam for index, dam in tree["dams"].items() if index != "3"}
        tree["dams"] |= {"3": fourth} if fourth else {}
    set_model_tree(model, tree, storage.shown(directory))


def restore(directory: str | os.PathLike[str]) -> tuple[ModelConfig, Tree]:
    """The configuration and parameters (nested dictionaries of NumPy float32) of the checkpoint that `load` finds."""
    found = find(directory)
    config = _read_config(found)
    return config, _read_model(found, config, names.shapes(config), storage.shown(directory))


def restore_passengers(directory: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The converted file's tensors that the network does not use, unchanged, by published name; often none."""
    found = find(directory)
    if not (found / PASSENGERS).exists():
        return {}
    with _reading(found):
        return Item(found / PASSENGERS, _REMEDY).read()


def write(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    tree: Tree,
    passengers: dict[str, np.ndarray] | None = None,
    documents: dict[str, str] | None = None,
) -> None:
    """Writes a checkpoint, whole or not at all, replacing what was at `directory`.

    Args:
      directory: a folder, or a place on a store.
      config: the network's configuration.
      tree: as from `model_tree`.
      passengers: tensors that the network does not use, to be kept, by published name.
      documents: text files to write next to the items, by name.
    """
    items: dict[str, Any] = {
        MODEL: ocp.args.PyTreeSave(jax.tree.map(np.asarray, tree)),
        CONFIG: ocp.args.JsonSave(config_lib.to_dict(config)),
    }
    if passengers:
        items[PASSENGERS] = ocp.args.PyTreeSave(passengers)
    with storage.staged(directory) as stage:
        try:
            # In a thread that Ctrl-C does not interrupt: otherwise the stage would be removed while Orbax's own threads
            # still write to it.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(_save, stage, items).result()
        except (ValueError, OSError) as error:  # tensorstore's errors on a full or failing disk
            for unfinished in stage.parent.glob("*.orbax-checkpoint-tmp"):
                remove_from_under(unfinished)
            raise UserError(f"cannot write {directory}: {cause(error)}; choose another place, or make room") from error
        for name, text in (documents or {}).items():
            (stage / name).write_text(text, encoding="utf-8")


def _save(stage: Path, items: dict[str, Any]) -> None:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(stage, args=ocp.args.Composite(**items))


def cause(error: BaseException) -> str:
    """The system's reason in a long error of Orbax or tensorstore."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(found[1])) if found else getattr(error, "strerror", None) or brief(error)


def _replaceable(target: Path) -> bool:
    """True for a directory that holds a saved model and no item of training's."""
    if not ((target / MODEL).is_dir() and (target / CONFIG).is_dir()):
        return False
    return all(entry.name in _OURS or not entry.is_dir() for entry in target.iterdir())


def _check_fit(expected: Mapping[str, Any], held: Mapping[str, Any], complaint: str) -> None:
    """Raises UserError if `held` does not have the paths, shapes and dtypes of `expected`."""
    wrong = [f"{name} is missing" for name in expected if name not in held]
    wrong += [f"{name} is not in the network" for name in held if name not in expected]
    for name, ours in expected.items():
        given = held.get(name)
        if given is not None and (given.shape, given.dtype) != (ours.shape, ours.dtype):
            wrong.append(f"{name} is {given.dtype}{list(given.shape)}, not {ours.dtype}{list(ours.shape)}")
    if wrong:
        raise UserError(f"{complaint}: {few(wrong)}")


def _read_model(checkpoint: Path, config: ModelConfig, expected: Mapping[str, Any], source: str) -> Tree:
    return traverse_util.unflatten_dict(read_item(checkpoint / MODEL, expected, _not_of(config, source)), sep="/")


def read_item(folder: Path, expected: Mapping[str, Any], complaint: str) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint's item by path; shapes and dtypes are checked before memory is allocated.

    Args:
      folder: the item's own.
      expected: arrays or shapes by path.
      complaint: begins the message if they differ.

    Raises:
      UserError: the arrays differ from those expected, or the item is damaged.
    """
    with _reading(folder.parent):
        item = Item(folder, _REMEDY)
        held = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in item.arrays.items()}
        _check_fit(expected, held, complaint)
        return item.read()


def _not_of(config: ModelConfig, source: str) -> str:
    return f"{source}: not the weights of this network (depth {config.depth})"


def nonfinite(array: np.ndarray) -> int:
    """How many values are NaN or infinite."""
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):  # the usual case, without a temporary array
            return 0
    return int(array.size - np.isfinite(array).sum())


def _check_finite(tree: Tree, source: str) -> None:
    counts = {name: nonfinite(array) for name, array in traverse_util.flatten_dict(tree, sep="/").items()}
    bad = [f"{name} ({count:,} values)" for name, count in counts.items() if count]
    if bad:
        raise UserError(f"{source}: weights are NaN or infinite: {few(bad)}; {_REMEDY}")


def _read_config(checkpoint: Path) -> ModelConfig:
    source = checkpoint / CONFIG / "metadata"
    with _reading(checkpoint):
        regular_files(checkpoint / CONFIG)
        values = json_file.read(source, _REMEDY, most_bytes=MOST_CONFIG_BYTES)
    return config_lib.from_dict(ModelConfig, values, str(source), "model.")


@contextlib.contextmanager
def _reading(checkpoint: Path) -> Iterator[None]:
    """Turns errors of reading a checkpoint into a UserError."""
    try:
        yield
    except UnknownFormatError as error:
        raise UserError(
            f"the checkpoint {storage.shown(checkpoint)} is in a format that this version does not read "
            f"({brief(error)}); update avmsnet_jax, or load and save it with what wrote it"
        ) from error
    except (OSError, ValueError, MemoryError) as error:
        raise UserError(f"the checkpoint {storage.shown(checkpoint)} is damaged ({brief(error)}); {_REMEDY}") from error
