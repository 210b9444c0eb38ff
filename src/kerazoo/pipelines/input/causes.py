"""Explain an error of TensorFlow or JAX in one line: memory, device, disk, or a changed image.

TensorFlow raises the same error for a damaged image and for many other causes. An image is reported only if its file
cannot be read, if its hash has changed since the check, or if it cannot be decoded.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from kerazoo.errors import DataError, KerazooError, is_out_of_memory
from kerazoo.pipelines.data.examples import Examples, check_contents
from kerazoo.preprocessing.image_files import read_image
from kerazoo.preprocessing.preprocessing import Preprocessing

LONGEST = 300  # characters of TensorFlow's own message
# the errors that reading and decoding an image can raise
OF_IMAGES = (
    tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.DataLossError,
    tf.errors.OutOfRangeError, tf.errors.FailedPreconditionError, tf.errors.UnknownError,
)  # fmt: skip
OF_GRAPHS = ("Graph execution error", "Detected at node", "<stack traces", "[[", "File ")
OF_DISKS = ("no space left", "disk quota", "input/output error", "read-only file system")


OF_PLACES = re.compile(r"\{\{.*?\}\}\s*|\s*\[Op:.*")  # the place of the error in the graph


@contextmanager
def true_causes(
    batch_size: int | str | None = None, examples: Examples | None = None, preprocessing: Preprocessing | None = None
) -> Iterator[None]:
    """Turn errors of TensorFlow, JAX and memory into a KerazooError that names the cause.

    `batch_size` is the batch size of training, for the advice to lower it. `examples` are the images that the
    computation uses, if any, and `preprocessing` is how they are resized.
    """
    jax = sys.modules.get("jax")
    failures = (tf.errors.OpError, MemoryError, *((jax.errors.JaxRuntimeError,) if jax else ()))
    try:
        yield
    except failures as error:
        raise cause_of(error, batch_size, examples, preprocessing) from error


def cause_of(
    error: Exception, batch_size: int | str | None = None, examples: Examples | None = None,
    preprocessing: Preprocessing | None = None,
) -> KerazooError:  # fmt: skip
    """The error to raise for `error`: DataError if an image is the cause, else KerazooError."""
    words = _first_line(error)
    if any(part in words.lower() for part in OF_DISKS):
        return KerazooError(f"the disk failed: {words}; free some space or check the disk, and run the command again")
    if is_out_of_memory(error):
        size = "data.size" + ("" if preprocessing is None else f" (now {preprocessing.height})")
        lower = size if batch_size is None else f"training.batch_size (now {batch_size}) or {size}"
        return KerazooError(f"out of memory: {words}; lower {lower}")
    if isinstance(error, OF_IMAGES) and examples is not None and preprocessing is not None:
        try:
            _check_images(examples, preprocessing)
        except DataError as image_error:
            return image_error
        words += "; the images have not changed since they were checked"
    engine = "TensorFlow" if isinstance(error, tf.errors.OpError) else "JAX"
    return KerazooError(f"{engine} failed: {type(error).__name__}: {words}")


def _check_images(examples: Examples, preprocessing: Preprocessing) -> None:
    """Raise DataError for the first image that cannot be read, has another hash, or cannot be decoded."""
    if examples.paths is None:
        return
    for index, (key, path) in enumerate(zip(examples.keys, examples.paths, strict=True)):
        one = examples.take([index])
        if examples.known_hashes is not None or "hashes" in vars(examples):
            check_contents(one, [examples.hashes[index]])
        try:
            preprocessing.decode(tf.constant(read_image(path)[0]))
        except (OSError, *OF_IMAGES) as error:
            raise DataError(
                f"{key} in {examples.source} cannot be read or decoded: {_first_line(error)}; check the data: "
                f"kerazoo check {examples.source}"
            ) from error


def _first_line(error: Exception) -> str:
    """The first line of the error that says what failed; lines before it only name the place in the graph."""
    lines = [line.strip() for line in str(getattr(error, "message", "") or error).splitlines()]
    reasons = [OF_PLACES.sub("", line) for line in lines if line and not line.startswith(OF_GRAPHS)]
    return (reasons or [type(error).__name__])[0][:LONGEST]
