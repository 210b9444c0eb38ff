"""Read the orientation from a JPEG's EXIF data, and rotate images upright."""

import functools
from collections.abc import Callable

import tensorflow as tf

from kerazoo.preprocessing.headers import MAX_SEGMENTS


@functools.cache
def _compiled_orientation() -> Callable[[tf.Tensor], tf.Tensor]:
    function = tf.function(exif_orientation, autograph=False)
    return function.get_concrete_function(tf.TensorSpec((), tf.string))  # type: ignore[no-any-return]


def orientation_of(contents: bytes) -> int:
    """The EXIF orientation, 1 to 8, that decoding a JPEG uses."""
    return int(_compiled_orientation()(tf.constant(contents)))


def exif_orientation(contents: tf.Tensor) -> tf.Tensor:
    """Scalar string of a JPEG -> its EXIF orientation, int32 from 1 to 8; 1 if it is missing or broken.

    Walks the JPEG's segments to APP1 "Exif", then the entries of TIFF directory 0 to tag 0x0112.
    Source: JEITA CP-3451 (Exif 2.3), sections 4.5.4 and 4.6.4.
    """
    length = tf.strings.length(contents)
    data = tf.io.decode_raw(contents, tf.uint8)

    def number(at: tf.Tensor, size: int, little: tf.Tensor | bool = False) -> tf.Tensor:
        """Bytes [at, at + size) as an integer; -1 after the end."""
        inside = tf.logical_and(at >= 0, at + size <= length)
        first = tf.where(inside, at, 0)
        values = tf.cast(data[first : first + size], tf.int32)
        powers = [256**power for power in reversed(range(size))]
        total = tf.reduce_sum(values * tf.where(little, powers[::-1], powers))
        return tf.where(inside, total, -1)

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        return tf.logical_and(number(at + 4, 4) == 0x45786966, number(at + 8, 2) == 0)

    def walking(at: tf.Tensor) -> tf.Tensor:
        marker = number(at, 2)
        in_header = tf.logical_and(marker >= 0xFFC0, marker != 0xFFDA)  # the scan starts at 0xFFDA
        return tf.logical_and(in_header, tf.logical_not(tf.logical_and(marker == 0xFFE1, is_exif(at))))

    def next_segment(at: tf.Tensor) -> tuple[tf.Tensor]:
        # a marker may be padded with bytes 0xFF
        return (tf.where(number(at, 2) == 0xFFFF, at + 1, at + 2 + tf.maximum(number(at + 2, 2), 2)),)

    segment = tf.while_loop(walking, next_segment, (tf.constant(2),), maximum_iterations=MAX_SEGMENTS)[0]

    def read_tag() -> tf.Tensor:
        tiff = segment + 10
        little = number(tiff, 2) == 0x4949  # "II", else "MM"
        directory = tiff + tf.maximum(number(tiff + 4, 4, little), 0)
        entries = tf.clip_by_value(number(directory, 2, little), 0, 512)

        def searching(entry: tf.Tensor) -> tf.Tensor:
            return tf.logical_and(entry < entries, number(directory + 2 + 12 * entry, 2, little) != 0x0112)

        entry = tf.while_loop(searching, lambda entry: (entry + 1,), (tf.constant(0),))[0]
        return tf.cond(entry < entries, lambda: number(directory + 2 + 12 * entry + 8, 2, little), lambda: 1)

    has_exif = tf.logical_and(number(segment, 2) == 0xFFE1, is_exif(segment))
    orientation = tf.cond(has_exif, read_tag, lambda: 1)
    return tf.where(tf.logical_and(orientation >= 1, orientation <= 8), orientation, 1)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """(H, W, C) as stored -> (H, W, C) or (W, H, C) upright: transpose for 5 to 8, then flip."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    across = tf.reduce_any(orientation == [2, 3, 6, 7])
    down = tf.reduce_any(orientation == [3, 4, 7, 8])
    # the plain image[::-1] takes 3 to 10 times as long
    image = tf.cond(across, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(down, lambda: tf.gather(image, tf.range(tf.shape(image)[0] - 1, -1, -1)), lambda: image)
