"""The description of the HTTP interface, OpenAPI 3.1."""

from collections.abc import Mapping
from typing import Any

from kerazoo.serving.limits import Limits
from kerazoo.version import __version__

JSON = "application/json"
ERRORS = {  # {HTTP code: when}
    400: "The request cannot be answered, or no image of it can be decoded.",
    401: "The server has a token, and the request has not.",
    403: "The Host header names another machine, and the server answers only to localhost.",
    404: "There is no such model, version or path.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    429: "There is too little memory for the request.",
    500: "The server failed.",
    503: "The server is busy or stopping; try again.",
    504: "There was no answer in time.",
}


def document(name: str, limits: Limits) -> dict[str, Any]:
    """The document for the model `name`."""
    bytes_of = {"type": "object", "properties": {"b64": {"type": "string"}}, "required": ["b64"]}
    rows = {"signature_name": {"type": "string"}, "instances": {"type": "array", "minItems": 1}}
    columns = {"signature_name": {"type": "string"}, "inputs": {}}
    predict = {
        "oneOf": [
            {"type": "object", "properties": rows, "required": ["instances"], "not": {"required": ["inputs"]}},
            {"type": "object", "properties": columns, "required": ["inputs"], "not": {"required": ["instances"]}},
        ],
        "example": {"instances": [{"b64": "/9j/4AAQ..."}]},
    }
    feature = {"anyOf": [bytes_of, {"type": ["string", "number"]}]}
    examples = {"type": "array", "minItems": 1, "items": {"type": "object", "additionalProperties": feature}}
    classify = {
        "type": "object",
        "properties": {"signature_name": {"type": "string"}, "examples": examples},
        "required": ["examples"],
        "example": {"signature_name": "classify", "examples": [{"image_bytes": {"b64": "/9j/4AAQ..."}}]},
    }
    image = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    form = {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}, "required": ["image"]}
    images = {"application/octet-stream": image, "image/*": image, "multipart/form-data": {"schema": form}}
    top = {
        "name": "top", "in": "query", "description": "How many classes to name.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 5},
    }  # fmt: skip
    model = f"/v1/models/{name}"
    paths = {
        f"{model}:predict": {"post": _post("TensorFlow Serving's predict.", {JSON: {"schema": predict}})},
        f"{model}:classify": {"post": _post("TensorFlow Serving's classify.", {JSON: {"schema": classify}})},
        model: {"get": _get("The state of each version.", JSON)},
        f"{model}/metadata": {"get": _get("The signatures of the served version.", JSON)},
        "/classify": {"post": {**_post("The classes of one image.", images), "parameters": [top]}},
        "/grad-cam": {"post": _post("Where the network looked, if the run is at hand.", images, "image/png")},
        "/passport": {"get": _get("What the model was made from, and how good it is.", JSON)},
        "/healthz": {"get": _get("Whether all threads work.", JSON)},
        "/readyz": {"get": _get("Whether requests are taken.", JSON)},
        "/metrics": {"get": _get("Numbers for Prometheus.", "text/plain")},
        "/openapi.json": {"get": _get("This document.", JSON)},
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


def _get(words: str, kind: str) -> dict[str, Any]:
    return {"summary": words, "responses": _responses(kind)}


def _post(words: str, content: Mapping[str, Any], kind: str = JSON) -> dict[str, Any]:
    return {"summary": words, "requestBody": {"required": True, "content": content}, "responses": _responses(kind)}


def _responses(kind: str) -> dict[str, Any]:
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    refused = {
        str(code): {"description": words, "content": {JSON: {"schema": error}}} for code, words in ERRORS.items()
    }
    schema = {"type": "object"} if kind == JSON else {}
    return {"200": {"description": "The answer.", "content": {kind: {"schema": schema}}}, **refused}
