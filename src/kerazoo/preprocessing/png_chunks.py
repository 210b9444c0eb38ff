"""The chunks of a PNG that its decoder allocates as their lengths say, before it looks whether the file has as much.

libpng reads texts, suggested palettes and calibrations whole. Each can say that it has 2 GB, in a file of some bytes.
Source: PNG (ISO/IEC 15948), section 5.3: a chunk is its length (4 bytes, big-endian), its type (4), data, a CRC (4).
"""

import tensorflow as tf

MAX_CHUNKS = 20_000  # a walk through them takes 20 to 30 microseconds each; a file of 160 MB has as many of 8 kB
# the last letters of the types: zTXt, iTXt, tEXt, sPLT, pCAL, sCAL
ENDINGS = {b"TXt": b"zi", b"EXt": b"t", b"PLT": b"s", b"CAL": b"ps"}
TYPES = tuple(bytes([letter]) + ending for ending, letters in ENDINGS.items() for letter in letters)
SIGNATURE = 8  # bytes before the first chunk


def texts_and_excess(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A PNG -> (int64 number of texts that may be compressed, whether a chunk says that it is longer than the file).

    What looks like such a chunk may be image data, by chance, so chunks are walked through where anything does. The
    second is also true if MAX_CHUNKS places look like one.
    """
    length = tf.cast(tf.strings.length(contents), tf.int64)
    texts, suspicious, many = tf.constant(0, tf.int64), tf.constant(False), tf.constant(False)
    for ending, letters in ENDINGS.items():
        with tf.control_dependencies([texts, suspicious]):  # one after another, since each copies the file
            count, excess, full = _looked_at(contents, ending, letters, length)
        texts += count if ending == b"TXt" else 0
        suspicious |= excess
        many |= full
    return texts, many | (suspicious & _walked(contents, length, suspicious & ~many))


def _looked_at(
    contents: tf.Tensor, ending: bytes, letters: bytes, length: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """How many places may be chunks whose types have this ending, whether one exceeds the file, and whether many do."""
    parts = tf.raw_ops.StringSplitV2(input=contents[None], sep=ending, maxsplit=MAX_CHUNKS).values[:-1]
    ends = tf.strings.length(parts)
    tails = tf.strings.substr(parts, tf.maximum(ends - 5, 0), tf.minimum(ends, 5))
    values = tf.cast(tf.io.decode_raw(tails, tf.uint8, fixed_length=5), tf.int64)
    is_type = tf.reduce_any(values[:, 4:] == tf.constant(list(letters), tf.int64), axis=1)
    said = tf.reduce_sum(values[:, :4] * [2**24, 2**16, 2**8, 1], axis=1)
    excess = is_type & (said > length)
    count = tf.reduce_sum(tf.cast(is_type & ~excess, tf.int64))
    many = tf.shape(parts)[0] == MAX_CHUNKS  # no image has as many, and each takes memory
    return count, tf.reduce_any(excess | (ends < 5)), many


def _walked(contents: tf.Tensor, length: tf.Tensor, needed: tf.Tensor) -> tf.Tensor:
    """Whether a chunk of one of the types is longer than the file, or there are too many chunks to tell."""

    def going(position: tf.Tensor, excess: tf.Tensor) -> tf.Tensor:
        return needed & ~excess & (position + 8 <= length)

    def step(position: tf.Tensor, excess: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        kind = tf.strings.substr(contents, position + 4, 4)
        values = tf.cast(tf.io.decode_raw(tf.strings.substr(contents, position, 4), tf.uint8), tf.int64)
        said = tf.reduce_sum(tf.ensure_shape(values, (4,)) * [2**24, 2**16, 2**8, 1])
        return position + said + 12, (said > length) & tf.reduce_any(kind == list(TYPES))

    start = (tf.constant(SIGNATURE, tf.int64), tf.constant(False))
    position, excess = tf.while_loop(going, step, start, maximum_iterations=MAX_CHUNKS)
    return excess | going(position, excess)
