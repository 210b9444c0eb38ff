"""A function of TensorFlow as an ONNX model."""

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

OPSET = 18


def as_onnx(function: Any, given: Any) -> Any:
    """The ONNX model of `function`, a `tf.function` that takes `given`, a `tf.TensorSpec`.

    Constants that a network has outside of its variables, as for normalization, become part of the model: TensorFlow's
    function captures them, and tf2onnx makes inputs of them.
    """
    import onnx
    import tf2onnx

    _teach_erfc()
    with _copies_collected():
        model, _ = tf2onnx.convert.from_function(function, input_signature=[given], opset=OPSET)
    values = {inner.name: outer for outer, inner in function.get_concrete_function(given).graph.captures}
    for tensor in [one for one in model.graph.input if one.name in values]:
        model.graph.initializer.append(onnx.numpy_helper.from_array(values[tensor.name].numpy(), tensor.name))
        model.graph.input.remove(tensor)
    return model


@contextmanager
def _copies_collected() -> Iterator[None]:
    """Let Python look for garbage among new objects only, and so more often.

    tf2onnx copies the whole graph, weights included, before each of some thirty optimizations. The copies are cycles,
    which wait for a full collection, and that waits until a quarter of all objects is new.
    """
    if gc.get_freeze_count():  # the program froze its own objects
        yield
        return
    gc.collect()
    gc.freeze()
    gc.collect()  # or the next full collection still waits for a quarter of the old objects
    try:
        yield
    finally:
        gc.unfreeze()


@functools.cache
def _teach_erfc() -> None:
    """Let tf2onnx convert erfc(x), of which TensorFlow makes the exact GELU: 1 - erf(x)."""
    from tf2onnx import utils
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        @classmethod
        def version_9(cls, graph: Any, node: Any, **_: Any) -> None:
            """From opset 9 on, which has Erf."""
            kind = utils.map_onnx_to_numpy_type(graph.get_dtype(node.input[0]))
            one = graph.make_const(utils.make_name(node.name), np.array(1, kind))
            erf = graph.make_node("Erf", [node.input[0]], name=utils.make_name(node.name))
            node.type = "Sub"
            graph.replace_inputs(node, [one.output[0], erf.output[0]])
