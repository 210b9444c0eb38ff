"""Rules of receptive fields that layers of Keras and operations of `keras.ops` have in common."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from kerazoo.insight import receptive_field as fields
from kerazoo.insight.calls import Call
from kerazoo.insight.receptive_field import Field

Rule = Callable[[Call, list[Field]], Field]


def same(call: Call, seen: list[Field]) -> Field:
    """Sums, and functions of each position by itself."""
    return fields.joined(_placed(call, seen))


def product(call: Call, seen: list[Field]) -> Field:
    """Factors that are the same at all positions, as of squeeze and excitation, are left out."""
    return fields.joined(_placed(call, seen), gate=True)


def _placed(call: Call, seen: list[Field]) -> list[Field]:
    """The fields as they stand in the output, where shapes are broadcast."""
    shapes = [tensor.shape for tensor in call.tensors]
    return [fields.broadcast(f, shape, call.output) for f, shape in zip(seen, shapes, strict=False)]


def concatenated(call: Call, seen: list[Field]) -> Field:
    """Maps that are joined by channels."""
    axis = call.operation.axis % len(call.output)
    if any(one.place == axis for field in seen for one in field.axes):
        if len(seen) > 1 or len({one.place for one in seen[0].axes}) == len(seen[0].axes):
            return fields.unknown("it joins maps side by side")
        return seen[0]  # tokens of the image, and others that see nothing of it
    return fields.joined(seen)


def normalized(call: Call, seen: list[Field]) -> Field:
    """Over channels nothing changes; statistics over positions are of the whole image."""
    axis = call.operation.axis
    axes = {each % len(call.output) for each in (axis if isinstance(axis, list | tuple) else [axis])}
    return with_statistics(seen[0], any(one.place in axes for one in seen[0].axes))


def with_statistics(field: Field, over_positions: bool) -> Field:
    """`field`, with the whole image as its context if there are statistics over positions."""
    return replace(field, global_context=field.global_context or over_positions)


def softmax(call: Call, seen: list[Field]) -> Field:
    """Over channels nothing changes; over positions each sees all of them."""
    axis = getattr(call.operation, "axis", -1)
    return fields.reduced(seen[0], axes_of(axis, len(call.input)), len(call.input), keepdims=True)


def everywhere(call: Call, seen: list[Field]) -> Field:
    """Each position sees those of all."""
    return fields.joined([field.everywhere() for field in seen])


def axes_of(axis: Any, rank: int) -> list[int]:
    """The numbers of axes in an argument: None is all of them."""
    if axis is None:
        return list(range(rank))
    return list(axis) if isinstance(axis, list | tuple) else [axis]


def contracted(equation: str, own: Sequence[Field | None], call: Call) -> Field:
    """The field of an einsum: axes that are summed over are seen as a whole, the others keep their positions.

    Two different axes of positions in one output, as in the scores of attention, are each seen as a whole, too.
    """
    inputs, _, output = equation.replace(" ", "").partition("->")
    if "." in equation or not output:
        return fields.unknown(f"the product {equation} has no rule")
    kept = []
    for letters, field in zip(inputs.split(","), own, strict=True):
        if field is None:
            continue
        axes = []
        for axis in field.axes:
            letter = "" if axis.place is None else letters[axis.place]
            stays = letter and letter in output
            axes.append(replace(axis, place=output.index(letter)) if stays else axis.everywhere())
        kept.append(replace(field, axes=tuple(axes)))
    places = {tuple(axis.place for axis in field.axes) for field in kept}
    return fields.joined(kept if len(places) == 1 else [field.everywhere() for field in kept])
