"""prepare_data.py in real processes that are killed, stopped, or run out of disk space."""

import dataclasses
import itertools
import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.data.prepare import prepare
from avmsnet_jax.data.records import Movies
from avmsnet_jax.data.sources import movies
from avmsnet_jax.errors import UserError
from tests.conftest import small_disk, wait_until
from tests.forked import Command
from tests.soak.kill_preparing import files_of, finished_films, make_films, soak, working_place

SIZE = 48, 64


def films_and_records(films: Path) -> tuple[Path, dict[str, bytes]]:
    """A folder of films, and the files of an uninterrupted run on them in this process, which are beside it."""
    prepare("movies", films, films.parent / "records")
    return films, files_of(films.parent / "records")


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """Four films of eleven clips."""
    return films_and_records(make_films(tmp_path_factory.mktemp("short") / "films", [300] * 4, SIZE))


@pytest.fixture(scope="module")
def long(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """Three films, of which the last is not finished before a signal that follows the first."""
    return films_and_records(make_films(tmp_path_factory.mktemp("long") / "films", [80, 80, 900], SIZE))


@pytest.fixture
def source(short) -> Path:
    """The folder of the short films."""
    return short[0]


@pytest.fixture
def undisturbed(short) -> dict[str, bytes]:
    """The files of an uninterrupted run on the short films."""
    return short[1]


@pytest.fixture
def start(started: Callable[..., Command]) -> Callable[..., Command]:
    """Starts the command in a process group of its own."""

    def start_command(source: Path, output: Path, *options: str) -> Command:
        return started("prepare_data.py", "--dataset=movies", f"--source={source}", f"--output={output}", *options)

    return start_command


def finish(process: Command | subprocess.Popen) -> tuple[int, str]:
    """Exit status and standard error."""
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.parametrize(
    "kill",
    [pytest.param(os.killpg, id="with its workers", marks=pytest.mark.soak), pytest.param(os.kill, id="alone")],
)
def test_killed_between_films_it_ends_with_the_same_bytes(start, long, tmp_path, kill):
    source, undisturbed = long
    output = tmp_path / "records"
    process = start(source, output, "--workers=2")
    wait_until(lambda: finished_films(output) >= 1, process)
    kill(process.pid, signal.SIGKILL)
    assert finish(process)[0] == -signal.SIGKILL  # workers without a parent have ended, too: they hold its pipes
    kept = finished_films(output)
    status, errors = finish(start(source, output, "--workers=2"))
    assert (status, errors.splitlines()[0]) == (0, f"{kept} of 3 films are finished already")
    assert files_of(output) == undisturbed


@pytest.mark.soak
def test_killed_at_any_moment_it_ends_with_the_same_bytes(source, tmp_path):
    told = soak(source, tmp_path, 6, random.Random(), ["--workers=2"], shard_bytes=1_500_000)
    assert len(told) == 6
    # Of the files of four films, two are joined to a shard and two are shards by themselves.
    assert len(list((tmp_path / "undisturbed").rglob("*.array_record*"))) == 3


def test_a_crash_before_any_file_system_operation_is_recovered(forked):
    first = random.randint(1, 24)
    done = forked("-m", "tests.soak.crash_preparing", f"--first={first}", "--every=24")
    assert done.returncode == 0, (first, done.stderr)
    assert int(done.stdout.split()[0]) > 1


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)])
def test_interrupted_by_a_signal_it_says_what_is_kept(launched, start, long, tmp_path, how):
    source, undisturbed = long
    output = tmp_path / "records"
    process = launched("prepare_data.py", "--dataset=movies", f"--source={source}", f"--output={output}", "--workers=2")
    wait_until(lambda: finished_films(output) >= 1, process)
    os.killpg(process.pid, how)  # as a terminal does, and most schedulers
    status, errors = finish(process)
    assert status == 130, errors
    kept = finished_films(output)
    last = errors.splitlines()[-1]
    assert last.startswith(f"prepare_data.py: interrupted: {kept} finished film")
    assert last.endswith("kept: the same command goes on")
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == [".records.partial"]
    assert not list(working_place(output).glob("films/.*"))
    status, errors = finish(start(source, output, "--workers=2"))
    assert (status, errors.splitlines()[0]) == (0, f"{kept} of 3 films are finished already")
    assert files_of(output) == undisturbed


def test_a_second_run_at_once_is_refused(start, source, tmp_path, undisturbed):
    output = tmp_path / "records"
    first = start(source, output, "--workers=1")
    wait_until((working_place(output) / "films").exists, first)
    os.killpg(first.pid, signal.SIGSTOP)  # or it might be through before the second begins
    status, errors = finish(start(source, output, "--workers=1"))
    assert (status, first.poll()) == (2, None)
    os.killpg(first.pid, signal.SIGCONT)
    assert errors == (
        f"prepare_data.py: {output} is in use by prepare_data.py (process {first.pid} on {socket.gethostname()}); "
        "wait until that ends, or choose another place\n"
    )
    assert finish(first)[0] == 0
    assert files_of(output) == undisturbed
    status, errors = finish(start(source, output))
    assert (status, errors) == (2, f"prepare_data.py: {output} exists already; remove it, or choose another --output\n")
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


@dataclasses.dataclass(frozen=True)
class Deadly(movies.Film):
    """A film that kills its reader at frame 80, `deaths` times."""

    deaths: int = 0
    diary: Path = Path()

    def read_frames(self):
        """See `Video`."""
        for frame in super().read_frames():
            with open(self.diary, "a+") as file:
                if frame.number == 80 and file.seek(0) == 0 and len(file.readlines()) < self.deaths:
                    print("died", file=file, flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
            yield frame


def deadly(film: movies.Film, deaths: int, diary: Path) -> Deadly:
    """The film, which now kills its readers."""
    kept = {field.name: getattr(film, field.name) for field in dataclasses.fields(movies.Film)}
    return Deadly(**kept, deaths=deaths, diary=diary)


def test_a_dying_reader_process_fails_only_its_film(source, tmp_path, monkeypatch):
    """One film kills its first reader, and another each of its readers."""

    def find(self, source):
        found = movies.find_films(source, 0.3)
        first, once, always, last = found.videos
        killers = deadly(once, 1, tmp_path / "once"), deadly(always, 9, tmp_path / "always")
        return dataclasses.replace(found, videos=[first, *killers, last])

    monkeypatch.setattr(Movies, "find", find)
    manifest = prepare("movies", source, tmp_path / "records", workers=2)
    assert (tmp_path / "once").read_text() == "died\n"
    assert (tmp_path / "always").read_text() == "died\n" * 2
    assert [video["video"] for video in manifest["videos"]] == ["film00", "film01", "film03"]
    (skipped,) = manifest["skipped"]
    assert skipped["video"] == "film02"
    assert "died twice (signal 9): it crashes the decoder, or memory is short" in skipped["reason"]
    assert clips_of(tmp_path / "records") == [
        clip for clip in clips_of(source.parent / "records") if "film02" not in clip
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def clips_of(records: Path) -> list[tuple[str, int, bytes, bytes]]:
    """Video, frame, pictures and sound of each record."""
    opened = itertools.chain(*(open_split(records, split) for split in ("train", "test")))
    return [(str(r["video"]), int(r["frame"]), r["clip"].tobytes(), r["sound"].tobytes()) for r in opened]


@pytest.mark.soak
def test_a_reader_that_dies_on_the_only_film_gives_one_line(source, tmp_path, monkeypatch):
    def find(self, source):
        found = movies.find_films(source, 0.3)
        return dataclasses.replace(found, videos=[deadly(found.videos[0], 9, tmp_path / "diary")])

    monkeypatch.setattr(Movies, "find", find)
    with pytest.raises(UserError, match=r"nothing .* could be prepared \(film00: the process that read it died"):
        prepare("movies", source, tmp_path / "records", workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["diary"]


def test_a_script_without_a_main_guard_gets_one_line(forked, source, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from avmsnet_jax.data.prepare import prepare\n"
        f"prepare('movies', {str(source)!r}, {str(tmp_path / 'records')!r}, workers=2)\n"
    )
    done = forked(script)
    assert done.returncode == 1
    assert "below `if __name__ == '__main__':`, or with workers=1" in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


@pytest.mark.parametrize(("workers", "size"), [pytest.param(1, "1100k", marks=pytest.mark.soak), (2, "3300k")])
def test_a_full_disk(start, source, tmp_path, undisturbed, workers, size):
    with small_disk(tmp_path / "disk", size) as resize:
        output = tmp_path / "disk" / "records"
        status, errors = finish(start(source, output, f"--workers={workers}"))
        films = finished_films(output)
        line = errors.splitlines()[-1]
        assert status == 2, errors
        assert line.startswith(
            f"prepare_data.py: cannot write {output}: No space left on device; {films} finished film"
        )
        assert line.endswith("the same command goes on once there is room")
        assert "Traceback" not in errors
        assert not output.exists()
        resize("size=20m")
        status, errors = finish(start(source, output, f"--workers={workers}"))
        assert (status, errors.splitlines()[0]) == (0, f"{films} of 4 films are finished already")
        assert files_of(output) == undisturbed


def test_a_disk_without_room_for_one_film_is_refused(source, tmp_path):
    with small_disk(tmp_path / "disk", "100k"):
        with pytest.raises(UserError, match=r"No space left on device; choose a folder that is writable and has room"):
            prepare("movies", source, tmp_path / "disk" / "new" / "records")
        assert not list((tmp_path / "disk").iterdir())


def test_a_read_only_disk_is_refused(source, tmp_path):
    with small_disk(tmp_path / "disk", "20m") as resize:
        resize("ro")
        with pytest.raises(UserError, match=r"cannot write .*records: Read-only file system; choose a folder"):
            prepare("movies", source, tmp_path / "disk" / "new" / "records")


def test_an_output_below_a_file_is_refused(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*records: Not a directory; choose a folder"):
        prepare("movies", source, tmp_path / "file" / "records")
