"""The typed configuration tree: every field with its default, unit and reason.

A configuration file (`configs/*.py`) defines `get_config() -> Config`. Any field can be changed on
the command line as `--config.section.field=value`; `avmsnet_jax.command_line` does the parsing. The tree is frozen:
`Config.replace` gives a changed copy.
"""

import dataclasses
import difflib
import json
import math
import os
import re
import traceback
import types
import typing
from pathlib import Path
from typing import Any, Literal

from avmsnet_jax import json_file
from avmsnet_jax.errors import UserError, shortened

DEPTHS = (10, 18, 34, 50, 101, 152, 200)
Dtype = Literal["float32", "bfloat16"]
Shortcut = Literal["A", "B"]
# Limits of memory use: an untrusted checkpoint sets the sizes of arrays by its configuration.
MOST_PIXELS = 2**26  # of a clip; published: 16 frames of 112 x 112
MOST_CHANNELS = 2**16  # of a layer; published: 4096


def _field(default: Any, meaning: str, unit: str = "") -> Any:
    metadata = {"meaning": meaning, "unit": unit}
    if dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=default, metadata=metadata)  # type: ignore[arg-type]
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What network to build. The defaults are the published A/V-MSNet at depth 50."""

    depth: int = _field(50, "3D-ResNet depth: 10, 18, 34 (basic blocks), 50, 101, 152 or 200 (bottlenecks)", "layers")
    shortcut: Shortcut = _field(
        "B", "where a block changes shape: A = subsample and zero-pad, B = 1x1x1 convolution and BN"
    )
    audiovisual: bool = _field(
        True, "use the audio branch; false leaves out SoundNet and ALM, and the fusion gets zeros in their place"
    )
    dam4: bool = _field(
        False, "apply the paper's fourth attention module (DAM) to layer3's output; the released weights do not"
    )
    frames: int = _field(16, "clip length, a multiple of 8", "frames")
    frame_size: int = _field(112, "height and width of a frame, a multiple of 16", "pixels")
    trunk_width: int = _field(
        64, "channels of the stem and planes of layer1; layer2 has twice, layer3 four times as many", "channels"
    )
    soundnet_width: int = _field(16, "channels of SoundNet's first layer; its last has 64 times as many", "channels")
    alm_width: int = _field(128, "size of the two vectors that ALM's bilinear form takes", "channels")
    alm_channels: int = _field(64, "channels that ALM passes to the fusion", "channels")
    adjust_width: int = _field(512, "channels of the adjust and the fusion convolution", "channels")
    head_width: int = _field(4096, "width of the two hidden linear layers", "units")
    dtype: Dtype = _field(
        "float32", "dtype of activations: float32 or bfloat16; parameters and BN statistics are float32"
    )

    def __post_init__(self) -> None:
        """Raises UserError if no network can be built from the fields."""
        _choices(self, "model")
        if self.depth not in DEPTHS:
            raise UserError(f"model.depth is {_shown(self.depth)}; choose one of {', '.join(map(str, DEPTHS))}")
        for name, divisor in (("frames", 8), ("frame_size", 16)):
            value = getattr(self, name)
            if value <= 0 or value % divisor:
                raise UserError(f"model.{name} is {_shown(value)}; it must be a positive multiple of {divisor}")
        if self.frames * self.frame_size**2 > MOST_PIXELS:
            raise UserError(
                f"model.frames is {_shown(self.frames)} and model.frame_size {_shown(self.frame_size)}; "
                f"a clip must have no more than {MOST_PIXELS:,} pixels"
            )
        for name in ("trunk_width", "soundnet_width", "alm_width", "alm_channels", "adjust_width", "head_width"):
            _at_least(f"model.{name}", getattr(self, name), 1)
            if getattr(self, name) > MOST_CHANNELS:
                raise UserError(f"model.{name} is {_shown(getattr(self, name))}; it must be at most {MOST_CHANNELS}")

    @property
    def audio_samples(self) -> int:
        """Samples of the sound buffer: the longest excerpt a clip can have, at 22,050 Hz and 10 frames a second."""
        return 2205 * self.frames


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which records to read, and how."""

    dir: str = _field("", "prepared records: the --output of prepare, or a copy of it on gs:// or s3://")
    cache: str = _field(
        "", "folder for local copies of records from gs:// or s3://; empty = ~/.cache/avmsnet_jax/records"
    )
    train_split: str = _field("train", "split that training reads")
    validation_fraction: float = _field(
        0.0,
        "share of the training split's films to hold out for validation after each epoch; the checkpoint with the best "
        "validation is kept, and is the one that other commands load; 0 = no validation",
    )
    flip: bool = _field(True, "augmentation: mirror training clips left-right with probability 0.5")
    fold: int = _field(0, "fold of a data set with several divisions into train and test, from 0")
    threads: int = _field(4, "threads that read and decode records ahead, in each worker if there are any", "threads")
    workers: int = _field(
        0,
        "processes that read and decode records ahead, if threads are not enough; 0 = threads of this process",
        "processes",
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How parameters are updated."""

    name: Literal["sgd", "adamw"] = _field("sgd", "sgd (the published recipe, PyTorch's semantics) or adamw")
    learning_rate: float = _field(
        0.01, "base learning rate; with sgd, each parameter group takes a fixed fraction (docs/training.md)"
    )
    momentum: float = _field(0.9, "sgd: momentum")
    dampening: float = _field(0.9, "sgd: dampening of new gradients in the momentum buffer, as in PyTorch")
    weight_decay: float = _field(
        1e-5, "sgd: L2 decay of the groups that decay, biases and BN parameters included; adamw: of kernels only"
    )
    schedule: Literal["steps", "cosine"] = _field(
        "steps", "steps (decay at 50% and 75% of the epochs, as published) or cosine (decay to 0)"
    )
    decay_factor: float = _field(0.1, "steps: factor of the learning rate at 50% and again at 75% of the epochs")
    warmup_epochs: float = _field(0.0, "linear warm-up of the learning rate", "epochs")
    clip_norm: float = _field(0.0, "gradient clipping by global norm; 0 = off")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, batch size, loss, checkpoints and logs of a training run."""

    epochs: int = _field(60, "passes over the training split", "epochs")
    batch_size: int = _field(128, "global batch size: clips in a step, over all devices", "clips")
    loss: Literal["bce", "double_sigmoid"] = _field(
        "bce", "bce = cross-entropy on the logit; double_sigmoid = the released code's loss, for reproduction"
    )
    accumulate: int = _field(
        1,
        "gradient accumulation steps: a batch is computed in so many micro-batches, to need less memory",
        "micro-batches",
    )
    norm_clips: int = _field(
        0,
        "batch norm takes its statistics over groups of so many clips; the published run had 32 (128 clips on four "
        "GPUs); 0 = over the whole batch, or over each micro-batch with train.accumulate",
        "clips",
    )
    remat: bool = _field(
        False,
        "activation checkpointing of the residual blocks: larger batches fit into memory, steps take longer",
    )
    positive_weight: float = _field(1.0, "weight of the loss of key clips, for data in which they are rare")
    ema_decay: float = _field(
        0.0, "decay of the exponential moving average (EMA) of the weights; checkpoints then hold the EMA; 0 = off"
    )
    seed: int = _field(0, "random seed of initialization, shuffling and flips")
    checkpoint_every_epochs: int = _field(20, "epochs between checkpoints; the last epoch always saves one", "epochs")
    checkpoint_every_steps: int = _field(0, "steps between checkpoints, for long epochs; 0 = by epochs only", "steps")
    keep_checkpoints: int = _field(
        3, "number of newest checkpoints to keep; the best by validation is kept as well", "checkpoints"
    )
    log_every_steps: int = _field(10, "steps between lines in metrics.jsonl", "steps")
    profile_from: int = _field(0, "first step to trace with jax.profiler, to WORKDIR/profile; 0 = no trace", "step")
    profile_steps: int = _field(3, "number of steps to trace", "steps")


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """The initial weights."""

    checkpoint: str = _field("", "checkpoint to start from: the --output of convert or an earlier run; empty = random")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged."""

    data: int = _field(-1, "data-parallel size: number of replicas; -1 = all devices", "replicas")
    fsdp: int = _field(
        1,
        "devices of a replica (FSDP): each holds a shard of the first linear layer, and takes its own clips",
        "devices",
    )


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """Multi-process training, usually one process per machine; Slurm, Open MPI and TPU pods are detected."""

    auto: bool = _field(True, "join the other processes of the same Slurm, Open MPI or TPU job")
    coordinator: str = _field(
        "", "address of process 0, without such a launcher; empty = a single process", "ADDRESS:PORT"
    )
    processes: int = _field(0, "number of processes, with hosts.coordinator", "processes")
    index: int = _field(-1, "index of this process, from 0, with hosts.coordinator")
    patience: int = _field(30, "how long a process may give no sign of life before the others stop", "seconds")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Evaluation of a checkpoint."""

    batch_size: int = _field(16, "clips per batch over all devices; does not change the scores", "clips")
    threshold: float = _field(0.5, "clips with at least this score are predicted key")
    threshold_split: str = _field(
        "",
        "split on which to tune the threshold for the best F instead; must not overlap the evaluated clips",
    )


@dataclasses.dataclass(frozen=True)
class SummarizeConfig:
    """Summaries of films."""

    budget: str = _field(
        "0.15",
        "length of the summary: a share of the film (0.15 or 15%), a duration (90s, 2min or 1:30) or a number of shots "
        "(12shots)",
    )
    spacing_s: float = _field(1.0, "seconds between scored clips; the paper scores every 25th frame at 25 fps", "s")
    shots: Literal["kts", "scenes"] = _field(
        "kts", "how shots are found: kts (on the scorer's features) or scenes (PySceneDetect, the extra `scenes`)"
    )
    shortest_shot_s: float = _field(1.5, "no shot is shorter, unless the film is", "s")
    longest_shot_s: float = _field(6.0, "longer shots are split where the scores change most", "s")
    keep_opening_s: float = _field(0.0, "this much of the film's beginning is always in the summary", "s")
    move_cuts_s: float = _field(
        0.5, "cuts may move by this much, onto the film's own cuts or away from speech and loud sound; 0 = never", "s"
    )
    batch_size: int = _field(8, "clips scored at once over all devices", "clips")
    clips: bool = _field(False, "also write each stretch of the summary to a file of its own, in the folder clips")
    overlay: bool = _field(False, "also write overlay.mp4, the summary with the attention drawn over it")
    soundnet: str = _field(
        "",
        "without --checkpoint: a checkpoint whose SoundNet describes the sound, for novelty and for finding shots "
        "(convert --source=soundnet makes one); empty = none",
    )

    def validate(self) -> None:
        """Raises UserError for the first invalid field. `budget` is parsed where it is used."""
        _choices(self, "summarize")
        _at_least("summarize.batch_size", self.batch_size, 1)
        for name in ("spacing_s", "shortest_shot_s", "longest_shot_s", "keep_opening_s", "move_cuts_s"):
            value, least = getattr(self, name), 0.0 if name in ("keep_opening_s", "move_cuts_s") else 0.001
            if not (math.isfinite(value) and value >= least):
                raise UserError(f"summarize.{name} is {value}; it must be a finite number of at least {least} seconds")
        if self.longest_shot_s < 2 * self.shortest_shot_s:
            raise UserError(
                f"summarize.longest_shot_s is {self.longest_shot_s}; it must be at least twice "
                f"summarize.shortest_shot_s, which is {self.shortest_shot_s}"
            )


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole tree. Sections: model, data, optimizer, train, init, mesh, hosts, eval, summarize."""

    model: ModelConfig = _field(ModelConfig, "the network")
    data: DataConfig = _field(DataConfig, "the records")
    optimizer: OptimizerConfig = _field(OptimizerConfig, "the optimizer")
    train: TrainConfig = _field(TrainConfig, "the training run")
    init: InitConfig = _field(InitConfig, "the initial weights")
    mesh: MeshConfig = _field(MeshConfig, "the devices")
    hosts: HostsConfig = _field(HostsConfig, "the processes")
    eval: EvalConfig = _field(EvalConfig, "the evaluation")
    summarize: SummarizeConfig = _field(SummarizeConfig, "the summary of a film")

    def replace(self, **sections: dict[str, Any]) -> "Config":
        """A copy with other values: `config.replace(train={"epochs": 3}, data={"dir": "records"})`."""
        changed = {name: dataclasses.replace(getattr(self, name), **values) for name, values in sections.items()}
        return dataclasses.replace(self, **changed)

    def validate(self) -> None:
        """Raises UserError for the first invalid field."""
        self._validate_data()
        _choices(self.optimizer, "optimizer")
        for name in (f.name for f in dataclasses.fields(self.optimizer) if f.type is float):
            value = getattr(self.optimizer, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"optimizer.{name} is {value}; it must be a finite number of at least 0")
        self._validate_train()
        _at_least("eval.batch_size", self.eval.batch_size, 1)
        if not 0 <= self.eval.threshold <= 1:
            raise UserError(f"eval.threshold is {self.eval.threshold}; it must be between 0 and 1")
        self.summarize.validate()
        _at_least("mesh.fsdp", self.mesh.fsdp, 1)
        if self.mesh.data == 0 or self.mesh.data < -1:
            raise UserError(f"mesh.data is {self.mesh.data}; give a number of devices, or -1 for all")
        self._validate_hosts()

    def _validate_data(self) -> None:
        _at_least("data.threads", self.data.threads, 1)
        _at_least("data.fold", self.data.fold, 0)
        _at_least("data.workers", self.data.workers, 0)
        if not 0 <= self.data.validation_fraction < 1:
            raise UserError(
                f"data.validation_fraction is {self.data.validation_fraction}; it must be at least 0 and less than 1"
            )

    def _validate_train(self) -> None:
        train = self.train
        _choices(train, "train")
        for name in (
            "epochs",
            "batch_size",
            "accumulate",
            "checkpoint_every_epochs",
            "keep_checkpoints",
            "log_every_steps",
            "profile_steps",
        ):
            _at_least(f"train.{name}", getattr(train, name), 1)
        for name in ("checkpoint_every_steps", "profile_from", "norm_clips"):
            _at_least(f"train.{name}", getattr(train, name), 0)
        if not (math.isfinite(train.positive_weight) and train.positive_weight > 0):
            raise UserError(f"train.positive_weight is {train.positive_weight}; it must be a finite number above 0")
        if not 0 <= train.ema_decay < 1:
            raise UserError(f"train.ema_decay is {train.ema_decay}; it must be at least 0 and less than 1")
        if train.batch_size % train.accumulate:
            raise UserError(
                f"train.batch_size is {train.batch_size}, which train.accumulate={train.accumulate} "
                "does not divide; use a multiple of it"
            )
        part, group = train.batch_size // train.accumulate, train.norm_clips
        if group and part > group and part % group:
            raise UserError(
                f"train.norm_clips is {group}, which does not divide the {part} clips that are computed at once; use a "
                "divisor of them, or 0 for statistics of all of them"
            )

    def _validate_hosts(self) -> None:
        hosts = self.hosts
        _at_least("hosts.patience", hosts.patience, 5)
        if not hosts.coordinator:
            if hosts.processes or hosts.index != -1:
                raise UserError("hosts.processes and hosts.index need hosts.coordinator, the ADDRESS:PORT of process 0")
            return
        if not re.fullmatch(r".+:\d+", hosts.coordinator):
            raise UserError(f"hosts.coordinator is {hosts.coordinator!r}; it must be ADDRESS:PORT of process 0")
        _at_least("hosts.processes", hosts.processes, 1)
        if not 0 <= hosts.index < hosts.processes:
            raise UserError(
                f"hosts.index is {hosts.index}; with hosts.processes={hosts.processes} it must be 0 to "
                f"{hosts.processes - 1}"
            )


def _choices(section: Any, name: str) -> None:
    """Raises UserError for the first field of `Literal` type with another value."""
    for field in dataclasses.fields(section):
        allowed, value = typing.get_args(field.type), getattr(section, field.name)
        if allowed and value not in allowed:
            raise UserError(f"{name}.{field.name} is {_shown(value)}; choose one of {', '.join(map(str, allowed))}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} is {_shown(value)}; it must be at least {least}")


def _shown(value: Any) -> str:
    """A value as it appears in messages: at most 80 characters."""
    if not isinstance(value, (bool, int, float, str, type(None))):
        return f"a {type(value).__name__}"
    return shortened(repr(value), 80)


def fields(config: Any = Config, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Every leaf field of the tree by its dotted name, `{"model.depth": Field, ...}`."""
    found: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(field.type):
            found.update(fields(field.type, f"{prefix}{field.name}."))
        else:
            found[prefix + field.name] = field
    return found


def unknown_field(name: str) -> UserError:
    """The error for an unknown field, with the most similar names."""
    names = list(fields())
    name = shortened(name, 80)
    if section := [full for full in names if full.startswith(f"{name}.")]:
        return UserError(f"{name} is a section, not a field; its fields are {', '.join(section)}")
    leaves = {full.rsplit(".", 1)[-1]: full for full in names}
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    near += [leaves[leaf] for leaf in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(leaves), n=3, cutoff=0.6)]
    near = list(dict.fromkeys(near))[:3]
    offer = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"sections are {', '.join(f.name for f in dataclasses.fields(Config))}"
    )
    return UserError(f"no configuration field named {name}; {offer} (--help lists all)")


def to_dict(config: Any) -> dict[str, Any]:
    """The tree as nested plain dictionaries, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type, values: dict[str, Any], source: str, prefix: str = "") -> Any:
    """Rebuilds `cls` (Config or a section) from `to_dict`'s output.

    Args:
      cls: the dataclass to build.
      values: nested dictionaries; fields that are absent keep their defaults.
      source: the file the values came from, named in errors; empty = the command line.
      prefix: the dotted name of the section, with a dot at the end; empty for the whole tree.

    Raises:
      UserError: an unknown field, or a value of the wrong type or range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{_from(source)}{prefix.rstrip('.') or 'the configuration'} is not an object of fields")
    known = {field.name: field for field in dataclasses.fields(cls)}
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{_from(source)}{unknown_field(prefix + name)}")
        expected: Any = known[name].type
        if dataclasses.is_dataclass(expected):
            built[name] = from_dict(typing.cast(type, expected), value, source, f"{prefix}{name}.")
        else:
            if choices := typing.get_args(expected):  # `validate` compares the values
                expected = type(choices[0])
            if expected is float and type(value) is int and abs(value) < 2**53:
                value = float(value)
            if type(value) is not expected:
                raise UserError(f"{_from(source)}{prefix}{name} is {_shown(value)}; it must be {type_name(expected)}")
            built[name] = value
    try:
        return cls(**built)
    except UserError as error:
        raise UserError(_from(source) + str(error)) from None


def checked(values: dict[str, Any], source: str) -> Config:
    """Rebuilds and validates the tree from `to_dict`'s output. Integers become floats where the field is a float.

    Args:
      values: nested dictionaries; fields that are absent keep their defaults.
      source: the file they came from, named in errors; empty = the command line.

    Raises:
      UserError: an unknown field, or a value of the wrong type or range.
    """
    config = from_dict(Config, values, source)
    try:
        config.validate()
    except UserError as error:
        raise UserError(_from(source) + str(error)) from None
    return config


def _from(source: str) -> str:
    return f"{source}: " if source else ""


def type_name(expected: Any) -> str:
    """A field's type in words, for messages."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if choices := typing.get_args(expected):
        expected = type(choices[0])
    return names.get(expected, str(expected))


def dumps(config: Any) -> str:
    """The tree as indented JSON, with a newline at the end."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def load(path: str) -> Config:
    """Loads an installed configuration by name, a Python file, which is executed, or a JSON file.

    Raises:
      UserError: there is no such configuration; see also `load_file` and `load_json`.
    """
    if path in installed():
        return load_file(str(_INSTALLED / f"{path}.py"))
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".json":
        try:
            return load_json(Path(path), _REMEDY)
        except FileNotFoundError as error:
            raise _unreadable(path, str(error.strerror)) from None
    if suffix != ".py":
        raise UserError(
            f"{path} is no configuration; give the name of an installed one ({', '.join(installed())}), a .py file, or "
            "the config.json of a training run"
        )
    return load_file(path)


def installed() -> list[str]:
    """The names of the configurations in the package."""
    return sorted(path.stem for path in _INSTALLED.glob("*.py"))


_INSTALLED = Path(__file__).parent / "configs"


def load_json(path: Path, remedy: str) -> Config:
    """The validated configuration in a `config.json`, as `dumps` writes it.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: see `json_file.read`; an unknown field, or a value of the wrong type or range.
    """
    return checked(json_file.read(path, remedy, most_bytes=_MOST_BYTES), str(path))


_REMEDY = "see configs/ for those that come with the project"
_MOST_BYTES = 1_000_000  # a complete configuration has 4 kB


def _unreadable(path: str, reason: str) -> UserError:
    return UserError(f"cannot read the configuration {path}: {reason}; {_REMEDY}")


def load_file(path: str) -> Config:
    """Runs a configuration file, a Python program, and returns its validated configuration.

    Raises:
      UserError: the file is missing or fails, or `get_config` is missing or returns no valid `Config`.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise _unreadable(path, "it is not a file")  # reading a pipe could block forever
        with open(path, encoding="utf-8") as file:
            source = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error.strerror) if isinstance(error, OSError) else "not UTF-8 text") from None
    module = types.ModuleType("configuration")
    module.__file__ = path
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # a configuration is the user's own program
        if not hasattr(module, "get_config"):
            raise UserError("it must define get_config() -> Config")
        config = module.get_config()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except dataclasses.FrozenInstanceError as error:
        raise UserError(
            f"{path}: {error}: a configuration does not change; write Config(train=TrainConfig(epochs=3)), or "
            'config.replace(train={"epochs": 3})'
        ) from None
    except Exception as error:
        if stranger := re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
            sections = {type(section).__name__: f"{name}." for name, section in vars(Config()).items()} | {"Config": ""}
            if stranger[1] in sections:
                raise UserError(f"{path}: {unknown_field(sections[stranger[1]] + stranger[2])}") from None
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        at = f", line {lines[-1]}," if lines else ""
        raise UserError(f"the configuration {path}{at} failed: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"{path}: get_config() must return an avmsnet_jax.config.Config, not {type(config).__name__}")
    return checked(to_dict(config), path)
