"""The compilation cache of the commands: a second start compiles nothing, and a broken cache only costs time."""

import functools
import json
import os
import shutil
import subprocess
import sys

import pytest

from avmsnet_jax import compiled, cores
from tests.conftest import ROOT

PROGRAM = """
import sys
from avmsnet_jax import command_line

def main(config):
    import jax
    import jax.numpy as jnp
    def program(x):
        return jnp.sort(x @ x.T, axis=0).sum(1) * float(sys.argv[0].endswith("double.py") + 1)
    print(jax.jit(program)(jnp.arange(12.0).reshape(3, 4)).tolist())

command_line.run(main, takes_config=True, config_optional=True)
"""


def start_in(place, *arguments, warns=False, **variables):
    """Starts a command with its cache in `place` and no JAX variables but `variables`; returns what it printed."""
    set_by_nobody = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "NPROC"))}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=set_by_nobody | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(place / "cache")} | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" or warns
    return done.stdout


@pytest.fixture
def start(tmp_path):
    """`start_in` the test's folder."""
    return functools.partial(start_in, tmp_path)


def write_programs(folder):
    """A small command that compiles a program; double.py beside it compiles another program of the same name."""
    for name in ("once.py", "double.py"):
        (folder / name).write_text(PROGRAM)
    return folder / "once.py"


@pytest.fixture
def program(tmp_path):
    """The first of `write_programs`."""
    return write_programs(tmp_path)


@pytest.fixture(scope="module")
def started_before(tmp_path_factory):
    """A folder with the cache that a first start of `program` has left, and what that start printed."""
    folder = tmp_path_factory.mktemp("started_before")
    return folder, start_in(folder, write_programs(folder), **ALL)


@pytest.fixture
def expected(started_before, tmp_path):
    """What `program` prints; a first start has filled the cache."""
    folder, printed = started_before
    shutil.copytree(folder / "cache", tmp_path / "cache")
    return printed


# Keeps small programs too, which compile faster than the threshold.
ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def entries(cache):
    """The programs in the cache, with the time they were written and their bytes."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in cache.glob("avmsnet_jax/*/*-cache")}


def one_of(found, name):
    (path,) = [path for path in found if path.name.startswith(name)]
    return path


@pytest.mark.soak
def test_a_second_start_compiles_nothing_and_trains_to_the_same_bit(start, small_config_file, tmp_path):
    def train(name):
        few = ["--config.train.epochs=1", "--config.data.validation_fraction=0", "--config.model.audiovisual=false"]
        start("train.py", "--config", small_config_file, "--workdir", tmp_path / name, *few)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [(line["loss"], line["gradient_norm"]) for line in map(json.loads, lines)]

    first = train("first")
    kept = entries(tmp_path / "cache")
    assert one_of(kept, "jit_step-")
    used = one_of(kept, "jit_step-").with_name(one_of(kept, "jit_step-").name.replace("-cache", "-atime"))
    before = used.read_bytes()
    assert train("second") == first
    assert entries(tmp_path / "cache") == kept
    assert used.read_bytes() != before, "compiled again"


def test_the_command_works_without_a_cache_folder(start, program, started_before, tmp_path):
    (tmp_path / "file").touch()
    assert start(program, XDG_CACHE_HOME=str(tmp_path / "file"), **ALL) == started_before[1]


def test_the_users_own_folder_is_used(start, program, tmp_path):
    start(program, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"), **ALL)
    assert list(tmp_path.glob("own/jit_program-*"))
    assert not (tmp_path / "cache").exists()


def test_jaxs_variable_switches_the_cache_off(start, program, tmp_path):
    start(program, JAX_ENABLE_COMPILATION_CACHE="false", **ALL)
    assert not entries(tmp_path / "cache")


def test_the_size_of_the_cache_is_limited(start, program, expected, tmp_path):
    kept = entries(tmp_path / "cache")
    most = sum(len(data) for _, data in kept.values())
    start(program.with_name("double.py"), JAX_COMPILATION_CACHE_MAX_SIZE=str(most), **ALL)
    after = entries(tmp_path / "cache")
    assert after.keys() - kept.keys()
    assert sum(len(data) for _, data in after.values()) <= most


def test_a_damaged_entry_is_compiled_again(start, program, expected, tmp_path):
    """A process that is killed as it writes leaves half an entry: JAX warns, and compiles."""
    damaged = one_of(entries(tmp_path / "cache"), "jit_program-")
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert start(program, warns=True, **ALL) == expected


def test_an_entry_without_an_access_time_does_not_block_others(start, program, expected, tmp_path):
    """A process that is killed between writing the two files of an entry leaves one."""
    first = one_of(entries(tmp_path / "cache"), "jit_program-")
    first.with_name(first.name.replace("-cache", "-atime")).unlink()
    start(program.with_name("double.py"), **ALL)
    assert one_of(entries(tmp_path / "cache").keys() - {first}, "jit_program-")


def test_each_number_of_cores_has_its_own_programs(start, program, expected, tmp_path):
    start(program, NPROC=str(cores.count() + 1), **ALL)
    names = [path.name for path in entries(tmp_path / "cache") if path.name.startswith("jit_program-")]
    assert len(names) == 2
    assert len(set(names)) == 1, "JAX now distinguishes them itself"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A function that says which cache folder this process would use now, as it is and with these variables."""

    def ask(**variables):
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        os.environ |= {"XDG_CACHE_HOME": str(tmp_path / "cache")} | variables
        compiled.enable_cache()
        return os.environ.get("JAX_COMPILATION_CACHE_DIR", "")

    monkeypatch.setattr(os, "environ", dict(os.environ))  # `keep` changes it
    monkeypatch.setattr(compiled, "_enabled", False)
    return ask


def the_folder(cache):
    (folder,) = cache.glob("avmsnet_jax/compiled_*")
    return folder


def test_the_cache_is_in_the_home_folder_without_xdg_cache_home(kept, tmp_path):
    assert kept(XDG_CACHE_HOME="", HOME=str(tmp_path)) == str(the_folder(tmp_path / ".cache"))


def test_without_a_folder_to_write_to_nothing_is_kept(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert not kept(XDG_CACHE_HOME="", HOME=str(tmp_path / "file"))
    assert not kept(XDG_CACHE_HOME="relative")
    assert not kept(JAX_COMPILATION_CACHE_DIR="")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_others_can_write_to_is_not_used(kept, tmp_path):
    assert kept()
    folder = the_folder(tmp_path / "cache")
    for place in (folder, folder.parent, tmp_path / "cache"):
        for open_to in (0o777, 0o770):
            place.chmod(open_to)
            assert not kept(), (place, oct(open_to))
        place.chmod(0o700)
        assert kept()


def test_a_folder_that_an_older_version_left_open_is_named(kept, tmp_path, capsys):
    assert kept()
    assert capsys.readouterr().err == ""
    folder = the_folder(tmp_path / "cache")
    folder.chmod(0o775)
    assert not kept()
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert "remove it" in line


def test_a_link_or_another_user_s_folder_is_not_used(kept, tmp_path):
    assert kept()
    folder = the_folder(tmp_path / "cache")
    for place in (folder, folder.parent):
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
        assert not kept(), place
        place.unlink()
        (tmp_path / "elsewhere").rename(place)
    if os.geteuid() == 0:
        for place in (folder, folder.parent, tmp_path / "cache"):
            os.chown(place, 12345, 12345)
            assert not kept(), place
            os.chown(place, 0, 0)
    assert kept()
