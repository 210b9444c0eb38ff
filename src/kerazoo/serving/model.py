"""A version of an export that answers requests, in two steps: the images are decoded, then the network answers."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DT_FLOAT, DT_STRING, DT_UINT8

from kerazoo.errors import RunError
from kerazoo.exports.formats.table import SAVED_MODEL_FORMAT, find_formats
from kerazoo.exports.hashes import changed_file
from kerazoo.exports.layout import (
    CLASS_NAMES,
    CLASSES,
    CLASSIFY,
    DEFAULT,
    FEATURES,
    IMAGE_BYTES,
    OK,
    PASSPORT,
    PREPARE,
    SAVED_MODEL,
    SCORES,
    SERVE_PREPARED,
    STATUS,
    THRESHOLDS,
)
from kerazoo.exports.saved_model import ExportedModel
from kerazoo.files import read_json
from kerazoo.serving.codes import RequestError
from kerazoo.serving.engines import FLAG, Engine, FormatEngine, TensorFlowEngine
from kerazoo.serving.limits import Limits
from kerazoo.tasks.base import Task
from kerazoo.tasks.task import find_task

log = logging.getLogger("kerazoo")

KINDS = {DT_STRING: "string", DT_FLOAT: "float", DT_UINT8: "uint8"}  # of inputs, by TensorFlow's names
BAD_INPUT = (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, tf.errors.FailedPreconditionError)
NODE = re.compile(r"\{\{.*?\}\}")  # its name, in a message


@dataclass(frozen=True)
class Work:
    """A request between its two steps: `images` that the network gets together with others', or the `outputs` already.

    `status` has a text for each image. `signature` is the one that was asked.
    """

    signature: str
    images: Any = None
    status: Sequence[str] = ()
    outputs: Mapping[str, np.ndarray] | None = None

    @property
    def problem(self) -> str:
        """Why none of the images can be decoded; "" if one can."""
        if not self.status or OK in self.status:
            return ""
        more = "" if len(self.status) == 1 else f"none of {len(self.status)} images has an answer; the first is "
        return f"{more}{self.status[0]}"


class ServedModel:
    """The export in `folder` under its `name` and `version`, whose files have the hashes of its passport.

    Raises RunError if it is no such export, was changed, or has no `format`; InputError if the format is unknown or its
    engine is not installed.
    """

    def __init__(self, folder: Path, limits: Limits, format: str = SAVED_MODEL_FORMAT, *, name: str = "") -> None:
        self.folder = folder
        self.name = name or folder.parent.name
        self.version = int(folder.name)
        (other,) = find_formats([format], needed=False) or (None,)
        if not (folder / SAVED_MODEL).is_file() or not (folder / PASSPORT).is_file():
            raise RunError(f"{folder} is not an export of kerazoo: it must contain {SAVED_MODEL} and {PASSPORT}")
        self.passport: dict[str, Any] = read_json(folder / PASSPORT)
        changed = changed_file(folder, self.passport)
        if changed:
            raise RunError(f"{folder}: {changed} is not the file that was exported; export the run again")
        self.format = format
        self.definitions = dict(_definitions(folder))
        if PREPARE not in self.definitions:
            raise RunError(
                f"{folder} has no signature {PREPARE!r}, by which a server decodes images; export the run again (those "
                "for images of other than 1 or 3 channels have none; serve them with TensorFlow Serving)"
            )
        if other is None:
            model = ExportedModel(folder)
            self.task: Task = find_task(model.task)
            self.engine: Engine = TensorFlowEngine(model, limits)
        else:
            self.task = find_task(self.passport.get("task"))
            self.engine = FormatEngine(folder, other, limits)
            kept = {name: self.definitions[name] for name in (DEFAULT, CLASSIFY) if name in self.definitions}
            self.definitions = kept
        self.class_names: tuple[str, ...] = tuple(self.passport[CLASS_NAMES])
        self.thresholds: tuple[float, ...] = tuple(self.passport.get(THRESHOLDS, ()))  # the engine has checked them

    def kinds(self, signature: str) -> dict[str, str]:
        """The inputs of a signature, {name: "string", "float" or "uint8"}. Raises RequestError."""
        if signature not in self.definitions:
            raise RequestError(f'Serving signature name: "{signature}" not found in signature def')
        inputs = self.definitions[signature].inputs
        if not inputs:
            raise RequestError(f"Failed to get input map for signature: {signature}")
        return {name: KINDS[info.dtype] for name, info in inputs.items()}

    def prepare(self, signature: str, values: np.ndarray) -> Work:
        """The first step of an answer, in a thread for decoding. `values` are the one input of the signature.

        Raises RequestError: if the values have another shape or type.
        """
        self._check(signature, values)
        if signature == DEFAULT:
            return self._decoded(signature, list(values))
        if signature == CLASSIFY:
            return self._decoded(signature, [_image_of(example) for example in values])
        if signature == SERVE_PREPARED and len(values):
            return Work(signature, values.astype(np.float32, copy=False))
        return Work(signature, outputs=self._direct(signature, values))

    def finish(self, work: Work) -> dict[str, np.ndarray]:
        """The second step, in a thread that waits for the network: the outputs. Raises RequestError."""
        if work.outputs is not None:
            return dict(work.outputs)
        try:
            outputs = self.engine.answer(work.images)
        except tf.errors.OpError as error:
            raise request_error(error) from error
        if work.status:
            outputs = _with_status(outputs, work.status)
        if work.signature != CLASSIFY:
            return outputs
        ok = outputs[STATUS] == OK.encode()
        names = np.where(ok[:, None], outputs[CLASS_NAMES], b"")
        return {CLASSES: names, SCORES: outputs[self.task.main_output]}

    def _decoded(self, signature: str, contents: Sequence[bytes]) -> Work:
        if not contents:
            return Work(signature, outputs=self._direct(signature, np.array([], object)))
        found = [self.engine.decode(one) for one in contents]
        status = [text for _, text in found]
        images = [image for image, _ in found]
        return Work(signature, images[0] if len(images) == 1 else tf.concat(images, axis=0), status)

    def _direct(self, signature: str, values: np.ndarray) -> dict[str, np.ndarray]:
        if signature in (FEATURES, PREPARE):
            for one in values:
                reason = self.engine.refused(one)
                if reason.endswith(FLAG):
                    raise RequestError(reason)
        try:
            return self.engine.direct(signature, list(values) if values.dtype == object else values)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise request_error(error) from error

    def _check(self, signature: str, values: np.ndarray) -> None:
        """Raise RequestError unless `values` are as the signature takes them."""
        ((name, info),) = self.definitions[signature].inputs.items()
        wanted = tf.dtypes.as_dtype(info.dtype)
        given = tf.string if values.dtype == object else tf.dtypes.as_dtype(values.dtype)
        if given != wanted:
            raise RequestError(f"Expects arg[0] to be {_name(wanted)} but {_name(given)} is provided")
        sizes = [dim.size for dim in info.tensor_shape.dim]
        if len(sizes) != values.ndim or any(size not in (-1, n) for size, n in zip(sizes, values.shape, strict=True)):
            raise RequestError(f"input {name} must have the shape {tuple(sizes)}, got {values.shape}")


def _name(kind: tf.DType) -> str:
    return {tf.float32: "float", tf.float64: "double"}.get(kind, str(kind.name))


def request_error(error: Exception) -> RequestError:
    """What the network or its decoder said, without names of nodes and files."""
    if isinstance(error, tf.errors.UnavailableError):
        return RequestError("the server has too many requests; try again", "UNAVAILABLE")
    if isinstance(error, tf.errors.ResourceExhaustedError | MemoryError):
        words = "there is not enough memory for this request; send fewer or smaller images"
        return RequestError(words, "RESOURCE_EXHAUSTED")
    if isinstance(error, tf.errors.OpError) and not isinstance(error, BAD_INPUT):
        log.error(f"the network failed: {type(error).__name__}: {error}")
        return RequestError("the server failed; its log says why", "INTERNAL")
    words = NODE.sub("", str(error).split("\n")[0])
    return RequestError(" ".join(words.split())[:200] or "the request cannot be answered")


def _with_status(outputs: Mapping[str, np.ndarray], status: Sequence[str]) -> dict[str, np.ndarray]:
    """The outputs, in which the rows whose status is not OK are as in the export: NaN, and empty labels."""
    found = dict(outputs)
    bad = [number for number, text in enumerate(status) if text != OK]
    if bad:
        for name, values in outputs.items():
            if name not in (CLASS_NAMES, STATUS):
                found[name] = values.copy()
                found[name][bad] = b"" if values.dtype == object else np.nan
        found[STATUS] = np.array([text.encode() for text in status], object)
    return found


def _definitions(folder: Path) -> Mapping[str, Any]:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString((folder / SAVED_MODEL).read_bytes())
    return saved.meta_graphs[0].signature_def  # type: ignore[no-any-return]


def _image_of(example: bytes) -> bytes:
    """The encoded image in a serialized `tf.train.Example`. Raises RequestError."""
    from google.protobuf.message import DecodeError

    try:
        found = tf.train.Example.FromString(example)
    except DecodeError as error:
        raise RequestError("Could not parse example input: it is not a tf.train.Example") from error
    values = found.features.feature[IMAGE_BYTES].bytes_list.value
    if len(values) != 1:
        raise RequestError(f"Feature: {IMAGE_BYTES} (data type: string) is required but could not be found.")
    return bytes(values[0])
