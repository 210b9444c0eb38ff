"""Our own paths: an image in, classes out; the page and what it shows; probes and metrics."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from kerazoo.errors import DataError, KerazooError
from kerazoo.exports.layout import DEFAULT
from kerazoo.serving.codes import BUSY, NOT_FOUND, RequestError
from kerazoo.serving.http import dialect
from kerazoo.serving.http.messages import Answer, Request, json_answer
from kerazoo.serving.http.multipart import uploaded
from kerazoo.serving.http.openapi import document
from kerazoo.serving.looking import Looking
from kerazoo.serving.metrics import Metrics
from kerazoo.serving.pools import Pool, Slots
from kerazoo.serving.service import Asked, Outputs, Service

PAGE = Path(__file__).parents[1] / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MONITORING = "/monitoring/prometheus/metrics"
TOP = 5

PICTURES = 2  # Grad-CAM pictures that wait or are made at a time


class People:
    """Answers every path. `looking` says where the network looked, if there is a run."""

    def __init__(self, service: Service, metrics: Metrics, looking: Looking | None = None) -> None:
        self._service = service
        self._metrics = metrics
        self._looking = looking
        self._pictures = Pool("grad-cam", 1)  # apart from the threads that decode, which it would hold up
        self._slots = Slots(PICTURES, "pictures")
        get: Mapping[str, Callable[[Request], Answer]] = {
            **dict.fromkeys(FILES, self._file),
            "/passport": self._passport,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/metrics": self._numbers,
            "/openapi.json": lambda _: json_answer(document(service.versions.name, service.limits)),
        }
        self._get = get
        post: Mapping[str, Callable[[Request], Awaitable[Answer]]] = {
            "/classify": self._classify,
            "/grad-cam": self._grad_cam,
        }
        self._post = post

    async def __call__(self, request: Request) -> Answer:
        """The answer to a request. Raises RequestError."""
        if request.target[: len(dialect.PREFIX)].lower() == dialect.PREFIX:
            return await dialect.answer(self._service, request)
        path = request.target.partition("?")[0]
        if path == MONITORING:
            return self._monitoring(request)
        allowed = ("GET", "HEAD") if path in self._get else ("POST",) if path in self._post else ()
        if not allowed:
            raise RequestError(f"there is nothing at {path[:200]}; see /openapi.json", NOT_FOUND)
        if request.method not in allowed:
            words = f"{path} takes {' and '.join(allowed)}, not {request.method}"
            return json_answer(
                {"error": words}, status=405, headers={"Allow": ", ".join(allowed)}, code="UNIMPLEMENTED"
            )
        return self._get[path](request) if path in self._get else await self._post[path](request)

    def _file(self, request: Request) -> Answer:
        name, kind = FILES[request.target.partition("?")[0]]
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        return Answer((PAGE / name).read_bytes(), content_type=f"{kind}; charset=utf-8", headers=headers)

    def _passport(self, _: Request) -> Answer:
        model = self._service.versions.current
        return json_answer(
            {
                "name": model.name, "version": model.version, "task": model.task.name, "format": model.format,
                "class_names": list(model.class_names), "metrics": model.passport.get("metrics", {}),
                "grad_cam": self._can_look, "passport": model.passport,
            }
        )  # fmt: skip

    def _health(self, _: Request) -> Answer:
        trouble = self._service.trouble()
        if trouble:
            raise RequestError(trouble, BUSY)
        return json_answer({"status": "ok"})

    def _ready(self, request: Request) -> Answer:
        if self._service.draining:
            raise RequestError("the server is stopping", BUSY)
        self._service.versions.find(self._service.versions.name)
        return self._health(request)

    def _numbers(self, _: Request) -> Answer:
        return Answer(self._metrics.page(), content_type="text/plain; version=0.0.4; charset=utf-8")

    def _monitoring(self, request: Request) -> Answer:
        """The metrics at TensorFlow Serving's path, which takes every method and no query."""
        if request.target == MONITORING:
            return Answer(self._metrics.page(), content_type="text/plain")
        words = f"Unexpected path: {request.target}. Should be {MONITORING}"
        return Answer(words.encode(), 400, content_type="text/plain", code="INVALID_ARGUMENT")

    async def _classify(self, request: Request) -> Answer:
        image = await _image(request)
        top = _top(request)

        def read() -> Asked:
            return Asked(self._service.versions.current, DEFAULT, np.array([image], object), refuse=True)

        def write(asked: Asked, outputs: Outputs) -> Answer:
            model = asked.model
            answer = outputs[model.task.main_output][0]
            labels = model.task.given(answer, model.class_names, model.thresholds)
            found: dict[str, Any] = model.task.top_json(model.task.top(answer, model.class_names, top), labels)
            return json_answer({**found, "model": model.name, "version": model.version})

        return await self._service.answer(read, write)

    async def _grad_cam(self, request: Request) -> Answer:
        if self._looking is None or not self._can_look:
            raise RequestError("the run of this version is not at hand; start the server with --run RUN", NOT_FOUND)
        image = await _image(request)
        self._slots.take(1)
        try:
            reason = await self._service.decoders.run(self._service.versions.current.engine.refused, image)
            if reason:
                raise RequestError(reason)
            picture = await self._pictures.run(self._looking.png, image)
        except DataError as error:
            raise RequestError(str(error)) from error
        except KerazooError as error:
            raise RequestError(str(error), "INTERNAL") from error
        finally:
            self._slots.give(1)
        return Answer(picture, content_type="image/png")

    @property
    def _can_look(self) -> bool:
        """Whether there is a run, and it has the weights of the served version."""
        weights = self._service.versions.current.passport.get("weights_sha256")
        return self._looking is not None and self._looking.weights == weights


async def _image(request: Request) -> bytes:
    kind = request.header(b"content-type")
    image = await uploaded(request) if kind.lower().startswith("multipart/") else request.body
    if not image:
        raise RequestError("the body must be an image, or a form with one file")
    return image


def _top(request: Request) -> int:
    (text,) = parse_qs(request.target.partition("?")[2], keep_blank_values=True).get("top", [str(TOP)])[-1:]
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 1 <= int(text) <= 10_000:
        raise RequestError(f"top={text[:50]!r} must be a whole number from 1 to 10,000")
    return int(text)
