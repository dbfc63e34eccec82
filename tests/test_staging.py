"""A result appears complete and replaces the old one, or the old one stays."""

import errno
import os
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from avmsnet_jax.config import Config
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.writer import write_movie
from avmsnet_jax.staging import is_private, locked, staged, taken
from avmsnet_jax.summarization.run import summarize
from tests.conftest import ROOT


@pytest.mark.parametrize("name", ["result", "old", "new", "lock"])
def test_a_directory_is_replaced_whatever_it_is_called(tmp_path, name):
    for text in ("old", "new"):
        with staged(tmp_path / name) as stage:
            stage.mkdir()
            (stage / text).touch()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in (tmp_path / name).iterdir()] == ["new"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "old").touch()
    with pytest.raises(UserError, match="cannot write"), staged(tmp_path / "result"):
        raise OSError(28, "No space left on device")
    with pytest.raises(UserError, match="cannot write"), staged(tmp_path / "result"):
        pass  # nothing was staged: there is nothing to put in its place
    assert [path.name for path in tmp_path.rglob("*")] == ["result", "old"]


def test_parent_folders_made_before_a_failure_are_removed(tmp_path):
    with pytest.raises(KeyError), staged(tmp_path / "a" / "b" / "result"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_only_an_empty_directory_may_exist_already(tmp_path):
    assert not taken(tmp_path / "result")
    (tmp_path / "result").mkdir()
    assert not taken(tmp_path / "result")
    (tmp_path / "result" / ".hidden").touch()
    assert taken(tmp_path / "result")
    assert taken(tmp_path / "result" / ".hidden")


# What lies in the place of unfinished work


def victim_of(folder):
    """A folder that nobody may touch."""
    victim = folder / "victim"
    for name in (".git/config", ".env", "set/x.array_record-0", "films/film.mp4", "lock"):
        (victim / name).parent.mkdir(parents=True, exist_ok=True)
        (victim / name).write_text("mine")
    return victim


def a_link_to_a_folder(place, victim):
    place.symlink_to(victim)


def a_folder_of_the_users(place, victim):
    shutil.copytree(victim, place)


def a_folder_with_an_empty_lock(place, victim):
    shutil.copytree(victim, place)
    (place / "lock").write_text("")


def a_file(place, victim):
    place.write_text("mine")


def a_lock_that_is_a_link(place, victim):
    place.mkdir()
    (place / "lock").symlink_to(victim / ".env")


def a_lock_that_is_another_file_too(place, victim):
    place.mkdir()
    os.link(victim / ".env", place / "lock")


def a_lock_that_is_a_pipe(place, victim):
    place.mkdir()
    os.mkfifo(place / "lock")


def left_with(place, add):
    """Creates what a killed process leaves in a working folder, and a file that somebody adds."""
    killed_in(place)
    add()


def a_link_inside(place, victim):
    left_with(place, lambda: (place / "films").symlink_to(victim / "films"))


def a_link_deep_inside(place, victim):
    left_with(place, lambda: ((place / "set").mkdir(), (place / "set" / "link").symlink_to(victim)))


def a_file_that_is_another_file_too(place, victim):
    left_with(place, lambda: os.link(victim / ".env", place / "plan.json"))


PLANTED = [
    a_link_to_a_folder,
    a_folder_of_the_users,
    a_folder_with_an_empty_lock,
    a_file,
    a_lock_that_is_a_link,
    a_lock_that_is_another_file_too,
    a_lock_that_is_a_pipe,
    a_link_inside,
    a_link_deep_inside,
    a_file_that_is_another_file_too,
]


def contents(folder):
    """The contents of a folder, without the record of who last held a lock."""
    return {
        str(path): os.readlink(path) if path.is_symlink() else path.read_text()[:40] if path.is_file() else None
        for path in folder.rglob("*")
    }


def killed_in(place):
    """Creates what a process leaves that is killed while it works in `.<name>.<kind>`."""
    name, kind = place.name[1:].rsplit(".", 1)
    program = (
        "import os, pathlib, sys; from avmsnet_jax.staging import working_place\n"
        "with working_place(pathlib.Path(sys.argv[1]), sys.argv[2]) as place:\n"
        "    (place / 'half').write_text('half'); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, place.with_name(name), kind], cwd=ROOT, check=False)
    assert done.returncode == 9


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a film, and what is taken for a checkpoint as long as nobody reads it."""
    folder = tmp_path_factory.mktemp("inputs")
    write_movie(folder / "result.mp4", np.zeros((30, 32, 32, 3), np.uint8), 10, None)
    for item in ("model", "config"):
        (folder / "weights" / item).mkdir(parents=True)
    return folder


def stage_one(inputs, target):
    with staged(target) as stage:
        stage.touch()


def prepare_one(inputs, target):
    prepare("movies", inputs, target)


def summarize_one(inputs, target):
    (outcome,) = summarize([inputs / f"{target.name}.mp4"], str(inputs / "weights"), target.parent, Config())
    raise UserError(outcome.error)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize(("work", "kind"), [(stage_one, "stage"), (prepare_one, "partial"), (summarize_one, "stage")])
def test_foreign_files_in_the_working_folder_are_left_alone(tmp_path, inputs, plant, work, kind):
    place = tmp_path / f".result.{kind}"
    plant(place, victim_of(tmp_path))
    before = contents(tmp_path)
    with pytest.raises(UserError, match=re.escape(place.name)):
        work(inputs, tmp_path / "result")
    assert contents(tmp_path) == before


def test_a_link_in_the_place_of_the_result_is_refused(tmp_path):
    victim = victim_of(tmp_path)
    (tmp_path / "empty").mkdir()
    for number, target in enumerate((victim, victim / ".env", tmp_path / "empty", tmp_path / "nowhere")):
        link = tmp_path / f"link{number}"
        link.symlink_to(target)
        before = contents(tmp_path)
        with pytest.raises(UserError, match=rf"link{number} is a link; remove it"), staged(link) as stage:
            stage.write_text("new")
        assert contents(tmp_path) == before


# After a kill, and two at once


def test_leftovers_of_a_killed_process_are_removed_by_the_next(tmp_path):
    killed_in(tmp_path / ".result.stage")
    assert (tmp_path / ".result.stage" / "half").exists()
    with staged(tmp_path / "result") as stage:
        stage.write_text("whole")
    assert contents(tmp_path) == {str(tmp_path / "result"): "whole"}


def test_a_kill_between_the_old_result_and_the_new_one_loses_neither(tmp_path):
    killed_in(tmp_path / ".result.stage")
    (tmp_path / ".result.stage" / "old").mkdir()
    (tmp_path / ".result.stage" / "old" / "old").touch()
    with pytest.raises(KeyError), staged(tmp_path / "result"):
        raise KeyError
    assert contents(tmp_path) == {str(tmp_path / "result"): None, str(tmp_path / "result" / "old"): ""}


def test_a_kill_right_after_the_start_does_not_block_the_next_run(tmp_path):
    for name in ("nothing", "empty_lock"):
        (tmp_path / f".{name}.stage").mkdir()
    (tmp_path / ".empty_lock.stage" / "lock").touch()
    for name in ("nothing", "empty_lock"):
        with staged(tmp_path / name) as stage:
            stage.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty_lock", "nothing"]


@pytest.mark.parametrize("flock", [True, False])
def test_a_second_process_is_told_which_one_holds_the_lock(tmp_path, monkeypatch, flock):
    if not flock:  # as on network file systems that have no locks

        def unsupported(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", unsupported)
    holder = (
        "import pathlib, sys; from avmsnet_jax.staging import locked, staged\n"
        "sys.argv[0] = 'first.py'\n"
        "with staged(pathlib.Path(sys.argv[1]) / 'result') as stage, locked(pathlib.Path(sys.argv[1]) / 'run'):\n"
        "    stage.touch(); print('in', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"in\n"
    first = rf"in use by first.py \(process {process.pid} on {re.escape(socket.gethostname())}\)"
    with pytest.raises(UserError, match=rf"result is {first}; wait"), staged(tmp_path / "result"):
        pass
    with pytest.raises(UserError, match=rf"run is {first}; wait"), locked(tmp_path / "run"):
        pass
    process.kill()
    process.communicate()
    with staged(tmp_path / "result") as stage, locked(tmp_path / "run"):
        stage.touch()
    assert [path.name for path in tmp_path.iterdir() if path.name != "run"] == ["result"]


@pytest.mark.parametrize("planted", ["mine", None])
def test_a_run_does_not_take_a_lock_that_is_not_its_own(tmp_path, planted):
    victim = victim_of(tmp_path)
    (tmp_path / "run").mkdir()
    if planted is None:
        (tmp_path / "run" / ".lock").symlink_to(victim / ".env")
    else:
        (tmp_path / "run" / ".lock").write_text(planted)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"run/\.lock .*move it away"), locked(tmp_path / "run"):
        pass
    assert contents(tmp_path) == before


def test_the_longest_names_are_written(tmp_path):
    for name in ("a" * 255, "é" * 127, "a" * 254 + "b"):
        with staged(tmp_path / name) as stage:
            stage.mkdir()
            (stage / "new").touch()
        assert (tmp_path / name / "new").exists()
    assert len(list(tmp_path.iterdir())) == 3


# Folders whose content is executed


def test_a_private_folder_belongs_to_the_user_and_is_not_writable_by_others(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    assert is_private(folder)
    assert not is_private(tmp_path / "none")
    for open_to in (0o777, 0o775, 0o757, 0o1777):
        folder.chmod(open_to)
        assert not is_private(folder), oct(open_to)
    folder.chmod(0o755)
    for open_to, private in ((0o777, False), (0o775, False), (0o1777, True), (0o755, True)):
        folder.parent.chmod(open_to)
        assert is_private(folder) == private, oct(open_to)
    (tmp_path / "link").symlink_to(folder)
    assert not is_private(tmp_path / "link")
    if os.geteuid() == 0:
        for place in (folder, folder.parent):
            os.chown(place, 12345, 12345)
            assert not is_private(folder)
            os.chown(place, 0, 0)
