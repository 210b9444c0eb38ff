"""A loopback server that answers as Hugging Face does, and as Kaggle does, for the files of one folder."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """`faults`: "hash" changes a byte of the weights, "cut" ends the connection in the middle of them."""

    protocol_version = "HTTP/1.1"
    folder: Path
    faults: set[str]
    seen: list[str]

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = urlsplit(self.path).path
        self.seen.append(f"{self.command} {path}")
        names = sorted(file.name for file in self.folder.iterdir())
        if "/tree/" in path:
            self.send(json.dumps([self.row(name) for name in names]).encode())
        elif path.startswith("/api/models/"):
            self.send(
                json.dumps({"id": "u/tiny", "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}).encode()
            )
        elif "/resolve/" in path:
            self.file(path.rsplit("/", 1)[-1], names)
        elif path.endswith("ListModelInstanceVersionFiles"):
            self.send(json.dumps({"files": [{"name": name} for name in names], "nextPageToken": ""}).encode())
        elif path.endswith("DownloadModelInstanceVersion"):
            self.file(json.loads(body).get("path", ""), names)
        else:
            self.send(b'{"error": "no such thing"}', status=404)

    def row(self, name):
        content = (self.folder / name).read_bytes()
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def file(self, name, names):
        if name not in names:
            self.send(b"{}", status=404, more={"X-Error-Code": "EntryNotFound"})
            return
        content = (self.folder / name).read_bytes()
        is_big = name.endswith(".h5")
        tag = hashlib.sha256(content).hexdigest() if is_big else hashlib.sha1(content).hexdigest()
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        if is_big and "hash" in self.faults:
            content = content[:-1] + bytes([content[-1] ^ 1])
        more = {
            "Content-Type": "application/octet-stream",
            "ETag": f'"{tag}"',
            "X-Repo-Commit": COMMIT,
            "x-goog-hash": f"md5={md5}",
        }
        if is_big:
            more |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
        self.send(content, more=more, cut=is_big and "cut" in self.faults)

    def send(self, content, *, status=200, more=None, cut=False):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for key, value in {"Content-Type": "application/json", **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut and self.command != "HEAD":
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *args):
        pass


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[tuple[str, type[Hub]]]:
    """(the address of the server, its class, whose `faults` and `seen` can be changed and read)."""
    kind = type("Hub", (Hub,), {"folder": folder, "faults": set(), "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", port), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", kind
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
