"""The graph code behind `Preprocessing`: decoding, EXIF orientation, fitting, scaling."""

import numpy as np
import tensorflow as tf

# ImageNet's statistics as keras.applications has them, RGB for "torch", BGR for "caffe"
TORCH_MEAN, TORCH_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CAFFE_MEAN = np.array([103.939, 116.779, 123.68])
# scaling -> (a, b) of a * pixel - b. One multiplication, one subtraction: TensorFlow's graph optimizer turns a division
# by a constant into a multiplication, and a SavedModel would then differ from eager code in the last bit.
AFFINE: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "none": (np.array(1.0), np.array(0.0)),
    "unit": (np.array(1 / 255), np.array(0.0)),
    "tf": (np.array(1 / 127.5), np.array(1.0)),
    "torch": (1 / (255 * TORCH_STD), TORCH_MEAN / TORCH_STD),
    "caffe": (np.array(1.0), CAFFE_MEAN),
}


def decode(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Scalar string -> (H, W, channels) uint8, upright; see `Preprocessing.decode`."""
    is_jpeg = tf.strings.substr(contents, 0, 3) == b"\xff\xd8\xff"
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(contents), lambda: _decode_other(contents))
    image.set_shape((None, None, 3))
    return luma(image) if channels == 1 else image


def _decode_jpeg(contents: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
    return upright(image, exif_orientation(contents))


def _decode_other(contents: tf.Tensor) -> tf.Tensor:
    kind, short = tf.strings.substr(contents, 0, 4), tf.strings.substr(contents, 0, 2)

    def png() -> tf.Tensor:
        # byte 25 is the colour type: 3 a palette, 4 and 6 with alpha. Grey of under 8 bits must not be asked for four
        # channels: TensorFlow fills its alpha with 1 of 255.
        has_alpha = tf.reduce_any(byte(contents, 25) == [3, 4, 6])
        return tf.cond(
            has_alpha,
            lambda: over_white(tf.io.decode_png(contents, channels=4)),
            lambda: tf.io.decode_png(contents, channels=3),
        )

    def bmp() -> tf.Tensor:
        # TensorFlow takes palette indices for grey values
        deep = byte(contents, 28) >= 24
        message = "BMP pictures with a palette are not supported; save them as PNG"
        with tf.control_dependencies([tf.debugging.Assert(deep, [message])]):
            return tf.io.decode_image(contents, channels=3, expand_animations=False)

    def others() -> tf.Tensor:
        # WebP has three channels or four, and takes no other number than its own
        image = tf.io.decode_image(contents, expand_animations=False)
        return tf.cond(tf.shape(image)[-1] == 4, lambda: over_white(image), lambda: image[..., :3])

    return tf.case([(kind == b"\x89PNG", png), (short == b"BM", bmp)], default=others, exclusive=True)


def over_white(image: tf.Tensor) -> tf.Tensor:
    """(H, W, 4) uint8 -> (H, W, 3) uint8: laid over white by its alpha; opaque pixels stay as they are."""
    pixels = tf.cast(image, tf.int32)
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def byte(contents: tf.Tensor, at: int) -> tf.Tensor:
    """The byte at `at` as int32; -1 past the end."""

    def read() -> tf.Tensor:
        return tf.cast(tf.io.decode_raw(tf.strings.substr(contents, at, 1), tf.uint8)[0], tf.int32)

    # read only where it is: substr's own error quotes the bytes, and Python then fails to decode the message
    return tf.cond(tf.strings.length(contents) > at, read, lambda: -1)


def luma(image: tf.Tensor) -> tf.Tensor:
    """(H, W, 3) uint8 -> (H, W, 1) uint8: ITU-R 601-2 luma in Pillow's whole numbers; grey stays exactly grey."""
    weights = tf.constant([19595, 38470, 7471])  # 65536 * (0.299, 0.587, 0.114)
    total = tf.reduce_sum(tf.cast(image, tf.int32) * weights, axis=-1, keepdims=True)
    return tf.cast((total + 32768) // 65536, tf.uint8)


def fit(image: tf.Tensor, shape: tuple[int, int, int], how: str, interpolation: str) -> tf.Tensor:
    """(H, W, 1 or 3) pixels in [0, 255] -> `shape`, uint8: channels, then size by `how` (crop, pad or stretch)."""
    height, width, channels = shape
    image = to_uint8(image)
    if image.shape[-1] != channels:
        image = tf.repeat(image, 3, axis=-1) if channels == 3 else luma(image)

    def resize() -> tf.Tensor:
        if how == "pad":
            return to_uint8(tf.image.resize_with_pad(image, height, width, method=interpolation, antialias=True))
        part = _largest_part(image, height, width) if how == "crop" else image
        return to_uint8(tf.image.resize(part, (height, width), method=interpolation, antialias=True))

    if tuple(image.shape) == shape:
        return image
    fits = tf.reduce_all(tf.shape(image)[:2] == (height, width))
    image = tf.cond(fits, lambda: image, resize)
    image.set_shape(shape)
    return image


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Pixels of any type -> uint8, rounded and clipped to [0, 255]."""
    if image.dtype == tf.uint8:
        return image
    return tf.cast(tf.clip_by_value(tf.round(tf.cast(image, tf.float32)), 0.0, 255.0), tf.uint8)


def _largest_part(image: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The largest centred part with the proportions height : width."""
    rows, columns = tf.shape(image)[0], tf.shape(image)[1]
    part_rows = tf.clip_by_value(columns * height // width, 1, rows)
    part_columns = tf.clip_by_value(rows * width // height, 1, columns)
    top, left = (rows - part_rows) // 2, (columns - part_columns) // 2
    return image[top : top + part_rows, left : left + part_columns]


def scale(image: tf.Tensor, scaling: str) -> tf.Tensor:
    """(..., C) pixels in [0, 255] -> float32; see `Preprocessing.scale`."""
    x = tf.cast(image, tf.float32)
    x = x[..., ::-1] if scaling == "caffe" else x
    factor, offset = (tf.constant(value, tf.float32) for value in AFFINE[scaling])
    return x * factor - offset


def exif_orientation(contents: tf.Tensor) -> tf.Tensor:
    """Scalar string of a JPEG -> its EXIF orientation, int32 from 1 to 8; 1 where it has none or a broken one.

    Walks the JPEG's segments to APP1 "Exif", then the entries of TIFF directory 0 to tag 0x0112.
    Source: JEITA CP-3451 (Exif 2.3), sections 4.5.4 and 4.6.4.
    """
    length = tf.strings.length(contents)

    def number(at: tf.Tensor, size: int, little: tf.Tensor | bool = False) -> tf.Tensor:
        """Bytes [at, at + size) as a whole number; -1 past the end."""

        def read() -> tf.Tensor:
            values = tf.cast(tf.io.decode_raw(tf.strings.substr(contents, at, size), tf.uint8), tf.int32)
            values = tf.cond(tf.cast(little, tf.bool), lambda: values[::-1], lambda: values)
            return tf.reduce_sum(values * [256**power for power in reversed(range(size))])

        return tf.cond(tf.logical_and(at >= 0, at + size <= length), read, lambda: -1)

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        inside = at + 10 <= length
        return tf.cond(inside, lambda: tf.strings.substr(contents, at + 4, 6) == b"Exif\x00\x00", lambda: False)

    def walking(at: tf.Tensor) -> tf.Tensor:
        marker = number(at, 2)
        in_header = tf.logical_and(marker >= 0xFFC0, marker != 0xFFDA)  # the scan starts at 0xFFDA
        return tf.logical_and(in_header, tf.logical_not(tf.logical_and(marker == 0xFFE1, is_exif(at))))

    segment = tf.while_loop(walking, lambda at: (at + 2 + tf.maximum(number(at + 2, 2), 2),), (tf.constant(2),))[0]

    def read_tag() -> tf.Tensor:
        tiff = segment + 10
        little = number(tiff, 2) == 0x4949  # "II", else "MM"
        directory = tiff + tf.maximum(number(tiff + 4, 4, little), 0)
        entries = tf.clip_by_value(number(directory, 2, little), 0, 512)

        def searching(entry: tf.Tensor) -> tf.Tensor:
            return tf.logical_and(entry < entries, number(directory + 2 + 12 * entry, 2, little) != 0x0112)

        entry = tf.while_loop(searching, lambda entry: (entry + 1,), (tf.constant(0),))[0]
        return tf.cond(entry < entries, lambda: number(directory + 2 + 12 * entry + 8, 2, little), lambda: 1)

    found = tf.logical_and(number(segment, 2) == 0xFFE1, is_exif(segment))
    orientation = tf.cond(found, read_tag, lambda: 1)
    return tf.where(tf.logical_and(orientation >= 1, orientation <= 8), orientation, 1)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """(H, W, C) as stored -> upright, (H, W, C) or (W, H, C): transpose for 5 to 8, then flip."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    across = tf.reduce_any(orientation == [2, 3, 6, 7])
    down = tf.reduce_any(orientation == [3, 4, 7, 8])
    image = tf.cond(across, lambda: image[:, ::-1], lambda: image)
    return tf.cond(down, lambda: image[::-1], lambda: image)
