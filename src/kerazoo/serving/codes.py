"""The errors of a request, by gRPC's names, and the HTTP codes that TensorFlow Serving gives them.

Source: `ToHTTPStatusCode` in tensorflow_serving/model_servers/http_server.cc; 413, 401 and 408 do not occur there.
"""

from collections.abc import Mapping

INVALID = "INVALID_ARGUMENT"
NOT_FOUND = "NOT_FOUND"
BUSY = "UNAVAILABLE"
HTTP: Mapping[str, int] = {
    "OK": 200,
    INVALID: 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    NOT_FOUND: 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    BUSY: 503,
    "DEADLINE_EXCEEDED": 504,
    "DATA_LOSS": 500,
    "INTERNAL": 500,
    "UNKNOWN": 500,
}


class RequestError(Exception):
    """What a request is answered with in place of predictions: a `message`, and its `code` by gRPC's name.

    `http` is the code of HTTP, by default the one that belongs to `code`.
    """

    def __init__(self, message: str, code: str = INVALID, http: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.http = HTTP[code] if http is None else http


def check_count(count: int, most: int) -> None:
    """Raise RequestError if a request has more images than are taken at a time: to try again would not help."""
    if count > most:
        raise RequestError(f"a request may have at most {most} images, got {count} (--queue)")
