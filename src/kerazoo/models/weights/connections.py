"""Connections over http and https that are closed if they are too slow over a whole attempt.

A time limit for each read does not stop a server that sends one byte a minute, or slow headers. A watching thread
therefore closes the connection.
"""

import http.client
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

LEAST = 1000.0  # bytes a second, on average since the start of the attempt
CHECKS = 4  # checks in each time limit


class RedirectError(Exception):
    """A redirect to an address that is not allowed; the message is one line."""


class Watch:
    """A context that closes its connections if they transfer less than LEAST bytes a second.

    The first check is after `grace` seconds. Call `moved` with the number of received bytes. `slow` is whether the
    watch has closed the connections.
    """

    def __init__(self, grace: float) -> None:
        self.slow = False
        self._grace = grace
        self._bytes = 0
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def moved(self, count: int) -> None:
        """Count received bytes."""
        self._bytes += count

    def open(self, request: urllib.request.Request, timeout: float) -> Any:
        """The response to `request`, after redirects. Raises as `urlopen` does, and RedirectError."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(), _Http(self), _Https(self), _Redirects(), urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(),
        ):  # fmt: skip
            opener.add_handler(handler)
        return opener.open(request, timeout=timeout)

    def holds(self, opened: socket.socket) -> None:
        """Also close `opened` if the attempt is slow."""
        self._sockets.append(opened)

    def __enter__(self) -> "Watch":
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self._grace / CHECKS):
            seconds = time.monotonic() - self._start
            if seconds > self._grace and self._bytes < LEAST * seconds:
                self.slow = True
                for opened in self._sockets:
                    try:
                        opened.shutdown(socket.SHUT_RDWR)
                    except OSError:  # the server closed it first
                        continue


def _connecting(kind: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    """`kind`, whose connections are registered with `watch` before a byte is read."""

    def make(host: str, **given: Any) -> Any:
        connection = kind(host, **given)
        connect = connection.connect

        def watched() -> None:
            connect()
            watch.holds(connection.sock)

        connection.connect = watched
        return connection

    return make


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_connecting(http.client.HTTPConnection, self.watch), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_connecting(http.client.HTTPSConnection, self.watch), req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https, but not from https to http, because not all files have a known hash."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        old, new = (urllib.parse.urlsplit(url).scheme.lower() for url in (req.full_url, newurl))
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            _refuse(req, fp, newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = headers.get("Location", headers.get("URI", ""))
        scheme = urllib.parse.urlsplit(target).scheme.lower()
        if scheme not in ("", "http", "https"):  # urllib would follow ftp, and has its own error for others
            _refuse(req, fp, target)
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _refuse(request: Any, answer: Any, target: str) -> NoReturn:
    answer.close()
    raise RedirectError(f"{request.full_url} redirects to {target[:200]!r}, which is not allowed")
