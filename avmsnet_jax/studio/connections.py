"""Closes connections of clients that send too slowly, or nothing: uvicorn waits for them forever."""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

WINDOW_S = 60.0
LEAST_BYTES = 6000  # bytes per window that an unfinished request must receive


class TimedProtocol(H11Protocol):
    """HTTP/1.1 in which a request that is not finished must make progress."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._begin_window()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._received += len(data)
        super().data_received(data)
        self._was_paused |= self.flow.read_paused

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._window.cancel()
        super().connection_lost(exc)

    def _begin_window(self) -> None:
        self._received, self._before = 0, (self.cycle, self.conn.their_state)
        self._was_paused = self.flow.read_paused  # at any time in the window: then the client may have had to wait
        self._window = self.loop.call_later(WINDOW_S, self._end_window)

    def _end_window(self) -> None:
        state = self.conn.their_state
        awaits_client = state in (h11.IDLE, h11.SEND_BODY) and not self._was_paused
        if awaits_client and self._before == (self.cycle, state) and self._received < LEAST_BYTES:
            self.transport.abort()
        else:
            self._begin_window()
