"""The command that serves an export: serve."""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from kerazoo import api
from kerazoo.cli.output import Json, print_json, say


def serve(
    export: Annotated[str, typer.Argument(help="An export: saved_models/NAME, or .../VERSION to keep to it.")],
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port for HTTP; 0 for a free one.")] = 8501,
    grpc_port: Annotated[
        int | None, typer.Option("--grpc-port", help="The port for gRPC; 0 for a free one. [default: no gRPC]")
    ] = None,
    format: Annotated[str, typer.Option("--format", help="What answers: saved_model, onnx, openvino, ...")] = (
        "saved_model"
    ),
    run: Annotated[
        str | None, typer.Option("--run", help="The run, for where the network looked. [default: the passport's]")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="A file with a token that requests must have.")
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", help="The most images that the network gets at once.")] = 32,
    batch_timeout: Annotated[
        float, typer.Option("--batch-timeout-ms", help="The longest wait of an image for others.")
    ] = 0.0,
    max_pixels: Annotated[int, typer.Option("--max-pixels", help="The most pixels of an image.")] = 35_000_000,
    max_body: Annotated[int, typer.Option("--max-body", help="The most bytes of a request.")] = 32_000_000,
    queue: Annotated[int, typer.Option("--queue", help="The most images that wait or are answered.")] = 256,
    as_json: Json = False,
) -> None:
    """Serve an export by HTTP and gRPC as TensorFlow Serving does, with a page, until SIGTERM or Ctrl-C."""

    def ready(http: str, grpc: str) -> None:
        if as_json:
            with suppress(OSError):  # a server that nobody listens to still answers
                print_json({"export": export, "http": http, "grpc": grpc or None})
                sys.stdout.flush()
            return
        also = f"; gRPC on {grpc}" if grpc else ""
        say(f"{export} is served on {http} (a page, /classify, /v1/models, /metrics){also}; Ctrl-C ends it")

    ended = api.serve(
        export, host=host, port=port, grpc_port=grpc_port, format=format, run=run, token_file=token_file,
        max_batch=max_batch, batch_timeout_ms=batch_timeout, max_pixels=max_pixels, max_body=max_body, queue=queue,
        ready=ready,
    )  # fmt: skip
    is_stuck = any(thread.name == "kerazoo-log" for thread in threading.enumerate())  # nobody reads standard error
    if not ended and not is_stuck:
        say("kerazoo: a request had no end, and its thread hangs; the process ends without it")
    if is_stuck or not ended:
        os._exit(0 if ended else 1)  # which waits for no thread
