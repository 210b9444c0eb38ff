"""Checks of builders' arguments. Each raises ModelError with the value received and the values allowed."""

from collections.abc import Collection, Sequence
from typing import Any

from kerazoo.errors import ModelError


def check_input_shape(input_shape: Sequence[int], *, smallest: int, model: str) -> tuple[int, int, int]:
    """`input_shape` as (H, W, C), with H and W at least `smallest` px."""
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else (input_shape,)
    if len(shape) != 3 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
        raise ModelError(f"{model}: input_shape={input_shape!r} must be (height, width, channels), in whole numbers")
    if min(shape[:2]) < smallest:
        raise ModelError(
            f"{model}: input_shape={shape!r} is too small; height and width must be at least {smallest} px"
        )
    return shape


def check_count(value: Any, *, name: str, model: str) -> int:
    """`value` as a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{model}: {name}={value!r} must be a whole number of at least 1")
    return value


def check_counts(values: Any, *, name: str, model: str, allow_empty: bool = False) -> tuple[int, ...]:
    """`values` as a tuple of whole numbers of at least 1."""
    if isinstance(values, int | str) or not isinstance(values, Sequence) or (not values and not allow_empty):
        raise ModelError(f"{model}: {name}={values!r} must be a list of whole numbers, such as (32, 64)")
    return tuple(check_count(value, name=name, model=model) for value in values)


def check_choice(value: Any, allowed: Collection[str], *, name: str, model: str) -> str:
    """`value`, if it is one of `allowed`."""
    if value not in allowed:
        raise ModelError(f"{model}: {name}={value!r} must be one of {', '.join(allowed)}")
    return str(value)


def check_fraction(value: Any, *, name: str, model: str) -> float:
    """`value` as a number in [0, 1)."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise ModelError(f"{model}: {name}={value!r} must be a number in [0, 1)")
    return float(value)


def check_penalty(value: Any, *, name: str, model: str) -> float:
    """`value` as a number of at least 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        raise ModelError(f"{model}: {name}={value!r} must be a number of at least 0")
    return float(value)
