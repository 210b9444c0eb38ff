"""Try the page of the format `web` in headless Chromium: it answers images from their bytes, as it will for its users.

A server on the loopback interface gives the page, one more script (`gate.js`) and the images, and takes the answers.
"""

import json
import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import GateError
from kerazoo.exports.formats import reference
from kerazoo.exports.formats.measuring import FEW
from kerazoo.exports.formats.table import SETTINGS
from kerazoo.exports.web.chromium import chromium, largest_memory, last_words

GATE = Path(__file__).with_name("page") / "gate.js"
SCRIPT = '<script type="module" src="gate.js"></script></body>'
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript",
         ".json": "application/json", ".wasm": "application/wasm"}  # fmt: skip
FOUND = "/gate/found"  # where the page sends what it found
SILENCE = 300  # seconds without a request, after which the page is given up


def browse(export: Path, files: Sequence[str], scratch: Path) -> dict[str, Any]:
    """What the page of `export` answers for `files`, and its measures, as `measuring.measure` writes them."""
    settings = reference.load(export / SETTINGS)
    some = [reference.fit(_decoded(file, settings), settings) for file in files[:FEW]]
    fitted = np.stack((some * FEW)[:FEW])
    page = Page(export / "web", files, fitted)
    profile = scratch / "browser"
    with page.serving() as address, chromium(f"{address}/gate.html", profile) as process:
        found = page.wait(process, profile)
        memory = largest_memory(process.pid)
    names, answers = settings["class_names"], found["answers"]
    if found["names"] != names:
        raise GateError(f"format web: the class names of its page are {found['names']}, and must be {names}")
    wrong = next((number for number, row in enumerate(answers) if isinstance(row, str)), None)
    if wrong is not None:
        raise GateError(f"format web does not answer {Path(files[wrong]).name}: {answers[wrong]}")
    odd = next((number for number, row in enumerate(answers) if None in row), None)  # not a number
    if odd is not None:
        raise GateError(f"format web answers {Path(files[odd]).name} with what is no finite number")
    for number, shown in found["shown"]:
        first = names[int(np.argmax(answers[number]))] if found["probabilities"] else names[0]
        if shown != first:
            raise GateError(
                f"format web: its page shows {shown!r} first for {Path(files[number]).name}, and not {first!r}"
            )
    return {**found, "answers": np.array(answers, np.float32), "memory": memory}


def _decoded(file: str, settings: dict[str, Any]) -> np.ndarray:
    try:
        return reference.decode(file, settings)
    except OSError as error:
        raise GateError(f"format web does not answer {Path(file).name}: {error}") from error


class Page:
    """The page in `folder`, and the images of the gate, as URLs."""

    def __init__(self, folder: Path, files: Sequence[str], fitted: np.ndarray) -> None:
        _, height, width, _ = fitted.shape
        asked = {"images": len(files), "height": height, "width": width}
        self.contents = {
            "/gate.html": (folder / "index.html").read_bytes().replace(b"</body>", SCRIPT.encode()),
            "/gate.js": GATE.read_bytes(),
            "/gate/asked": json.dumps(asked).encode(),
            "/gate/fitted": fitted.tobytes(),
        }
        self.files = {f"/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()}
        self.files |= {f"/gate/images/{number}": Path(file) for number, file in enumerate(files)}
        self.secret = secrets.token_urlsafe(16)
        self.found: queue.Queue[dict[str, Any]] = queue.Queue()
        self.heard = time.monotonic()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Inside, the page is served at the address that is given, which nobody else can guess."""
        server = Server(("127.0.0.1", 0), partial(Handler, self))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/{self.secret}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def get(self, path: str) -> bytes | None:
        """The contents at a URL's path, which begins with the secret; None if there are none."""
        name = self.name(path)
        if name in self.contents:
            return self.contents[name]
        return self.files[name].read_bytes() if name in self.files else None

    def name(self, path: str) -> str:
        """A URL's path without the secret, or "" if it has another one."""
        if not path.startswith(f"/{self.secret}/"):
            return ""
        self.heard = time.monotonic()
        return path.removeprefix(f"/{self.secret}")

    def wait(self, process: "subprocess.Popen[bytes]", profile: Path) -> dict[str, Any]:
        """What the page found in the browser that `process` is.

        Raises GateError if the page fails, or if the browser ends or is silent for too long.
        """
        while True:
            with suppress(queue.Empty):
                found = self.found.get(timeout=0.2)
                if "error" in found:
                    raise GateError(f"format web: its page fails in the browser: {found['error']}")
                return found
            if process.poll() is not None:
                raise GateError(f"format web: the browser ended by itself: {last_words(profile)}")
            if time.monotonic() - self.heard > SILENCE:
                raise GateError(f"format web: its page did nothing for {SILENCE} s in the browser")


class Server(ThreadingHTTPServer):
    """A server that says nothing of connections that a browser breaks off as it ends."""

    daemon_threads = True

    def handle_error(self, *arguments: Any) -> None:  # noqa: D102
        pass


class Handler(BaseHTTPRequestHandler):
    """Answers requests of the page."""

    protocol_version = "HTTP/1.1"

    def __init__(self, page: Page, *arguments: Any) -> None:
        self.page = page
        super().__init__(*arguments)

    def do_GET(self) -> None:  # noqa: D102
        content = self.page.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", KINDS.get(Path(self.path).suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def do_POST(self) -> None:  # noqa: D102
        known = self.page.name(self.path) == FOUND
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) if known else b""
        self.send_response(204 if known else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if known:
            self.page.found.put(json.loads(body))

    def log_message(self, *arguments: Any) -> None:  # noqa: D102
        pass
