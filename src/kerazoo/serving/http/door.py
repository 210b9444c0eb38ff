"""The door of the server: reads a request whole within its limits, checks who asks, answers, counts and logs.

Every error is {"error": why}. A body that is too large is read to its end, within bounds, before the answer, because a
client that is still sending may not see one.
"""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from kerazoo.serving.codes import BUSY, RequestError
from kerazoo.serving.http.messages import Answer, Request, refusal
from kerazoo.serving.metrics import Metrics
from kerazoo.serving.service import Service

log = logging.getLogger("kerazoo")
access = logging.getLogger("kerazoo.access")

SLOW = 30.0  # seconds for a whole body, and more for a large one
SLOWEST = 50_000  # bytes per second
SMALL = 65_536  # bytes of a body for which there is always room
DRAINED = 4  # largest bodies that are read, to be thrown away, before a 413
BODIES = 8  # largest bodies that are in memory at a time
SHOWN = 200  # characters of a path in the log
OPEN = ("/", "/page.js", "/page.css", "/healthz", "/readyz")  # paths that need no token
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")

Handler = Callable[[Request], Awaitable[Answer]]
Scope = dict[str, Any]
Channel = Callable[..., Awaitable[Any]]


class Door:
    """The ASGI application around `handle`. With `local`, only requests to a local name are answered."""

    def __init__(
        self, handle: Handler, service: Service, metrics: Metrics, *, token: str = "", local: bool = True
    ) -> None:
        self._handle = handle
        self._service = service
        self._metrics = metrics
        self._token = token
        self._local = local
        self._room = Room(BODIES * service.limits.max_body)

    async def __call__(self, scope: Scope, receive: Channel, send: Channel) -> None:
        """Answer one request (ASGI 3)."""
        if scope["type"] != "http":
            return
        start = time.perf_counter()
        query = scope["query_string"]
        target = (scope["raw_path"] + (b"?" + query if query else b"")).decode("latin-1")
        request = Request(scope["method"], target, scope["headers"], b"")
        body = Body(receive, _length(request), self._service.limits.max_body, self._room)
        closing = False
        try:
            self._check(scope["path"], scope["http_version"], request)
            answer = await self._handle(replace(request, body=await body.read()))
        except RequestError as error:
            answer = refusal(error)
            closing = error.http in (408, 413) or not await body.finish()
        except Exception:
            log.exception("a request failed")
            answer = refusal(RequestError("the server failed; its log says why", "INTERNAL"))
        finally:
            await body.close()
        seconds = time.perf_counter() - start
        if answer.api:
            self._metrics.count(answer.model, answer.api, answer.code, "REST", seconds)
        self._metrics.count_http(answer.status, body.received)
        _log_access(scope, target, answer, body.received, seconds)  # first: a client that has gone ends `_send`
        await _send(send, answer, closing or self._service.draining)

    def _check(self, path: str, version: str, request: Request) -> None:
        hosts = sum(name == b"host" for name, _ in request.headers)
        if hosts > 1 or (not hosts and version == "1.1"):
            raise RequestError(f"a request must have one Host header, got {hosts}")
        if self._local and hosts:
            _check_local("Host", request.header(b"host"))
        origin = request.header(b"origin")
        if self._local and origin and request.method == "POST":
            _check_local("Origin", origin.partition("://")[2] or origin)  # a page from a file sends "null"
        if self._token and path not in OPEN and not allowed(request.header(b"authorization"), self._token):
            raise RequestError("the header 'Authorization: Bearer TOKEN' is missing or wrong", "UNAUTHENTICATED")


class Body:
    """The body of one request. `length` is what its header announces, None if it does not."""

    def __init__(self, receive: Channel, length: int | None, most: int, room: "Room") -> None:
        self._receive = receive
        self._length = length
        self._most = most
        self._room = room
        self._taken = 0
        self._is_read = False
        self.received = 0

    async def read(self, *, keep: bool = True) -> bytes:
        """All of it, or nothing without `keep`. Raises RequestError if it is too large, too slow, or cut."""
        parts: list[bytes] = []
        self._is_read = True
        too_large = (self._length or 0) > self._most
        try:
            async with asyncio.timeout(SLOW + min(self._length or self._most, self._most) / SLOWEST):
                more = True
                while more and self.received <= DRAINED * self._most:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError("the connection was cut", "CANCELLED")
                    part = message.get("body", b"")
                    more = message.get("more_body", False)
                    self.received += len(part)
                    too_large = too_large or self.received > self._most
                    if too_large:
                        parts.clear()
                        await self.close()
                    elif keep:
                        await self._make_room(len(part))
                        parts.append(part)
        except TimeoutError as error:
            raise RequestError("the body came too slowly", http=408) from error
        if too_large:
            raise RequestError(f"the body has more than {self._most:,} bytes, the limit here (--max-body)", http=413)
        return b"".join(parts)

    async def finish(self) -> bool:
        """Read what nobody needs, so that the connection can be used again. False if it cannot."""
        if self._is_read:
            return True
        try:
            await self.read(keep=False)
        except RequestError:
            return False
        return True

    async def close(self) -> None:
        """Give the room back."""
        if self._taken:
            await self._room.give(self._taken)
            self._taken = 0

    async def _make_room(self, count: int) -> None:
        if self.received > SMALL:
            await self._room.take(count)
            self._taken += count


class Room:
    """Bytes of large bodies that may be in memory at a time. When it is full, they are not read on for a while."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._changed = asyncio.Condition()

    async def take(self, count: int) -> None:
        """Room for `count` bytes more. Raises RequestError if there is none for long."""
        try:
            async with asyncio.timeout(SLOW), self._changed:
                await self._changed.wait_for(lambda: self._used + count <= self._most)
                self._used += count
        except TimeoutError as error:
            raise RequestError("the server is busy with large requests; try again", BUSY) from error

    async def give(self, count: int) -> None:
        """Give room back."""
        async with self._changed:
            self._used -= count
            self._changed.notify_all()


def _check_local(header: str, name: str) -> None:
    """Raise RequestError unless a header names this machine, with or without a port."""
    if not {name.lower(), name.rpartition(":")[0].lower()} & set(LOCAL):
        raise RequestError(
            f"this server answers only to localhost: the {header} header names another (a web page may have sent it); "
            "start it with --host to answer to others", "PERMISSION_DENIED",
        )  # fmt: skip


def allowed(authorization: str, token: str) -> bool:
    """Whether the value of an authorization header is the bearer token."""
    kind, _, given = authorization.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def _length(request: Request) -> int | None:
    text = request.header(b"content-length")
    if text:
        return int(text) if text.isdigit() and len(text) < 19 else 2**62
    return None if request.header(b"transfer-encoding") else 0


async def _send(send: Channel, answer: Answer, closing: bool) -> None:
    headers = [(b"content-length", str(len(answer.body)).encode())]
    if answer.content_type is not None:
        headers.append((b"content-type", answer.content_type.encode()))
    headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    headers += [(b"x-content-type-options", b"nosniff")]
    if closing:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _log_access(scope: Scope, target: str, answer: Answer, received: int, seconds: float) -> None:
    client = scope.get("client")
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "client": client[0] if client else "",
        "method": scope["method"], "path": target[:SHOWN], "status": answer.status, "received": received,
        "sent": len(answer.body), "ms": round(seconds * 1000, 1),
    }  # fmt: skip
    access.info(json.dumps(line))
