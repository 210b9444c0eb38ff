"""Grouped convolutions of one channel a group: the same numbers as Keras's, without XLA."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerazoo
from kerazoo.keras_private import all_layers
from kerazoo.models.depthwise import compute_depthwise

MUST_COMPILE = "_XlaMustCompile"


def graph_of(model):
    """What is exported and served, as text."""
    size = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(size)
    return str(function.graph.as_graph_def())


@pytest.fixture(scope="module")
def convnext():
    return kerazoo.build("convnext_tiny", input_shape=(32, 32, 3), num_classes=2, weights="none")


def test_convnext_needs_no_xla_and_answers_as_keras_does(convnext):
    """Keras's own graph has the attribute, or this test would prove nothing."""
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    own = keras.applications.ConvNeXtTiny(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    own.set_weights(convnext.get_weights()[:-2])
    assert MUST_COMPILE in graph_of(own)
    assert MUST_COMPILE not in graph_of(convnext)
    features = keras.Model(convnext.input, convnext.get_layer("features").output)
    np.testing.assert_allclose(features(x), own.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    ("filters", "settings"),
    [
        (6, {"padding": "same"}),
        (12, {"padding": "valid", "strides": 2}),
        (12, {"padding": "same", "dilation_rate": 2, "use_bias": False}),
    ],
)
def test_each_group_has_its_own_filters(filters, settings):
    """Several filters a group, strides and dilation, in a nested network."""
    inner = keras.Sequential([keras.Input((9, 11, 6)), keras.layers.Conv2D(filters, 3, groups=6, **settings)])
    model = keras.Sequential([keras.Input((9, 11, 6)), inner])
    x = np.random.default_rng(0).normal(size=(2, 9, 11, 6)).astype(np.float32)
    expected = np.asarray(model(x))
    compute_depthwise(model)
    np.testing.assert_allclose(model(x), expected, atol=1e-5)
    assert MUST_COMPILE not in graph_of(model)


def test_groups_of_several_channels_are_left_to_keras():
    model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(4, 3, groups=2)])
    compute_depthwise(model)
    assert not any("convolution_op" in vars(layer) for layer in all_layers(model))
    model(np.zeros((1, 8, 8, 4), np.float32))
