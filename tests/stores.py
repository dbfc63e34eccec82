"""Object stores on this machine: emulators of GCS and S3, behind a proxy that can fail as networks do."""

import http.client
import http.server
import itertools
import logging
import threading
from collections.abc import Callable
from typing import Any

import fsspec

BUCKET = "bucket"


class Store:
    """An emulated store; commands that run with the variables in `environment` use it.

    Attributes:
      url: a place in the store.
      environment: variables that direct a process to the store.
      fails: whether the request with this number is answered with status 503.
      gone: whether connections are closed without an answer.
      requests: the method and path of each request.
    """

    def __init__(self, scheme: str, name: str, upstream: int, stop: Callable[[], object]):
        self.url = f"{scheme}://{BUCKET}/{name}"
        self.fails: Callable[[int], bool] = lambda number: False
        self.gone = False
        self.requests: list[tuple[str, str]] = []
        self._stop, self._count, self._one = stop, itertools.count(), threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler(upstream))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that was killed
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": place,
            "FSSPEC_GS_TOKEN": "anon",
            "AWS_ENDPOINT_URL": place,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def files(self) -> Any:
        """The store as a file system without caches."""
        options = {"token": "anon", "endpoint_url": self.environment["STORAGE_EMULATOR_HOST"]}
        if self.url.startswith("s3"):
            options = {"key": "key", "secret": "secret", "endpoint_url": self.environment["AWS_ENDPOINT_URL"]}
        return fsspec.filesystem(self.url[:2], skip_instance_cache=True, use_listings_cache=False, **options)

    def names(self, url: str) -> list[str]:
        """The names of the objects at a place in the store."""
        root = url.split("://")[1]
        return sorted(name.removeprefix(f"{root}/") for name in self.files().find(root))

    def close(self) -> None:
        """Stops the proxy and the emulator."""
        self._server.shutdown()
        self._server.server_close()
        self._stop()

    def ask(
        self, upstream: int, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes]:
        """Forwards a request to the emulator: one at a time, and again if it resets the connection, as GCS's does.

        Returns:
          the answer's status, headers and body.
        """
        headers = {name: value for name, value in headers.items() if name.lower() != "expect"}
        with self._one:
            for _ in range(5):
                connection = http.client.HTTPConnection("127.0.0.1", upstream)
                try:
                    connection.request(method, path, body, headers)
                    found = connection.getresponse()
                    return found.status, dict(found.headers), found.read()
                except ConnectionError:
                    continue
                finally:
                    connection.close()
        return 503, {}, b""

    def _handler(self, upstream: int) -> type[http.server.BaseHTTPRequestHandler]:
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # answers `Expect: 100-continue`, which S3's clients wait for

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                store.requests.append((self.command, self.path))
                if store.gone:
                    self.close_connection = True
                    self.connection.close()
                elif store.fails(next(store._count)):
                    self.answer(503, {"Content-Type": "text/plain"}, b"try later")
                else:
                    self.answer(*store.ask(upstream, self.command, self.path, body, dict(self.headers)))

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        length = name.lower() == "content-length" and self.command != "HEAD"
                        self.send_header(name, str(len(body)) if length else value)
                if "content-length" not in {name.lower() for name in headers}:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if self.command != "HEAD" else b"")

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = forward  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def serve(scheme: str, name: str) -> Store:
    """Starts an emulator of the store that a scheme names, with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    logging.getLogger("gcp_storage_emulator").setLevel(logging.ERROR)
    if scheme == "gs":
        from gcp_storage_emulator.server import create_server

        server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
        server.start()
        return Store(scheme, name, server._api._httpd.server_port if hasattr(server, "_api") else 0, server.stop)
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    store = Store(scheme, name, server.get_host_and_port()[1], server.stop)
    store.files().mkdir(BUCKET)
    return store
