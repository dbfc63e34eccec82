"""The studio's requests and its server."""

import dataclasses
import functools
import re
import secrets
import shutil
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from avmsnet_jax import json_file, unforeseen
from avmsnet_jax.data.sources import is_file_name
from avmsnet_jax.errors import UserError
from avmsnet_jax.media import films
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.staging import staged
from avmsnet_jax.studio.connections import TimedProtocol
from avmsnet_jax.studio.guard import HOST, Guard
from avmsnet_jax.studio.library import VIDEOS, Library, NotFoundError
from avmsnet_jax.studio.queue import Queue
from avmsnet_jax.summarization import cutlist, report

MOST_UPLOADED = 200_000_000_000  # bytes of a film
MOST_CUT = 64_000_000  # bytes; a two-hour film's cut.json has below 3 MB
_RESERVE = 500_000_000  # bytes that an upload leaves free, for the summary
_FILM_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm"}


class RefusedError(UserError):
    """A request that is refused; `status` is the HTTP status of the answer."""

    def __init__(self, message: str, status: HTTPStatus):
        super().__init__(message)
        self.status = status


class Studio:
    """The requests, one method each; `routes` gives their paths."""

    def __init__(self, root: Path):
        """`root` is the folder of the summaries."""
        self.library, self.queue = Library(root), Queue(root)
        self.library.recover()

    def routes(self) -> list[Route]:
        """The paths and methods of all requests."""
        film = "/films/{name}"
        return [
            Route("/", self.home),
            Route("/state", self.state),
            Route("/may-upload", self.may_upload),
            Route("/films/{file}", self.upload, methods=["PUT"]),
            Route(f"{film}/", self.page),
            Route(f"{film}/film", self.film),
            Route(f"{film}/picture.jpg", self.picture),
            *(Route(f"{film}/{video}", functools.partial(self.video, video)) for video in VIDEOS),
            Route(f"{film}/cut", self.save, methods=["PUT"]),
            Route(f"{film}/keyshots", self.write_key_shots, methods=["PUT"]),
            Route(f"{film}/work", self.start, methods=["POST"]),
            Route(f"{film}/work", self.cancel, methods=["DELETE"]),
        ]

    def home(self, request: Request) -> Response:
        """The list of films."""
        return HTMLResponse(_list_page(self._state()))

    def state(self, request: Request) -> Response:
        """The films and jobs, as JSON."""
        return JSONResponse(self._state())

    def page(self, request: Request) -> Response:
        """The report of a film, with the editor of its cut."""
        return HTMLResponse(self.library.page(request.path_params["name"]))

    def film(self, request: Request) -> Response:
        """The film, or the requested range of its bytes."""
        path = self.library.film(request.path_params["name"])
        return FileResponse(path, media_type=_FILM_TYPES.get(path.suffix.lower(), "application/octet-stream"))

    def video(self, file: str, request: Request) -> Response:
        """The summary or its overlay."""
        return FileResponse(self.library.file(request.path_params["name"], file), media_type="video/mp4")

    def picture(self, request: Request) -> Response:
        """A picture for the list."""
        return Response(self.library.picture(request.path_params["name"]), media_type="image/jpeg")

    async def save(self, request: Request) -> Response:
        """Saves the cut that was sent."""
        name, sent = request.path_params["name"], await _sent_json(request)
        self.queue.check_idle(name)
        await run_in_threadpool(self.library.save, name, sent)
        return JSONResponse({})

    async def write_key_shots(self, request: Request) -> Response:
        """Saves the cut that was sent, and writes its key shots beside the film."""
        name, sent = request.path_params["name"], await _sent_json(request)
        self.queue.check_idle(name)
        cut = await run_in_threadpool(self.library.save, name, sent)
        replace = request.query_params.get("replace") == "yes"
        try:
            path = await run_in_threadpool(functools.partial(self.library.write_key_shots, name, cut, replace=replace))
        except FileExistsError as error:
            return JSONResponse({"exists": str(error)})
        return JSONResponse({"path": str(path)})

    def start(self, request: Request) -> Response:
        """Queues a film: to be cut by its `cut.json`, or, without one, to be summarized by attention."""
        name = request.path_params["name"]
        film = self.library.film(name)
        try:
            cut = self.library.file(name, cutlist.CUT)
        except NotFoundError:
            self.queue.add(name, str(film))
            return JSONResponse({})
        if film.stem != name:
            raise UserError(f"the film is {film.name}, so that its summary's folder must be {film.stem}, not {name}")
        self.queue.add(name, f"--cut={cut}", "--overwrite", str(film))
        return JSONResponse({})

    def cancel(self, request: Request) -> Response:
        """Cancels the job of a film."""
        self.queue.cancel(request.path_params["name"])
        return JSONResponse({})

    def may_upload(self, request: Request) -> Response:
        """Whether a film may be uploaded; asked first, because browsers drop an answer that comes during an upload."""
        self._check_upload(request.query_params.get("file", ""), request.query_params.get("size", ""))
        return JSONResponse({})

    async def upload(self, request: Request) -> Response:
        """Copies a film into the folder and queues it to be summarized."""
        file = request.path_params["file"]
        length = self._check_upload(file, request.headers.get("content-length", ""))
        target = self.library.root / file
        with staged(target) as stage:
            with open(stage, "wb") as out:
                async for chunk in request.stream():
                    await run_in_threadpool(out.write, chunk)
            if stage.stat().st_size != length:
                raise RefusedError(f"{file} arrived incomplete; send it again", HTTPStatus.BAD_REQUEST)
            try:
                await run_in_threadpool(Movie(stage).info)
            except UserError as error:
                raise UserError(str(error).replace(str(stage), file)) from None
        self.queue.add(target.stem, str(target))
        return JSONResponse({"name": target.stem})

    def _check_upload(self, file: str, length: str) -> int:
        """The size of a film in bytes; raises RefusedError if it may not be uploaded."""
        root, stem = self.library.root, Path(file).stem
        if not is_file_name(file) or file.startswith(".") or not file.isprintable() or len(file.encode()) > 200:
            raise RefusedError(f"{file!r} cannot be the name of a film; rename it", HTTPStatus.BAD_REQUEST)
        if not films.among([root / file]):
            raise RefusedError(f"{file} has no suffix of a film, such as .mp4", HTTPStatus.BAD_REQUEST)
        if not re.fullmatch("[0-9]{1,18}", length):
            raise RefusedError(f"the size of {file} was not sent", HTTPStatus.LENGTH_REQUIRED)
        if int(length) > MOST_UPLOADED:
            gigabytes = MOST_UPLOADED // 10**9
            raise RefusedError(f"{file} has more than {gigabytes} GB", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if stem in {entry.name for entry in self.library.entries()} or (root / stem).exists():
            raise RefusedError(f'the folder already has a film named "{stem}"; rename the new one', HTTPStatus.CONFLICT)
        if shutil.disk_usage(root).free < int(length) + _RESERVE:
            raise RefusedError(
                f"the disk of {root} is too full for {file} and its summary; make room", HTTPStatus.INSUFFICIENT_STORAGE
            )
        return int(length)

    def _state(self) -> dict[str, Any]:
        return {
            "folder": str(self.library.root),
            "films": [dataclasses.asdict(entry) for entry in self.library.entries()],
            "jobs": self.queue.as_json(),
        }


def serve(root: Path, port: int) -> None:
    """Serves the studio until Ctrl-C or SIGTERM, and prints its address.

    Args:
      root: the folder of the summaries.
      port: 0 = a free one.

    Raises:
      UserError: the port is taken.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(f"cannot listen on port {port}: {error.strerror}; --port=0 takes a free one") from None
    port, token = listener.getsockname()[1], secrets.token_urlsafe(32)
    studio = Studio(root)
    handlers: dict[Any, Callable[..., Response]] = {
        UserError: _user_error,
        HTTPException: _http_error,
        ClientDisconnect: lambda request, error: Response(),  # the client is gone
        Exception: _unexpected_error,
    }
    app = Starlette(routes=studio.routes(), exception_handlers=handlers)
    app.router.redirect_slashes = False
    config = uvicorn.Config(
        Guard(app, port, token),
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    print(f"http://{HOST}:{port}/?token={token}\nOpen it in a browser; Ctrl-C ends it.", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises the signal again after its shutdown
    try:
        uvicorn.Server(config).run([listener])
    except KeyboardInterrupt:
        pass
    finally:
        left = studio.queue.close()
        listener.close()
    print("".join(f"{name}: stopped, as it was before\n" for name in left), end="", flush=True)


async def _sent_json(request: Request) -> Any:
    text = bytearray()
    async for chunk in request.stream():
        text += chunk
        if len(text) > MOST_CUT:
            raise RefusedError("the cut that was sent is too large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    try:
        return json_file.parse(text.decode(), "the cut that was sent", "reload the page")
    except UnicodeDecodeError:
        raise UserError("the cut that was sent is not UTF-8 text; reload the page") from None


def _list_page(state: dict[str, Any]) -> str:
    body, style, script = (
        (resources.files(__package__) / "page" / f"list.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
    )
    return report.document(
        "Film summaries", body, report.style() + style, report.script("dom.js") + script, state, connects=True
    )


def _user_error(request: Request, error: Exception) -> Response:
    status = HTTPStatus.BAD_REQUEST
    if isinstance(error, NotFoundError):
        status = HTTPStatus.NOT_FOUND
    elif isinstance(error, RefusedError):
        status = error.status
    return PlainTextResponse(f"{error}\n", status)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code)


def _unexpected_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse(unforeseen.report(error, name="studio") + "\n", HTTPStatus.INTERNAL_SERVER_ERROR)
