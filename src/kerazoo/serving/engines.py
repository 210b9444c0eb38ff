"""What answers decoded images: the SavedModel, or another format of the export, in batches."""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from PIL import Image

from kerazoo.errors import DataError
from kerazoo.exports.formats.answering import FormatModel
from kerazoo.exports.formats.reference import FORMATS, fit
from kerazoo.exports.formats.table import Format
from kerazoo.exports.layout import (
    DAMAGED,
    IMAGE_BYTES,
    OK,
    PREPARE,
    PREPARED,
    REFUSED,
    SERVE_PREPARED,
    STATUS,
    TOP_K,
)
from kerazoo.exports.saved_model import ExportedModel
from kerazoo.preprocessing.headers import ALWAYS_DECODED, PER_BYTE, announced
from kerazoo.serving.batching import Outputs, batched
from kerazoo.serving.limits import Limits
from kerazoo.tasks.task import find_task

BYTES_A_PIXEL = 3
ANSWERS = "answers"
FLAG = "(--max-pixels)"  # the end of what a server alone refuses


class Engine(Protocol):
    """Decodes images one by one and answers them in batches, both from any thread."""

    def refused(self, contents: bytes) -> str:
        """Why an encoded image must not be decoded, by its header; "" if it may be."""

    def decode(self, contents: bytes) -> tuple[Any, str]:
        """An encoded image -> (1, height, width, C), as `answer` takes it, and "ok" or why it cannot be decoded."""

    def answer(self, images: Any) -> Outputs:
        """(B, height, width, C) -> the outputs of the signature `serving_default`."""

    def direct(self, signature: str, values: Any) -> Outputs:
        """The outputs of another signature, without batching."""


class TensorFlowEngine:
    """The SavedModel, by the signatures that its gate compared."""

    def __init__(self, model: ExportedModel, limits: Limits) -> None:
        self._model = model
        self._most = limits.max_pixels
        # the export itself refuses smaller files that announce so many pixels
        self._small = self._most * BYTES_A_PIXEL // PER_BYTE if self._most * BYTES_A_PIXEL >= ALWAYS_DECODED else -1
        self._prepare = model.function(PREPARE)
        network = model.function(SERVE_PREPARED)
        images = tf.TensorSpec((None, *model.preprocessing.shape), tf.float32)
        self._black = tf.zeros((1, *model.preprocessing.shape))
        self.answer = batched(lambda values: network(**{PREPARED: values}), images, limits)
        text = tf.TensorSpec((), tf.string)
        self._announced = tf.function(announced, input_signature=[text], autograph=False).get_concrete_function()

    def refused(self, contents: bytes) -> str:
        """As in `Engine`."""
        try:
            decoded = int(self._announced(tf.constant(contents, tf.string)).numpy())
        except tf.errors.InvalidArgumentError:
            return REFUSED
        return too_many(decoded, self._most)

    def decode(self, contents: bytes) -> tuple[Any, str]:
        """As in `Engine`; the image of one that cannot be decoded is black, and the words are those of the export."""
        if len(contents) > self._small:
            reason = self.refused(contents)
            if reason:
                return self._black, reason
        try:
            return self._prepare(**{IMAGE_BYTES: tf.constant([contents], tf.string)})[PREPARED], OK
        except tf.errors.InvalidArgumentError:
            return self._black, self.refused(contents) or DAMAGED

    def direct(self, signature: str, values: Any) -> Outputs:
        """As in `Engine`."""
        return self._model.ask(signature, values)


class FormatEngine:
    """Another format of the export, by its own engine. It has the signatures `serving_default` and `classify`."""

    def __init__(self, folder: Path, one: Format, limits: Limits) -> None:
        self._model = FormatModel(folder, one)
        self._most = limits.max_pixels
        self._task = find_task(self._model.task)
        self._names = np.array([name.encode() for name in self._model.class_names], object)
        settings = self._model.settings
        self._shape = (settings["height"], settings["width"], settings["channels"])
        images = tf.TensorSpec((None, *self._shape), tf.uint8)
        run = self._model.answers
        network = batched(lambda pixels: {ANSWERS: tf.numpy_function(run, [pixels], tf.float32)}, images, limits)
        self._network: Callable[[Any], Outputs] = network

    def refused(self, contents: bytes) -> str:
        """As in `Engine`."""
        size = (0, 0)
        with suppress(Exception), Image.open(io.BytesIO(contents), formats=FORMATS) as header:
            size = header.size  # a file without a header is refused when it is decoded
        return too_many(size[0] * size[1] * BYTES_A_PIXEL, self._most)

    def decode(self, contents: bytes) -> tuple[Any, str]:
        """As in `Engine`."""
        try:
            reason = self.refused(contents)
            pixels = None if reason else fit(self._model.pixels(contents), self._model.settings)[None]
        except DataError as error:
            reason = str(error)
        return (np.zeros((1, *self._shape), np.uint8) if reason else pixels), reason or OK

    def answer(self, images: Any) -> Outputs:
        """As in `Engine`."""
        answers = self._network(images)[ANSWERS]
        every = np.repeat(self._names[None], len(answers), axis=0)
        found = self._task.signature(
            tf.constant(answers), every, tf.constant(self._names), min(TOP_K, len(self._names))
        )
        status = np.array([OK.encode()] * len(answers), object)
        return {name: np.asarray(values) for name, values in found.items()} | {STATUS: status}

    def direct(self, signature: str, values: Any) -> Outputs:
        """As in `Engine`; a format has no other signature."""
        raise ValueError(f"this format has no signature {signature!r}")


def too_many(decoded: int, most: int) -> str:
    """Why an image of `decoded` bytes, by its header, has more than `most` pixels; "" if it has not."""
    pixels = decoded // BYTES_A_PIXEL
    if pixels <= most:
        return ""
    announced = f"its header announces {pixels / 1e6:.3g} megapixels"
    return f"not decoded: {announced}, and this server takes {most / 1e6:.3g} {FLAG}"
