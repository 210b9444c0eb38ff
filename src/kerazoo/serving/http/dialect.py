"""The paths of TensorFlow Serving's REST API, whose rules, order of checks and words these are.

Source: tensorflow_serving/model_servers/http_server.cc, http_rest_api_handler.cc and http_rest_api_util.cc. The path is
matched as it was sent, with its query; `tests/tensorflow_serving_cases.py` names the source of each case.
"""

import re
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from google.protobuf import json_format

from kerazoo.serving import signatures
from kerazoo.serving.codes import RequestError
from kerazoo.serving.http.messages import Answer, Request, json_answer, refusal
from kerazoo.serving.rest.answers import write_classes, write_predictions
from kerazoo.serving.rest.requests import Kinds, read_classify, read_predict
from kerazoo.serving.service import Asked, Service
from kerazoo.serving.versions import LARGEST

_VERSION = r"(?:(?:/versions/(?P<version>[0-9]+))|(?:/labels/(?P<label>[^/:]+)))?"
POST = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE)
GET = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<method>metadata))?", re.IGNORECASE)
PREFIX = "/v1/"
Body = Callable[[], bytes]  # unpacked where it is read, in a thread


@dataclass(frozen=True)
class Target:
    """What a path names."""

    name: str
    version: int | None
    label: str
    method: str


async def answer(service: Service, request: Request) -> Answer:
    """The answer to a request whose path begins with `PREFIX`."""
    if request.method == "OPTIONS":
        origin = request.header(b"origin")
        is_web = "http://" in origin or "https://" in origin
        return Answer(status=200 if is_web else 400, content_type=None, code="OK" if is_web else "INVALID_ARGUMENT")
    try:
        target = _target(request)
    except RequestError as error:
        return refusal(error)
    if target is None:  # a version beyond int64: there, the words get lost
        return Answer(status=400, code="INVALID_ARGUMENT")
    try:
        found = await _answer(service, request, target)
    except RequestError as error:
        found = refusal(error)
    return replace(found, model=target.name, api=target.method or "status")


async def _answer(service: Service, request: Request, target: Target) -> Answer:
    if request.method == "GET":
        if not target.name:
            raise RequestError("Missing model name in request.")
        if target.method == "metadata":
            return _metadata(service, target)
        return _status(service, target)
    read = {"predict": _predict, "classify": _classify, "regress": _regress}[target.method]
    return await read(service, target, lambda: _unpacked(request, service.limits.max_body))


def _unpacked(request: Request, most: int) -> bytes:
    if "gzip" not in request.header(b"content-encoding"):
        return request.body
    unpacker = zlib.decompressobj(wbits=31)
    try:
        body = unpacker.decompress(request.body, most + 1)
    except zlib.error:
        return b""  # there, too
    if len(body) > most:
        raise RequestError(f"the unpacked body has more than {most:,} bytes (--max-body)", http=413)
    return body if unpacker.eof else b""


def _target(request: Request) -> Target | None:
    pattern = {"POST": POST, "GET": GET}.get(request.method)
    match = pattern.fullmatch(request.target) if pattern else None
    method = (match["method"] or "") if match else ""
    if match is None or (request.method == "POST" and method != method.lower()):
        raise RequestError(f"Malformed request: {request.method} {request.target}")
    version = None if match["version"] is None else int(match["version"][:400])
    if version is not None and version > LARGEST:
        return None
    name, label = (urllib.parse.unquote(match[part] or "") for part in ("name", "label"))
    return Target(name, version, label, method)


async def _predict(service: Service, target: Target, body: Body) -> Answer:
    in_rows = True

    def read() -> Asked:
        nonlocal in_rows
        found: list[Any] = []

        def kinds(signature: str) -> Kinds:
            found.append(service.versions.find(target.name, target.version, target.label))
            return found[0].kinds(signature)  # type: ignore[no-any-return]

        request = read_predict(body(), kinds, service.limits.queue)
        in_rows = request.rows
        ((_, values),) = request.inputs.items()
        return Asked(found[0], request.signature, values, refuse=True)

    def write(asked: Asked, outputs: Mapping[str, np.ndarray]) -> Answer:
        return json_answer(write_predictions(outputs, rows=in_rows))

    return await service.answer(read, write)


async def _classify(service: Service, target: Target, body: Body) -> Answer:
    def read() -> Asked:
        signature, examples = read_classify(body(), service.limits.queue)
        model = service.versions.find(target.name, target.version, target.label)
        signatures.check_classify(model, signature)
        return Asked(model, signature, np.array([signatures.example_of(one) for one in examples], object), True)

    def write(asked: Asked, outputs: Mapping[str, np.ndarray]) -> Answer:
        labels, scores = signatures.classes_of(outputs)
        return json_answer(write_classes(labels, scores))

    return await service.answer(read, write)


async def _regress(service: Service, target: Target, body: Body) -> Answer:
    def read() -> Asked:
        signature, _ = read_classify(body(), service.limits.queue)
        model = service.versions.find(target.name, target.version, target.label)
        raise signatures.no_regression(model, signature)

    return await service.answer(read, lambda asked, outputs: Answer())  # never written


def _status(service: Service, target: Target) -> Answer:
    states = service.versions.states(target.name, target.version)
    rows = [
        {
            "version": str(one.version), "state": one.state,
            "status": {"error_code": one.code, "error_message": one.message},
        }
        for one in states
    ]  # fmt: skip
    return json_answer({"model_version_status": rows})


def _metadata(service: Service, target: Target) -> Answer:
    model = service.versions.find(target.name, target.version, target.label)
    shown = json_format.MessageToDict(
        signatures.definitions_of(model), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    spec = {"name": model.name, "signature_name": "", "version": str(model.version)}
    return json_answer({"model_spec": spec, "metadata": {"signature_def": shown}})
