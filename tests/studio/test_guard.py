"""Access control of the studio."""

import concurrent.futures
import json
import os
import socket
import tempfile
from pathlib import Path

import pytest

from tests.conftest import one_line
from tests.studio.conftest import tree


@pytest.mark.parametrize(
    "headers",
    [
        {"cookie": ""},
        {"cookie": "avmsnet_studio_{port}=wrong"},
        {"cookie": "avmsnet_studio_{port}=\u00e4"},
        {"Host": "studio.example:{port}"},
        {"Host": "localhost:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": None},
        {"Origin": "http://studio.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "127.0.0.1:{port}"},
        {"Origin": "null"},
    ],
)
def test_strangers_are_refused(studio, headers):
    before = tree(studio.root)
    sent = {name: value and value.format(port=studio.port) for name, value in headers.items()}
    for method, path in (
        ("GET", "/"),
        ("GET", "/films/film/film"),
        ("POST", "/films/film/work"),
        ("PUT", "/films/a.mp4"),
    ):
        status, _ = studio.refused(method, path, b"" if method == "PUT" else None, **sent)
        assert status in (400, 403)  # HTTP/1.1 requires Host
    assert tree(studio.root) == before
    assert not studio.state()["jobs"]


def test_a_wrong_token_sets_no_cookie(studio):
    for query in ("token=", "token=wrong", "token=%C3%A4", "TOKEN=" + studio.address.split("=")[1]):
        status, headers, _ = studio.send("GET", f"/?{query}", cookie="")
        assert status == 403
        assert "set-cookie" not in headers
    status, headers, _ = studio.send("GET", "/" + studio.address.rpartition("/")[2], cookie="")
    assert status == 303
    assert {"HttpOnly", "SameSite=strict"} <= set(headers["set-cookie"].split("; "))


@pytest.mark.parametrize(
    "path",
    [
        "/films/../secret.mp4",
        "/films/%2e%2e/film",
        "/films/%2e%2e/secret.mp4",
        "/films/..%2fsecret.mp4",
        "/films/film/../../secret.mp4",
        "/films/film/%2e%2e/%2e%2e/secret.mp4",
        "/films/film%2f..%2f..%2fsecret.mp4/film",
        "/films/film/..%2f..%2fsecret.mp4",
        "/films/./film",
        "/films/%00/film",
        "/films/film%00/film",
        "/films/film/cut.json",
        "/films/film/film/",
        "//etc/passwd",
        "/../../../etc/passwd",
        "/films//etc/passwd",
        "/films/.film.stage/film",
        "/films/" + "a" * 5000 + "/film",
    ],
)
def test_paths_outside_the_folder_are_refused(studio, path):
    (studio.root.parent / "secret.mp4").write_bytes(b"secret")
    assert studio.refused("GET", path)[0] in (404, 405)


def test_links_and_foreign_paths_are_not_followed(studio, made):
    outside = studio.root.parent / "outside"
    made.add(outside, "other")
    (studio.root / "linked").symlink_to(outside / "other")
    assert studio.refused("GET", "/films/linked/")[0] == 404
    made.add(studio.root, "strange")
    folder, secret = studio.root / "strange", studio.root.parent / "secret.mp4"
    secret.write_bytes(b"secret")
    (folder / "summary.mp4").unlink()
    (folder / "summary.mp4").symlink_to(secret)
    assert studio.refused("GET", "/films/strange/summary.mp4")[0] == 404
    cut = json.loads((folder / "cut.json").read_text())
    for path in (secret, Path("/etc/passwd"), Path("films/film.mp4")):  # a stranger's cut.json names other files
        size = path.stat().st_size if path.exists() else 1
        (folder / "cut.json").write_text(json.dumps(cut | {"film": cut["film"] | {"path": str(path), "size": size}}))
        assert studio.refused("GET", "/films/strange/film")[0] in (400, 404)
    (studio.root / "planted.mp4").symlink_to(secret)
    assert "planted" not in studio.state()["films"]


def test_a_foreign_report_is_read_for_data_and_its_code_dropped(studio, made):
    made.add(studio.root, "planted")
    path = studio.root / "planted" / "report.html"
    text = path.read_text("utf-8")
    path.write_text(
        text.replace("<script>", "<script>alert(1)</script><script>").replace(
            '"facts": [', '"facts": [["\\u003c/script><b>", "x"], '
        )
    )
    status, _, content = studio.send("GET", "/films/planted/")
    assert status == 200
    assert b"alert(1)" not in content
    assert b"</script><b>" not in content
    for damaged in ("", "<html>", text.replace('id="data">{', 'id="data">{{')):
        path.write_text(damaged)
        assert "report.html" in studio.refused("GET", "/films/planted/")[1]


def test_nothing_listens_beyond_this_machine(studio):
    inodes = set()
    for descriptor in Path(f"/proc/{studio.process.pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    listening = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{studio.process.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes and fields[3] in ("0A", "07"):
                listening.append((table, fields[1]))
    assert listening == [("tcp", f"0100007F:{studio.port:04X}")]


def test_fifty_requests_at_once(studio):
    paths = ["/", "/state", "/films/film/", "/films/film/film", "/films/film/picture.jpg"] * 10
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda path: studio.send("GET", path)[0], paths))
    assert answers == [200] * 50


def test_the_film_is_served_in_parts(studio):
    film = (studio.root.parent / "films" / "film.mp4").read_bytes()
    status, headers, content = studio.send("GET", "/films/film/film", Range="bytes=1000-1999")
    assert (status, content) == (206, film[1000:2000])
    assert headers["content-type"] == "video/mp4"
    assert headers["content-range"] == f"bytes 1000-1999/{len(film)}"
    assert studio.send("GET", "/films/film/film")[2] == film
    assert studio.refused("GET", "/films/film/film", Range="none")[0] == 400


def test_a_request_that_breaks_off_changes_nothing(studio):
    before, temporary = tree(studio.root), Path(tempfile.gettempdir())
    logs = set(temporary.glob("studio.error.*"))
    for path in ("cut", "keyshots"):
        with socket.create_connection(("127.0.0.1", studio.port)) as connection:
            head = f"PUT /films/film/{path} HTTP/1.1\r\nHost: 127.0.0.1:{studio.port}\r\nCookie: {studio.cookie}\r\n"
            connection.sendall(f"{head}Content-Length: 9\r\n\r\n[1]".encode())
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1000) == b""
    assert set(temporary.glob("studio.error.*")) == logs
    assert tree(studio.root) == before


def test_mistakes_are_one_line(studio, python, forked, tmp_path):
    run = ("-m", "avmsnet_jax", "studio")
    assert "give one folder" in one_line(forked(*run))
    (tmp_path / "file").write_text("")
    assert "is no folder" in one_line(forked(*run, tmp_path / "file"))
    assert one_line(forked(*run, tmp_path / "nope" / "new")).endswith(f"create {tmp_path / 'nope'} first")
    taken = one_line(forked(*run, tmp_path / "new", f"--port={studio.port}"))
    assert f"cannot listen on port {studio.port}" in taken
    assert "--port=0" in taken
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "uvicorn.py").write_text("raise ModuleNotFoundError('gone', name='uvicorn')")
    path = f"{tmp_path / 'without'}:{os.environ.get('PYTHONPATH', '')}"
    missing = one_line(python(*run, tmp_path / "new", PYTHONPATH=path))
    assert "pip install 'avmsnet_jax[studio]'" in missing


def test_a_port_can_be_taken_again_at_once(serve, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for _ in range(2):
        with serve(tmp_path / "summaries", f"--port={port}") as client:
            assert client.state()["films"] == {}
