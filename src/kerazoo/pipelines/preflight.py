"""Preflight: decode every picture once with the decoder of training, and name those that cannot be read."""

import tensorflow as tf

from kerazoo.errors import DataError
from kerazoo.models.preprocessing import Preprocessing
from kerazoo.pipelines.examples import Examples


def check_pictures(examples: Examples, preprocessing: Preprocessing) -> None:
    """Raises DataError that names every file which cannot be read or decoded, with the reason (at most ten in full)."""
    if examples.paths is None:
        return
    paths = tf.constant(examples.paths)

    def reads(index: tf.Tensor) -> tf.Tensor:
        image = preprocessing.decode(tf.io.read_file(paths[index]))
        with tf.control_dependencies([tf.debugging.assert_greater(tf.size(image), 0)]):
            return tf.identity(index)

    # one element a file, so that ignore_errors drops only what is bad
    checked = tf.data.Dataset.range(len(examples)).map(reads, num_parallel_calls=tf.data.AUTOTUNE)
    good = set(checked.ignore_errors().as_numpy_iterator())
    bad = [examples.paths[i] for i in range(len(examples)) if i not in good]
    if bad:
        rows = "; ".join(f"{path} ({_reason(path, preprocessing)})" for path in bad[:10])
        more = f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
        count = "1 picture" if len(bad) == 1 else f"{len(bad)} pictures"
        raise DataError(f"{count} cannot be decoded: {rows}{more}; mend or remove them")


def _reason(path: str, preprocessing: Preprocessing) -> str:
    try:
        contents = tf.io.read_file(path)
        if not tf.strings.length(contents):
            return "it is empty"
        preprocessing.decode(contents)
    except tf.errors.OpError as error:
        text = str(error.message).split(" [Op:")[0].split("{{")[0]
        return " ".join(text.replace("\n", " ").split())[-120:].strip() or type(error).__name__
    return "it has no pixels"
