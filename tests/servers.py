"""`kerazoo serve` in a process of its own, on free ports, for tests."""

import http.client
import json
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from conftest import make_images

import kerazoo

SECONDS = 60
DIGITS = tuple("0123456789")


def digits(folder: Path) -> Path:
    """An export called `digits` below `folder`, version 3, for 28 x 28 gray images in ten classes."""
    images = make_images(folder / "images", classes=DIGITS, count=6, size=28)
    settings = {"data.channels": 1, "data.validation": 0.5}
    run = kerazoo.train("bottleneck_cnn", images, epochs=1, settings=settings, name="digits", root=folder / "runs")
    first = run.export(root=folder / "saved_models").folder
    return first.rename(first.with_name("3")).parent


class Served:
    """A running server: `rest` and `grpc` are its addresses, `lines` what it wrote on standard error."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(process.stderr), daemon=True)
        self._reader.start()
        ready = process.stdout.readline()
        if not ready:
            process.wait(SECONDS)
            self._reader.join(SECONDS)
            close(process)
            raise RuntimeError("".join(self.lines)[-2000:])
        about = json.loads(ready)
        self.rest = about["http"]
        self.grpc = about["grpc"]

    @property
    def place(self) -> str:
        """HOST:PORT for HTTP."""
        return urlsplit(self.rest).netloc

    def ask(self, method: str, path: str, body: bytes | None = None, headers=(), seconds: float = SECONDS):
        """(status, headers, body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.place, timeout=seconds)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: bytes | None = None, headers=()):
        """(status, JSON) of one request."""
        status, _, content = self.ask(method, path, body, headers)
        return status, json.loads(content)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait. Returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code


def start(export: Path, *options: str, cwd: Path | None = None) -> subprocess.Popen:
    """The process of a server of `export`, on a free port unless `options` say otherwise."""
    command = [sys.executable, "-m", "kerazoo", "serve", str(export), "--port", "0", "--json", *options]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


@contextmanager
def serving(export: Path, *options: str, cwd: Path | None = None):
    """A server of `export`, which ends with the body."""
    process = start(export, *options, cwd=cwd)
    served = None
    try:
        served = Served(process)
        yield served
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(SECONDS)
        if served is not None:
            served._reader.join(SECONDS)
        close(process)


def close(process: subprocess.Popen) -> None:
    """Close the pipes of a process that ended."""
    process.stdout.close()
    process.stderr.close()
