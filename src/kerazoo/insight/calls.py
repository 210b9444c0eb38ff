"""What a layer or a model does, as a list of calls: of layers, and of the operations of `keras.ops` between them.

A layer that runs once on symbolic tensors leaves its calls behind, whatever kind it is: functional, Sequential,
subclassed, or a layer made of layers. Nothing is computed, and the layer is left as it was.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
from keras import KerasTensor

from kerazoo.keras_private import calls_between, forgotten_calls


@dataclass(frozen=True)
class Call:
    """One call of a layer or of an operation; the tensors in `args` and `kwargs` have the shapes of this call."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[KerasTensor, ...]

    @property
    def tensors(self) -> list[KerasTensor]:
        """The symbolic tensors among the arguments."""
        return [each for each in keras.tree.flatten((self.args, dict(self.kwargs))) if isinstance(each, KerasTensor)]

    @property
    def input(self) -> tuple[int, ...]:
        """The shape of the first tensor."""
        return tuple(self.tensors[0].shape)

    @property
    def output(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return tuple(self.outputs[0].shape)

    @property
    def kind(self) -> str:
        """The name of the class."""
        return type(self.operation).__name__

    def argument(self, name: str, place: int, default: Any = None) -> Any:
        """The argument `name` of the call, or the one at `place`, counted from 0."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[place] if place < len(self.args) else default


@dataclass(frozen=True)
class Unfolded:
    """The calls in a layer, in an order in which they can run, from `inputs` to `outputs`.

    An output is None if it does not depend on the inputs, as the codes of positions.
    """

    inputs: tuple[KerasTensor, ...]
    calls: tuple[Call, ...]
    outputs: tuple[KerasTensor | None, ...]


def unfold(layer: keras.Layer, args: Any, kwargs: Mapping[str, Any] | None = None) -> Unfolded:
    """The calls in one call of `layer` in inference mode, on tensors of the shapes in `args` and `kwargs`.

    Raises whatever the layer raises where it cannot run on symbolic tensors, as code of TensorFlow's cannot.
    """
    inputs: list[KerasTensor] = []

    def fresh(value: Any) -> Any:
        if isinstance(value, KerasTensor):
            inputs.append(keras.Input(batch_shape=value.shape, dtype=value.dtype))
            return inputs[-1]
        return value

    own_args, own_kwargs = keras.tree.map_structure(fresh, (tuple(args), dict(kwargs or {})))
    own_kwargs.pop("training", None)  # recorded for layers that do not take it, too
    is_graph = isinstance(layer, keras.Sequential) or hasattr(layer, "operations")  # it hands it on to such layers, too
    if "training" in inspect.signature(layer.call).parameters and not is_graph:
        own_kwargs["training"] = False
    with forgotten_calls(layer):
        results = layer.call(*own_args, **own_kwargs)
        outputs = [each if isinstance(each, KerasTensor) else None for each in keras.tree.flatten(results)]
        own = {id(each) for each in inputs}
        made = [each for each in outputs if each is not None and id(each) not in own]
        calls = calls_between(inputs, made) if made else []
    return Unfolded(tuple(inputs), tuple(Call(a, b, c, tuple(d)) for a, b, c, d in calls), tuple(outputs))
