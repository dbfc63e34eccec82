import dataclasses
import json
import math
import re
import shlex
import typing
from pathlib import Path

import pytest

from avmsnet_jax import config as config_lib
from avmsnet_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig
from avmsnet_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
# Whole numbers and shares without a unit: what they count is in their meaning.
UNITLESS = {
    *("learning_rate", "momentum", "dampening", "weight_decay", "decay_factor", "seed"),
    *(
        "shortcut",
        "dtype",
        "name",
        "loss",
        "train_split",
        "budget",
        "shots",
        "schedule",
        "clip_norm",
        "positive_weight",
        "ema_decay",
        "fold",
        "index",
        "threshold",
        "validation_fraction",
    ),
}


def write(path: Path, body: str, imports: str = "from avmsnet_jax.config import *") -> str:
    path.write_text(f"{imports}\n\ndef get_config():\n    {body}\n", encoding="utf-8")
    return str(path)


def test_every_field_has_a_meaning_and_every_number_a_unit():
    fields = config_lib.fields()
    sections = {"model", "data", "optimizer", "train", "init", "mesh", "hosts", "eval", "summarize"}
    assert {name.split(".")[0] for name in fields} == sections
    for name, field in fields.items():
        assert len(field.metadata["meaning"]) > 10, name
        choices = typing.get_args(field.type)
        assert field.metadata["unit"] or choices or field.type in (bool, str) or name.rsplit(".")[-1] in UNITLESS, name
        assert choices or field.type in (int, float, str, bool), name
        for choice in choices:
            assert str(choice) in field.metadata["meaning"], name


def test_to_dict_and_back():
    config = Config(model=ModelConfig(depth=18, audiovisual=False), optimizer=OptimizerConfig(learning_rate=3e-5))
    values = json.loads(config_lib.dumps(config))
    assert values["model"]["depth"] == 18
    assert config_lib.from_dict(Config, values, "x") == config
    assert config_lib.from_dict(Config, {"train": {"epochs": 3}}, "x") == Config(train=TrainConfig(epochs=3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"depht": 18}}, "f.json: no configuration field named model.depht; did you mean model.depth"),
        ({"model": 18}, "f.json: model is not an object"),
        ([], "f.json: the configuration is not an object"),
        ({"train": {"epochs": "3"}}, "f.json: train.epochs is '3'; it must be a whole number"),
        ({"train": {"epochs": 3.0}}, "f.json: train.epochs is 3.0; it must be a whole number"),
        ({"train": {"epochs": True}}, "f.json: train.epochs is True; it must be a whole number"),
        ({"data": {"flip": 1}}, "f.json: data.flip is 1; it must be true or false"),
        ({"data": {"dir": None}}, "f.json: data.dir is None; it must be text"),
        ({"eval": {"threshold": "half"}}, "f.json: eval.threshold is 'half'; it must be a number"),
        ({"model": {"depth": 19}}, "f.json: model.depth is 19; choose one of 10, 18"),
    ],
)
def test_a_saved_tree_that_does_not_fit_is_refused(values, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        config_lib.from_dict(Config, values, "f.json")


def test_integers_are_accepted_for_float_fields():
    config = config_lib.from_dict(Config, {"optimizer": {"learning_rate": 1}}, "x")
    assert type(config.optimizer.learning_rate) is float


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("model.depth", 9), ("model.shortcut", "C"), ("model.dtype", "float16"), ("model.frames", 12)],
        *[("model.frame_size", 0), ("model.frame_size", 40), ("model.head_width", 0), ("model.trunk_width", -1)],
        *[("optimizer.name", "adam"), ("optimizer.learning_rate", -1.0), ("optimizer.weight_decay", math.nan)],
        *[("optimizer.momentum", math.inf), ("optimizer.dampening", -0.1), ("optimizer.decay_factor", -0.1)],
        *[("train.loss", "mse"), ("train.epochs", 0), ("train.batch_size", 0), ("train.checkpoint_every_epochs", 0)],
        *[("train.keep_checkpoints", 0), ("train.log_every_steps", 0), ("data.threads", 0), ("mesh.data", 0)],
        *[("data.workers", -1), ("data.fold", -1)],
        *[("mesh.data", -2), ("eval.batch_size", 0), ("eval.threshold", math.nan), ("eval.threshold", 1.5)],
    ],
)
def test_an_invalid_value_is_refused_and_its_field_named(name, value):
    config = Config()
    section, field = name.split(".")
    with pytest.raises(UserError, match=rf"^{name} is '?{re.escape(str(value))}'?; \w"):
        config.replace(**{section: {field: value}}).validate()


def test_the_defaults_are_the_published_recipe():
    config = Config()
    config.validate()
    assert dataclasses.astuple(config.optimizer) == ("sgd", 0.01, 0.9, 0.9, 1e-5, "steps", 0.1, 0.0, 0.0)
    assert (config.train.accumulate, config.train.positive_weight, config.train.ema_decay) == (1, 1.0, 0.0)
    assert not config.train.remat
    assert (config.train.epochs, config.train.batch_size, config.train.checkpoint_every_epochs) == (60, 128, 20)
    assert (config.model.depth, config.model.frames, config.model.frame_size) == (50, 16, 112)
    assert (config.model.audio_samples, config.eval.threshold) == (35280, 0.5)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_installed_configurations_load(path):
    config = config_lib.load_file(str(path))
    assert config_lib.from_dict(Config, json.loads(config_lib.dumps(config)), "x") == config


def test_the_documented_configurations_exist():
    promised = {"movie50_audiovisual.py", "movie50_visual_only.py", "tvsum_audiovisual.py", "films.py", "demo.py"}
    assert promised <= {path.name for path in CONFIGS}
    visual = config_lib.load_file(str(ROOT / "configs" / "movie50_visual_only.py"))
    published = config_lib.load_file(str(ROOT / "configs" / "movie50_audiovisual.py"))
    assert published == Config(train=TrainConfig(norm_clips=32))
    assert dataclasses.replace(visual, model=ModelConfig()) == published
    assert not visual.model.audiovisual


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_commands_of_a_docstring_exist_and_their_flags_parse(path, forked):
    docstring = re.search(r'"""(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL)[1]
    commands = [shlex.split(line) for line in docstring.replace("\\\n", " ").splitlines() if "python " in line]
    scripts = [words[1] for words in commands if words[0] == "python"]
    assert {"prepare_data.py", "train.py", "eval.py"} <= set(scripts)
    fields = config_lib.fields()
    for words in commands:
        script = words[1:3] if words[1] == "-m" else words[1:2]
        help_text = forked(*script, "--help").stdout
        given = [word.split("=", 1) for word in words if word.startswith("--")]
        for name, value in given:
            if name == "--config":
                assert value == f"configs/{path.name}"
            elif name.startswith("--config."):
                assert name.removeprefix("--config.") in fields
            else:
                assert re.search(rf"^  --(\[no\])?{name[2:]}$", help_text, re.MULTILINE), (words, name)
    workdir = next(word for words in commands for word in words if word.startswith("--workdir"))
    assert any(word == workdir.replace("--workdir", "--checkpoint") for words in commands for word in words)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "{path}: get_config() must return an avmsnet_jax.config.Config, not int"),
        ("return Config", "{path}: get_config() must return an avmsnet_jax.config.Config, not type"),
        ("1 / 0", "the configuration {path}, line 4, failed: ZeroDivisionError: division by zero"),
        ("return Config(", "the configuration {path} failed: SyntaxError:"),
        ("return Config(model=ModelConfig(depth=7))", "{path}: model.depth is 7; choose one of 10"),
        (
            "return Config(train=TrainConfig(epoch=3))",
            "{path}: no configuration field named train.epoch; did you mean train.epochs",
        ),
        (
            "config = Config(); config.train.epochs = 3; return config",
            "{path}: cannot assign to field 'epochs': a configuration does not change; write Config(train=",
        ),
        (
            "return Config().replace(train={'epochs': '3'})",
            "{path}: train.epochs is '3'; it must be a whole number",
        ),
        ("return Config(train=None)", "{path}: train is not an object of fields"),
        ("return Config(train=TrainConfig(epochs=0))", "{path}: train.epochs is 0; it must be at least"),
    ],
)
def test_an_error_in_a_configuration_file_names_the_file(tmp_path, body, message):
    path = write(tmp_path / "mine.py", body)
    with pytest.raises(UserError, match=f"^{re.escape(message.format(path=path))}"):
        config_lib.load_file(path)


def test_a_file_may_give_whole_numbers_to_float_fields(tmp_path):
    config = config_lib.load_file(write(tmp_path / "c.py", "return Config(optimizer=OptimizerConfig(momentum=0))"))
    assert type(config.optimizer.momentum) is float


def test_a_file_that_cannot_be_read_or_defines_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the configuration .*none\.py: No such file.*configs/"):
        config_lib.load_file(str(tmp_path / "none.py"))
    with pytest.raises(UserError, match=rf"cannot read the configuration {tmp_path}: it is not a file"):
        config_lib.load_file(str(tmp_path))
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    with pytest.raises(UserError, match=r"cannot read the configuration .*latin\.py: not UTF-8 text"):
        config_lib.load_file(str(tmp_path / "latin.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match=r"empty\.py: it must define get_config"):
        config_lib.load_file(str(tmp_path / "empty.py"))
