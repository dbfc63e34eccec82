"""Clients that are slow, stop in the middle, send nothing, or send several requests at once."""

import concurrent.futures
import contextlib
import http.client
import json
import socket
import time

import pytest

from tests.conftest import wait_until
from tests.studio.conftest import tree

WINDOW_S = 2  # instead of a minute
SHORT_WINDOW = f"""
from avmsnet_jax.commands import run
from avmsnet_jax.studio import connections

connections.WINDOW_S = {WINDOW_S}
run()
"""
# The window is two seconds, and the first write takes three.
SLOW_DISK = """
import asyncio
from avmsnet_jax.commands import run
from avmsnet_jax.studio import app, connections

at_once, delays = app.run_in_threadpool, [3.0]

async def slowly(*work):
    await asyncio.sleep(delays.pop() if delays else 0)
    return await at_once(*work)

app.run_in_threadpool, connections.WINDOW_S = slowly, 2.0
run()
"""


def head(client, method: str, path: str, **headers: object) -> bytes:
    """The first lines of a request."""
    sent = {"Host": f"127.0.0.1:{client.port}", "Cookie": client.cookie} | headers
    lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in sent.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def connect(client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=20)


def is_closed(connection: socket.socket) -> bool:
    """Whether the studio has closed a connection; drops what it has answered."""
    connection.setblocking(False)
    try:
        while connection.recv(10_000):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def slow_and_idle_clients(client) -> None:
    """All are cut off, while another client is served, and leave nothing."""
    before = tree(client.root)
    with contextlib.ExitStack() as stack:
        stopped = {
            "a request without an end": head(client, "GET", "/state")[:-3],
            "a cut that stops": head(client, "PUT", "/films/film/cut", Content_Length=1000) + b"{",
            "a film that stops": head(client, "PUT", "/films/new.mp4", Content_Length=10_000_000) + bytes(100_000),
            "a chunk that stops": head(client, "PUT", "/films/film/cut", Transfer_Encoding="chunked") + b"fff\r\n{",
            "a stranger's film": head(client, "PUT", "/films/new.mp4", Content_Length=10_000, Cookie="") + b"x",
        }
        connections = {name: stack.enter_context(connect(client)) for name in stopped}
        for name, sent in stopped.items():
            connections[name].sendall(sent)
        slow = {
            "a slow request": head(client, "GET", "/state", Padding="x" * 1000),
            "a slow cut": head(client, "PUT", "/films/film/cut", Content_Length=1000) + b"[" * 1000,
            "a slow film": head(client, "PUT", "/films/slow.mp4", Content_Length=1000) + bytes(1000),
        }
        trickles = {name: stack.enter_context(connect(client)) for name in slow}
        starts = {
            name: text.find(b"Padding") if name == "a slow request" else text.find(b"\r\n\r\n") + 4
            for name, text in slow.items()
        }
        for name, text in slow.items():
            trickles[name].sendall(text[: starts[name]])
        idle = [stack.enter_context(connect(client)) for _ in range(200)]

        assert client.send("GET", "/films/film/")[0] == 200
        sent = 0

        def all_closed() -> bool:
            nonlocal sent
            for name in [name for name in trickles if not is_closed(trickles[name])]:
                with contextlib.suppress(OSError):
                    trickles[name].sendall(slow[name][starts[name] + sent : starts[name] + sent + 1])
            sent += 1
            time.sleep(0.1)
            return all(map(is_closed, [*connections.values(), *trickles.values(), *idle]))

        wait_until(all_closed, client.process, seconds=30)
        assert sent < 900  # else they have been answered
        wait_until(lambda: tree(client.root) == before, client.process)
        assert client.state()["films"].keys() == {"film"}


def steady_clients(client) -> None:
    """One sends a film for more than two windows, then several requests at once."""
    film = (client.root.parent / "films" / "film.mp4").read_bytes()
    with connect(client) as connection:
        connection.sendall(head(client, "PUT", "/films/new.mp4", Content_Length=len(film)))
        parts = 12
        for part in range(parts):
            connection.sendall(film[len(film) * part // parts : len(film) * (part + 1) // parts])
            time.sleep(3 * WINDOW_S / parts)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert (client.root / "new.mp4").read_bytes() == film
        connection.sendall(head(client, "GET", "/state") * 20)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 20:
            received = connection.recv(100_000)
            assert received, "closed"
            answers += received
        client.send("DELETE", "/films/new/work")


def a_client_that_the_studio_paused(client) -> None:
    """It could not send for longer than a window."""
    with connect(client) as connection:
        connection.sendall(head(client, "PUT", "/films/new.mp4", Content_Length=66_101) + b"x")
        stage = client.root / ".new.mp4.stage"
        wait_until((stage / "new" / "new.mp4").exists, client.process)  # the slow write has begun
        connection.sendall(bytes(66_000))  # more than uvicorn buffers: it pauses reading until the write ends
        time.sleep(4.4)
        connection.sendall(bytes(100))
        assert connection.recv(100).startswith(b"HTTP/1.1 400")  # no film, but complete


def a_client_of_short_requests(client) -> None:
    """It sends few bytes in a window, but finishes each request."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)) as kept:
        for _ in range(8):
            kept.request("GET", "/state", headers={"Cookie": client.cookie})
            answer = kept.getresponse()
            assert (answer.status, json.loads(answer.read())["films"][0]["name"]) == (200, "film")
            time.sleep(0.3 * WINDOW_S)


CLIENTS = {
    slow_and_idle_clients: SHORT_WINDOW,
    steady_clients: SHORT_WINDOW,
    a_client_that_the_studio_paused: SLOW_DISK,
    a_client_of_short_requests: SHORT_WINDOW,
}


@pytest.fixture(scope="module")
def ended(serve, made, tmp_path_factory):
    """Lets all clients talk to a studio each, at the same time, as most of them wait; the outcomes by client."""
    with contextlib.ExitStack() as studios, concurrent.futures.ThreadPoolExecutor() as threads:
        talking = {}
        for talk, program in CLIENTS.items():
            root = tmp_path_factory.mktemp("studio") / "summaries"
            root.mkdir()
            made.add(root, "film")
            (root.parent / "program.py").write_text(program)
            client = studios.enter_context(serve(root, run=[root.parent / "program.py"]))
            talking[talk] = threads.submit(talk, client)
        concurrent.futures.wait(talking.values())
        yield talking


@pytest.mark.parametrize("talk", CLIENTS, ids=lambda talk: talk.__name__)
def test_clients_are_cut_off_only_if_they_are_slow(ended, talk):
    ended[talk].result()
