"""A request whose body was read, and its answer, apart from any framework."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kerazoo.serving.codes import RequestError

JSON = "application/json"
MOST_WORDS = 10_000  # characters of an error, which may quote the request


@dataclass(frozen=True)
class Request:
    """`target` is the path as it was sent, with its query; names of `headers` are in lower case."""

    method: str
    target: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> str:
        """The value of the first header of a name, or ""."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")


@dataclass(frozen=True)
class Answer:
    """An answer with HTTP's `status`. `code`, `model` and `api` are for the metrics."""

    body: bytes = b""
    status: int = 200
    content_type: str | None = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = "OK"
    model: str = ""
    api: str = ""


def json_answer(value: Any, **more: Any) -> Answer:
    """A JSON value as an answer. NaN and infinities are written bare, as TensorFlow Serving does."""
    return Answer(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), **more)


def refusal(error: RequestError, **more: Any) -> Answer:
    """The answer to a request that was refused: {"error": why}."""
    headers = {"Retry-After": "1"} if error.http == 503 else {}
    if error.http == 401:
        headers["WWW-Authenticate"] = "Bearer"
    words = error.message if len(error.message) <= MOST_WORDS else error.message[:MOST_WORDS] + "..."
    return json_answer({"error": words}, status=error.http, headers=headers, code=error.code, **more)
