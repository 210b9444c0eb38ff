"""A function of TensorFlow as an ONNX model."""

import functools
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

OPSET = 18
_IN_TURN = threading.Lock()  # tf2onnx is changed for the whole process meanwhile

log = logging.getLogger("kerazoo")


def as_onnx(function: Any, given: Any) -> Any:
    """The ONNX model of `function`, a `tf.function` that takes `given`, a `tf.TensorSpec`.

    Constants that a network has outside of its variables, as for normalization, become part of the model: TensorFlow's
    function captures them, and tf2onnx makes inputs of them.
    """
    import onnx
    import tf2onnx

    _teach_erfc()
    convert = functools.partial(tf2onnx.convert.from_function, function, input_signature=[given], opset=OPSET)
    try:
        with _IN_TURN, _optimized_in_place():
            model, _ = convert()
    except _OptimizationError as error:  # it left half a graph; with copies, it is left out
        log.info(f"the ONNX graph is optimized again, with copies: {error}")
        model = None
    if model is None:  # the error, which holds the half graph, is gone now
        model, _ = convert()
    values = {inner.name: outer for outer, inner in function.get_concrete_function(given).graph.captures}
    for tensor in [one for one in model.graph.input if one.name in values]:
        model.graph.initializer.append(onnx.numpy_helper.from_array(values[tensor.name].numpy(), tensor.name))
        model.graph.input.remove(tensor)
    return model


class _OptimizationError(Exception):
    """An optimization of tf2onnx failed."""


@contextmanager
def _optimized_in_place() -> Iterator[None]:
    """Let tf2onnx change its graph in place.

    Before each of some thirty optimizations it copies the whole graph, to go back if one fails, and after each it
    writes all weights into the nodes, which `make_model` does once more: most of the time and memory of a conversion.
    """
    from tf2onnx import optimizer
    from tf2onnx.graph import Graph

    def optimize(graph: Any, catch_errors: bool = True, optimizers: Any = None) -> Any:
        _widen_scalars(graph)
        Graph.update_proto = lambda graph: None
        try:
            return optimize_graph(graph, False, optimizers)
        except MemoryError:  # copies would take more
            raise
        except Exception as error:  # whatever an optimization raises
            raise _OptimizationError(f"{type(error).__name__}: {error}") from None
        finally:
            Graph.update_proto = update_proto

    optimize_graph, update_proto = optimizer.optimize_graph, Graph.update_proto
    optimizer.optimize_graph = optimize
    try:
        yield
    finally:
        optimizer.optimize_graph = optimize_graph


def _widen_scalars(graph: Any) -> None:
    """Give numbers that are added to maps a dimension.

    tf2onnx takes one after a convolution for a bias, and fails if it has none, as in the hard sigmoid: then it leaves
    out what removes the transpositions, all of them.
    """
    from tf2onnx import utils

    for node in [one for one in graph.get_nodes() if one.type == "Add"]:
        for place, given in enumerate(node.inputs):
            if given is None or not given.is_const() or graph.get_shape(given.output[0]) != []:
                continue
            if graph.get_shape(node.input[1 - place]):  # else the sum would get a dimension
                value = given.get_tensor_value(as_list=False).reshape(1)
                wide = graph.make_const(utils.make_name(given.name), value)
                graph.replace_input(node, node.input[place], wide.output[0], place)


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
