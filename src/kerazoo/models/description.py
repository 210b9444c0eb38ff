"""The checks of `model.json`: every value is checked before anything is built, read or allocated.

A model folder may come from an unknown source. Only arguments in the builder's signature are allowed, each with the
type of its default and within limits that no normal model reaches.
"""

import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.errors import ModelError
from kerazoo.keras_private import without_variables
from kerazoo.models.backbone import Backbone
from kerazoo.models.hub.backbone import HubBackbone
from kerazoo.models.hub.families import problem_of
from kerazoo.models.registry import construct, describe, find, signature_of
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.tasks.base import Task
from kerazoo.tasks.task import find_task

if TYPE_CHECKING:
    import keras


LARGEST = 65_536  # limit on whole numbers, such as units
MOST = 1_000  # limit on the values in a list
LARGEST_NUMBER = 1e6  # limit on other numbers, such as a penalty
LONGEST = 1_000  # limit on the characters of a name
TEMPERATURES = (1e-3, 1e3)
BYTES = 4  # bytes of a stored float32
MEMBERS = 100  # limit on the members of an ensemble
OPTIONAL = ("flip", "members", "thresholds")  # the keys that `to_json` leaves out if they have no effect


def check_description(spec: "ModelSpec") -> None:
    """Raise ModelError, which names the key and the value, if kerazoo would not make such a `spec`."""
    check_arguments(spec.name, spec.arguments)
    task = find_task(spec.task)
    for one in (Member(spec.temperature, spec.flip), *spec.members):
        _check_answer(one.temperature, one.flip, task)
    if len(spec.members) > MEMBERS:
        raise ModelError(f"members must be at most {MEMBERS}, got {len(spec.members):,}")
    if spec.members and (spec.flip or spec.temperature != 1):
        raise ModelError("flip and temperature of an ensemble must be those of its members")
    check_names(spec.class_names)
    check_thresholds(spec.thresholds, task, len(spec.class_names))
    all_arguments = {**_known(spec.name), **spec.arguments}
    for key, expected, what in (
        ("input_shape", spec.preprocessing.shape, "as in preprocessing"),
        ("num_classes", len(spec.class_names), "the number of class_names"),
    ):
        value = tuple(all_arguments[key]) if isinstance(all_arguments[key], list) else all_arguments[key]
        if value != expected:
            raise ModelError(f"arguments.{key} must be {expected}, {what}, got {short(value)}")


def _check_answer(temperature: Any, flip: Any, task: Task) -> None:
    low, high = TEMPERATURES
    if not _is_number(temperature) or not low <= temperature <= high:
        raise ModelError(f"temperature must be a number from {low} to {high:g}, got {short(temperature)}")
    if not task.probabilities and temperature != 1:
        raise ModelError(f"temperature must be 1 for a {task.name}, got {short(temperature)}")
    if not isinstance(flip, bool):
        raise ModelError(f"flip must be true or false, got {short(flip)}")


def check_thresholds(thresholds: Any, task: Task, count: int) -> None:
    """Raise ModelError unless `thresholds` are `count` numbers in (0, 1), or empty; empty for tasks without labels."""
    if not isinstance(thresholds, list | tuple):
        raise ModelError(f"thresholds must be a list of numbers, got {short(thresholds)}")
    if thresholds and not task.has_thresholds:
        raise ModelError(f"thresholds must be empty for a {task.name}, got {short(thresholds)}")
    if len(thresholds) not in (0, count):
        raise ModelError(f"thresholds must be {count} numbers, one for each of class_names, got {len(thresholds):,}")
    for value in thresholds:
        if not _is_number(value) or not 0 < value < 1:
            raise ModelError(f"thresholds must be numbers between 0 and 1, got {short(value)}")


def check_names(names: Any) -> None:
    """Raise ModelError unless `names` are different, non-empty names."""
    if not isinstance(names, list | tuple) or not names:
        raise ModelError(f"class_names must be a list of names, got {short(names)}")
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST:
            raise ModelError(f"class_names must have names of 1 to {LONGEST:,} characters, got {short(name)}")
    if len(set(names)) < len(names):
        name, times = Counter(names).most_common(1)[0]
        raise ModelError(f"class_names must be different, got {short(name)} {times} times")


def check_arguments(name: Any, arguments: Any) -> None:
    """Raise ModelError if the builder of `name` does not have these `arguments`, or if they exceed the limits.

    `weights`, which names a file, is not allowed: the weights are beside the description.
    """
    if not isinstance(name, str):
        raise ModelError(f"name must be the name of a model, got {short(name)}")
    entry = find(name)
    if not isinstance(arguments, Mapping):
        raise ModelError(f"arguments must be an object, got {short(arguments)}")
    known = {key: value for key, value in _known(entry.name).items() if key != "weights"}
    for key, value in arguments.items():
        if key not in known:
            raise ModelError(
                f"arguments.{reprlib.repr(key)[1:-1]} is not an argument of {name}, which has {', '.join(known)}"
            )
        wanted = problem_of(value) if key == "architecture" else _wanted(value, known[key], taps=key == "taps")
        if wanted:
            raise ModelError(f"arguments.{key} must be {wanted}, got {short(value)}")
    if isinstance(entry, HubBackbone):
        missing = sorted({"architecture", "input_shape", "num_classes"} - set(arguments))
        if missing:
            raise ModelError(f"arguments has no {missing[0]}, which {name} needs")


def _known(name: str) -> dict[str, Any]:
    """The builder's arguments with their defaults. Nothing is read for them: a preset may no longer exist."""
    entry = find(name)
    return signature_of(entry) if isinstance(entry, HubBackbone) else describe(name)


def _wanted(value: Any, default: Any, *, taps: bool) -> str:
    """What `value` must be, in words, given the type of the default; "" if it is right."""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return "" if _is_count(value) else f"a whole number from 1 to {LARGEST:,}"
    if isinstance(default, float):
        fits = _is_number(value) and 0 <= value <= LARGEST_NUMBER
        return "" if fits else f"a number from 0 to {LARGEST_NUMBER:,.0f}"
    if isinstance(default, str):
        return "" if isinstance(value, str) and len(value) <= LONGEST else "a word"
    leaves = _leaves(value)
    if leaves is not None and len(leaves) <= MOST:
        if taps and all(isinstance(leaf, str) and len(leaf) <= LONGEST for leaf in leaves):
            return ""
        if not taps and all(map(_is_count, leaves)):
            return ""
    return f"a list of at most {MOST:,} " + ("names" if taps else f"whole numbers from 1 to {LARGEST:,}")


def _leaves(value: Any, depth: int = 4) -> list[Any] | None:
    """The values in nested lists; None if `value` is not a list, or nested too deeply."""
    if not isinstance(value, list | tuple) or not depth or len(value) > MOST:
        return None
    leaves: list[Any] = []
    for part in value:
        inner = _leaves(part, depth - 1) if isinstance(part, list | tuple) else [part]
        if inner is None or len(leaves) > MOST:
            return None
        leaves += inner
    return leaves


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def short(value: Any) -> str:
    """The value as a short text."""
    text = reprlib.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_size(spec: "ModelSpec", weights: Path) -> None:
    """Raise ModelError if the file `weights` is too small for the network of `spec`. It allocates nothing."""
    entry = find(spec.name)
    size = weights.stat().st_size
    count = entry.features * len(spec.class_names) if isinstance(entry, Backbone) else _parameters(spec)
    count *= max(1, len(spec.members))
    if count * BYTES > size:
        raise ModelError(
            f"arguments describe {count:,} weights of {BYTES} bytes each, but {weights.name} has only {size:,} bytes"
        )


def _parameters(spec: "ModelSpec") -> int:
    """The number of weights, from a network that is built without allocating them."""
    with without_variables():
        return int(construct(spec.name, **spec.arguments).count_params())


@dataclass(frozen=True)
class Member:
    """How a member of an ensemble answers; see `ModelSpec`."""

    temperature: float = 1.0
    flip: bool = False

    @classmethod
    def from_json(cls, values: Any) -> "Member":
        """The member in `model.json`. Raises ModelError."""
        if not isinstance(values, dict) or set(values) != {"temperature", "flip"}:
            raise ModelError(f"members must each have a temperature and a flip, got {short(values)}")
        return cls(**values)


@dataclass(frozen=True)
class ModelSpec:
    """A network without its weights: the arguments of `construct(name, **arguments)`, its input and its outputs.

    `temperature` divides the logits of classes and labels (Guo et al. 2017, arXiv:1706.04599); 1 has no effect.
    With `flip`, the logits are the means of those of an image and of its mirror image (`answering.py`).
    An ensemble has `members`: networks of the same kind, whose answers are averaged.
    `thresholds` has for each label the probability, in (0, 1), from which on it is given; it is empty for 0.5 each, and
    for tasks other than several labels an image. It changes no probability.
    """

    name: str
    arguments: Mapping[str, Any]
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    task: str = "multiclass"
    temperature: float = 1.0
    flip: bool = False
    members: tuple[Member, ...] = ()
    thresholds: tuple[float, ...] = ()

    @property
    def networks(self) -> tuple[Member, ...]:
        """How each network answers: the members of an ensemble, or the only one."""
        return self.members or (Member(self.temperature, self.flip),)

    def build(self) -> "keras.Model":
        """The network as it is trained, with random weights, or the networks of an ensemble side by side.

        `answering_network` makes the network that answers of it.
        """
        if not self.members:
            return construct(self.name, **self.arguments)
        from kerazoo.models.ensemble import side_by_side  # it imports keras

        return side_by_side([construct(self.name, **self.arguments) for _ in self.members])

    def answers(self, logits: Any) -> Any:
        """(B, K) logits -> (B, K) answers of the task: calibrated probabilities, or a regression's numbers."""
        return find_task(self.task).answers(logits / self.temperature)

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON values, as in `model.json`."""
        return {
            "name": self.name,
            "arguments": dict(self.arguments),
            "task": self.task,
            "preprocessing": self.preprocessing.to_json(),
            "class_names": list(self.class_names),
            "temperature": self.temperature,
            **({"flip": True} if self.flip else {}),
            **({"members": [asdict(member) for member in self.members]} if self.members else {}),
            **({"thresholds": list(self.thresholds)} if self.thresholds else {}),
        }
