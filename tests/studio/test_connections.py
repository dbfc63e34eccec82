"""Clients that are slow, stop in the middle, send nothing, or send several requests at once."""

import contextlib
import http.client
import json
import socket
import time

from tests.conftest import wait_until
from tests.studio.conftest import tree

WINDOW_S = 2  # instead of a minute
RUN = (
    "-c",
    "from avmsnet_jax.studio import connections; from avmsnet_jax.commands import run; "
    f"connections.WINDOW_S = {WINDOW_S}; run()",
)
# The window is two seconds, and the first write takes three.
SLOW_DISK = (
    "-c",
    """
import asyncio
from avmsnet_jax.commands import run
from avmsnet_jax.studio import app, connections

at_once, delays = app.run_in_threadpool, [3.0]

async def slowly(*work):
    await asyncio.sleep(delays.pop() if delays else 0)
    return await at_once(*work)

app.run_in_threadpool, connections.WINDOW_S = slowly, 2.0
run()
""",
)


def head(client, method: str, path: str, **headers: object) -> bytes:
    """The first lines of a request."""
    sent = {"Host": f"127.0.0.1:{client.port}", "Cookie": client.cookie} | headers
    lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in sent.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def connect(client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.port), timeout=20)


def is_closed(connection: socket.socket) -> bool:
    """Whether the studio has closed a connection; drops what it has answered."""
    connection.settimeout(0.01)
    try:
        while connection.recv(10_000):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_slow_and_idle_clients_are_cut_off_and_others_served(serve, made, tmp_path):
    root = tmp_path / "summaries"
    root.mkdir()
    made.add(root, "film")
    before = tree(root)
    with serve(root, run=RUN) as client, contextlib.ExitStack() as stack:
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
            time.sleep(0.03)
            return all(map(is_closed, [*connections.values(), *trickles.values(), *idle]))

        wait_until(all_closed, client.process, seconds=30)
        assert sent < 900  # else they have been answered
        wait_until(lambda: tree(root) == before, client.process)
        assert client.state()["films"].keys() == {"film"}


def test_steady_clients_are_not_cut_off(serve, made, tmp_path):
    root = tmp_path / "summaries"
    root.mkdir()
    film = made.summary.scores.film.read_bytes()
    with serve(root, run=RUN) as client, connect(client) as connection:
        connection.sendall(head(client, "PUT", "/films/new.mp4", Content_Length=len(film)))
        parts = 12
        for part in range(parts):  # for three windows
            connection.sendall(film[len(film) * part // parts : len(film) * (part + 1) // parts])
            time.sleep(3 * WINDOW_S / parts)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert (root / "new.mp4").read_bytes() == film
        connection.sendall(head(client, "GET", "/state") * 20)  # at once
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 20:
            received = connection.recv(100_000)
            assert received, "closed"
            answers += received
        client.send("DELETE", "/films/new/work")


def test_an_upload_that_the_studio_paused_is_not_slow(serve, made, tmp_path):
    root = tmp_path / "summaries"
    root.mkdir()
    with serve(root, run=SLOW_DISK) as client, connect(client) as connection:
        connection.sendall(head(client, "PUT", "/films/new.mp4", Content_Length=66_101) + b"x")
        wait_until((root / ".new.mp4.stage" / "new" / "new.mp4").exists, client.process)  # the slow write has begun
        connection.sendall(bytes(66_000))  # more than uvicorn buffers: it pauses reading until the write ends
        time.sleep(4.4)
        connection.sendall(bytes(100))
        assert connection.recv(100).startswith(b"HTTP/1.1 400")  # no film, but complete


def test_a_client_of_short_requests_is_not_cut_off(serve, tmp_path):
    """It sends few bytes in a window, but finishes each request."""
    root = tmp_path / "summaries"
    root.mkdir()
    with (
        serve(root, run=RUN) as client,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)) as kept,
    ):
        for _ in range(8):
            kept.request("GET", "/state", headers={"Cookie": client.cookie})
            answer = kept.getresponse()
            assert (answer.status, json.loads(answer.read())["films"]) == (200, [])
            time.sleep(0.3 * WINDOW_S)
