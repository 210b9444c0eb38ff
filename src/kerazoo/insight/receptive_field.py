"""Receptive fields: which pixels of the image the output of a layer can depend on, at each of its positions.

For each axis, position i of a layer sees the pixels start + i*jump ... start + i*jump + size - 1, which may lie outside
of the image, where there is padding. start, jump and size go from layer to layer (Araujo, Norris & Sim 2019, "Computing
Receptive Fields of Convolutional Neural Networks", Distill, doi 10.23915/distill.00021): a window of k inputs, k = d(k'
- 1) + 1 with dilation d, adds (k - 1)*jump to the size, takes its left padding times the jump from the start, and
multiplies the jump by its stride. Where branches join, the field is from the first to the last pixel of any branch.

An axis with jump 0 sees the same pixels at all positions, as after global pooling.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from keras import KerasTensor


@dataclass(frozen=True)
class Axis:
    """The field along one axis of the image, in pixels; `place` is that axis in the layer's output, if it has it.

    `count` is the number of positions, which is what the layer's output has along `place`.
    """

    place: int | None
    start: Fraction
    jump: Fraction
    size: Fraction
    count: int

    @property
    def end(self) -> Fraction:
        """One more than the last pixel of position 0."""
        return self.start + self.size

    def everywhere(self) -> "Axis":
        """All positions together."""
        return Axis(None, self.start, Fraction(0), self.size + (self.count - 1) * self.jump, 1)

    def of(self, position: int) -> tuple[Fraction, Fraction]:
        """(first pixel, one more than the last pixel) of one position, counted from 0."""
        return self.start + position * self.jump, self.end + position * self.jump


@dataclass(frozen=True)
class Field:
    """The receptive field of a layer, an axis for each axis of the image, or why it is not known (`unknown`).

    `global_context`: each value also depends on the whole image, by a factor (squeeze and excitation) or by statistics
    over the positions; the axes leave that out. `upper_bound`: positions may see less, as behind upsampling.
    """

    axes: tuple[Axis, ...] = ()
    image: tuple[int, ...] = ()  # pixels along each axis
    global_context: bool = False
    upper_bound: bool = False
    unknown: str = ""

    @property
    def is_same_everywhere(self) -> bool:
        """Whether all positions see the same pixels."""
        return not self.unknown and all(axis.jump == 0 for axis in self.axes)

    @property
    def is_whole_image(self) -> bool:
        """Whether every position sees every pixel, or may with an `upper_bound`."""
        return self.is_same_everywhere and all(
            axis.start <= 0 and axis.end >= size for axis, size in zip(self.axes, self.image, strict=True)
        )

    def everywhere(self) -> "Field":
        """The field of all positions together."""
        return replace(self, axes=tuple(axis.everywhere() for axis in self.axes))

    def text(self) -> str:
        """The size in words: "212", "3x5", "whole image" or "unknown"; + for global context, <= for an upper bound."""
        if self.unknown:
            return "unknown"
        if self.is_whole_image:
            return "<=whole image" if self.upper_bound else "whole image"
        sizes = [number(axis.size) for axis in self.axes]
        size = str(sizes[0]) if len(set(sizes)) == 1 else "x".join(map(str, sizes))
        return f"{'<=' if self.upper_bound else ''}{size}{'+' if self.global_context else ''}"

    def to_json(self) -> dict[str, Any]:
        """The numbers by name, a list with one for each axis of the image."""
        return {
            "size": [number(axis.size) for axis in self.axes],
            "jump": [number(axis.jump) for axis in self.axes],
            "start": [number(axis.start) for axis in self.axes],
            "whole_image": self.is_whole_image and not self.upper_bound,
            "global_context": self.global_context,
            "upper_bound": self.upper_bound,
            "unknown": self.unknown,
        }


def number(value: Fraction) -> int | float:
    """A whole number if it is one."""
    return int(value) if value.denominator == 1 else float(value)


def unknown(reason: str) -> Field:
    """A field that is not known, with the reason."""
    return Field(unknown=reason)


def field_of_input(shape: Sequence[int], channels_last: bool) -> Field:
    """(B, H, W, C), or more or fewer axes between the first and the channels -> each position sees its own pixel."""
    places = range(1, len(shape) - 1) if channels_last else range(2, len(shape))
    if len(shape) == 2:
        places = range(1, 2)  # a vector is an image of one axis, whose values a dense layer mixes
    axes = [Axis(place, Fraction(0), Fraction(1), Fraction(1), int(shape[place])) for place in places]
    return Field(tuple(axes), tuple(axis.count for axis in axes))


def windowed(
    field: Field, output: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int],
    padding: str, first: int,
) -> Field:  # fmt: skip
    """The field behind a convolution or pooling, whose windows move along the axes from `first` on.

    Keras pads "same" by max((ceil(n/s) - 1)s + k - n, 0) for n positions, the smaller half of it before the first.
    """

    def moved(axis: Axis, index: int) -> Axis:
        stride = strides[index]
        size = dilation[index] * (kernel[index] - 1) + 1
        whole = max((math.ceil(axis.count / stride) - 1) * stride + size - axis.count, 0)
        before = {"valid": 0, "same": whole // 2, "causal": size - 1}[padding]
        return replace(
            axis, start=axis.start - before * axis.jump, size=axis.size + (size - 1) * axis.jump,
            jump=axis.jump * stride, count=int(output[first + index]),
        )  # fmt: skip

    return _along(field, first, len(kernel), moved)


def upsampled(
    field: Field, output: Sequence[int], factors: Sequence[int], first: int,
    seen: Callable[[int, int], tuple[int, int]],
) -> Field:  # fmt: skip
    """The field behind a layer that makes each position to as many as `factors` say.

    `seen(index of the axis, phase)` is (first, last) input that the output at this phase depends on; the phases are 0
    to factor - 1. Positions at different phases see different inputs, so that the field is that of all of them.
    """

    def moved(axis: Axis, index: int) -> Axis:
        factor = factors[index]
        ranges = [(*seen(index, phase), Fraction(phase, factor)) for phase in range(factor)]
        low = min(first - shift for first, last, shift in ranges if first <= last)
        high = max(last - shift for first, last, shift in ranges if first <= last)
        return replace(
            axis, start=axis.start + low * axis.jump, size=axis.size + (high - low) * axis.jump,
            jump=axis.jump / factor, count=int(output[first_place + index]),
        )  # fmt: skip

    first_place = first
    return replace(_along(field, first, len(factors), moved), upper_bound=field.upper_bound or max(factors) > 1)


def shifted(field: Field, output: Sequence[int], before: Sequence[int], first: int) -> Field:
    """The field behind a layer that pads `before` positions in front, or cuts them off where negative."""

    def moved(axis: Axis, index: int) -> Axis:
        return replace(axis, start=axis.start - before[index] * axis.jump, count=int(output[first + index]))

    return _along(field, first, len(before), moved)


def _along(field: Field, first: int, number_of_axes: int, moved: Callable[[Axis, int], Axis]) -> Field:
    """`field` with each axis of the image that is at one of the places from `first` on replaced."""
    places = [axis.place for axis in field.axes if axis.place is not None]
    if len(set(places)) < len(places):
        return unknown("windows move over positions of two axes that were merged into one")
    if any(not first <= place < first + number_of_axes for place in places):
        return unknown("windows move along axes other than those of the image")
    axes = [axis if axis.place is None else moved(axis, axis.place - first) for axis in field.axes]
    return replace(field, axes=tuple(axes))


def joined(fields: Iterable[Field], *, gate: bool = False) -> Field:
    """The field of a sum, product or list of channels: from the first to the last pixel of any of `fields`.

    With `gate`, factors that are the same at all positions are left out, and the field has `global_context`.
    """
    known = list(fields)
    local = [field for field in known if not field.is_same_everywhere]
    if gate and local and len(local) < len(known):
        return replace(joined(local), global_context=True)
    axes = zip(*(field.axes for field in known), strict=True)
    try:
        merged = tuple(_joined_axis(each) for each in axes)
    except _MisalignedError as error:
        return unknown(str(error))
    return Field(
        merged, known[0].image, any(field.global_context for field in known), any(f.upper_bound for f in known)
    )


class _MisalignedError(Exception):
    """The positions of two branches are not the same places of the image."""


def _joined_axis(axes: Sequence[Axis]) -> Axis:
    moving = [axis for axis in axes if axis.jump != 0 and axis.place is not None]
    if not moving or len(moving) < len(axes):  # something that is the same everywhere is a part of every field
        axes = [axis.everywhere() for axis in axes]
    first = axes[0]
    if len({axis.jump for axis in axes}) > 1:
        jumps = " and ".join(str(number(jump)) for jump in sorted({axis.jump for axis in axes}))
        raise _MisalignedError(f"it joins branches whose positions are {jumps} pixels apart")
    if len({axis.place for axis in axes}) > 1:
        raise _MisalignedError("it joins branches whose axes are in another order")
    start = min(axis.start for axis in axes)
    return replace(first, start=start, size=max(axis.end for axis in axes) - start)


def reshaped(field: Field, before: Sequence[int], after: Sequence[int]) -> Field:
    """The field behind a reshape: an axis that is kept, that is merged with the other one, or with the channels.

    Where positions are merged with the channels, as by Flatten, what comes next mixes them: the field is that of all
    positions together. An axis that is cut in pieces, as into windows of attention, has no known field.
    """
    steps = [math.prod(after[:place]) for place in range(len(after))]
    axes = []
    merged = len(field.axes) == 2 and len({axis.place for axis in field.axes}) == 1 and field.axes[0].place is not None
    for index, axis in enumerate(field.axes):
        if axis.place is None:
            axes.append(axis)
            continue
        size = before[axis.place]
        step = math.prod(before[: axis.place])
        kept = [place for place in range(len(after)) if steps[place] == step and after[place] == size]
        together = _merged_place(field, before, after)
        if merged and not kept:
            split = _split_place(field, before, after)
            if split is None:
                return unknown(f"it cuts positions in pieces: {tuple(before[1:])} to {tuple(after[1:])}")
            axes.append(replace(axis, place=split + index))
        elif kept:
            axes.append(replace(axis, place=kept[-1]))
        elif together is not None:
            axes.append(replace(axis, place=together))
        elif step >= steps[-1]:  # all of it is in the last axis, with the channels
            axes.append(axis.everywhere())
        else:
            return unknown(f"it cuts positions in pieces: {tuple(before[1:])} to {tuple(after[1:])}")
    return replace(field, axes=tuple(axes))


def _merged_place(field: Field, before: Sequence[int], after: Sequence[int]) -> int | None:
    """The axis of a list of all positions, row by row."""
    places = [axis.place for axis in field.axes]
    if len(places) != 2 or None in places or places[1] != places[0] + 1:  # type: ignore[operator]
        return None
    row, column = places
    step = math.prod(before[:row])
    size = before[row] * before[column]  # type: ignore[index]
    fits = [place for place in range(len(after)) if math.prod(after[:place]) == step and after[place] == size]
    return fits[-1] if fits and fits[-1] < len(after) - 1 else None


def _split_place(field: Field, before: Sequence[int], after: Sequence[int]) -> int | None:
    """Where rows and columns are again, after they were merged."""
    rows, columns = (axis.count for axis in field.axes)
    place = field.axes[0].place
    step = math.prod(before[:place])
    for first in range(len(after) - 1):
        if math.prod(after[:first]) == step and tuple(after[first : first + 2]) == (rows, columns):
            return first
    return None


def moved_axes(field: Field, order: Sequence[int]) -> Field:
    """The field behind a transpose: `order` has, for each axis of the output, the axis of the input."""
    axes = [
        axis if axis.place is None else replace(axis, place=list(order).index(axis.place)) for axis in field.axes
    ]  # fmt: skip
    return replace(field, axes=tuple(axes))


def reduced(field: Field, axes: Iterable[int], rank: int, keepdims: bool) -> Field:
    """The field behind a mean, sum or maximum over `axes`: over positions that is the field of all of them."""
    gone = {axis % rank for axis in axes}

    def after(axis: Axis) -> Axis:
        if axis.place in gone:
            return axis.everywhere()
        if axis.place is None or keepdims:
            return axis
        return replace(axis, place=axis.place - sum(each < axis.place for each in gone))

    return replace(field, axes=tuple(map(after, field.axes)))


def broadcast(field: Field, shape: Sequence[int], output: Sequence[int]) -> Field:
    """`field` of a tensor of `shape` as it stands in `output`; one position that is repeated is seen everywhere."""

    def placed(axis: Axis) -> Axis:
        if axis.place is None:
            return axis
        place = axis.place + len(output) - len(shape)
        if shape[axis.place] == 1 != output[place]:
            return axis.everywhere()
        return replace(axis, place=place)

    return replace(field, axes=tuple(map(placed, field.axes)))


def tensors_of(value: Any) -> list[KerasTensor]:
    """The symbolic tensors in `value`, one or a list."""
    return [each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, KerasTensor)]
