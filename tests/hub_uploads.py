"""A loopback server that takes uploads as the Hugging Face hub does: create, preupload, LFS, commit."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

LARGE = 5_000  # bytes; larger files go by LFS


class Uploads(BaseHTTPRequestHandler):
    """`files` is what the repository holds; `refuses` is a status with which it answers every write."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    stored: dict[str, bytes]
    seen: list[tuple[str, object]]
    refuses: int

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def do_PUT(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        digest = self.path.rsplit("/", 1)[-1]
        assert hashlib.sha256(content).hexdigest() == digest
        self.stored[digest] = content
        self.send({})

    def answer(self, body):
        path = urlsplit(self.path).path
        here = f"http://{self.headers['Host']}"
        self.seen.append((f"{self.command} {path}", self.headers.get("Authorization")))
        if self.command == "POST" and self.refuses:
            self.send({"error": "no"}, self.refuses)
        elif path == "/api/repos/create":
            values = json.loads(body)
            self.seen.append(("create", values))
            self.send({"url": f"{here}/{values.get('organization', 'ada')}/{values['name']}"})
        elif "/preupload/" in path:
            asked = json.loads(body)["files"]
            rows = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] > LARGE else "regular", "shouldIgnore": False}
                for f in asked
            ]
            self.send({"files": rows})
        elif path.endswith("/objects/batch"):
            wanted = json.loads(body)["objects"]
            rows = [{**one, "actions": {"upload": {"href": f"{here}/put/{one['oid']}"}}} for one in wanted]
            self.send({"transfer": "basic", "objects": rows})
        elif "/commit/" in path:
            self.commit([json.loads(line) for line in body.decode().splitlines()])
            self.send({"commitUrl": f"{here}/ada/first/commit/{'a' * 40}", "commitOid": "a" * 40, "success": True})
        elif "/tree/" in path:
            self.send([{"type": "file", "path": name, "size": 1, "oid": "b" * 40} for name in self.files])
        else:
            self.send({"id": "ada/first", "sha": "a" * 40, "siblings": [{"rfilename": name} for name in self.files]})

    def commit(self, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.files[value["path"]]

    def send(self, values, status=200):
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words):
        pass


@contextmanager
def serving(**files: bytes) -> Iterator[tuple[type[Uploads], str]]:
    """Inside, (the handler's class, with what it saw, and the address of the server)."""
    kind = type("Here", (Uploads,), {"files": dict(files), "stored": {}, "seen": [], "refuses": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield kind, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
