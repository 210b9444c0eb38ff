"""What requests to classify and regress need of a signature, and the messages of its examples.

Source: tensorflow_serving/servables/tensorflow/classifier.cc, regressor.cc and multi_inference.cc.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kerazoo.exports.layout import CLASSES, DEFAULT, SCORES
from kerazoo.serving.codes import RequestError
from kerazoo.serving.model import ServedModel

INPUTS = "inputs"


def definition(model: ServedModel, signature: str) -> Any:
    """The definition of a signature, "" for the default one. Raises RequestError."""
    if (signature or DEFAULT) not in model.definitions:
        raise RequestError(f"No signature was found with the name: {signature or DEFAULT}")
    return model.definitions[signature or DEFAULT]


def check_classify(model: ServedModel, signature: str) -> None:
    """Raise RequestError unless the signature can answer requests to classify."""
    found = definition(model, signature)
    if len(found.inputs) != 1:
        raise RequestError("Expected one input Tensor.")
    if len(found.outputs) not in (1, 2):
        raise RequestError(f"Expected one or two output Tensors, found {len(found.outputs)}")
    if INPUTS not in found.inputs:
        raise RequestError(f"No classification inputs found in SignatureDef: {found}")
    if CLASSES not in found.outputs and SCORES not in found.outputs:
        raise RequestError(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {found}"
        )


def no_regression(model: ServedModel, signature: str) -> RequestError:
    """Why no signature of an export can answer requests to regress."""
    found = definition(model, signature)
    if len(found.inputs) != 1:
        return RequestError("Expected one input Tensor.")
    if len(found.outputs) != 1:
        return RequestError("Expected one output Tensor.")
    return RequestError(f"No regression inputs found in SignatureDef: {found}")


def classes_of(outputs: Mapping[str, np.ndarray]) -> tuple[Sequence[Sequence[str]], np.ndarray]:
    """The (B, K) names and scores of the outputs of a signature for classes."""
    labels = [[name.decode("utf-8", "replace") for name in row] for row in outputs[CLASSES]]
    return labels, outputs[SCORES]


def example_of(features: Mapping[str, Sequence[Any]]) -> bytes:
    """{feature: values of one kind} -> a serialized `tf.train.Example`. Raises RequestError."""
    import tensorflow as tf

    def feature(values: Sequence[Any]) -> Any:
        if all(isinstance(value, bytes) for value in values):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if all(isinstance(value, float) for value in values):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value) for value in values]))

    try:
        named = {name: feature(values) for name, values in features.items()}
        content: bytes = tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()
    except (ValueError, OverflowError, UnicodeEncodeError) as error:
        raise RequestError(f"an example cannot be read: {error}") from error
    return content


def definitions_of(model: ServedModel) -> Any:
    """The signatures as a message of TensorFlow Serving."""
    from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

    message = SignatureDefMap()
    for name, found in model.definitions.items():
        message.signature_def[name].CopyFrom(found)
    return message
