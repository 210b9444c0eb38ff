"""Read the headers of encoded images, and decide whether they may be decoded: graph code that allocates nothing.

A file of a few kilobytes can announce an image of gigabytes, have thousands of scans, or take minutes to decode. Such
files are refused from the header, in training, in a check and in an export. The reasons for the limits are in
docs/decisions/0011-hostile-images.md.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

from kerazoo.preprocessing.png_chunks import texts_and_excess

KINDS = "JPEG, PNG, GIF, BMP or WebP"
# the header of a JPEG of one pixel, in place of a file that is not a JPEG
NO_JPEG = bytes.fromhex("ffd8 ffc0 000b 08 0001 0001 01 011100 ffda 0008 01 0100 003f00")

# The decoded bytes of an image are width x height x 3, or more if its decoder needs more.
MAX_DECODED = 360_000_000  # bytes: 120 megapixels of RGB; the largest cameras have 102
ALWAYS_DECODED = 105_000_000  # bytes that any file may announce: 35 megapixels of RGB, as an A4 page at 600 dpi has
PER_BYTE = 60  # decoded bytes allowed for each byte of a larger file: 20 pixels a byte; photos have 1 to 10
MAX_SIDE = 65_535  # pixels: the largest side of a JPEG; the memory for resizing grows with it
LARGE = 75_000_000  # decoded bytes, 25 megapixels of RGB; larger images are decoded one at a time

MAX_SCANS = 100  # scans of a JPEG; progressive ones have about 10
SCANS_AT_LARGEST = 12  # scans of a JPEG with the largest allowed size; smaller images may have more
MAX_TEXTS = 8  # compressed texts of a PNG, each of which decompresses to 8 MB
MAX_SEGMENTS, MAX_BLOCKS = 1_000, 40_000  # segments of a JPEG and blocks of a GIF, which take 20 microseconds each
HEADER = 72  # bytes; they contain the image's size, except for JPEG and GIF


def announced(contents: tf.Tensor) -> tf.Tensor:
    """Scalar string -> int64: the number of decoded bytes by its header.

    Raises tf.errors.InvalidArgumentError, with the reason and the limit in words, if it must not be decoded.
    """
    is_jpeg, jpeg = jpeg_bytes(contents)

    with tf.control_dependencies([jpeg]):
        index = tf.cast(is_jpeg, tf.int32)
    ways = [other_bytes, lambda _: tf.constant(0, tf.int64)]
    return tf.where(is_jpeg, jpeg, choose(index, ways, contents, tf.int64))


def other_bytes(contents: tf.Tensor) -> tf.Tensor:
    """`announced` for formats other than JPEG."""
    kinds = [png_bytes, gif_bytes, bmp_bytes, webp_bytes, refuse_unknown]
    return choose(other_kind_of(head_of(contents)), kinds, contents, tf.int64)


def other_kind_of(head: tf.Tensor) -> tf.Tensor:
    """The first bytes of a file that is not a JPEG -> int32: 0 for PNG, 1 GIF, 2 BMP, 3 WebP, 4 for other files."""

    def starts(signature: bytes, at: int = 0) -> tf.Tensor:
        return tf.reduce_all(head[at : at + len(signature)] == list(signature))

    webp = starts(b"RIFF") & starts(b"WEBP", 8)
    matches = tf.stack([starts(b"\x89PNG\r\n\x1a\n"), starts(b"GIF8"), starts(b"BM"), webp, tf.constant(True)])
    return tf.cast(tf.argmax(matches), tf.int32)


def head_of(contents: tf.Tensor) -> tf.Tensor:
    """(HEADER,) int32: the first bytes, padded with 0."""
    start = tf.strings.join([tf.strings.substr(contents, 0, HEADER), b"\x00" * HEADER])
    return tf.ensure_shape(tf.cast(tf.io.decode_raw(start, tf.uint8)[:HEADER], tf.int32), (HEADER,))


def jpeg_bytes(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether it is a JPEG, and its decoded bytes, int64. Raises as `announced` does if it is a JPEG.

    It uses tf.where instead of a branch, because calling a function takes longer.
    """
    is_jpeg = tf.strings.substr(contents, 0, 3) == b"\xff\xd8\xff"
    jpeg = tf.where(is_jpeg, contents, NO_JPEG)
    height, width, components = tf.unstack(tf.cast(tf.image.extract_jpeg_shape(jpeg), tf.int64))
    # Every scan begins with FF DA and a length below 256. These bytes do not occur inside a scan. Elsewhere, for
    # example after the image, they occur by chance once in 16 MB.
    scans = occurrences(jpeg, b"\xff\xda\x00", MAX_SCANS + 1)
    each = tf.maximum(components, 3)  # bytes a pixel; the decoder of CMYK has four, and as many numbers of a scan
    decoded = height * width * each
    most = tf.minimum(tf.constant(MAX_SCANS, tf.int64), SCANS_AT_LARGEST * _allowed(jpeg) // tf.maximum(decoded, 1))
    with tf.control_dependencies([_of_decent_size(height, width, each, jpeg)]):
        few = tf.identity(scans <= most)
    return is_jpeg, after(
        decoded, _require(few, "the JPEG has", scans, "scans, but at its size at most", most, "are allowed")
    )


def png_bytes(contents: tf.Tensor) -> tf.Tensor:
    """`announced` for a PNG. Source: PNG (ISO/IEC 15948), sections 5.6 and 11.2.2."""
    head = head_of(contents)
    is_first = tf.reduce_all(head[8:16] == [0, 0, 0, 13, *b"IHDR"])
    texts, excess = texts_and_excess(contents)
    samples = tf.gather(tf.constant([1, 1, 3, 4, 4, 1, 4, 1]), tf.bitwise.bitwise_and(head[25], 7))
    bytes_each = tf.maximum(samples * tf.where(head[24] == 16, 2, 1), 3)
    bytes_each = tf.where(head[28] == 0, bytes_each, bytes_each * 3 // 2)  # interlaced: seven passes over the pixels
    height = _big(head[20:24])
    width = _big(head[16:20])
    with tf.control_dependencies([_require(is_first, "its first PNG chunk is not IHDR, which has the size")]):
        size = _of_decent_size(height, width, bytes_each, contents)
    with tf.control_dependencies([size]):
        whole = _require(~excess, "a PNG chunk says that it is longer than the file, or the PNG has too many chunks")
    with tf.control_dependencies([whole]):
        few = tf.identity(texts <= MAX_TEXTS)
    words = "the PNG has more than", MAX_TEXTS, "texts that may be compressed; save it without metadata"
    return after(height * width * tf.cast(bytes_each, tf.int64), _require(few, *words))


def bmp_bytes(contents: tf.Tensor) -> tf.Tensor:
    """`announced` for a BMP, whose height may be negative."""
    # TensorFlow reads palette indices as gray values; a negative height means that rows start at the top
    head = head_of(contents)
    masks = tf.reduce_all(head[54:66] == [0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0])  # red, green, blue
    plain = (_little(head[30:34]) == 0) | ((_little(head[30:34]) == 3) & masks)
    height = _little(head[22:26])
    width = _little(head[18:22])
    height = tf.where(height >= 2**31, 2**32 - height, height)
    usual = _require(
        (head[14] >= 40) & (head[28] >= 24) & plain,
        "BMP images with a palette, compression or another order of colors are not supported; save it as PNG",
    )
    with tf.control_dependencies([usual]):
        size = _of_decent_size(height, width, 4, contents)
    return after(height * width * 4, size)


def gif_bytes(contents: tf.Tensor) -> tf.Tensor:
    """`announced` for a GIF of one frame: the larger of frame and screen."""
    head = head_of(contents)
    frames, height, width = _gif_frames(contents)
    screen = _of_decent_size(_little(head[8:10]), _little(head[6:8]), 3, contents)
    single = _require(frames < 2, "it is animated, or has too many blocks")
    # giflib allocates the frame, which may be larger than the screen
    with tf.control_dependencies([screen, single]):
        frame = _of_decent_size(height, width, 4, contents)
    return after(height * width * 4, frame)


def webp_bytes(contents: tf.Tensor) -> tf.Tensor:
    """`announced` for a still WebP."""
    head = head_of(contents)
    is_extended = tf.reduce_all(head[12:16] == list(b"VP8X"))
    still = _require(tf.logical_not(is_extended & (tf.bitwise.bitwise_and(head[20], 2) != 0)), "it is animated")
    # lossless data needs two copies of the image, and up to 364 MB of tables
    is_lossless = occurrences(contents, b"VP8L", 1) + occurrences(contents, b"ALPH", 1) > 0
    bytes_each = tf.where(is_lossless, 8, 3)
    height, width = tf.unstack(_webp_size(head))
    with tf.control_dependencies([still]):
        size = _of_decent_size(height, width, bytes_each, contents)
    return after(height * width * tf.cast(bytes_each, tf.int64), size)


def refuse_unknown(_: tf.Tensor) -> tf.Tensor:
    """`announced` for other files: it raises."""
    return after(tf.constant(0, tf.int64), _require(tf.constant(False), f"it is not a {KINDS} image"))


def _allowed(contents: tf.Tensor) -> tf.Tensor:
    """int64: the decoded bytes that a file of this length may announce."""
    return tf.clip_by_value(PER_BYTE * tf.cast(tf.strings.length(contents), tf.int64), ALWAYS_DECODED, MAX_DECODED)


def _of_decent_size(
    height: tf.Tensor, width: tf.Tensor, bytes_each: tf.Tensor | int, contents: tf.Tensor
) -> tf.Operation:
    """Require that the size in the header may be allocated."""
    allowed = _allowed(contents) // tf.cast(bytes_each, tf.int64)
    smallest = tf.minimum(height, width)
    largest = tf.maximum(height, width)
    decent = (smallest > 0) & (largest <= MAX_SIDE) & (height * width <= allowed)
    return _require(
        decent, "its header announces", width, "x", height, "pixels; a file of", tf.strings.length(contents),
        "bytes may have 1 to", allowed, f"pixels in its format, and at most {MAX_SIDE} a side",
    )  # fmt: skip


def after(value: tf.Tensor, *checks: tf.Operation | tf.Tensor) -> tf.Tensor:
    """`value`, once `checks` are done."""
    with tf.control_dependencies(checks):
        return tf.identity(value)


def _require(condition: tf.Tensor, *message: tf.Tensor | str | int) -> tf.Operation:
    # the raw operation, because tf.debugging.Assert puts it into a branch, which takes longer
    return tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(part) for part in message], summarize=1)


def occurrences(contents: tf.Tensor, mark: bytes, most: int) -> tf.Tensor:
    """int64: the number of times that `mark` is in `contents`, counted up to `most`. It takes 0.35 ns a byte."""
    parts = tf.raw_ops.StringSplitV2(input=contents[None], sep=mark, maxsplit=most)
    return tf.maximum(parts.shape[1] - 1, 0)  # an empty string gives no parts


def _big(values: tf.Tensor) -> tf.Tensor:
    """(n,) bytes -> int64, big-endian."""
    return tf.reduce_sum(tf.cast(values, tf.int64) * [256**power for power in reversed(range(values.shape[0]))])


def _little(values: tf.Tensor) -> tf.Tensor:
    """(n,) bytes -> int64, little-endian."""
    return _big(values[::-1])


def _webp_size(head: tf.Tensor) -> tf.Tensor:
    """Bytes of the header -> (2,) int64 height and width. Source: RFC 9649, sections 2.5 to 2.7."""
    packed = _little(head[21:25])  # lossless: 14 bits each, less one
    lossless = tf.stack([tf.bitwise.right_shift(packed, 14) % 16384 + 1, packed % 16384 + 1])
    lossy = tf.stack([_little(head[28:30]) % 16384, _little(head[26:28]) % 16384])
    extended = tf.stack([_little(head[27:30]) + 1, _little(head[24:27]) + 1])
    by_kind = tf.where(head[15] == ord("L"), lossless, lossy)
    return tf.where(head[15] == ord("X"), extended, by_kind)


def _gif_frames(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The number of images in a GIF, int32, where 2 means any number over 1; height and width of the first, int64.

    Source: GIF89a, sections 18 to 27.
    """
    data = tf.io.decode_raw(
        tf.strings.join([contents, b"\x3b" * 16]), tf.uint8
    )  # a truncated file then ends with trailers
    length = tf.strings.length(contents)

    def at(position: tf.Tensor) -> tf.Tensor:
        return tf.cast(data[tf.minimum(position, length)], tf.int32)

    def table(flags: tf.Tensor) -> tf.Tensor:
        """The bytes of the color table by its packed flags."""
        entries = tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
        return tf.where(flags >= 128, 3 * entries, 0)

    State = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]

    def step(position: tf.Tensor, in_data: tf.Tensor, frames: tf.Tensor, first: tf.Tensor) -> State:
        value = at(position)
        is_frame = tf.logical_and(tf.logical_not(in_data), value == 0x2C)
        to_data = tf.where(is_frame, 11 + table(at(position + 9)), 2)  # an extension has only a label
        moved = position + tf.where(in_data, value + 1, to_data)
        goes_on = tf.logical_or(tf.logical_not(in_data), value != 0)
        return moved, goes_on, frames + tf.cast(is_frame, tf.int32), tf.where(is_frame, position, first)

    def going(position: tf.Tensor, in_data: tf.Tensor, frames: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        block = tf.reduce_any(at(position) == [0x21, 0x2C])
        return tf.logical_and(tf.logical_and(position < length, frames < 2), tf.logical_or(in_data, block))

    start = (13 + table(at(tf.constant(10))), tf.constant(False), tf.constant(0), tf.constant(0))
    position, in_data, frames, first = tf.while_loop(going, step, start, maximum_iterations=MAX_BLOCKS)
    frames = tf.where(going(position, in_data, frames, first), 2, frames)
    place = tf.minimum(first, length)
    size = tf.cast(data[place + 5 : place + 9], tf.int64)  # left, top, width, height of two bytes each
    return frames, size[2] + 256 * size[3], size[0] + 256 * size[1]


def choose(
    index: tf.Tensor, functions: Sequence[Callable[[tf.Tensor], tf.Tensor]], value: tf.Tensor, kind: tf.DType = tf.uint8
) -> tf.Tensor:
    """`functions[index](value)`, of the type `kind`. The other functions cost nothing.

    tf.cond and tf.switch_case are lowered to switches, and every operation of the other branches is still scheduled,
    which takes longer than decoding a small JPEG. The raw Case operation calls only one function. Use it in graphs
    only: called eagerly, it never returns (TensorFlow 2.21).
    """
    value = tf.convert_to_tensor(value)
    branches = [traced(function, value) for function in functions]
    return tf.raw_ops.Case(branch_index=index, input=[value], Tout=[kind], branches=branches)[0]


def traced(function: Callable[[tf.Tensor], tf.Tensor], value: tf.Tensor) -> ConcreteFunction:
    """`function` as one function of the graph, for values like `value`; a ConcreteFunction is returned unchanged."""
    if isinstance(function, ConcreteFunction):
        return function
    return tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(value.shape, value.dtype))
