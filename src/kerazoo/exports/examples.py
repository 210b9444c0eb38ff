"""An encoded image as the example that a classify request has."""

import tensorflow as tf

from kerazoo.exports.layout import IMAGE_BYTES


def example_of(image: bytes) -> bytes:
    """An encoded image -> a serialized `tf.train.Example`."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    content: bytes = tf.train.Example(features=tf.train.Features(feature={IMAGE_BYTES: feature})).SerializeToString()
    return content
