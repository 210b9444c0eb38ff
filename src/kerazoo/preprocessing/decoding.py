"""The graph code that turns encoded bytes into upright pixels; `headers.py` first checks what may be decoded."""

import functools
from collections.abc import Callable

import tensorflow as tf

from kerazoo.preprocessing.exif import exif_orientation, upright
from kerazoo.preprocessing.headers import (
    LARGE,
    after,
    announced,
    choose,
    head_of,
    jpeg_bytes,
    occurrences,
    other_bytes,
    other_kind_of,
    traced,
)

Way = Callable[[tf.Tensor], tf.Tensor]
BAND = 1 << 20  # pixels to compute at once: the integers need ten times the memory of the image
LOCK = "kerazoo_large_image"  # one lock for each process


def decode(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Scalar string -> (H, W, channels) uint8, upright; see `Preprocessing.decode`."""
    return _compiled(channels)(tf.convert_to_tensor(contents, tf.string))


@functools.cache
def _compiled(channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """The graph, built once for each process, because building it takes longer than decoding a small folder."""
    decode = tf.function(lambda contents: decoded(contents, channels), autograph=False)
    return decode.get_concrete_function(tf.TensorSpec((), tf.string))  # type: ignore[no-any-return]


def announced_bytes(contents: bytes) -> int:
    """The number of decoded bytes by the image's header. Raises tf.errors.InvalidArgumentError if it is refused."""
    return int(_compiled_header()(tf.constant(contents)))


@functools.cache
def _compiled_header() -> Callable[[tf.Tensor], tf.Tensor]:
    function = tf.function(announced, autograph=False)
    return function.get_concrete_function(tf.TensorSpec((), tf.string))  # type: ignore[no-any-return]


DAMAGED = (
    "Invalid JPEG",
    "jpeg::Uncompress",
    "Invalid PNG",
    "Invalid GIF",
    "Failed to decode WebP",
    "Input size should",
)


def reason_of(error: Exception) -> str:
    """Why an image was not decoded, in one line, from TensorFlow's error."""
    reason = _words_of(error)
    return f"it is cut off or damaged ({reason})" if reason.startswith(DAMAGED) else reason


def _words_of(error: Exception) -> str:
    text = str(getattr(error, "message", error))
    if "assertion failed: [" in text:
        text = text.split("assertion failed: [")[1].split("[[")[0]
        return " ".join(text.replace("]", " ").replace("[", " ").split()).replace(" ;", ";")
    text = text.split("}}", 1)[1] if text.startswith("{{") else text.split("{{")[0]
    lines = text.split("[[")[0].split(" [Op:")[0].strip().splitlines() or [""]
    return (" ".join(lines[-1].split())[:160] or type(error).__name__).removeprefix("{{").strip()


def decoded(contents: tf.Tensor, channels: int, resize_large: Way | None = None) -> tf.Tensor:
    """Scalar string -> (H, W, channels) uint8, in a graph.

    With `resize_large`, an image over LARGE decoded bytes is decoded and resized while no other large image is, so that
    the memory for large images does not grow with the number of threads.
    """

    def finished(way: Way) -> Way:
        """`way`, followed by a conversion to gray for one channel, as one function of the graph."""

        def finish(contents: tf.Tensor) -> tf.Tensor:
            image = tf.ensure_shape(way(contents), (None, None, 3))
            return _in_bands(luma, image, 1) if channels == 1 else image

        return traced(finish, contents)  # type: ignore[no-any-return]

    def alone(whole: Way, contents: tf.Tensor) -> tf.Tensor:
        assert resize_large is not None
        lock = tf.raw_ops.MutexLock(mutex=tf.raw_ops.MutexV2(shared_name=LOCK))  # released even if decoding fails
        with tf.control_dependencies([lock]):
            contents = tf.identity(contents)
        fitted = resize_large(whole(contents))
        with tf.control_dependencies([fitted]):
            done = tf.raw_ops.ConsumeMutexLock(mutex_lock=lock)
        return after(fitted, done)

    def by_size(size: tf.Tensor, index: tf.Tensor | int, ways: list[Way], whole: Way) -> tuple[tf.Tensor, list[Way]]:
        """The index and `ways`; with `resize_large`, `whole` is added for large images."""
        if resize_large is None:
            return after(tf.convert_to_tensor(index), size), ways
        return tf.where(size > LARGE, len(ways), index), [*ways, functools.partial(alone, whole)]

    def other(contents: tf.Tensor) -> tf.Tensor:
        return choose(*by_size(other_bytes(contents), other_kind_of(head_of(contents)), others, any_other), contents)

    def any_other(contents: tf.Tensor) -> tf.Tensor:
        image = choose(other_kind_of(head_of(contents)), others, contents)
        return tf.ensure_shape(image, (None, None, channels))

    others = [finished(way) for way in (_png, _gif, _bmp, _webp)]  # other formats are refused when their size is read
    jpegs = [finished(way) for way in (_jpeg, _turned_jpeg)]
    is_jpeg, size = jpeg_bytes(contents)
    # reading the segments takes longer than decoding a small image, and few images have an orientation
    may_turn = tf.cast(occurrences(contents, b"Exif\x00\x00", 1), tf.int32)
    index, ways = by_size(size, may_turn, jpegs, jpegs[1])
    index = tf.where(is_jpeg, index, len(ways))
    shape = (None, None, channels)
    return tf.ensure_shape(choose(index, [*ways, other], contents), shape)


def _jpeg(contents: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")


def _turned_jpeg(contents: tf.Tensor) -> tf.Tensor:
    return upright(_jpeg(contents), exif_orientation(contents))


def _png(contents: tf.Tensor) -> tf.Tensor:
    # byte 25 is the color type: 3 is a palette, 4 and 6 have alpha. Do not decode gray with fewer than 8 bits to four
    # channels: TensorFlow then sets alpha to 1 of 255.
    may_have_alpha = tf.cast(tf.reduce_any(head_of(contents)[25] == [3, 4, 6]), tf.int32)
    ways: list[Way] = [
        lambda contents: tf.io.decode_png(contents, channels=3),
        lambda contents: over_white(tf.io.decode_png(contents, channels=4)),
    ]
    return choose(may_have_alpha, ways, contents)


def _gif(contents: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def _bmp(contents: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_bmp(contents, channels=0)[..., :3]


def _webp(contents: tf.Tensor) -> tf.Tensor:
    # three or four channels; the decoder accepts only the image's own number
    image = tf.ensure_shape(tf.io.decode_image(contents, expand_animations=False), (None, None, None))
    has_alpha = tf.cast(tf.shape(image)[-1] == 4, tf.int32)
    return choose(has_alpha, [lambda image: image[..., :3], over_white], image)


def luma(image: tf.Tensor) -> tf.Tensor:
    """(..., 3) uint8 -> (..., 1) uint8: ITU-R 601-2 luma with Pillow's integers; gray pixels do not change."""
    red, green, blue = _channels(image, 3)
    total = 19595 * red + 38470 * green + 7471 * blue + 32768  # 65536 * (0.299, 0.587, 0.114), and a half
    return _of_shape(tf.cast(total * 2**-16, tf.uint8), image)


def _channels(image: tf.Tensor, count: int) -> list[tf.Tensor]:
    """(..., count) uint8 -> `count` vectors of float32, in which whole numbers below 2^24 are exact.

    TensorFlow takes several times as long for parts of pixels, and for products and quotients of whole numbers.
    """
    rows = tf.transpose(tf.reshape(image, (-1, count)))
    return [tf.cast(row, tf.float32) for row in tf.unstack(rows, count)]


def _of_shape(values: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """(pixels,) or (pixels, C) -> (..., C), with the other axes of `image`."""
    channels = values.shape[1] if values.shape.rank == 2 else 1
    return tf.reshape(values, tf.concat([tf.shape(image)[:-1], [channels]], axis=0))


def over_white(image: tf.Tensor) -> tf.Tensor:
    """(H, W, 4) uint8 -> (H, W, 3) uint8: blended with white by its alpha; opaque pixels do not change."""

    def lay(image: tf.Tensor) -> tf.Tensor:
        # (color * alpha + 255 * (255 - alpha) + 127) // 255; another half keeps the quotient away from whole numbers
        *colors, alpha = _channels(image, 4)
        white = 255 * (255 - alpha) + 127.5
        rows = [tf.cast((color * alpha + white) * (1 / 255), tf.uint8) for color in colors]
        return _of_shape(tf.transpose(tf.stack(rows)), image)

    return _in_bands(lay, image, 3)


def _in_bands(function: Way, image: tf.Tensor, channels: int) -> tf.Tensor:
    """`function(image)`, (H, W, channels): all pixels at once if the image is small, else BAND pixels at a time."""

    def banded(image: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(image)
        flat = tf.reshape(image, (-1, shape[2]))
        count = (shape[0] * shape[1] - 1) // BAND + 1
        bands = tf.TensorArray(tf.uint8, size=count, infer_shape=False, element_shape=(None, channels))

        def step(number: tf.Tensor, bands: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            return number + 1, bands.write(number, function(flat[number * BAND : (number + 1) * BAND]))

        _, bands = tf.while_loop(lambda number, _: number < count, step, (0, bands), parallel_iterations=1)
        return tf.reshape(bands.concat(), (shape[0], shape[1], channels))

    is_large = tf.size(image) // tf.shape(image)[2] > BAND
    result = choose(tf.cast(is_large, tf.int32), [function, banded], image)
    return tf.ensure_shape(result, (None, None, channels))
