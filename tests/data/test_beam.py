"""Beam's local runner does the same work as the plain path."""

import builtins
import json
import multiprocessing
import shutil

import pytest

from avmsnet_jax import beam
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.errors import UserError
from tests.data.beam_worker import work
from tests.data.test_prepare import files_of
from tests.media.films import encode, numbered


@pytest.fixture(scope="module")
def source(films, tmp_path_factory):
    """Three films, and one that holds no clip."""
    folder = tmp_path_factory.mktemp("beam") / "films"
    shutil.copytree(films, folder)
    encode(folder / "short.mkv", [numbered(1)] * 20)
    (folder / "short.keyshots.csv").write_text("start_s,end_s\n")
    return folder


@pytest.fixture(scope="module")
def plain(source, tmp_path_factory):
    """The files that the plain path writes."""
    output = tmp_path_factory.mktemp("plain") / "records"
    prepare("movies", source, output)
    return files_of(output)


@pytest.mark.parametrize("options", [[], ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]])
def test_beam_gives_the_same_bytes(source, plain, tmp_path, capfd, options):
    pytest.importorskip("apache_beam")
    manifest = prepare("movies", source, tmp_path / "records", beam_options=options)
    assert files_of(tmp_path / "records") == plain
    assert [skipped["video"] for skipped in manifest["skipped"]] == ["short"]
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert [line.split(":")[0] for line in lines] == ["[1/4] a", "[2/4] b", "[3/4] c", "[4/4] skipped short"]


@pytest.mark.soak
def test_beam_s_worker_processes_give_the_same_bytes_as_the_command(source, plain, python, tmp_path):
    pytest.importorskip("apache_beam")
    output = tmp_path / "records"
    option = "--beam=--direct_num_workers=2 --direct_running_mode=multi_processing"
    done = python("prepare_data.py", "--dataset=movies", f"--source={source}", f"--output={output}", option)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert files_of(output) == plain


def test_finished_films_are_not_given_to_beam_again(source, plain, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    output = tmp_path / "records"
    with monkeypatch.context() as patch:
        patch.setattr("avmsnet_jax.data.pack.make_plan", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare("movies", source, output, beam_options=[])
    assert len(list(tmp_path.glob(".records.partial/films/*/done.json"))) == 3
    prepare("movies", source, output)
    assert files_of(output) == plain


def test_wrong_beam_options_are_errors_of_one_line(source, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    for option, reason in (
        ("--direct_num_workers=two", "--beam: argument --direct_num_workers: invalid int value: 'two'"),
        ("--runner=Spork", "--beam: Unexpected pipeline runner: Spork"),
    ):
        with pytest.raises(UserError, match=reason):
            prepare("movies", source, tmp_path / "records", beam_options=[option])
    assert not list(tmp_path.iterdir())


def test_a_missing_beam_is_one_line(source, tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name.startswith("apache_beam"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"Beam is not installed; pip install 'avmsnet_jax\[beam\]', or leave --beam"):
        prepare("movies", source, tmp_path / "records", beam_options=[])
    assert not list(tmp_path.iterdir())


def test_of_two_workers_with_the_same_film_one_waits_for_the_other(tmp_path):
    (tmp_path / "outcomes").mkdir()
    others = [multiprocessing.get_context("spawn").Process(target=work, args=(tmp_path, n)) for n in (1, 2)]
    for process in others:
        process.start()
    for process in others:
        process.join(300)
        assert process.exitcode == 0
    (worked,) = tmp_path.glob("worked_*")
    assert json.loads((tmp_path / "outcomes" / "0").read_text()) == {"item": 3, "by": int(worked.name[-1])}
    assert {path.name for path in (tmp_path / "outcomes").iterdir()} == {"0", "0.lock"}


def test_a_worker_that_waited_until_the_pipeline_ended_does_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        beam._work(lambda item: {"done": item}, tmp_path / "outcomes", (0, 3))
    assert not list(tmp_path.iterdir())
