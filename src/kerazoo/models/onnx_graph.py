"""A function of TensorFlow as an ONNX model."""

from typing import Any

OPSET = 18


def as_onnx(function: Any, given: Any) -> Any:
    """The ONNX model of `function`, a `tf.function` that takes `given`, a `tf.TensorSpec`.

    Constants that a network has outside of its variables, as for normalization, become part of the model: TensorFlow's
    function captures them, and tf2onnx makes inputs of them.
    """
    import onnx
    import tf2onnx

    model, _ = tf2onnx.convert.from_function(function, input_signature=[given], opset=OPSET)
    values = {inner.name: outer for outer, inner in function.get_concrete_function(given).graph.captures}
    for tensor in [one for one in model.graph.input if one.name in values]:
        model.graph.initializer.append(onnx.numpy_helper.from_array(values[tensor.name].numpy(), tensor.name))
        model.graph.input.remove(tensor)
    return model
