"""The receptive field of a network as its gradient shows it: the pixels on which an output depends, without formulas.

The network is made positive and linear: kernels are 1 over the number of terms, max pooling is mean pooling, functions
and norms are left out, and so are the factors of squeeze and excitation. Then no terms cancel, and the gradient of an
output is above 0 exactly at the pixels that it depends on. It computes in float64, for float32 underflows.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kerazoo.models.depthwise import compute_depthwise

LEFT_OUT = (
    layers.Activation, layers.ReLU, layers.LeakyReLU, layers.BatchNormalization, layers.LayerNormalization,
    layers.Rescaling, layers.Normalization, layers.Dropout,
)  # fmt: skip
OF_APPLICATIONS = ("LayerScale", "StochasticDepth")  # layers of keras.applications that keep positions apart


def linear(model):
    """A clone of `model` as above."""

    def replaced(layer):
        if isinstance(layer, keras.Model):
            return linear(layer)
        if not isinstance(layer, keras.Layer):  # an operation of keras.ops
            return layer
        config = layer.get_config()
        if isinstance(layer, LEFT_OUT) or type(layer).__name__ in OF_APPLICATIONS:
            return layers.Identity(name=layer.name, dtype="float64")
        kind = type(layer)
        if isinstance(layer, layers.MaxPooling2D):
            kind = layers.AveragePooling2D
        config["dtype"] = "float64"
        if "activation" in config:
            config["activation"] = "linear"
        return kind.from_config(config)

    def called(layer, *args, **kwargs):
        if isinstance(layer, layers.Multiply):
            return max(args[0], key=lambda each: each.shape[1] or 10**6)  # not the factors, which are 1 x 1
        return layer(*args) if isinstance(layer, layers.Identity) else layer(*args, **kwargs)

    functional = not isinstance(model, keras.Sequential)  # in which there are no factors
    inputs = keras.Input(batch_shape=model.inputs[0].shape, dtype="float64")  # else it would be cast to float32
    clone = keras.models.clone_model(
        model,
        input_tensors=inputs if functional else [inputs],
        clone_function=replaced,
        call_function=called if functional else None,
    )
    compute_depthwise(clone)  # ConvNeXt's grouped convolutions take minutes otherwise
    for layer in clone.layers:
        if isinstance(layer, keras.Model) or not layer.weights:
            continue
        layer.set_weights([positive(layer, each) for each in layer.weights])
    return clone


def positive(layer, weight):
    """1 over the number of terms for a kernel, 0 for a bias."""
    name = weight.path.rpartition("/")[2]
    if name == "bias":
        return np.zeros(weight.shape)
    if "depthwise" in name or isinstance(layer, layers.DepthwiseConv2D):
        return np.ones(weight.shape)
    return np.full(weight.shape, 1 / weight.shape[-2])


def seen_columns(model, height, width, column, axis=1):
    """(first, last) column of pixels that the column of that number in the output depends on; rows with axis 0."""
    images = tf.ones((1, height, width, 3), tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps = model(images, training=False)
        total = tf.reduce_sum(tf.gather(maps, column, axis=axis + 1))
    gradient = np.abs(tape.gradient(total, images).numpy()).sum(axis=(0, 2 - axis, 3))
    assert np.isfinite(gradient).all()
    [columns] = np.nonzero(gradient)
    return int(columns[0]), int(columns[-1])
