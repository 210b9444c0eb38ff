"""Why TensorFlow or JAX stopped: memory, device, disk, or an image that is no longer what it was. One line for each.

TensorFlow has the same error for a damaged image and for much else. An image is blamed only if it can be shown: its
file cannot be read, has another hash than when it was checked, or cannot be decoded.
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

LONGEST = 300  # characters of TensorFlow's own words
# what reading and decoding of an image give; others are never an image's fault
OF_IMAGES = (
    tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.PermissionDeniedError, tf.errors.DataLossError,
    tf.errors.OutOfRangeError, tf.errors.FailedPreconditionError, tf.errors.UnknownError,
)  # fmt: skip
OF_GRAPHS = ("Graph execution error", "Detected at node", "<stack traces", "[[", "File ")
OF_DISKS = ("no space left", "disk quota", "input/output error", "read-only file system")


OF_PLACES = re.compile(r"\{\{.*?\}\}\s*|\s*\[Op:.*")  # where in a graph an error came up


@contextmanager
def true_causes(
    batch_size: int | str | None = None, examples: Examples | None = None, preprocessing: Preprocessing | None = None
) -> Iterator[None]:
    """Turns errors of TensorFlow, JAX and memory into a KerazooError that names the cause.

    `batch_size` is that of training, which could be lowered. `examples`, fitted by `preprocessing`, are what is
    computed on, if any.
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
    """The error to raise for `error`: DataError where an image is at fault, KerazooError for all else."""
    words = _first_line(error)
    if any(part in words.lower() for part in OF_DISKS):
        return KerazooError(f"the disk failed: {words}; make room, or see to the disk, and give the command again")
    if is_out_of_memory(error):
        size = "data.size" + ("" if preprocessing is None else f" (now {preprocessing.height})")
        lower = size if batch_size is None else f"training.batch_size (now {batch_size}) or {size}"
        return KerazooError(f"out of memory: {words}; lower {lower}")
    if isinstance(error, OF_IMAGES) and examples is not None and preprocessing is not None:
        try:
            _check_images(examples, preprocessing)
        except DataError as found:
            return found
        words += "; all images are as they were when they were checked"
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
                f"{key} in {examples.source} cannot be read or decoded: {_first_line(error)}; look at it by "
                f"`kerazoo check {examples.source}`"
            ) from error


def _first_line(error: Exception) -> str:
    """The first line that says what failed; before it a graph says where."""
    lines = [line.strip() for line in str(getattr(error, "message", "") or error).splitlines()]
    said = [OF_PLACES.sub("", line) for line in lines if line and not line.startswith(OF_GRAPHS)]
    return (said or [type(error).__name__])[0][:LONGEST]
