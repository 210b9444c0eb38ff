"""Serve an export by HTTP and gRPC."""

import logging
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from kerazoo.api.runs import open_run
from kerazoo.api.settings import PathLike, path_of
from kerazoo.errors import InputError
from kerazoo.startup import start_tensorflow

if TYPE_CHECKING:
    from pathlib import Path

    from kerazoo.serving.limits import Limits

log = logging.getLogger("kerazoo")

PACKAGES = (
    "uvicorn", "httptools", "starlette", "python_multipart", "prometheus_client", "grpc", "grpc_health",
    "tensorflow_serving",
)  # fmt: skip


def serve(
    export: PathLike,
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
    grpc_port: int | None = None,
    format: str = "saved_model",
    run: PathLike | None = None,
    token_file: PathLike | None = None,
    max_batch: int = 32,
    batch_timeout_ms: float = 0.0,
    max_pixels: int = 35_000_000,
    max_body: int = 32_000_000,
    queue: int = 256,
    ready: Callable[[str, str], None] | None = None,
    stop: threading.Event | None = None,
) -> bool:
    """Serve an export in TensorFlow Serving's dialect until SIGTERM or Ctrl-C, then answer what has come, and return.

    Args:
        export: saved_models/NAME, whose highest version is served and replaced by a higher one, or
            saved_models/NAME/VERSION.
        host: The address to listen on; by default only this machine can reach it.
        port: The port for HTTP, 0 for a free one.
        grpc_port: The port for gRPC, 0 for a free one, None for no gRPC.
        format: What answers: "saved_model", or another format of the export.
        run: The run that the export was made from, for where the network looked. By default the one in runs/ that the
            passport names, if its weights are the same.
        token_file: A file with a token; then requests must have the header `Authorization: Bearer TOKEN`.
        max_batch: The most images that the network gets at once.
        batch_timeout_ms: How long the first image of a batch waits for others, in milliseconds.
        max_pixels: The most pixels of an image, by its header.
        max_body: The most bytes of a request's body.
        queue: The most images that wait or are answered at a time; more are refused, with HTTP's 503.
        ready: Called once with the addresses, such as "http://127.0.0.1:8501" and "127.0.0.1:8500", "" without gRPC.
        stop: Set it to end a server that runs in a thread, which gets no signals.

    Returns:
        Whether every request that had come has ended. If not, a thread hangs, and would keep the process from ending.

    Raises:
        RunError: if there is no such export, or it is damaged.
        InputError: if a value is out of range, or a package of `pip install 'kerazoo[serve]'` is not installed.
        KerazooError: if the port is in use.

    Example:
    ```python
    import os, signal


    def ready(http, grpc):
        print(http)  # http://127.0.0.1:8501
        os.kill(os.getpid(), signal.SIGTERM)  # how to stop it; without this, it serves until Ctrl-C


    kerazoo.serve("saved_models/first", port=0, ready=ready)
    ```
    """
    _check_installed()
    _check_no_loop()
    from kerazoo.serving.limits import Limits

    limits = Limits(max_batch, batch_timeout_ms, max_pixels, max_body, queue)
    for name, value in (("port", port), ("grpc_port", grpc_port)):
        if value is not None and not 0 <= value <= 65_535:
            raise InputError(f"{name}={value!r} must be 0 to 65,535")
    folder = None if run is None else open_run(path_of(run)).folder
    had_keras = sys.modules.get("keras") is not None
    start_tensorflow(keras=False)
    try:
        return _serve(path_of(export), limits, format, (host, port, grpc_port), token_file, folder, ready, stop)
    finally:
        if not had_keras:
            sys.modules.pop("keras", None)  # it was kept away from this import of TensorFlow only


def _serve(
    export: PathLike, limits: "Limits", format: str, place: tuple[str, int, int | None], token_file: PathLike | None,
    run: "Path | None", ready: Callable[[str, str], None] | None, stop: threading.Event | None,
) -> bool:  # fmt: skip
    from kerazoo.serving.looking import looking_of
    from kerazoo.serving.serve import Address, Server, bound, read_token, versions_of

    token = "" if token_file is None else read_token(path_of(token_file))
    versions = versions_of(export, limits, format)
    address = Address(*place)
    with bound(address) as listening:
        versions.load()
        if not address.is_local and not token:
            log.warning(
                f"{address.host} can be reached from other machines, and there is no token: anyone can ask "
                "(--token-file)"
            )
        looking = looking_of(versions.current.passport, run)
        server = Server(versions, limits, address, listening, token=token, looking=looking)
        return server.run(ready or (lambda http, grpc: None), stop)


def _check_no_loop() -> None:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InputError(
        "kerazoo.serve cannot run inside an event loop, which a notebook has; call it in a thread, and end it with "
        "stop=threading.Event()"
    )


def _check_installed() -> None:
    import importlib.util

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"a server needs {missing[0]}, which is not installed: pip install 'kerazoo[serve]'")
