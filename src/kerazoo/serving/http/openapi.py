"""The description of the HTTP interface, OpenAPI 3.1.

It has the two signatures that take encoded images. The others take numbers, whose shapes `/metadata` says. The words of
a schema cannot say that bytes are an image: that is the format `image`, and bytes that are none get 400.
"""

from collections.abc import Mapping
from typing import Any

from kerazoo.exports.layout import CLASSIFY, DEFAULT, IMAGE_BYTES
from kerazoo.serving.limits import Limits
from kerazoo.version import __version__

JSON = "application/json"
WHITE = (  # an image of one pixel, PNG in base64
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg=="
)
INT64 = 2**63
ERRORS = {  # {HTTP code: when}
    400: "The request cannot be answered, or no image of it can be decoded.",
    401: "The server has a token, and the request has not.",
    403: "The Host header names another machine, and the server answers only to localhost.",
    404: "There is no such model, version or path.",
    408: "The request came too slowly.",
    413: "The body is too large.",
    429: "There is too little memory for the request.",
    431: "The headers are too large.",
    500: "The server failed.",
    503: "The server is busy or stopping; try again.",
    504: "There was no answer in time.",
}


def document(name: str, limits: Limits) -> dict[str, Any]:
    """The document for the model `name`."""
    image = {"schema": {"type": "string", "format": "binary"}}
    form = _object({"image": {"type": "string", "format": "binary"}}, ["image"])
    images = {"application/octet-stream": image, "image/*": image, "multipart/form-data": {"schema": form}}
    top = {
        "name": "top", "in": "query", "description": "How many classes to name.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 5},
    }  # fmt: skip
    predict = _post("TensorFlow Serving's predict.", {JSON: _predict(limits.queue)}, _predicted())
    classify = _post("TensorFlow Serving's classify.", {JSON: _classify(limits.queue)}, _classified())
    model = f"/v1/models/{name}"
    paths = {
        f"{model}:predict": {"post": predict},
        f"{model}:classify": {"post": classify},
        model: {"get": _get("The state of each version.", _states())},
        f"{model}/metadata": {"get": _get("The signatures of the served version.", _metadata(name))},
        "/classify": {"post": {**_post("The classes of one image.", images, _named(name)), "parameters": [top]}},
        "/grad-cam": {"post": _post("Where the network looked, if the run is at hand.", images, None, "image/png")},
        "/passport": {"get": _get("What the model was made from, and how good it is.", _passport(name))},
        "/healthz": {"get": _get("Whether all threads work.", _ok())},
        "/readyz": {"get": _get("Whether requests are taken.", _ok())},
        "/metrics": {"get": _get("Numbers for Prometheus.", {"type": "string"}, "text/plain")},
        "/openapi.json": {"get": _get("This document.", _object({"openapi": {"const": "3.1.0"}}, ["openapi"]))},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"kerazoo serve: {name}", "version": __version__,
            "description": f"A body may have {limits.max_body:,} bytes, and an image {limits.max_pixels:,} pixels.",
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
        "paths": paths,
    }  # fmt: skip


def _predict(most: int) -> dict[str, Any]:
    """Images in rows or in columns, each by itself or by the name of the input."""
    named = _object({IMAGE_BYTES: _encoded()}, [IMAGE_BYTES], closed=True)
    rows = {"oneOf": [_list(_encoded(), most), _list(named, most)]}
    several = _list(_encoded(), most)
    columns = {"oneOf": [several, _object({IMAGE_BYTES: several}, [IMAGE_BYTES])]}
    signature = {"signature_name": {"enum": [DEFAULT, ""]}}
    schema = {
        "oneOf": [
            {**_object({**signature, "instances": rows}, ["instances"]), "not": {"required": ["inputs"]}},
            {**_object({**signature, "inputs": columns}, ["inputs"]), "not": {"required": ["instances"]}},
        ],
    }
    return {"schema": schema, "example": {"instances": [{"b64": WHITE}]}}


def _classify(most: int) -> dict[str, Any]:
    """Examples with an image, and with numbers and texts that the network does not see."""
    whole = {"type": ["integer", "boolean"], "minimum": -INT64, "maximum": INT64 - 1}
    kinds: list[dict[str, Any]] = [{"type": "string"}, whole, {"type": "number", "not": {"type": "integer"}}]
    other = {"anyOf": [*kinds, *({"type": "array", "items": kind} for kind in kinds)]}
    image = {"oneOf": [_encoded(), _list(_encoded(), 1)]}
    example = {**_object({IMAGE_BYTES: image}, [IMAGE_BYTES]), "additionalProperties": other}
    properties = {"signature_name": {"const": CLASSIFY}, "examples": _list(example, most), "context": False}
    example_value = {"signature_name": CLASSIFY, "examples": [{IMAGE_BYTES: {"b64": WHITE}}]}
    return {"schema": _object(properties, ["signature_name", "examples"]), "example": example_value}


def _encoded() -> dict[str, Any]:
    image = {"type": "string", "contentEncoding": "base64", "format": "image"}
    return _object({"b64": image}, ["b64"], closed=True)


def _predicted() -> dict[str, Any]:
    many: dict[str, Any] = {"type": "array", "minItems": 1}
    return {
        "oneOf": [
            _object({"predictions": many}, ["predictions"], closed=True),
            _object({"outputs": {"type": ["object", "array"]}}, ["outputs"], closed=True),
        ]
    }


def _classified() -> dict[str, Any]:
    pair = {"type": "array", "items": {"type": ["string", "number"]}, "minItems": 2, "maxItems": 2}
    return _object({"results": _list({"type": "array", "items": pair})}, ["results"], closed=True)


def _states() -> dict[str, Any]:
    text = {"type": "string"}
    status = _object({"error_code": text, "error_message": text}, ["error_code", "error_message"], closed=True)
    state = {"enum": ["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"]}
    row = {"version": {"type": "string", "pattern": "^[0-9]+$"}, "state": state, "status": status}
    rows = _list(_object(row, list(row), closed=True))
    return _object({"model_version_status": rows}, ["model_version_status"], closed=True)


def _metadata(name: str) -> dict[str, Any]:
    spec = {"name": {"const": name}, "signature_name": {"type": "string"}, "version": {"type": "string"}}
    parts = {"model_spec": _object(spec, list(spec)), "metadata": _object({}, ["signature_def"])}
    return _object(parts, list(parts), closed=True)


def _named(name: str) -> dict[str, Any]:
    return _object({"model": {"const": name}, "version": {"type": "integer"}}, ["model", "version"])


def _passport(name: str) -> dict[str, Any]:
    parts = {
        "name": {"const": name}, "version": {"type": "integer"}, "task": {"type": "string"},
        "format": {"type": "string"}, "class_names": {"type": "array", "items": {"type": "string"}},
        "metrics": {"type": "object"}, "grad_cam": {"type": "boolean"}, "passport": {"type": "object"},
    }  # fmt: skip
    return _object(parts, list(parts), closed=True)


def _ok() -> dict[str, Any]:
    return _object({"status": {"const": "ok"}}, ["status"], closed=True)


def _object(properties: Mapping[str, Any], required: list[str], *, closed: bool = False) -> dict[str, Any]:
    more = {"additionalProperties": False} if closed else {}
    return {"type": "object", "properties": dict(properties), "required": required, **more}


def _list(items: Mapping[str, Any], most: int | None = None) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, **({} if most is None else {"maxItems": most})}


def _get(words: str, schema: Mapping[str, Any], kind: str = JSON) -> dict[str, Any]:
    return {"summary": words, "responses": _responses(schema, kind)}


def _post(words: str, content: Mapping[str, Any], schema: Mapping[str, Any] | None, kind: str = JSON) -> dict[str, Any]:
    return {
        "summary": words, "requestBody": {"required": True, "content": content},
        "responses": _responses(schema, kind),
    }  # fmt: skip


def _responses(schema: Mapping[str, Any] | None, kind: str) -> dict[str, Any]:
    error = _object({"error": {"type": "string"}}, ["error"], closed=True)
    refused = {
        str(code): {"description": words, "content": {JSON: {"schema": error}}} for code, words in ERRORS.items()
    }
    content = {} if schema is None else {"schema": schema}
    return {"200": {"description": "The answer.", "content": {kind: content}}, **refused}
