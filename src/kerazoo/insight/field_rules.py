"""The receptive field behind a call, by the rules of layers (`layer_rules.py`) and operations (`operation_rules.py`).

A rule is for a class itself, not for those that inherit from it, whose `call` may be another. What has no rule has an
unknown field, unless all it sees is the same at all positions.
"""

from typing import Any

import keras

from kerazoo.insight import receptive_field as fields
from kerazoo.insight.calls import Call
from kerazoo.insight.layer_rules import LAYERS, is_of_a_library
from kerazoo.insight.operation_rules import OPERATIONS
from kerazoo.insight.receptive_field import Field
from kerazoo.insight.shared_rules import Rule


def field_of(call: Call, seen: list[Field]) -> Field:
    """The field of the outputs of `call`, from those of the tensors it takes that come from the image."""
    for field in seen:
        if field.unknown:
            return field
    images = {field.image for field in seen}
    if len(images) > 1:
        return fields.unknown("it joins inputs of the model that have different sizes")
    if all(field.is_same_everywhere for field in seen):
        return fields.joined(seen)
    rule = rule_of(call.operation)
    if rule is None:
        return fields.unknown(f"{call.kind} has no rule for its receptive field")
    return rule(call, seen)


def rule_of(operation: Any) -> Rule | None:
    """The rule of a layer or an operation; None if there is none."""
    if isinstance(operation, keras.Layer):
        rule = LAYERS.get(type(operation))
        function = getattr(operation, "activation", None)
        plain = function is None or type(operation) is keras.layers.Activation or is_of_a_library(function)
        return rule if plain else None
    return OPERATIONS.get(type(operation).__name__) if type(operation).__module__.startswith("keras.") else None
