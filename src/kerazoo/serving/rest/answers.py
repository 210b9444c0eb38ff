"""Outputs as the JSON values of an answer."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kerazoo.serving.codes import RequestError


def write_predictions(outputs: Mapping[str, np.ndarray], *, rows: bool) -> dict[str, Any]:
    """The answer of `:predict` as JSON values: of one output its values, of several objects. Raises RequestError."""
    if not outputs:
        raise RequestError("Cannot convert empty tensor map to JSON")
    values = {name: _values(name, array) for name, array in sorted(outputs.items())}
    if not rows:
        return {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    sizes = {name: None if array.ndim == 0 else len(array) for name, array in sorted(outputs.items())}
    for name, size in sizes.items():
        if size is None:
            raise RequestError(f"Tensor name: {name} has no shape information ")
        first = next(iter(sizes.values()))
        if size != first:
            raise RequestError(f"Tensor name: {name} has inconsistent batch size: {size} expecting: {first}")
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    return {"predictions": [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]}


def write_classes(labels: Sequence[Sequence[str]], scores: np.ndarray) -> dict[str, Any]:
    """The answer of `:classify`: for each example pairs of a label and its score. Raises RequestError."""
    if not len(labels):
        raise RequestError("Cannot convert empty ClassificationResults to JSON")
    numbers = _values("scores", scores)
    return {"results": [list(map(list, zip(*row, strict=True))) for row in zip(labels, numbers, strict=True)]}


def _values(name: str, array: np.ndarray) -> Any:
    """Nested lists; floats have the digits that float32 needs, and strings of an output `..._bytes` are base64."""
    if array.dtype.kind == "f":
        short = [float(text) for text in array.ravel().astype(str)]
        return np.array(short, float).reshape(array.shape).tolist()
    if array.dtype != object:
        return array.tolist()
    as_bytes = name.endswith("_bytes")
    texts = [
        {"b64": base64.b64encode(one).decode()} if as_bytes else one.decode("utf-8", "replace") for one in array.flat
    ]
    result = np.empty(array.size, object)
    result[:] = texts
    return result.reshape(array.shape).tolist()
