"""A studio in a process, which serves a folder of summaries, and a client that sends raw requests."""

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import signal
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from avmsnet_jax.summarization import cutlist, report
from avmsnet_jax.summarization.result import Summary
from tests.conftest import wait_until
from tests.forked import Command
from tests.summarization.made import editing_of, make_summary


class Client:
    """Talks to a studio; each request has a connection of its own."""

    def __init__(self, process: Command, root: Path, address: str):
        """`address` is what the studio printed."""
        self.process, self.root, self.address = process, root, address
        self.port = urllib.parse.urlsplit(address).port
        status, headers, _ = self.send("GET", "/?" + urllib.parse.urlsplit(address).query, cookie="")
        assert status == 303
        self.cookie = headers["set-cookie"].split(";")[0]

    def send(
        self, method: str, path: str, body: Any = None, *, cookie: str | None = None, **headers: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of the answer. `body` may be bytes or what JSON holds; None drops a header."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        sent = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie if cookie is None else cookie} | headers
        if body is not None:
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content_Length", str(len(body)))
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def refused(self, *request: Any, **options: Any) -> tuple[int, str]:
        """Status and the one line of a request that is refused."""
        status, _, content = self.send(*request, **options)
        assert status >= 400, content
        lines = content.decode().splitlines()
        assert len(lines) == 1, lines
        return status, lines[0]

    def state(self) -> dict[str, Any]:
        """The films and the work on them, by name."""
        state = json.loads(self.send("GET", "/state")[2])
        return {kind: {each["name"]: each for each in state[kind]} for kind in ("films", "jobs")}

    def finished(self, name: str) -> dict[str, Any]:
        """The work on a film once it has ended."""
        wait_until(lambda: self.state()["jobs"][name]["state"] not in ("waiting", "running"), self.process)
        return self.state()["jobs"][name]


@dataclasses.dataclass(frozen=True)
class Made:
    """A film with a summary, to be copied."""

    summary: Summary
    folder: Path

    def add(self, root: Path, name: str) -> Path:
        """Puts a copy of the film beside `root` and one of its summary into it; returns the film."""
        film = root.parent / "films" / f"{name}.mp4"
        film.parent.mkdir(exist_ok=True)
        shutil.copy(self.summary.scores.film, film)
        shutil.copytree(self.folder, root / name)
        cut = cutlist.load(root / name / "cut.json")
        cutlist.write(dataclasses.replace(cut, film=cut.film | {"path": str(film)}), root / name)
        return film


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A film of 240 numbered frames, 10 a second, and its summary: 5-9 s and 15-17 s."""
    place = tmp_path_factory.mktemp("made")
    folder = place / "film"
    folder.mkdir()
    summary = make_summary(folder, place / "film.mp4")
    editing = editing_of(summary)
    report.write_report(summary, folder, editing=editing)
    cutlist.write(editing.cut, folder)
    facts = {"film": str(place / "film.mp4"), "length_s": 6.0, "shots": [], "facts": {}}
    (folder / "summary.json").write_text(json.dumps(facts))
    return Made(summary, folder)


@pytest.fixture(scope="session")
def serve(started: Callable[..., Command]) -> Callable[..., Any]:
    """Starts a studio as a context, which sends Ctrl-C at its end. `run` is what Python runs."""

    @contextlib.contextmanager
    def serving(root: Path, *options: str, run: Sequence[object] = ("-m", "avmsnet_jax")) -> Iterator[Client]:
        process = started(*run, "studio", root, *(options or ("--port=0",)), cwd=root.parent)
        try:
            wait_until(lambda: process.said().count("\n") >= 2, process)
            address = process.said().splitlines()[0]
            assert address.startswith("http://127.0.0.1:")
            yield Client(process, root, address)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                said = process.communicate(timeout=60)
                assert (process.returncode, said[1]) == (0, ""), said
        finally:
            process.kill_group()

    return serving


@pytest.fixture(scope="module")
def studio(serve: Callable[..., Any], made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A studio with the film `film`, for all tests of a module; a test that changes a film adds one of its own."""
    root = tmp_path_factory.mktemp("studio") / "summaries"
    root.mkdir()
    made.add(root, "film")
    with serve(root) as client:
        yield client


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones, too; those that vanish meanwhile are left out."""
    found = {}
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                found[str(path.relative_to(root))] = path.read_bytes()
    return found
