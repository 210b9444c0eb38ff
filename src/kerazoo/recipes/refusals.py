"""Error messages for a recipe: one line with the key, its value, the allowed values, and the most similar names."""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError

from kerazoo.errors import KerazooError, RecipeError

# prefixes of pydantic's error types whose messages say less than `allowed` does
OF_A_VALUE = (
    "bool_", "finite_", "float_", "greater_", "int_", "less_", "list_", "literal_error", "string_type", "too_short",
)  # fmt: skip


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """The message for the first error. Unknown keys come first, because a misspelled key also leaves one missing."""
    first = min(error.errors(), key=lambda details: details["type"] != "extra_forbidden")
    kind, location, received = first["type"], first["loc"], first["input"]
    message = first["msg"].removeprefix("Value error, ")
    key = ".".join(map(str, location))
    if kind == "extra_forbidden":
        return _unknown(location, model)
    if kind == "missing":
        return f"recipe key {key} is missing; {'name the data (--data)' if key.startswith('data') else 'set it'}"
    if kind in ("model_type", "model_attributes_type"):
        return f"recipe key {key} must be a table of keys, got {received!r}"
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, KerazooError):
        return message if isinstance(raised, RecipeError) else f"recipe key {key}: {message}"
    if kind == "value_error" and len(location) < 2:  # an error about a whole part already names the keys and values
        return f"recipe: {key}.{message}" if key else f"recipe: {message}"
    field = _field(location, model)
    if field is not None and kind.startswith(OF_A_VALUE):
        message = f"must be {allowed(*field)}"
    message = message.replace("Input should be", "must be")
    gap = "" if message.startswith("must ") else ":"
    return f"recipe key {key}{gap} {message}, got {received!r}{_nearest_value(field, received)}"


def allowed(annotation: Any, rules: list[Any]) -> str:
    """The allowed values in words, from the field's annotation and rules."""
    kind = _plain(annotation)
    if get_origin(kind) is Annotated:
        kind, *rules = get_args(kind)
    texts = [rule for rule in rules if isinstance(rule, str)]
    if texts:
        return texts[0]
    if get_origin(kind) is Literal:
        *names, last = (repr(name) for name in get_args(kind))
        return f"{', '.join(names)} or {last}" if names else last
    if get_origin(kind) is list:
        return f"a list{' of one or more' if rules else ''}, each item {allowed(get_args(kind)[0], [])}"
    if kind in (int, float):
        return f"a {'whole ' if kind is int else ''}number{_interval(rules)}"
    return {bool: "true or false", str: "a string"}.get(kind, "a table")


def _interval(rules: list[Any]) -> str:
    low, high = "(-inf", "inf)"
    for rule in rules:
        if isinstance(rule, Ge | Gt):
            low = f"[{rule.ge}" if isinstance(rule, Ge) else f"({rule.gt}"
        if isinstance(rule, Le | Lt):
            high = f"{rule.le}]" if isinstance(rule, Le) else f"{rule.lt})"
    return f" in {low}, {high}" if rules else ""


def _plain(annotation: Any) -> Any:
    """The annotation without None."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    kinds = [kind for kind in get_args(annotation) if kind is not types.NoneType]
    return kinds[0] if len(kinds) == 1 else annotation


def parts_of(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The parts of a recipe, by name."""
    kinds = {name: _plain(field.annotation) for name, field in model.model_fields.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def _field(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[Any, list[Any]] | None:
    """The annotation and the rules of the value at `location`, which may be an item of a list."""
    parts, (key, *more) = parts_of(model), location
    if key in parts and more:
        model, key, more = parts[str(key)], more[0], more[1:]
    field = model.model_fields.get(str(key))
    if field is None:
        return None
    return (get_args(_plain(field.annotation))[0], []) if more else (field.annotation, field.metadata)


def _unknown(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    known = list((parts_of(model)[str(location[0])] if len(location) > 1 else model).model_fields)
    near = _nearest_keys(location, known, model)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"the recipe has no key {'.'.join(map(str, location))!r}; known here: {', '.join(known)}{hint}"


def _nearest_keys(location: tuple[int | str, ...], known: list[str], model: type[BaseModel]) -> list[str]:
    """The keys that the user probably meant: similar names in the same part, or else in any part."""
    places: dict[str, list[str]] = {}
    for name, part in parts_of(model).items():
        for key in part.model_fields:
            places.setdefault(key, []).append(f"{name}.{key}")
    prefix = "".join(f"{part}." for part in location[:-1])
    here = [f"{prefix}{key}" for key in nearest(str(location[-1]), known, number=2)]
    return here or [
        place for key in nearest(str(location[-1]), list(places), number=1, cutoff=0.75) for place in places[key]
    ]


def _nearest_value(field: tuple[Any, list[Any]] | None, received: Any) -> str:
    """The names that the user probably meant, if `field` takes names."""
    kind = None if field is None else _plain(field[0])
    if get_origin(kind) is not Literal or not isinstance(received, str):
        return ""
    names = [name for name in get_args(kind) if isinstance(name, str)]
    near = [repr(name) for name in nearest(received.lower(), names)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def nearest(text: str, names: list[str], *, number: int = 2, cutoff: float = 0.6) -> list[str]:
    """Those of `names` whose spelling is similar to `text`."""
    import difflib  # needed only for error messages

    return difflib.get_close_matches(text, names, n=number, cutoff=cutoff)
