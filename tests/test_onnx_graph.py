"""Networks as ONNX models: converted without copies of the weights, and with every optimization of tf2onnx."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf2onnx
from onnx import numpy_helper
from tf2onnx import optimizer
from tf2onnx.graph import Graph

from kerazoo.models.onnx_graph import OPSET, as_onnx

SIZE = tf.TensorSpec((None, 16, 16, 3), tf.float32)


def function_of(*layers):
    """A network of these layers as a function of TensorFlow."""
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers, keras.layers.GlobalAveragePooling2D()])
    return tf.function(lambda x: model(x, training=False))


@pytest.fixture
def network():
    """Batch norms that are folded, and layouts that are swapped."""
    layers = keras.layers
    return function_of(
        layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU(),
        layers.DepthwiseConv2D(3, padding="same"), layers.Conv2D(4, 1), layers.MaxPooling2D(),
    )  # fmt: skip


def nodes_of(model):
    """The kinds of all nodes, and the shapes and sums of the weights; names and attributes have running numbers."""
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    weights = sorted((array.shape, float(array.astype(np.float64).sum())) for array in arrays)
    return [node.op_type for node in model.graph.node], weights


def plain(function):
    """What tf2onnx makes of it by itself."""
    return tf2onnx.convert.from_function(function, input_signature=[SIZE], opset=OPSET)[0]


def test_a_conversion_copies_nothing_and_gives_the_same_nodes(network, monkeypatch):
    expected = nodes_of(plain(network))
    copies = []
    writes = []
    update = Graph.update_proto
    monkeypatch.setattr(Graph, "__deepcopy__", lambda graph, memo: copies.append(graph) or graph, raising=False)
    monkeypatch.setattr(Graph, "update_proto", lambda *given, **named: writes.append(1) or update(*given, **named))
    plain(network)
    assert len(copies) > 12  # or this test would prove nothing
    assert len(writes) > 12
    copies.clear()
    writes.clear()
    assert nodes_of(as_onnx(network, SIZE)) == expected
    assert not copies
    assert len(writes) <= 2  # after TensorFlow's nodes became ONNX's, and in the end


def test_an_optimization_that_fails_is_left_out(network, monkeypatch):
    class Fails(optimizer.IdentityOptimizer):
        def _optimize(self, graph):
            graph.reset_nodes([])
            raise RuntimeError("planted")

    whole = nodes_of(as_onnx(network, SIZE))
    monkeypatch.setitem(optimizer._optimizers, "einsum_optimizer", Fails)
    assert nodes_of(as_onnx(network, SIZE)) == whole


def test_a_number_added_to_a_convolution_leaves_no_transpositions():
    """As in the hard sigmoid: tf2onnx takes it for a bias, and fails."""
    layers = keras.layers
    convolutions = [layers.Conv2D(4, 3, use_bias=False), layers.Activation("hard_sigmoid"), layers.Conv2D(4, 3)]
    function = function_of(*convolutions)
    assert nodes_of(plain(function))[0].count("Transpose") > 2
    model = as_onnx(function, SIZE)
    assert nodes_of(model)[0].count("Transpose") <= 2
    import onnxruntime

    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (answers,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(answers, function(x), atol=1e-5)
