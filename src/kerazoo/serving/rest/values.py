"""JSON values -> arrays, as TensorFlow Serving makes tensors of them."""

import base64
import binascii
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kerazoo.serving.codes import RequestError

SHOWN = 256  # characters of a value in a message
DEEPEST = 32  # lists around a value: as many dimensions as an array of numpy 1 may have
# {type of an input, by TensorFlow's name: (type of numpy, the least and the largest whole number, or None)}
NUMBERS: Mapping[str, tuple[Any, tuple[int, int] | None]] = {
    "float": (np.float32, None),
    "uint8": (np.uint8, (0, 255)),
}


def array_of(value: Any, kind: str) -> np.ndarray:
    """A value or nested lists of them -> an array. Raises RequestError."""
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if len(shape) > DEEPEST:
        raise RequestError(f"the values are nested in {len(shape)} lists; at most {DEEPEST} are allowed")
    leaves: list[Any] = []
    _walk(value, 0, shape, kind, leaves)
    dtype: Any = object if kind == "string" else NUMBERS[kind][0]
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite there, too
        array = np.empty(len(leaves), dtype)
        try:
            array[:] = leaves
        except OverflowError as error:  # a whole number of hundreds of digits
            raise RequestError("JSON Parse error: Number too big to be stored in double.") from error
    return array.reshape(shape)


def _walk(value: Any, level: int, shape: Sequence[int], kind: str, leaves: list[Any]) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise RequestError(
                f"{shown(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}"
            )
        leaves.append(_leaf(value, kind))
        return
    if level >= len(shape):
        raise RequestError(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise RequestError(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    if level == len(shape) - 1 and kind in NUMBERS and {type(one) for one in value} <= {int, float}:
        leaves += value if kind == "float" else [_leaf(one, kind) for one in value]
        return
    for one in value:
        _walk(one, level + 1, shape, kind, leaves)


def _leaf(value: Any, kind: str) -> Any:
    if kind == "string":
        if isinstance(value, dict):
            return decoded(value)
        if isinstance(value, str):
            return as_bytes(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _, limits = NUMBERS[kind]
        if limits is None or (isinstance(value, int) and limits[0] <= value <= limits[1]):
            return value
    raise RequestError(f"{shown(value)} Type: {type_of(value)} is not of expected type: {kind}")


def decoded(value: Mapping[str, Any]) -> bytes:
    """The bytes of {"b64": ...}. Raises RequestError."""
    if is_object(value):
        raise RequestError(f"{shown(value)} not formatted correctly for base64 data")
    letters = "".join(value["b64"].split()).rstrip("=")  # there, padding may be missing, and spaces do not matter
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError("Unable to base64 decode") from error


def as_bytes(text: str) -> bytes:
    """A text of a request, as the bytes that it was sent as."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, written as \\ud800
        return text.encode("utf-8", "surrogatepass")


def is_object(value: Any) -> bool:
    """Whether it is an object, and not one that stands for bytes."""
    return isinstance(value, dict) and not (set(value) == {"b64"} and isinstance(value["b64"], str))


def type_of(value: Any) -> str:
    """The name of a JSON value's type, as in messages."""
    names = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return str(value) if isinstance(value, bool) else names.get(type(value), "Number")


def shown(value: Any) -> str:
    """The beginning of a value, for a message."""
    parts = itertools.islice(json.JSONEncoder().iterencode(value), SHOWN)  # none is empty, and no more are made
    return f"JSON Value: {''.join(parts)[:SHOWN]}"
