"""Serve an export by HTTP and gRPC until SIGTERM or Ctrl-C, then answer what has come, and end."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from kerazoo.errors import InputError, KerazooError, RunError
from kerazoo.exports.formats.table import SAVED_MODEL_FORMAT, find_formats
from kerazoo.exports.layout import SAVED_MODEL, is_version
from kerazoo.serving.http.door import LOCAL, Door
from kerazoo.serving.http.people import People
from kerazoo.serving.http.protocol import BoundedProtocol
from kerazoo.serving.limits import Limits
from kerazoo.serving.looking import Looking
from kerazoo.serving.metrics import Metrics
from kerazoo.serving.rpc.server import grpc_server, set_health
from kerazoo.serving.service import Service
from kerazoo.serving.versions import Versions

log = logging.getLogger("kerazoo")

NOTICE = 1.0  # seconds between "not ready" and the end of listening, so that balancers and clients go elsewhere
GRACE = 60.0  # seconds for what has come before
KEEP_ALIVE = 75  # seconds until an idle connection is closed
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
        return self.host in LOCAL


def versions_of(export: str | Path, limits: Limits, format: str = SAVED_MODEL_FORMAT) -> Versions:
    """The versions of saved_models/NAME, or the one that saved_models/NAME/VERSION names. Raises RunError."""
    find_formats([format], needed=False)
    folder = Path(export)
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
    """A server of `versions`, which are loaded. `ready` is called with what it listens to, once it does."""

    def __init__(
        self, versions: Versions, limits: Limits, address: Address, *, token: str = "", looking: Looking | None = None
    ) -> None:
        self._versions = versions
        self._limits = limits
        self._address = address
        self._token = token
        self._looking = looking
        self._stop = asyncio.Event()

    def run(self, ready: Callable[[str, str], None]) -> None:
        """Serve until SIGTERM, SIGINT or `stop`."""
        with suppress(ImportError):
            import uvloop

            uvloop.run(self._run(ready))
            return
        asyncio.run(self._run(ready))

    def stop(self) -> None:
        """Begin to stop; from the event loop's thread."""
        self._stop.set()

    async def _run(self, ready: Callable[[str, str], None]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(ValueError, NotImplementedError, RuntimeError):  # not the main thread
                loop.add_signal_handler(number, self._stop.set)
        service = Service(self._versions, self._limits)
        metrics = Metrics(service)
        handle = People(service, metrics, self._looking)
        door = Door(handle, service, metrics, token=self._token, local=self._address.is_local)
        listening = _bound(self._address.host, self._address.port)
        web = _Web(_config(door))
        rpc, probes, rpc_at = await self._start_grpc(service, metrics)
        serving = asyncio.create_task(web.serve([listening]))
        while not web.started and not serving.done():
            await asyncio.sleep(0.01)
        try:
            self._versions.watch()
            ready("http://{}:{}".format(*_shown(listening)), rpc_at)
            await asyncio.wait({serving, asyncio.ensure_future(self._stop.wait())}, return_when="FIRST_COMPLETED")
            service.draining = True
            if probes is not None:
                await set_health(probes, serving=False)
            await asyncio.sleep(NOTICE)
            stopping = rpc.stop(GRACE) if rpc is not None else asyncio.sleep(0)
            web.should_exit = True
            await asyncio.gather(stopping, serving)
        finally:
            service.close()
            if self._looking is not None:
                self._looking.close()

    async def _start_grpc(self, service: Service, metrics: Metrics) -> tuple[Any, Any, str]:
        if self._address.grpc_port is None:
            return None, None, ""
        server, probes = grpc_server(service, metrics, self._token)
        host = self._address.host
        place = f"[{host}]" if ":" in host else host
        try:
            port = server.add_insecure_port(f"{place}:{self._address.grpc_port}")
        except RuntimeError as error:
            raise _cannot_listen(host, self._address.grpc_port, "--grpc-port", "it is in use") from error
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


def _bound(host: str, port: int) -> socket.socket:
    try:
        (family, _, _, _, place), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD * 1000)
        listening.bind(place)
        listening.listen(2048)
    except OSError as error:
        raise _cannot_listen(host, port, "--port", error.strerror or str(error)) from error
    listening.setblocking(False)
    return listening


def _cannot_listen(host: str, port: int, flag: str, reason: str) -> KerazooError:
    return KerazooError(f"the server cannot listen on {host}:{port}: {reason}; choose another port ({flag})")


def _shown(listening: socket.socket) -> tuple[str, int]:
    host, port = listening.getsockname()[:2]
    return (f"[{host}]" if ":" in host else host), port
