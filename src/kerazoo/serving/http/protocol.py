"""uvicorn's HTTP protocol, with bounds on what a client may send before, between and after the parts of a request."""

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

CONNECTIONS = 1_000  # open at a time
HEAD = 65_536  # bytes of a request line and headers, with those that follow a chunked body
SECONDS = 20.0  # until they must be complete
PIPELINED = 100  # requests of a connection that wait until others of it are answered


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose requests have no end of headers, and those beyond `CONNECTIONS`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection was opened."""
        super().connection_made(transport)
        self._without_progress = 0  # bytes that have come since the last part of a request was complete
        self._head = 0  # bytes of the present request line and headers
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
        self._without_progress += len(data)
        super().data_received(data)
        if self._without_progress > HEAD:
            self._refuse(431, f"the headers have more than {HEAD:,} bytes")
        elif self._timer is None and self._is_idle:
            self._wait_for_head()  # empty lines, which begin no request, have ended the wait for one

    def on_message_begin(self) -> None:
        """The first byte of a request was read."""
        super().on_message_begin()
        self._head = 0
        if self._timer is None:
            self._wait_for_head()

    def on_url(self, url: bytes) -> None:
        """A part of the request line was read."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header was read, or what follows a chunked body."""
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The headers of a request were read."""
        self._without_progress = 0
        self._stop_waiting()
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINED:
            self._refuse(503, f"more than {PIPELINED} requests wait on this connection")
            raise ConnectionError  # which ends the parser

    def on_body(self, body: bytes) -> None:
        """A part of a body was read."""
        self._without_progress = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request was read to its end."""
        self._without_progress = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(400, msg)

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD:
            self._refuse(431, f"the headers have more than {HEAD:,} bytes")
            raise ConnectionError

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(SECONDS, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if not self._is_idle:
            self._wait_for_head()
        elif not self._without_progress:
            self.transport.close()
        else:
            self._refuse(408, "the headers came too slowly")

    def _refuse(self, status: int, words: str) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps({"error": words}).encode()
        head: list[Any] = [STATUS_LINE[status], b"content-type: application/json\r\nconnection: close\r\n"]
        head.append(b"content-length: %d\r\n\r\n" % len(body))
        self.transport.write(b"".join([*head, body]))
        self.transport.close()
