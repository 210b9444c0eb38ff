"""The bodies of requests for `:predict` and `:classify`."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerazoo.serving.codes import RequestError, check_count
from kerazoo.serving.rest.values import array_of, as_bytes, decoded, is_object, shown, type_of

DEFAULT = "serving_default"
WORDS = {  # of Python's errors, there
    "Expecting value": "Invalid value",
    "Expecting property name enclosed in double quotes": "Missing a name for object member",
    "Expecting ':' delimiter": "Missing a colon after a name of object member",
    "Unterminated string starting at": "Missing a closing quotation mark in string",
    "Invalid \\escape": "Invalid escape character in string",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string",
}
Kinds = Mapping[str, str]  # {input: "string", "float" or "uint8"}
MOST_PARTS = 3_000_000  # lists and objects in a body: each takes 60 to 200 bytes of memory, and 3 of the body


@dataclass(frozen=True)
class Request:
    """What is asked of a signature: `inputs` by name, and whether they came, and answers go, in rows or in columns."""

    signature: str
    inputs: Mapping[str, np.ndarray]
    rows: bool


def read_predict(body: bytes, kinds_of: Callable[[str], Kinds], most: int = sys.maxsize) -> Request:
    """The body of `:predict`, of at most `most` rows. `kinds_of` gives a signature's inputs. Raises RequestError."""
    document = parsed(body)
    signature = _signature(document)
    kinds = kinds_of(signature)
    if "instances" in document and "inputs" in document:
        raise RequestError(
            f"{shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list):
            raise RequestError(f"{shown(document)} Expecting 'instances' to be an list/array")
        if not rows:
            raise RequestError(f"{shown(document)} No values in 'instances' array")
        check_count(len(rows), most)
        return Request(signature, _from_rows(rows, kinds), rows=True)
    if "inputs" in document:
        return Request(signature, _from_columns(document["inputs"], kinds), rows=False)
    raise RequestError("Missing 'inputs' or 'instances' key")


def read_classify(body: bytes, most: int = sys.maxsize) -> tuple[str, list[Mapping[str, Any]]]:
    """The body of `:classify`: the signature, and at most `most` examples with the context's features.

    Raises RequestError.
    """
    document = parsed(body)
    signature = _signature(document)
    context = _example(document["context"]) if "context" in document else {}
    if "examples" not in document:
        raise RequestError(f"{shown(document)} When method is classify, key 'examples' is expected and was not found")
    examples = document["examples"]
    if not isinstance(examples, list):
        raise RequestError(f"{shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise RequestError(f"{shown(document)} 'examples' value is an empty array")
    check_count(len(examples), most)
    return signature, [{**context, **_example(one)} for one in examples]


def parsed(body: bytes) -> dict[str, Any]:
    """The object that a body has. What follows it is ignored, as there. Raises RequestError."""
    if not body:
        raise RequestError("JSON Parse error: The document is empty")
    if body.count(b"[") + body.count(b"{") > MOST_PARTS:
        raise RequestError(
            f'the body has more than {MOST_PARTS:,} lists and objects; send encoded images, {{"b64": ...}}', http=413
        )
    try:
        text = body.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")  # bytes that are no UTF-8 stay as they are
        if not text:
            raise RequestError(f"JSON Parse error: The document is empty. at offset: {len(body)}")
        document, _ = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"JSON Parse error: {WORDS.get(error.msg, error.msg)}. at offset: {error.pos}") from error
    except (RecursionError, ValueError) as error:  # nested without end; a number of thousands of digits
        raise RequestError("JSON Parse error: Terminate parsing due to Handler error.") from error
    if not isinstance(document, dict):
        raise RequestError(f"{shown(document)} Is not object")
    return document


def _signature(document: Mapping[str, Any]) -> str:
    name = document.get("signature_name", DEFAULT)
    if not isinstance(name, str):
        raise RequestError(f"{shown(document)} not formatted correctly. 'signature_name' key must be a string value.")
    return name or DEFAULT


def _from_rows(rows: Sequence[Any], kinds: Kinds) -> dict[str, np.ndarray]:
    """A list of values for the one input, or of objects with a value for each input."""
    if not isinstance(rows[0], dict) and len(kinds) > 1:
        raise RequestError(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    named = is_object(rows[0])
    columns: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
    (only, *_) = kinds
    for number, row in enumerate(rows):
        if named != is_object(row):
            got = "object but got list" if named else "value/list but got object"
            raise RequestError(f"Expecting {got} at item {number} of input list")
        for name, value in row.items() if named else [(only, row)]:
            try:
                columns[name].append(_same_shape(array_of(value, kinds[name]), columns[name]))
            except KeyError:
                raise _failed(number, name, f"JSON object: does not have named input: {name}") from None
            except RequestError as error:
                raise _failed(number, name if named else "", error.message) from error
        if named and set(row) != set(kinds):
            raise RequestError(
                f"Failed to process element: {number} of 'instances' list. JSON object: {shown(row)} keys must be "
                f"equal to: {','.join(sorted(kinds))}"
            )
    return {name: np.stack(column) for name, column in columns.items()}


def _failed(number: int, name: str, reason: str) -> RequestError:
    key = f" key: {name}" if name else ""
    return RequestError(
        f"Failed to process element: {number}{key} of 'instances' list. Error: INVALID_ARGUMENT: {reason}"
    )


def _same_shape(array: np.ndarray, before: Sequence[np.ndarray]) -> np.ndarray:
    if before and before[0].size != array.size:
        raise RequestError(f"Expecting tensor size: {before[0].size} but got: {array.size}")
    if before and before[0].shape != array.shape:
        shapes = ("[" + ",".join(map(str, one.shape)) + "]" for one in (before[0], array))
        raise RequestError("Expecting shape {} but got: {}".format(*shapes))
    return array


def _from_columns(values: Any, kinds: Kinds) -> dict[str, np.ndarray]:
    """The value of the one input, or an object with all values of each input."""
    if not is_object(values):
        if len(kinds) > 1:
            raise RequestError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        return {name: array_of(values, kind) for name, kind in kinds.items()}
    for name in kinds:
        if name not in values:
            raise RequestError(f"Missing named input: {name} in 'inputs' object.")
    return {name: array_of(values[name], kind) for name, kind in kinds.items()}


def _example(value: Any) -> dict[str, Any]:
    """An example's features: each is a value, or a list of values of one kind."""
    if not isinstance(value, dict):
        raise RequestError(f"Example must be JSON object but got JSON {type_of(value)}")
    return {name: _feature(name, one) for name, one in value.items()}


def _feature(name: str, value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    found: list[Any] = []
    for one in values:
        if one is None or isinstance(one, list) or is_object(one):
            raise RequestError(f"Feature: {name} has element with unexpected JSON type: {type_of(one)}")
        found.append(decoded(one) if isinstance(one, dict) else as_bytes(one) if isinstance(one, str) else one)
    kinds = {"bytes" if isinstance(one, bytes) else "float" if isinstance(one, float) else "int64" for one in found}
    if len(kinds) > 1:
        first = "bytes" if isinstance(found[0], bytes) else "float" if isinstance(found[0], float) else "int64"
        raise RequestError(f"Unexpected element type in feature: {name} expecting type: {first}")
    return found
