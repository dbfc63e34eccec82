import json
import os
import re
import subprocess
import sys

import pytest

import avmsnet_jax
from avmsnet_jax import config as config_lib
from tests.conftest import ROOT, one_line

ALL, FEW = ("model", "data", "optimizer", "train", "init", "mesh", "hosts", "eval", "summarize"), ("summarize", "mesh")
# For each command the module with its options, and the sections of the configuration that its help lists.
COMMANDS = {
    "train.py": ("train", ALL),
    "-m avmsnet_jax train": ("train", ALL),
    "eval.py": ("evaluate", ALL),
    "-m avmsnet_jax evaluate": ("evaluate", ALL),
    "prepare_data.py": ("prepare", ()),
    "-m avmsnet_jax prepare": ("prepare", ()),
    "convert_weights.py": ("convert", ()),
    "-m avmsnet_jax convert": ("convert", ()),
    "summarize.py": ("summarize", FEW),
    "-m avmsnet_jax summarize": ("summarize", FEW),
    "-m avmsnet_jax studio": ("studio", ()),
    "-m avmsnet_jax inspect": ("inspect", ()),
    "-m avmsnet_jax.toy": ("../toy/__main__", ()),
}
# A value for each type that no field has as its default, as it is typed and as it is meant.
TYPED = {int: ("7", 7), float: ("1", 1.0), str: ("some where=é", "some where=é")}
VALID = {
    "model.depth": ("18", 18),
    "model.shortcut": ("A", "A"),
    "model.frames": ("24", 24),
    "model.frame_size": ("64", 64),
    "model.dtype": ("bfloat16", "bfloat16"),
    "optimizer.name": ("adamw", "adamw"),
    "optimizer.schedule": ("cosine", "cosine"),
    "train.loss": ("double_sigmoid", "double_sigmoid"),
    "train.positive_weight": ("3", 3.0),
    "train.ema_decay": ("0.5", 0.5),
    "data.validation_fraction": ("0.5", 0.5),
    "hosts.coordinator": ("there:1234", "there:1234"),
    "hosts.processes": ("4", 4),
    "hosts.index": ("2", 2),
    "summarize.shots": ("scenes", "scenes"),
    "summarize.spacing_s": ("2", 2.0),
    "summarize.longest_shot_s": ("30", 30.0),
}


@pytest.fixture(scope="module")
def shown(forked, tmp_path_factory):
    """Runs a command that takes a configuration and prints it, on an empty one: the process that ended."""
    folder = tmp_path_factory.mktemp("shown")
    (folder / "show.py").write_text(
        '"""Shows."""\n'
        "from absl import flags\n"
        "from avmsnet_jax import command_line, config\n"
        'OUT = flags.DEFINE_string("out", "", "where to")\n'
        "command_line.run(lambda tree: print(config.dumps(tree)), takes_config=True)\n"
    )
    (folder / "empty.py").write_text(
        "from avmsnet_jax.config import Config\n\n\ndef get_config():\n    return Config()\n"
    )

    def run(*arguments, config=True, **where):
        file = [f"--config={folder / 'empty.py'}"] if config else []
        return forked(folder / "show.py", *file, *arguments, **where)

    run.file = folder / "empty.py"
    return run


def shown_values(done):
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    return {f"{section}.{name}": value for section, fields in values.items() for name, value in fields.items()}


def test_every_field_can_be_set_with_its_type(shown):
    wanted, arguments = {}, []
    for name, field in config_lib.fields().items():
        typed, value = VALID.get(name) or TYPED.get(field.type) or (str(not field.default).lower(), not field.default)
        assert value != field.default
        wanted[name] = value
        arguments.append(f"--config.{name}={typed}")
    values = shown_values(shown(*arguments))
    assert values == wanted
    assert {name: type(value) for name, value in values.items()} == {n: type(v) for n, v in wanted.items()}


def test_without_overrides_fields_have_the_values_of_the_file(shown):
    values = shown_values(shown())
    assert values == {name: field.default for name, field in config_lib.fields().items()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--noconfig.data.flip"], {"data.flip": False}),
        (["--config.data.flip=0"], {"data.flip": False}),
        (["--config.model.dam4"], {"model.dam4": True}),
        (["--config.model.depth", "18"], {"model.depth": 18}),
        (["--config.model.depth=18", "--config.model.depth=34"], {"model.depth": 34}),
        (["-config.optimizer.learning_rate=1e-3", "--out=x"], {"optimizer.learning_rate": 1e-3}),
        (["--config.mesh.data=-1", "--config.data.dir="], {"mesh.data": -1, "data.dir": ""}),
    ],
)
def test_the_ways_to_set_a_field(shown, arguments, expected):
    values = shown_values(shown(*arguments))
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize("form", ["--config={}", "--config {}", "-config={}"])
def test_the_file_may_come_after_the_overrides(shown, form):
    arguments = ["--config.model.depth=18", "--out", "x", *form.format(shown.file).split(" "), "--noconfig.data.flip"]
    values = shown_values(shown(*arguments, config=False))
    assert (values["model.depth"], values["data.flip"]) == (18, False)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.train.epoch=3", "no configuration field named train.epoch; did you mean train.epochs"),
        ("--config.trian.epochs=3", "no configuration field named trian.epochs; did you mean train.epochs"),
        (
            "--config.learning_rate=3",
            r"no configuration field named learning_rate; did you mean optimizer.learning_rate",
        ),
        ("--config.zzz=3", "no configuration field named zzz; sections are model, data, optimizer, train, init, mesh"),
        ("--noconfig.data.flop", "no configuration field named data.flop; did you mean data.flip"),
        ("--config.model=3", "model is a section, not a field; its fields are model.depth, model.shortcut"),
        ("--config.train.epochs=2.5", "--config.train.epochs=2.5: it must be a whole number"),
        ("--config.train.epochs=", "--config.train.epochs=: it must be a whole number"),
        ("--config.optimizer.momentum=high", "--config.optimizer.momentum=high: it must be a number"),
        ("--config.data.flip=maybe", "--config.data.flip=maybe: it must be true or false"),
        ("--noconfig.train.epochs", "--noconfig.train.epochs: only true-or-false fields"),
        ("--config.model.depth=7", "model.depth is 7; choose one of 10, 18"),
        ("--config.optimizer.learning_rate=nan", "optimizer.learning_rate is nan; it must be a finite number"),
        ("--config.model.depth", "Missing value for flag --config.model.depth"),
        ("--outt=3", "Unknown command line flag 'outt'. Did you mean: out"),
        ("stray", "unexpected argument 'stray'"),
        ("--flagfile=/none", "Unable to open flagfile"),
        ("--config=none.py", "cannot read the configuration none.py: No such file or directory"),
        ("--config=", "no configuration given; add --config=NAME, one of demo, films"),
    ],
)
def test_a_mistake_is_one_line(shown, argument, message):
    line = one_line(shown(argument))
    assert line.startswith("show.py: ")
    assert message in line


def test_without_a_file_the_remedy_is_named(shown):
    assert "add --config=NAME, one of demo, films" in one_line(shown(config=False))


@pytest.fixture(scope="module")
def told(forked, tmp_path_factory):
    """Runs a command that takes names and a configuration, in a folder with these files: the process that ended."""
    script = tmp_path_factory.mktemp("told") / "tell.py"
    script.write_text(
        '"""Tells."""\n'
        "from absl import flags\n"
        "from avmsnet_jax import command_line\n"
        'flags.DEFINE_string("out", "", "where to")\n'
        'flags.DEFINE_bool("fast", False, "quickly")\n'
        "def main(tree, names):\n"
        "    print(tree.model.depth, flags.FLAGS.out, names)\n"
        'command_line.run(main, takes_config=True, config_optional=True, positional="NAME ...")\n'
    )

    def run(files, arguments):
        folder = tmp_path_factory.mktemp("case")
        for name, text in files.items():
            if text is None:
                os.mkfifo(folder / name)
            else:
                (folder / name).write_bytes(text)
        return forked(script, *arguments, cwd=folder)

    return run


EVIL = b"print('RAN')\nfrom avmsnet_jax.config import *\nget_config = lambda: Config(model=ModelConfig(depth=34))\n"
GLOBBED = "is an option, but also the name of a file here"
NAMES_AND_OPTIONS = [  # files, command line, what is printed or complained of
    ({"c.py": EVIL}, ["--config=c.py", "a"], "RAN\n34  ['a']"),
    # What comes after -- is a name, whatever it looks like.
    ({"--config=e.py": EVIL, "e.py": EVIL}, ["--out=o", "--", "--config=e.py", "b"], "50 o ['--config=e.py', 'b']"),
    ({"e.py": EVIL}, ["a", "--", "--config", "e.py"], "50  ['a', '--config', 'e.py']"),
    ({}, ["--", "--help", "--config.model.depth=18"], "50  ['--help', '--config.model.depth=18']"),
    ({}, ["--", "--out=x", "--flagfile=none", "-", "--", "-h"], "50  ['--out=x', '--flagfile=none', '-', '--', '-h']"),
    # A name that the shell made of * is no option.
    ({"--config=e.py": EVIL, "e.py": EVIL}, ["--config=e.py", "e.py"], f"--config=e.py {GLOBBED}"),
    ({"-config=e.py": EVIL, "e.py": EVIL}, ["-config=e.py", "e.py"], f"-config=e.py {GLOBBED}"),
    ({"--config": b"", "e.py": EVIL}, ["--config", "e.py"], f"--config {GLOBBED}"),
    ({"--flagfile=f": b"", "f": b"--config=e.py", "e.py": EVIL}, ["--flagfile=f", "e.py"], f"--flagfile=f {GLOBBED}"),
    ({"--out=x": b""}, ["--out=x", "a"], f"--out=x {GLOBBED}"),
    ({"-1.mp4": b""}, ["-1.mp4", "a"], f"-1.mp4 {GLOBBED}"),
    # JSON is read, not run.
    ({"config.json": b'{"model": {"depth": 18}}'}, ["--config=config.json"], "18  []"),
    ({"a.JSON": b'\xef\xbb\xbf{"model": {"depth": 18}}'}, ["--config", "a.JSON", "--out=x"], "18 x []"),
    ({"c.json": b'{"model": {"depth": 18}}'}, ["--config=c.json", "--config.model.depth=10"], "10  []"),
    ({"config.json": EVIL}, ["--config=config.json"], "config.json is not valid JSON"),
    ({"c.json": b"[" * 100_000}, ["--config=c.json"], "c.json is nested too deeply"),
    ({"c.json": b'{"model": {"depth": 18, "depth": 34}}'}, ["--config=c.json"], "names 'depth' twice"),
    ({"c.json": b'{"model": {"frames": 1e30}}'}, ["--config=c.json"], "model.frames is 1e+30; it must be a whole"),
    ({"c.json": b'{"optimizer": {"learning_rate": NaN}}'}, ["--config=c.json"], "learning_rate is nan; it must be"),
    ({"c.json": b'{"model": {"head_width": 1%s}}' % (b"0" * 999)}, ["--config=c.json"], "model.head_width is 1000"),
    ({"c.json": b'{"model": {"depth": [[1]]}}'}, ["--config=c.json"], "model.depth is a list; it must be a whole"),
    ({"c.json": b'{"%s": 1}' % (b"x" * 500_000)}, ["--config=c.json"], "no configuration field named xxx"),
    ({"c.json": b" " * 2_000_000}, ["--config=c.json"], "at most 1 MB"),
    ({"c.json": None}, ["--config=c.json"], "c.json is a pipe"),
    ({"c.py": None}, ["--config=c.py"], "it is not a file"),
    ({}, ["--config=c.json"], "cannot read the configuration c.json: No such file"),
    ({"c.txt": EVIL}, ["--config=c.txt"], "c.txt is no configuration; give the name of an installed one (demo, films"),
    ({"c": EVIL}, ["--config=c"], "c is no configuration"),
    # What is wrong in other ways is one line, too.
    ({"f": b"\xff\xfe"}, ["--flagfile=f"], "not UTF-8 text"),
    ({}, ["--nofast=1"], "--nofast=1 does not take an argument"),
    ({}, ["--config.model.frames=" + "9" * 5000], "it must be a whole number"),
    ({}, ["--config.model.frames=" + "9" * 300 + "2"], "no more than 67,108,864 pixels"),
]


def test_names_after_two_dashes_are_no_options_and_json_is_not_executed(told):
    for files, arguments, expected in NAMES_AND_OPTIONS:
        done = told(files, arguments)
        if expected[0].isdigit() or expected.startswith("RAN"):
            assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}\n", ""), arguments
        else:
            line = one_line(done)
            assert expected in line, arguments
            assert len(line) < 400, arguments


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_everything_at_once(python, command):
    done = python("-X", "importtime", *command.split(), "--help")
    assert done.returncode == 0
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "avmsnet_jax.command_line" in imported
    slow = {"jax", "flax", "orbax", "tensorflow_datasets", "grain", "numba", "librosa", "av", "torch"}
    assert not slow & imported
    assert all(len(line) <= 120 for line in done.stdout.splitlines())
    text = " ".join(done.stdout.split())
    assert f"usage: python {command}" in text
    module, sections = COMMANDS[command]
    source = (ROOT / "avmsnet_jax" / "commands" / f"{module}.py").read_text(encoding="utf-8")
    own = re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", source)
    assert own
    for name in own:
        assert re.search(rf" --(\[no\])?{name} \w", text), name
    for name, field in config_lib.fields().items():
        unit = f" {field.metadata['unit']}" if field.metadata["unit"] else ""
        default = f" (default: {field.default}{unit})" if field.default != "" else ""
        entry = f"--config.{name} {field.metadata['meaning']}{default}"
        assert (entry in text) == (name.split(".")[0] in sections), name


def test_the_commands_are_listed(python):
    for arguments in ((), ("--help",)):
        done = python("-m", "avmsnet_jax", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        for name in ("prepare", "train", "evaluate", "convert", "summarize", "studio", "inspect"):
            assert re.search(rf"^  {name} +\w", done.stdout, re.MULTILINE)
    done = python("-m", "avmsnet_jax", "trane", "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "avmsnet_jax: no command 'trane'; did you mean train?\n"
    done = python("-m", "avmsnet_jax", "film.mp4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("avmsnet_jax: no command 'film.mp4'; choose prepare, train")


def test_an_installed_configuration_is_found_by_its_name_anywhere(shown, tmp_path):
    (tmp_path / "demo").mkdir()
    values = shown_values(shown("--config=demo", config=False, cwd=tmp_path))
    assert values["model.depth"] == config_lib.load_file(str(ROOT / "configs" / "demo.py")).model.depth != 50
    complaint = one_line(shown("--config=flims", config=False, cwd=tmp_path))
    assert "flims is no configuration; give the name of an installed one (demo, films, movie50_audiovisual" in complaint


@pytest.mark.parametrize("argument", ["-h", "--helpfull"])
def test_help_wins_over_any_mistake(forked, argument):
    done = forked("train.py", "--config.nope=3", argument)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--workdir" in done.stdout


def test_a_missing_required_option_is_named(forked, small_config_file):
    assert "--output is missing" in one_line(forked("eval.py", f"--config={small_config_file}", "--checkpoint=x"))
    assert "--checkpoint is missing" in one_line(forked("eval.py", "--config=configs/films.py", "--output=x"))


def test_a_command_that_reads_few_fields_needs_no_file(forked, tmp_path):
    assert "no film given" in one_line(forked("summarize.py", "--checkpoint=x", "--output=y"))
    assert "--output is missing" in one_line(forked("summarize.py", "film.mp4", "--checkpoint=x"))
    options = ["--checkpoint=x", "--output=y", "--config.summarize.longest_shot_s=1"]
    assert "must be at least twice" in one_line(forked("summarize.py", "film.mp4", *options))


def test_the_package_exports_its_documented_names():
    found = {}
    exec("from avmsnet_jax import *", found)
    documented = {
        *("AVMSNet", "Config", "ModelConfig", "Output", "UserError"),
        *("load", "save", "score", "summarize", "train"),
    }
    assert found.keys() - {"__builtins__"} == set(avmsnet_jax.__all__) == documented
    assert found["AVMSNet"] is avmsnet_jax.AVMSNet
    assert documented <= set(dir(avmsnet_jax))
    with pytest.raises(AttributeError, match=r"module 'avmsnet_jax' has no attribute 'nothing'"):
        _ = avmsnet_jax.nothing


def test_help_may_be_piped_into_head():
    cut = f"{sys.executable} {ROOT / 'train.py'} --help | head -1"
    done = subprocess.run(["bash", "-c", cut], capture_output=True, text=True, timeout=60)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


def test_an_interrupt_that_python_drops_is_raised_again(tmp_path):
    """JAX runs a callback at garbage collection; Python prints exceptions there and goes on."""
    script = tmp_path / "waits.py"
    script.write_text(
        "import gc, signal, time\n"
        "from avmsnet_jax import command_line\n"
        "def main(_):\n"
        "    def interrupted(*_):\n"
        "        gc.callbacks.clear()\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    gc.callbacks.append(interrupted)\n"
        "    gc.collect()\n"
        "    time.sleep(30)\n"
        "    print('went on')\n"
        "command_line.run(main, positional='[nothing]')\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "waits.py: interrupted\n")


FAILING = """
from absl import flags
from avmsnet_jax import command_line

flags.DEFINE_string("kind", "", "what goes wrong")

def main(_):
    lines = RuntimeError("two\\nlines \\x1b[31m")
    raise {"key": KeyError(8), "memory": MemoryError(), "lines": lines}[flags.FLAGS.kind]

command_line.run(main)
"""


@pytest.mark.parametrize(
    ("kind", "said"),
    [("key", "KeyError: 8"), ("memory", "MemoryError"), ("lines", r"RuntimeError: two lines \\x1b\[31m")],
)
def test_an_unexpected_error_gives_one_line_and_a_log_file(forked, tmp_path, kind, said):
    (tmp_path / "failing.py").write_text(FAILING)
    done = forked(tmp_path / "failing.py", f"--kind={kind}", TMPDIR=str(tmp_path))
    assert done.returncode == 1
    pattern = rf"failing.py: unexpected error: {said}; the traceback is in (.*\.log); please report it\n"
    found = re.fullmatch(pattern, done.stderr)
    assert found, done.stderr
    with open(found[1], encoding="utf-8") as log:
        assert "in main" in log.read()
    done = forked(tmp_path / "failing.py", f"--kind={kind}", "--verbosity=0", TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


@pytest.mark.parametrize(
    "arguments",
    [
        ("summarize.py", "/none/film.mp4", "--checkpoint=/none/run", "--output=/none/out"),
        ("summarize.py", "/dev/zero", "--checkpoint=/none/run", "--output=/none/out"),
        ("summarize.py", "FILM", "--checkpoint=/none/run", "--output=/none/out"),
        ("prepare_data.py", "--dataset=movies", "--source=/none", "--output=/none/out"),
        ("eval.py", "--checkpoint=/none/run", "--output=/none/out"),
        ("convert_weights.py", "--checkpoint=/none/run", "--export=/none/a.pth"),
    ],
)
def test_missing_files_are_reported_before_jax_is_imported(python, tmp_path, arguments):
    film = tmp_path / "film.mp4"
    film.touch()
    hidden = tmp_path / "jax.py"  # shadows JAX, also for packages that import it
    hidden.write_text("raise SystemExit('JAX was imported')")
    arguments = [str(film) if argument == "FILM" else argument for argument in arguments]
    done = python(*arguments, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    line = one_line(done)
    assert "/none" in line or "is a device" in line
