"""Saving, cutting, canceling and adding films in the studio."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
from pathlib import Path

import numpy as np

from avmsnet_jax.data.sources.movies import KEYSHOTS_SUFFIX
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.summarization import cutlist
from tests.conftest import small_disk, wait_until
from tests.media.films import number_of
from tests.studio.conftest import tree
from tests.summarization.made import FPS


def changed(folder: Path, *states: str, reviewed: bool = False) -> dict:
    """The cut of a summary with other states of its shots, which are at 0, 5, 9, 15 and 17 s."""
    cut = cutlist.load(folder / "cut.json")
    shots = tuple(dataclasses.replace(shot, state=state) for shot, state in zip(cut.shots, states, strict=True))
    return dataclasses.replace(cut, shots=shots, reviewed=reviewed).as_json()


def running_child(studio, name: str) -> int:
    """The process that works on a film, once it has begun to write."""
    wait_until(
        lambda: (studio.root / f".{name}.stage").exists() or studio.state()["jobs"][name]["error"], studio.process
    )
    found = ""
    for thread in Path(f"/proc/{studio.process.pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found += thread.read_text() + " "
    return int(found.split()[0])


def stopped_child(studio, name: str) -> int:
    """`running_child`, stopped: otherwise it might finish before the studio ends it."""
    child = running_child(studio, name)
    os.kill(child, signal.SIGSTOP)
    return child


def go_on_to_end(child: int, process) -> None:
    """Lets a stopped process continue once SIGTERM waits for it."""

    def waiting() -> int:
        pending = Path(f"/proc/{child}/status").read_text().split("ShdPnd:")[1].split()[0]
        return int(pending, 16) >> (signal.SIGTERM - 1) & 1

    wait_until(waiting, process)
    os.kill(child, signal.SIGCONT)


def test_saving_and_the_states_of_a_film(studio, made):
    film = made.add(studio.root, "saved")
    folder = studio.root / "saved"
    entry = studio.state()["films"]["saved"]
    assert (entry["state"], entry["differs"], entry["length_s"], entry["summary_s"]) == ("untouched", False, 24, 6)
    sent = changed(folder, "kept", "chosen", "left", "chosen", "dropped")
    assert studio.send("PUT", "/films/saved/cut", sent)[0] == 200
    assert cutlist.read(folder / "cut.json", film).as_json() == sent
    entry = studio.state()["films"]["saved"]
    assert (entry["state"], entry["differs"]) == ("edited", True)
    before = tree(studio.root)
    other = sent | {"film": sent["film"] | {"path": "/etc/passwd"}}
    for wrong in (b"", b"{", b"\xff", b"[" * 100_000, {}, [], sent | {"version": 2}, sent | {"shots": []}, other):
        assert studio.refused("PUT", "/films/saved/cut", wrong)[0] == 400
    assert studio.refused("PUT", "/films/none/cut", sent)[0] == 404
    assert tree(studio.root) == before
    sent = changed(folder, "left", "chosen", "left", "chosen", "left", reviewed=True)
    assert studio.send("PUT", "/films/saved/cut", sent)[0] == 200
    entry = studio.state()["films"]["saved"]
    assert (entry["state"], entry["differs"]) == ("looked through", False)
    (folder / "cut.json").write_text("{")
    entry = studio.state()["films"]["saved"]
    assert entry["state"] == "damaged"
    assert "cut.json" in entry["problem"]


def test_key_shots_are_written_beside_the_film_and_replaced_only_when_asked(studio, made):
    film = made.add(studio.root, "labeled")
    folder, table = studio.root / "labeled", film.with_name("labeled" + KEYSHOTS_SUFFIX)
    sent = changed(folder, "kept", "left", "left", "chosen", "left", reviewed=True)
    status, _, content = studio.send("PUT", "/films/labeled/keyshots", sent)
    assert (status, json.loads(content)) == (200, {"path": str(table)})
    written = b"start_s,end_s\r\n0.000000,5.000000\r\n15.000000,17.000000\r\n"
    assert table.read_bytes() == written
    sent = changed(folder, "left", "left", "left", "chosen", "left", reviewed=True)
    status, _, content = studio.send("PUT", "/films/labeled/keyshots", sent)
    assert (status, json.loads(content)) == (200, {"exists": str(table)})
    assert table.read_bytes() == written
    assert studio.send("PUT", "/films/labeled/keyshots?replace=yes", sent)[0] == 200
    assert table.read_bytes() == b"start_s,end_s\r\n15.000000,17.000000\r\n"
    assert sorted(path.name for path in film.parent.glob("*labeled*")) == ["labeled.keyshots.csv", "labeled.mp4"]


def test_a_cut_that_is_canceled_or_killed_leaves_the_summary(studio, made):
    made.add(studio.root, "cut")
    folder, work = studio.root / "cut", "/films/cut/work"
    sent = changed(folder, "left", "left", "kept", "dropped", "chosen")
    assert studio.send("PUT", "/films/cut/cut", sent)[0] == 200
    before = tree(studio.root)

    assert studio.send("POST", work)[0] == 200
    child = stopped_child(studio, "cut")
    assert "is being cut" in studio.refused("PUT", "/films/cut/cut", sent)[1]
    assert "is being cut" in studio.refused("POST", work)[1]
    os.kill(child, signal.SIGCONT)
    assert studio.send("DELETE", work)[0] == 200
    assert studio.state()["jobs"]["cut"]["state"] == "canceled"
    assert tree(studio.root) == before

    assert studio.send("POST", work)[0] == 200
    os.kill(running_child(studio, "cut"), signal.SIGKILL)
    job = studio.finished("cut")
    assert job["state"] == "failed"
    assert "killed (SIGKILL); the summary is as it was" in job["error"]
    assert tree(studio.root) == before


def test_ctrl_c_ends_a_cut_and_the_summary_stays(serve, made, tmp_path):
    root = tmp_path / "summaries"
    root.mkdir()
    for name in ("one", "two"):
        made.add(root, name)
    stages = [root / ".one.stage", root / "one" / ".cut.json.stage"]
    for stage in stages:  # of processes that were killed at their start
        stage.mkdir()
    before = tree(root)
    with serve(root) as client:
        assert not any(stage.exists() for stage in stages)
        for name in ("one", "two"):
            assert client.send("POST", f"/films/{name}/work")[0] == 200
        child = stopped_child(client, "one")
        client.process.send_signal(signal.SIGINT)
        go_on_to_end(child, client.process)
        said, errors = client.process.communicate(timeout=60)
    assert (client.process.returncode, errors) == (0, "")
    assert said.splitlines()[2:] == ["one: stopped, as it was before", "two: stopped, as it was before"]
    assert not Path(f"/proc/{child}").exists()
    assert tree(root) == before


def test_a_full_disk_is_one_line(serve, made, tmp_path):
    with small_disk(tmp_path / "disk", "3m"):
        root = tmp_path / "disk" / "summaries"
        root.mkdir()
        film = made.add(root, "film")
        sent = changed(root / "film", "left", "chosen", "left", "kept", "left")
        with serve(root) as client:
            room = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
            (tmp_path / "disk" / "filler").write_bytes(bytes(room))
            before = tree(root)
            assert "No space left" in client.refused("PUT", "/films/film/cut", sent)[1]
            assert "No space left" in client.refused("PUT", "/films/film/keyshots", sent)[1]
            assert client.send("POST", "/films/film/work")[0] == 200
            job = client.finished("film")
            assert job["state"] == "failed"
            assert "No space left" in job["error"]
            status, line = client.refused("PUT", "/films/new.mp4", film.read_bytes())
            assert status == 507
            assert "too full" in line
            assert tree(root) == before


def test_films_are_added_and_summarized(studio, made):
    film = made.summary.scores.film.read_bytes()
    before = tree(studio.root)
    for name in ("..%2fnew.mp4", ".new.mp4", "new.txt", "%00.mp4", "film.mkv", "a%0ab.mp4", ".mp4"):
        assert studio.refused("PUT", f"/films/{name}", film)[0] in (400, 404, 405, 409)
    assert "cannot read new.mp4" in studio.refused("PUT", "/films/new.mp4", b"no film")[1]
    assert studio.refused("PUT", "/films/new.mp4", Content_Length=str(10**12))[0] == 413
    assert "more than 200 GB" in studio.refused("GET", f"/may-upload?file=new.mp4&size={10**12}")[1]
    assert studio.refused("GET", f"/may-upload?file=new.mp4&size={'9' * 5000}")[0] == 411
    assert studio.send("GET", f"/may-upload?file=new.mp4&size={len(film)}")[0] == 200
    assert (
        studio.refused("PUT", "/films/new.mp4", b"0\r\n\r\n", Content_Length=None, Transfer_Encoding="chunked")[0]
        == 411
    )
    with socket.create_connection(("127.0.0.1", studio.port)) as connection:  # ends in the middle
        head = f"PUT /films/new.mp4 HTTP/1.1\r\nHost: 127.0.0.1:{studio.port}\r\nCookie: {studio.cookie}\r\n"
        connection.sendall(f"{head}Content-Length: {len(film)}\r\n\r\n".encode() + film[:1000])
        wait_until(lambda: (studio.root / ".new.mp4.stage" / "new" / "new.mp4").exists(), studio.process)
    wait_until(lambda: tree(studio.root) == before, studio.process)
    status, _, content = studio.send("PUT", "/films/new.mp4", film)
    assert (status, json.loads(content)) == (200, {"name": "new"})
    assert tree(studio.root)["new.mp4"] == film
    assert studio.state()["films"]["new"]["state"] == "no summary"
    assert studio.send("GET", "/films/new/picture.jpg")[2].startswith(b"\xff\xd8")
    job = studio.finished("new")
    assert job["state"] == "done", job

    takes = cutlist.stretches_s(cutlist.read(studio.root / "new" / "cut.json", studio.root / "new.mp4"))
    wanted = [
        number for start, end in takes for number in range(round(float(start) * FPS) + 1, round(float(end) * FPS) + 1)
    ]
    summary = Movie(studio.root / "new" / "summary.mp4").frames()
    assert wanted
    assert [number_of(np.asarray(frame.rgb())) for frame in summary] == wanted
    assert studio.state()["films"]["new"]["state"] == "untouched"
    after = tree(studio.root)
    for name in ("new.mp4", "new.mkv"):
        assert (
            'the folder already has a film named "new"' in studio.refused("PUT", f"/films/{name}", film + b"another")[1]
        )
    assert tree(studio.root) == after
    assert {name: after[name] for name in before} == before
    assert after["new.mp4"] == film
