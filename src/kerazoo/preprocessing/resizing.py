"""The graph code of `Preprocessing` that resizes decoded pixels; `decoding.py` decodes them."""

import functools
from collections.abc import Callable

import tensorflow as tf

from kerazoo.errors import ModelError
from kerazoo.keras_private import NO_INLINE
from kerazoo.preprocessing.decoding import decoded, luma


def read(contents: tf.Tensor, shape: tuple[int, int, int], how: str, interpolation: str) -> tf.Tensor:
    """Scalar string -> `shape`, uint8: decoded and resized; large images are processed one at a time in a process."""
    return _compiled_reading(shape, how, interpolation)(tf.convert_to_tensor(contents, tf.string))


@functools.cache
def _compiled_reading(shape: tuple[int, int, int], how: str, interpolation: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """The graph, built once for each process. Large images are already resized when they are decoded."""
    resized = _of_any_size(shape, how, interpolation)
    read = tf.function(lambda contents: resized(decoded(contents, shape[-1], resize_large=resized)), autograph=False)
    return read.get_concrete_function(tf.TensorSpec((), tf.string))  # type: ignore[no-any-return]


def resize_decoded(image: tf.Tensor, shape: tuple[int, int, int], how: str, interpolation: str) -> tf.Tensor:
    """(H, W, channels) uint8, decoded -> `shape`, uint8: the second half of `read`."""
    return _of_any_size(shape, how, interpolation)(tf.convert_to_tensor(image, tf.uint8))


def _of_any_size(shape: tuple[int, int, int], how: str, interpolation: str) -> Callable[[tf.Tensor], tf.Tensor]:
    return _compiled(tf.TensorSpec((None, None, shape[-1]), tf.uint8), shape, how, interpolation)


def resize(image: tf.Tensor, shape: tuple[int, int, int], how: str, interpolation: str) -> tf.Tensor:
    """(H, W, C) pixels in [0, 255] -> `shape`, uint8: channels, then size by `how` (crop, pad or stretch)."""
    image = tf.convert_to_tensor(image)
    return _compiled(tf.TensorSpec(image.shape, image.dtype), shape, how, interpolation)(image)


@functools.cache
def _compiled(
    spec: tf.TensorSpec, shape: tuple[int, int, int], how: str, interpolation: str
) -> Callable[[tf.Tensor], tf.Tensor]:
    """The graph, built once for each process."""
    compiled = tf.function(lambda image: _resize(image, shape, how, interpolation), autograph=False)
    return compiled.get_concrete_function(spec)  # type: ignore[no-any-return]


def _resize(image: tf.Tensor, shape: tuple[int, int, int], how: str, interpolation: str) -> tf.Tensor:
    height, width, channels = shape
    image = to_uint8(image)
    if (image.shape[-1], channels) in ((1, 3), (3, 1)):
        image = tf.repeat(image, 3, axis=-1) if channels == 3 else luma(image)
    elif image.shape[-1] != channels:
        raise ModelError(
            f"images with {image.shape[-1]} channels cannot be converted to {channels} channels; only gray and RGB can "
            "be converted"
        )

    if tuple(image.shape) == shape:
        return image

    def resized(antialias: bool) -> Callable[[tf.Tensor], tf.Tensor]:
        if how == "pad":
            return lambda part: to_uint8(_padded(part, height, width, interpolation, antialias))
        if antialias and interpolation == "bilinear":
            return lambda part: _rounded(antialiased(part, height, width), interpolation)
        return lambda part: _rounded(
            tf.image.resize(part, (height, width), method=interpolation, antialias=antialias), interpolation
        )

    part = _largest_part(image, height, width) if how == "crop" else image
    size = tf.shape(part)[:2]
    # without a reduction there is no aliasing, and TensorFlow's plain kernel is three times as fast
    enlarged = tf.reduce_all(size <= (height, width)) if interpolation == "bilinear" else tf.constant(False)
    index = tf.where(tf.reduce_all(size == (height, width)), 0, tf.where(enlarged, 1, 2))
    ways = [lambda part: part, resized(antialias=False), resized(antialias=True)]
    # each branch is one call, so the other branches are only one operation; the raw Case of `choose` is slower here
    spec = tf.TensorSpec(part.shape, part.dtype)
    calls = [
        tf.function(way, autograph=False, experimental_attributes=NO_INLINE).get_concrete_function(spec) for way in ways
    ]
    return tf.ensure_shape(tf.switch_case(index, [functools.partial(call, part) for call in calls]), shape)


def _padded(image: tf.Tensor, height: int, width: int, interpolation: str, antialias: bool) -> tf.Tensor:
    """The same as tf.image.resize_with_pad, bit for bit, but a side has at least 1 pixel, where that one raises."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    target = tf.constant([height, width], tf.float32)
    resized = size / tf.reduce_max(size / target)
    before = tf.unstack(tf.cast(tf.floor((target - resized) / 2), tf.int32))
    whole = tf.maximum(tf.cast(tf.floor(resized), tf.int32), 1)
    image = tf.image.resize(image, whole, method=interpolation, antialias=antialias)
    return tf.image.pad_to_bounding_box(image, tf.maximum(before[0], 0), tf.maximum(before[1], 0), height, width)


def antialiased(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The same as tf.image.resize(image, (height, width), antialias=True) for (H, W, C), bit for bit, in half the time.

    TensorFlow's kernel is fast along columns and slow along rows. Here it runs along columns twice: first on an image
    one pixel wide, whose channels are a whole row, and then on the transposed image.
    """
    image = tf.transpose(_fewer_rows(image, height), (1, 0, 2))
    return tf.transpose(_fewer_rows(image, width), (1, 0, 2))


def _fewer_rows(image: tf.Tensor, rows: int) -> tf.Tensor:
    """(H, W, C) -> (rows, W, C) float32, with the triangle kernel of the width of a new row."""
    shape = tf.shape(image)
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=tf.reshape(image, (1, shape[0], 1, -1)),
        size=(rows, 1),
        scale=tf.stack([rows / tf.cast(shape[0], tf.float32), 1.0]),
        translation=tf.zeros(2),
        kernel_type="triangle",
        antialias=True,
    )
    return tf.reshape(scaled, (rows, shape[1], image.shape[-1]))


def _rounded(image: tf.Tensor, interpolation: str) -> tf.Tensor:
    """Resized pixels -> uint8; means of pixels need no clipping."""
    return tf.cast(tf.round(image), tf.uint8) if interpolation in ("bilinear", "area") else to_uint8(image)


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Pixels of any type -> uint8, rounded and clipped to [0, 255]."""
    if image.dtype == tf.uint8:
        return image
    return tf.cast(tf.clip_by_value(tf.round(tf.cast(image, tf.float32)), 0.0, 255.0), tf.uint8)


def _largest_part(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The largest centered part with the proportions height : width."""
    rows = tf.shape(image)[0]
    columns = tf.shape(image)[1]
    part_rows = tf.clip_by_value(columns * height // width, 1, rows)
    part_columns = tf.clip_by_value(rows * width // height, 1, columns)
    top = (rows - part_rows) // 2
    left = (columns - part_columns) // 2
    return image[top : top + part_rows, left : left + part_columns]
