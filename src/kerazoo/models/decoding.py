"""The graph code that turns encoded bytes into upright pixels; the header is read, and the size capped, first.

A file of some kilobytes can announce a picture of gigabytes, and an animation costs a decoder all of its frames: both
are refused from the first bytes, in training and in an export alike.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

MAX_PIXELS = 120_000_000  # of one picture: the largest cameras give 102 megapixels; 360 MB when decoded
KINDS = "JPEG, PNG, GIF, BMP or WebP"
MAX_SEGMENTS, MAX_BLOCKS = 1_000, 40_000  # of a JPEG and a GIF, walked through at 20 microseconds each
HEADER = 72  # bytes; every size but JPEG's stands in them


def decode(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """Scalar string -> (H, W, channels) uint8, upright; see `Preprocessing.decode`."""
    return _compiled(channels)(tf.convert_to_tensor(contents, tf.string))


@functools.cache
def _compiled(channels: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """The graph, built once a process: it takes longer than to decode many a folder."""
    decode = tf.function(lambda contents: _decode(contents, channels), autograph=False)
    return decode.get_concrete_function(tf.TensorSpec((), tf.string))  # type: ignore[no-any-return]


@functools.cache
def _compiled_orientation() -> Callable[[tf.Tensor], tf.Tensor]:
    function = tf.function(exif_orientation, autograph=False)
    return function.get_concrete_function(tf.TensorSpec((), tf.string))  # type: ignore[no-any-return]


def orientation_of(contents: bytes) -> int:
    """The EXIF orientation, 1 to 8, that decoding turns a JPEG by."""
    return int(_compiled_orientation()(tf.constant(contents)))


def _decode(contents: tf.Tensor, channels: int) -> tf.Tensor:
    is_jpeg = tf.strings.substr(contents, 0, 3) == b"\xff\xd8\xff"
    # walking the segments costs more than decoding a small picture, and few pictures have anything to find there
    may_turn = tf.strings.regex_full_match(contents, rb"\C*Exif\x00\x00\C*")
    image = choose(tf.where(is_jpeg, tf.cast(may_turn, tf.int32), 2), [_jpeg, _turned_jpeg, _other], contents)
    image = tf.ensure_shape(image, (None, None, 3))
    return luma(image) if channels == 1 else image


def luma(image: tf.Tensor) -> tf.Tensor:
    """(H, W, 3) uint8 -> (H, W, 1) uint8: ITU-R 601-2 luma in Pillow's whole numbers; grey stays exactly grey."""
    weights = tf.constant([19595, 38470, 7471])  # 65536 * (0.299, 0.587, 0.114)
    total = tf.reduce_sum(tf.cast(image, tf.int32) * weights, axis=-1, keepdims=True)
    return tf.cast((total + 32768) // 65536, tf.uint8)


def _jpeg(contents: tf.Tensor) -> tf.Tensor:
    height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(contents))
    with tf.control_dependencies([_of_decent_size(height, width)]):
        return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")


def _turned_jpeg(contents: tf.Tensor) -> tf.Tensor:
    return upright(_jpeg(contents), exif_orientation(contents))


def _other(contents: tf.Tensor) -> tf.Tensor:
    start = tf.strings.join([tf.strings.substr(contents, 0, HEADER), b"\x00" * HEADER])
    head = tf.ensure_shape(tf.cast(tf.io.decode_raw(start, tf.uint8)[:HEADER], tf.int32), (HEADER,))

    def png() -> tf.Tensor:
        # byte 25 is the colour type: 3 a palette, 4 and 6 with alpha. Grey of under 8 bits must not be asked for four
        # channels: TensorFlow fills its alpha with 1 of 255.
        with tf.control_dependencies([_of_decent_size(_big(head[20:24]), _big(head[16:20]))]):
            return tf.cond(
                tf.reduce_any(head[25] == [3, 4, 6]),
                lambda: over_white(tf.io.decode_png(contents, channels=4)),
                lambda: tf.io.decode_png(contents, channels=3),
            )

    def bmp() -> tf.Tensor:
        # TensorFlow takes palette indices for grey values; a negative height counts rows from the top
        masks = tf.reduce_all(head[54:66] == [0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0])  # red, green, blue
        plain = (_little(head[30:34]) == 0) | ((_little(head[30:34]) == 3) & masks)
        usual = _require(
            (head[14] >= 40) & (head[28] >= 24) & plain,
            "BMP pictures with a palette, compression or another order of colours are not supported; save it as PNG",
        )
        with tf.control_dependencies([usual]):
            size = _of_decent_size(_little(head[22:26]), _little(head[18:22]))
        with tf.control_dependencies([size]):
            return tf.io.decode_bmp(contents, channels=0)[..., :3]

    def gif() -> tf.Tensor:
        size = _of_decent_size(_little(head[8:10]), _little(head[6:8]))
        with tf.control_dependencies(
            [size, _require(_gif_frames(contents) < 2, "it is animated, or in too many pieces to tell")]
        ):
            return tf.io.decode_image(contents, channels=3, expand_animations=False)

    def webp() -> tf.Tensor:
        still = _require(
            tf.logical_or(_text(head[12:16]) != b"VP8X", tf.bitwise.bitwise_and(head[20], 2) == 0), "it is animated"
        )
        with tf.control_dependencies([still, _of_decent_size(*tf.unstack(_webp_size(head)))]):
            # three channels or four, and it takes no other number than its own
            image = tf.io.decode_image(contents, expand_animations=False)
        return tf.cond(tf.shape(image)[-1] == 4, lambda: over_white(image), lambda: image[..., :3])

    def unknown() -> tf.Tensor:
        with tf.control_dependencies([_require(tf.constant(False), f"it is not a {KINDS} picture")]):
            return tf.zeros((0, 0, 3), tf.uint8)

    kinds = [
        (_text(head[:4]) == b"\x89PNG", png),
        (_text(head[:2]) == b"BM", bmp),
        (_text(head[:3]) == b"GIF", gif),
        (tf.logical_and(_text(head[:4]) == b"RIFF", _text(head[8:12]) == b"WEBP"), webp),
    ]
    return tf.case(kinds, default=unknown, exclusive=True)


def _text(values: tf.Tensor) -> tf.Tensor:
    return tf.strings.reduce_join(tf.gather(tf.constant([bytes([i]) for i in range(256)]), values))


def _big(values: tf.Tensor) -> tf.Tensor:
    """(n,) bytes -> int64, the first byte the largest."""
    return tf.reduce_sum(tf.cast(values, tf.int64) * [256**power for power in reversed(range(values.shape[0]))])


def _little(values: tf.Tensor) -> tf.Tensor:
    """(n,) bytes -> int64, the last byte the largest; four bytes have a sign."""
    number = _big(values[::-1])
    return tf.where(number >= 2**31, 2**32 - number, number) if values.shape[0] == 4 else number


def _webp_size(head: tf.Tensor) -> tf.Tensor:
    """Bytes of the header -> (2,) int64 height and width. Source: RFC 9649, sections 2.5 to 2.7."""
    packed = _little(head[21:25])  # lossless: 14 bits each, less one
    kind = _text(head[12:16])
    lossless = tf.stack([tf.bitwise.right_shift(packed, 14) % 16384 + 1, packed % 16384 + 1])
    lossy = tf.stack([_little(head[28:30]) % 16384, _little(head[26:28]) % 16384])
    extended = tf.stack([_little(head[27:30]) + 1, _little(head[24:27]) + 1])
    return tf.where(kind == b"VP8X", extended, tf.where(kind == b"VP8L", lossless, lossy))


def _of_decent_size(height: tf.Tensor, width: tf.Tensor) -> tf.Operation:
    """The size that a header announces, in whole numbers, must be one that may be allocated."""
    area = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    decent = tf.equal(tf.clip_by_value(area, 1, MAX_PIXELS), area)
    return _require(
        decent, f"its header announces a size, width x height, that is 0 or over {MAX_PIXELS} pixels:", width, height
    )


def _require(condition: tf.Tensor, message: str, *values: tf.Tensor) -> tf.Operation:
    # the bare operation: tf.debugging.Assert wraps it into a branch, which takes longer than to evaluate it
    return tf.raw_ops.Assert(condition=condition, data=[tf.constant(message), *values])


def choose(index: tf.Tensor, functions: list[Callable[[tf.Tensor], tf.Tensor]], value: tf.Tensor) -> tf.Tensor:
    """`functions[index](value)`, uint8 pixels; what is not chosen costs nothing.

    tf.cond and tf.switch_case are lowered to switches, and every operation of a dead side is still scheduled: more
    time than a small JPEG takes to decode. The bare Case operation calls one function. It is for graphs:
    called eagerly, it never returns (TensorFlow 2.21).
    """
    value = tf.convert_to_tensor(value)
    spec = tf.TensorSpec(value.shape, value.dtype)
    branches = [tf.function(function, autograph=False).get_concrete_function(spec) for function in functions]
    return tf.raw_ops.Case(branch_index=index, input=[value], Tout=[tf.uint8], branches=branches)[0]


def _gif_frames(contents: tf.Tensor) -> tf.Tensor:
    """How many pictures a GIF holds, int32; 2 for any number over 1. Source: GIF89a, sections 18 to 27."""
    data = tf.io.decode_raw(tf.strings.join([contents, b"\x3b" * 16]), tf.uint8)  # a cut file ends in trailers
    length = tf.strings.length(contents)

    def at(position: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[tf.minimum(position, length)], tf.int32)

    def table(flags: tf.Tensor) -> tf.Tensor:
        """Bytes of the colour table that packed flags announce."""
        entries = tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
        return tf.where(flags >= 128, 3 * entries, 0)

    def step(position: tf.Tensor, in_data: tf.Tensor, frames: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        value = at(position)
        is_frame = tf.logical_and(tf.logical_not(in_data), value == 0x2C)
        to_data = tf.where(is_frame, 11 + table(at(position + 9)), 2)  # an extension has a label only
        moved = position + tf.where(in_data, value + 1, to_data)
        return moved, tf.logical_or(tf.logical_not(in_data), value != 0), frames + tf.cast(is_frame, tf.int32)

    def going(position: tf.Tensor, in_data: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        block = tf.reduce_any(at(position) == [0x21, 0x2C])
        return tf.logical_and(tf.logical_and(position < length, frames < 2), tf.logical_or(in_data, block))

    start = (13 + table(at(tf.constant(10))), tf.constant(False), tf.constant(0))
    position, in_data, frames = tf.while_loop(going, step, start, maximum_iterations=MAX_BLOCKS)
    return tf.where(going(position, in_data, frames), 2, frames)


def over_white(image: tf.Tensor) -> tf.Tensor:
    """(H, W, 4) uint8 -> (H, W, 3) uint8: laid over white by its alpha; opaque pixels stay as they are."""
    pixels = tf.cast(image, tf.uint16)  # 255 * 255 + 127 fits, in half the memory of int32
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def exif_orientation(contents: tf.Tensor) -> tf.Tensor:
    """Scalar string of a JPEG -> its EXIF orientation, int32 from 1 to 8; 1 where it has none or a broken one.

    Walks the JPEG's segments to APP1 "Exif", then the entries of TIFF directory 0 to tag 0x0112.
    Source: JEITA CP-3451 (Exif 2.3), sections 4.5.4 and 4.6.4.
    """
    length = tf.strings.length(contents)
    data = tf.io.decode_raw(contents, tf.uint8)

    def number(at: tf.Tensor, size: int, little: tf.Tensor | bool = False) -> tf.Tensor:
        """Bytes [at, at + size) as a whole number; -1 past the end."""
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
        # a marker may be filled up with bytes 0xFF
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
