"""Access control: the studio answers only pages of its own address that have its token."""

import secrets
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
_HEADERS = {
    "Cache-Control": "private, no-cache",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Refuses requests with another `Host` or `Origin`, or without the token.

    The token comes as `/?token=...`, which sets a cookie. Checking `Host` stops DNS rebinding, checking `Origin` stops
    requests that other sites make with the browser's cookie.
    """

    def __init__(self, app: ASGIApp, port: int, token: str):
        """Requests that pass go to `app`."""
        self._app, self._token = app, token
        self._hosts = {f"{HOST}:{port}"} | ({HOST} if port == 80 else set())
        self._cookie = f"avmsnet_studio_{port}"  # browsers send cookies to every port of a host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        answer = self._refused(request) or self._admitted(request)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await (answer or self._app)(scope, receive, send_with_headers)

    def _refused(self, request: Request) -> Response | None:
        hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return _refusal("the studio answers to its own address only; open the address that it printed")
        if any(origin.removeprefix("http://") not in self._hosts or "://" not in origin for origin in origins):
            return _refusal("another site's page may not use the studio")
        return None

    def _admitted(self, request: Request) -> Response | None:
        """Sets the cookie if the request has the token; returns None if it already has the cookie."""
        given = request.query_params.get("token")
        if given is not None and request.url.path == "/" and self._is_token(given):
            answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return answer
        if self._is_token(request.cookies.get(self._cookie, "")):
            return None
        return _refusal("open the address that the studio printed in the terminal, with its token")

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


def _refusal(why: str) -> Response:
    return PlainTextResponse(why + "\n", HTTPStatus.FORBIDDEN)
