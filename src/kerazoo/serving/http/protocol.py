"""uvicorn's HTTP protocol, with bounds on what a client may send before its request begins."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

CONNECTIONS = 1_000  # open at a time
HEAD = 65_536  # bytes of a request line and headers
SECONDS = 20.0  # until they must be complete


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose requests have no end of headers, and those beyond `CONNECTIONS`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection was opened."""
        super().connection_made(transport)
        self._unparsed = 0
        self._in_head = True
        self._timer: asyncio.TimerHandle | None = None
        if len(self.connections) > CONNECTIONS:
            self._refuse(503, "the server has too many connections; try again")
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection was closed."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        self._unparsed = self._unparsed + len(data) if self._in_head else 0
        if self._unparsed > HEAD and not self.transport.is_closing():
            self._refuse(431, f"the headers have more than {HEAD:,} bytes")

    def on_message_begin(self) -> None:
        """The first byte of a request was read."""
        super().on_message_begin()
        self._in_head = True
        if self._timer is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """The headers of a request were read."""
        self._in_head = False
        self._unparsed = 0
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, msg)

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(SECONDS, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self.cycle is None and not self._unparsed:
            self.transport.close()
        elif self._in_head and (self.cycle is None or self.cycle.response_complete):
            self._refuse(408, "the headers came too slowly")

    def _refuse(self, status: int, words: str) -> None:
        body = json.dumps({"error": words}).encode()
        head: list[Any] = [STATUS_LINE[status], b"content-type: application/json\r\nconnection: close\r\n"]
        head.append(b"content-length: %d\r\n\r\n" % len(body))
        self.transport.write(b"".join([*head, body]))
        self.transport.close()
