"""The requests that TensorFlow Serving sends to a new model before it answers others, so that none of them is slow.

`assets.extra/tf_serving_warmup_requests` is a file of TFRecords, each a `PredictionLog` with one request. Its fields
are few, and TensorFlow Serving's own package would be needed only for them, so they are encoded here.
Source: tensorflow.org/tfx/serving/saved_model_warmup; `prediction_log.proto`, `predict.proto` and `model.proto`.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from kerazoo.exports.examples import example_of
from kerazoo.exports.layout import IMAGE_BYTES, WARM_UP
from kerazoo.exports.synthetic import encoded_images, float_images
from kerazoo.preprocessing.preprocessing import Preprocessing

BATCHES = (1, 8)  # images in a request


def write_warm_up(folder: Path, preprocessing: Preprocessing, signatures: dict[str, tf.TensorSpec], name: str) -> None:
    """Write a request for each of `signatures`, {name: its input}, and each size of a batch. Raises OpError, OSError.

    `name` is the model's, under which the export is served.
    """
    path = folder / WARM_UP
    path.parent.mkdir(parents=True, exist_ok=True)
    images = _images(preprocessing)
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, spec in signatures.items():
            for count in BATCHES:
                values = tf.make_tensor_proto(np.stack([images[spec.name]] * count), spec.dtype)
                file.write(_prediction_log(name, signature, spec.name, values.SerializeToString()))


def _images(preprocessing: Preprocessing) -> dict[str, np.ndarray]:
    pixels = next(iter(float_images(preprocessing.channels).values()))
    encoded = next(iter(encoded_images().values()))
    return {
        IMAGE_BYTES: np.array(encoded, object),
        "inputs": np.array(example_of(encoded), object),
        "images": pixels,
        "pixels": pixels.astype(np.uint8),
        "prepared": preprocessing.prepare(pixels).numpy(),
    }


def _prediction_log(model: str, signature: str, name: str, tensor: bytes) -> bytes:
    model_spec = _field(1, model.encode()) + _field(3, signature.encode())
    request = _field(1, model_spec) + _field(2, _field(1, name.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))  # predict_log, whose request it is


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes, a text or a message (wire type 2). Source: protobuf.dev/programming-guides/encoding."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
