"""Serve an export by HTTP and gRPC until SIGTERM or Ctrl-C, then answer what has come, and end."""

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from kerazoo.errors import InputError, KerazooError, RunError
from kerazoo.exports.formats.table import SAVED_MODEL_FORMAT, find_formats
from kerazoo.exports.layout import SAVED_MODEL, is_version
from kerazoo.serving.http.door import LOCAL, Door
from kerazoo.serving.http.people import People
from kerazoo.serving.http.protocol import BoundedProtocol
from kerazoo.serving.limits import Limits
from kerazoo.serving.log_thread import LogThread, log_in_thread
from kerazoo.serving.looking import Looking
from kerazoo.serving.metrics import Metrics
from kerazoo.serving.rpc.server import grpc_server, set_health
from kerazoo.serving.service import Service
from kerazoo.serving.versions import Versions

T = TypeVar("T")
EXPORTS = Path("saved_models")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
NOTICE = 1.0  # seconds between "not ready" and the end of listening, so that balancers and clients go elsewhere
GRACE = 60.0  # seconds for what has come before
KEEP_ALIVE = 75  # seconds until an idle connection is closed
POLL = 0.2  # seconds between two looks at what asks to stop
UNREAD = 30  # seconds until a connection is closed whose client does not read its answers


@dataclass(frozen=True)
class Address:
    """Where a server listens: `host`, `port` (0 for a free one), `grpc_port` (0 for a free one, None for no gRPC)."""

    host: str = "127.0.0.1"
    port: int = 8501
    grpc_port: int | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host in LOCAL


def versions_of(export: str | Path, limits: Limits, format: str = SAVED_MODEL_FORMAT) -> Versions:
    """The versions of saved_models/NAME, or the one that saved_models/NAME/VERSION names. Raises RunError."""
    find_formats([format], needed=False)
    folder = Path(export)
    if not folder.exists() and (EXPORTS / folder).is_dir():
        folder = EXPORTS / folder
    if (folder / SAVED_MODEL).is_file():
        if not is_version(folder.name):
            raise RunError(f"{folder} must have a version number as its name, such as saved_models/NAME/1")
        return Versions(folder.parent, limits, format=format, pinned=int(folder.name))
    if not folder.is_dir() or not any(is_version(one.name) for one in folder.iterdir()):
        raise RunError(f"there is no export {os.fspath(export)}; give a folder that `kerazoo export` made")
    return Versions(folder, limits, format=format)


def read_token(file: str | Path) -> str:
    """The token in a file, without the end of its line. Raises InputError."""
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {os.fspath(file)} cannot be read: {error}") from error
    if len(token) < 16 or not token.isascii() or any(one.isspace() for one in token):
        raise InputError(
            f"the token in {os.fspath(file)} must have 16 or more letters and digits without spaces; "
            'make one: python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return token


class Server:
    """A server of `versions`, which are loaded, on a socket that `bound` gave."""

    def __init__(
        self,
        versions: Versions,
        limits: Limits,
        address: Address,
        listening: socket.socket,
        *,
        token: str = "",
        looking: Looking | None = None,
    ) -> None:
        self._versions = versions
        self._limits = limits
        self._address = address
        self._listening = listening
        self._token = token
        self._looking = looking

    def run(self, ready: Callable[[str, str], None], stop: threading.Event | None = None) -> bool:
        """Serve until SIGTERM, SIGINT or `stop`; a second signal ends it at once. `ready` is given the addresses.

        Returns whether every thread has ended. One that has not is in TensorFlow, and would keep the process alive.
        """
        before = [(number, signal.getsignal(number)) for number in SIGNALS]
        try:
            with log_in_thread() as writer:
                return _run_loop(self._run(ready, stop, writer))
        finally:
            for number, handler in before:
                with suppress(ValueError):  # not the main thread, which alone has handlers
                    signal.signal(number, handler)
            self._versions.join()  # a process must not end while TensorFlow loads a version
            if self._looking is not None:
                self._looking.close()

    async def _run(
        self, ready: Callable[[str, str], None], stop: threading.Event | None, writer: LogThread
    ) -> bool:  # fmt: skip
        signaled = asyncio.Queue[int]()
        _handle_signals(signaled)
        service = Service(self._versions, self._limits)
        metrics = Metrics(service, writer)
        door = Door(
            People(service, metrics, self._looking), service, metrics, token=self._token, local=self._address.is_local
        )
        web = _Web(_config(door))
        rpc = probes = None
        try:
            rpc, probes, rpc_at = await self._start_grpc(service, metrics)
            serving = asyncio.create_task(web.serve([self._listening]))
            while not web.started and not serving.done():
                await asyncio.sleep(0.01)
            self._versions.watch()
            ready("http://{}:{}".format(*_shown(self._listening)), rpc_at)
            await _first(serving, signaled.get(), _is_set(stop))
            service.draining = True
            if probes is not None:
                await set_health(probes, serving=False)
            await _first(asyncio.sleep(NOTICE), signaled.get())
            web.should_exit = True
            await _first(_ended(serving, service, rpc), signaled.get())
            web.force_exit = True
            await serving
        finally:
            self._listening.close()
            service.close()
            if rpc is not None:
                await rpc.stop(0)
        return not service.is_busy

    async def _start_grpc(self, service: Service, metrics: Metrics) -> tuple[Any, Any, str]:
        if self._address.grpc_port is None:
            return None, None, ""
        server, probes = grpc_server(service, metrics, self._token)
        host = self._address.host
        place = f"[{host}]" if ":" in host else host
        try:
            port = server.add_insecure_port(f"{place}:{self._address.grpc_port}")
        except RuntimeError as error:
            raise _cannot_listen(
                host, self._address.grpc_port, "--grpc-port", "it is in use, or not allowed"
            ) from error
        await server.start()
        await set_health(probes, serving=True)
        return server, probes, f"{place}:{port}"


class _Web(uvicorn.Server):
    def capture_signals(self) -> Any:
        return nullcontext()  # `Server` has its own


def _config(door: Door) -> uvicorn.Config:
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # its lines about each connection; ours are in `door`
    return uvicorn.Config(
        door, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=int(GRACE),
    )  # fmt: skip


def bound(address: Address) -> socket.socket:
    """A socket for HTTP. Raises InputError for an unknown host, KerazooError if the port cannot be used."""
    host, port = address.host, address.port
    try:
        (family, _, _, _, place), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"host={host!r} is no address of this machine: {error.strerror}; change --host") from error
    listening = socket.socket(family)
    try:
        if os.name == "posix":  # elsewhere, it lets a second server take the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD * 1000)
        listening.bind(place)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise _cannot_listen(host, port, "--port", error.strerror or str(error)) from error
    listening.setblocking(False)
    return listening


def _run_loop(main: Coroutine[Any, Any, T]) -> T:
    make: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):
        import uvloop

        make = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main)


def _handle_signals(signaled: "asyncio.Queue[int]") -> None:
    """Put SIGTERM and Ctrl-C into the queue, if this is the main thread, which alone gets them."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        try:
            loop.add_signal_handler(number, signaled.put_nowait, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(signaled.put_nowait, number))
        except (ValueError, RuntimeError):
            return


async def _first(*waits: Awaitable[Any]) -> None:
    """Wait until one of them is done, and give up the others, but not a task that was made before."""
    tasks = [asyncio.ensure_future(one) for one in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for given, task in zip(waits, tasks, strict=True):
        if given is not task:
            task.cancel()


async def _is_set(stop: threading.Event | None) -> None:
    while stop is None or not stop.is_set():
        await asyncio.sleep(POLL)


async def _ended(serving: "asyncio.Task[None]", service: Service, rpc: Any) -> None:
    """Wait for all answers, at most GRACE. Streams of health have no end, and are closed then."""
    end = time.monotonic() + GRACE
    while service.requests.used and time.monotonic() < end:
        await asyncio.sleep(0.05)
    if rpc is not None:
        await rpc.stop(1)
    await asyncio.wait({serving}, timeout=max(1.0, end - time.monotonic()))


def _cannot_listen(host: str, port: int, flag: str, reason: str) -> KerazooError:
    return KerazooError(f"the server cannot listen on {host}:{port}: {reason}; choose another port ({flag})")


def _shown(listening: socket.socket) -> tuple[str, int]:
    host, port = listening.getsockname()[:2]
    return (f"[{host}]" if ":" in host else host), port
