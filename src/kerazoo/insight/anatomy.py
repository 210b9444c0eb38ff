"""The anatomy of a Keras model: sizes, parameters, MACs, activation memory and receptive field of each layer.

The model runs once on symbolic tensors (`calls.py`), so that nothing is computed, and it may be functional, Sequential,
subclassed or nested. A layer that is made of others is one row with the sums of what is in it.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import KerasTensor

from kerazoo.errors import ModelError
from kerazoo.insight.calls import Call, unfold
from kerazoo.insight.field_rules import field_of, rule_of
from kerazoo.insight.layer_outputs import reason_of
from kerazoo.insight.macs import macs_of
from kerazoo.insight.receptive_field import Field, field_of_input, joined, unknown

BYTES = re.compile(r"\d+$")  # of a dtype: the bits at its end
UNSEEN = ("ConvertToTensor", "Cast")  # operations that change no value


@dataclass(frozen=True)
class LayerAnatomy:
    """One call of a layer, or of an operation between layers.

    `name` is a path as in `layers_by_path`, with :1 at the second call of a layer. `output_shape` has no batch.
    `parameters` includes moving statistics, and is 0 where a layer is called again. `macs` are multiply-accumulate
    operations for one image, None if they are not known. `activation_bytes` is the size of the output for one image.
    `field` is the receptive field.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int | None
    activation_bytes: int
    field: Field

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {
            "name": self.name,
            "kind": self.kind,
            "output_shape": list(self.output_shape),
            "parameters": self.parameters,
            "macs": self.macs,
            "activation_bytes": self.activation_bytes,
            "receptive_field": self.field.to_json(),
        }


@dataclass(frozen=True)
class Anatomy:
    """A model's anatomy: `layers` in the order of the forward pass, the size of its input, and sums.

    `parameters` includes moving statistics, `trainable` does not.
    """

    model: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerAnatomy, ...]
    parameters: int
    trainable: int

    @property
    def macs(self) -> int | None:
        """The multiply-accumulate operations for one image, each two FLOPs. None if those of a layer are not known."""
        return sum_of_macs(self.layers)

    @property
    def activation_bytes(self) -> int:
        """The sizes of all outputs of layers for one image, which is about what training keeps for backpropagation."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def last_map(self) -> LayerAnatomy | None:
        """The last layer whose positions see different pixels: its field is what is quoted as that of the network."""
        maps = [layer for layer in self.layers if not layer.field.is_same_everywhere and not layer.field.unknown]
        return maps[-1] if maps else None

    def layer(self, name: str) -> LayerAnatomy:
        """The row called `name`, or the only one whose path ends in it. Raises ModelError."""
        rows = [row for row in self.layers if row.name == name]
        rows = rows or [row for row in self.layers if row.name.rpartition("/")[2] == name]
        if len(rows) == 1:
            return rows[0]
        if rows:
            raise ModelError(f"{self.model} has {len(rows)} layers {name!r}; use a path: {rows[0].name}")
        import difflib

        names = [row.name for row in self.layers]
        near = difflib.get_close_matches(name, names, 3, cutoff=0.4) or names[-1:]
        raise ModelError(f"{self.model} has no layer {name!r:.80}; the nearest names are {', '.join(near)}")

    def to_json(self) -> dict[str, Any]:
        """The fields and sums by name."""
        last = self.last_map
        return {
            "model": self.model,
            "input_shape": list(self.input_shape),
            "parameters": self.parameters,
            "trainable_parameters": self.trainable,
            "macs": self.macs,
            "activation_bytes": self.activation_bytes,
            "last_map": None if last is None else last.name,
            "layers": [layer.to_json() for layer in self.layers],
        }


def sum_of_macs(layers: Sequence[LayerAnatomy]) -> int | None:
    """The multiply-accumulate operations of `layers`; None if those of one are not known."""
    known = [layer.macs for layer in layers]
    return None if None in known else sum(each for each in known if each is not None)


def anatomy_of(model: keras.Model, input_size: int | Sequence[int] | None = None) -> Anatomy:
    """The anatomy of `model` for one image.

    `input_size` is a side in px, (H, W), or (H, W, C); the default is the model's own. The model is not changed.
    Raises ModelError if the model is not built, or cannot take images of this size.
    """
    inputs = _inputs_of(model, input_size)
    tensors = [each for each in keras.tree.flatten(inputs) if isinstance(each, KerasTensor)]
    last = keras.config.image_data_format() == "channels_last"
    walk = _Walk()
    try:
        walk.follow(model, (inputs,), {}, [field_of_input(each.shape, last) for each in tensors], "")
    except _UnfollowedError as error:
        raise ModelError(f"{model.name} cannot be inspected: {error}") from error
    return Anatomy(
        model=model.name, input_shape=tuple(tensors[0].shape[1:]), layers=tuple(walk.rows),
        parameters=int(model.count_params()),
        trainable=sum(math.prod(weight.shape) for weight in model.trainable_weights),
    )  # fmt: skip


def _inputs_of(model: keras.Model, input_size: int | Sequence[int] | None) -> Any:
    """Symbolic inputs of one image, as `model` takes them. Raises ModelError."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size or ())
    if size and (len(size) not in (2, 3) or any(not isinstance(side, int) or side < 1 for side in size)):
        raise ModelError(f"input_size must be a side in px, (H, W) or (H, W, C), got {input_size!r}")
    if not getattr(model, "inputs", None):
        if len(size) == 3 and model.built:
            return keras.Input(batch_shape=(1, *size))
        raise ModelError(
            f"{model.name} does not say which input it takes; call it on an image first, then give input_size=(H, W, C)"
        )

    def sized(tensor: KerasTensor) -> KerasTensor:
        shape = list(tensor.shape[1:])
        if size and len(shape) == 3:
            places = slice(0, 2) if keras.config.image_data_format() == "channels_last" else slice(1, 3)
            shape[places] = size[:2]
            if len(size) == 3 and list(size) != shape and keras.config.image_data_format() == "channels_last":
                raise ModelError(f"{model.name} takes images with {shape[-1]} channels, got input_size={size}")
        if None in shape:
            raise ModelError(f"{model.name} takes images of any size; give input_size, a side in px or (H, W)")
        return keras.Input(batch_shape=(1, *shape), dtype=tensor.dtype)

    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(sized, structure)


class _UnfollowedError(Exception):
    """A layer does not run on symbolic tensors."""


class _Walk:
    """Follows calls from the image on, and keeps a row for each."""

    def __init__(self) -> None:
        self.rows: list[LayerAnatomy] = []
        self._seen: set[int] = set()  # layers whose parameters were counted
        self._calls: dict[str, int] = {}

    def follow(
        self, layer: keras.Layer, args: Any, kwargs: Any, seen: list[Field], prefix: str | None
    ) -> tuple[list[Field | None], int | None]:
        """(fields of the outputs, MACs) of a layer by the calls in it. They have rows unless `prefix` is None.

        A field is None if the output does not depend on the image.
        """
        try:
            unfolded = unfold(layer, args, kwargs)
        except Exception as error:  # whatever the code of a layer raises
            reason = reason_of(error).partition(". ")[0]
            raise _UnfollowedError(f"{layer.name} does not run on symbolic tensors: {reason}") from error
        fields: dict[int, Field | None] = dict(zip(map(id, unfolded.inputs), seen, strict=True))
        total: int | None = 0
        for call in unfolded.calls:
            plain = _without_constants(call, fields)
            own = [field for field in (fields[id(tensor)] for tensor in plain.tensors) if field is not None]
            made, macs = self._call(plain, own, prefix)
            fields |= zip(map(id, call.outputs), made, strict=True)
            total = None if total is None or macs is None else total + macs
        return [None if tensor is None else fields[id(tensor)] for tensor in unfolded.outputs], total

    def _call(self, call: Call, seen: list[Field], prefix: str | None) -> tuple[list[Field | None], int | None]:
        """(fields of the outputs, MACs) of one call."""
        layer = call.operation
        if isinstance(layer, keras.Model) and prefix is not None:
            try:
                return self.follow(layer, call.args, call.kwargs, seen, f"{prefix}{layer.name}/")
            except _UnfollowedError:
                pass  # one row, which says so
        made, macs = self._measured(call, seen)
        if prefix is not None and call.kind not in UNSEEN and made[0] is not None:
            self._add(call, made[0], macs, prefix)
        return made, macs

    def _measured(self, call: Call, seen: list[Field]) -> tuple[list[Field | None], int | None]:
        layer = call.operation
        if not seen:  # only constants
            return [None] * len(call.outputs), macs_of(call)
        if any(None in tensor.shape[1:] for tensor in (*call.tensors, *call.outputs)):
            field = unknown(f"the shapes of {layer.name} are not known before it runs")
            return [field] * len(call.outputs), None
        if not isinstance(layer, keras.Layer) or rule_of(layer) is not None:
            return [field_of(call, seen)] * len(call.outputs), macs_of(call)
        same = all(field.is_same_everywhere for field in seen)
        try:
            return self.follow(layer, call.args, call.kwargs, seen, None)
        except _UnfollowedError as error:
            field = joined(seen) if same else unknown(str(error))
            return [field] * len(call.outputs), macs_of(call)

    def _add(self, call: Call, field: Field, macs: int | None, prefix: str) -> None:
        layer = call.operation
        path = f"{prefix}{layer.name}"
        again = self._calls.get(path, 0)
        self._calls[path] = again + 1
        parameters = 0
        if isinstance(layer, keras.Layer) and id(layer) not in self._seen:
            parameters = int(layer.count_params())
            self._seen.add(id(layer))
        self.rows.append(
            LayerAnatomy(
                name=f"{path}:{again}" if again else path, kind=call.kind, output_shape=call.output[1:],
                parameters=parameters, macs=macs, activation_bytes=sum(map(_bytes, call.outputs)), field=field,
            )
        )  # fmt: skip


def _without_constants(call: Call, fields: dict[int, Field | None]) -> Call:
    """`call` with zeros in place of the tensors that do not depend on the image."""

    def replaced(value: Any) -> Any:
        if isinstance(value, KerasTensor) and fields[id(value)] is None:
            return keras.ops.zeros(value.shape, value.dtype)
        return value

    if all(fields[id(tensor)] is not None for tensor in call.tensors):
        return call
    args, kwargs = keras.tree.map_structure(replaced, (call.args, dict(call.kwargs)))
    return replace(call, args=args, kwargs=kwargs)


def _bytes(tensor: KerasTensor) -> int:
    bits = BYTES.search(str(tensor.dtype))
    values = math.prod(side or 0 for side in tensor.shape[1:])
    return int(values) * (int(bits[0]) // 8 if bits else 1)
