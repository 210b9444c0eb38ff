"""TensorFlow Serving's messages -> arrays, and outputs -> messages.

Source: tensorflow_serving/servables/tensorflow/predict_util.cc.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, model_pb2

from kerazoo.exports.layout import DEFAULT
from kerazoo.serving import signatures
from kerazoo.serving.codes import RequestError
from kerazoo.serving.model import ServedModel
from kerazoo.serving.rest.values import DEEPEST
from kerazoo.serving.service import Outputs

BYTES = 4  # of a value, at most


def check_spec(request: Any) -> None:
    """Raise RequestError if a request names no model."""
    if not request.HasField("model_spec"):
        raise RequestError("Missing ModelSpec")


def spec(model: ServedModel, signature: str) -> Any:
    """What an answer says about the model that gave it."""
    found = model_pb2.ModelSpec(name=model.name, signature_name=signature or DEFAULT)
    found.version.value = model.version
    return found


def input_of(inputs: Mapping[str, Any], definition: Any, most: int) -> np.ndarray:
    """The values, of at most `most` bytes, of the one input of a signature. Raises RequestError."""
    wanted = sorted(definition.inputs)
    if len(inputs) != len(wanted):
        given, missing = sorted(inputs), sorted(set(wanted) - set(inputs))
        extra = sorted(set(inputs) - set(wanted))
        raise RequestError(
            f"input size does not match signature: {len(given)}!={len(wanted)} len({_set(given)}) != "
            f"len({_set(wanted)}). Sent extra: {_set(extra)}. Missing but required: {_set(missing)}."
        )
    (name,) = wanted
    if name not in inputs:
        raise RequestError(
            f"Signature input alias: {name}(feed name: {definition.inputs[name].name}) not found in request and no "
            f"default value provided. Inputs expected to be in the request {_set(sorted(inputs))}, or default input "
            "alias set: "
        )
    _check_size(inputs[name], most)
    try:
        return np.asarray(tf.make_ndarray(inputs[name]))
    except (TypeError, ValueError, KeyError) as error:
        raise RequestError(f"tensor parsing error: {name}") from error


def _check_size(message: Any, most: int) -> None:
    """A message of few bytes can announce a tensor of any size, all of one value."""
    if len(message.tensor_shape.dim) > DEEPEST:
        raise RequestError(f"a tensor may have at most {DEEPEST} dimensions, got {len(message.tensor_shape.dim)}")
    sizes = [dim.size for dim in message.tensor_shape.dim]
    if any(size < 0 for size in sizes) or math.prod(sizes) * BYTES > most:
        raise RequestError(f"a tensor of the shape {sizes} is too large: it may have {most:,} bytes")


def _set(names: Sequence[str]) -> str:
    return "{" + ",".join(names) + "}"


def check_filter(wanted: Sequence[str], outputs: Mapping[str, Any]) -> None:
    """Raise RequestError unless each name that is wanted is one of `outputs`, once."""
    for number, name in enumerate(wanted):
        if name not in outputs:
            raise RequestError(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                f"{_set(sorted(outputs))}."
            )
        if name in wanted[:number]:
            raise RequestError(f"duplicate output tensor alias: {name}")


def tensor(values: np.ndarray) -> Any:
    """A message with the values one by one, not packed, as TensorFlow Serving sends them."""
    message = tf.make_tensor_proto(values[:0])
    message.tensor_shape.CopyFrom(tf.TensorShape(values.shape).as_proto())
    message.tensor_content = b""
    if values.dtype == object:
        message.string_val.extend(values.ravel().tolist())
    else:
        message.float_val.extend(values.ravel().tolist())
    return message


def classes(outputs: Outputs) -> Any:
    """The names and scores of a signature for classes."""
    labels, scores = signatures.classes_of(outputs)
    result = classification_pb2.ClassificationResult()
    for names, numbers in zip(labels, scores.tolist(), strict=True):
        row = result.classifications.add()
        for name, number in zip(names, numbers, strict=True):
            row.classes.add(label=name, score=number)
    return result


def version_of(wanted: Any) -> int | None:
    """The version that a request asks for, or None for any."""
    return int(wanted.version.value) if wanted.HasField("version") else None
