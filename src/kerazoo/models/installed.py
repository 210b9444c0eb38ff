"""Networks of other installed packages, which declare their builders by the entry-point group `kerazoo.networks`.

In the pyproject.toml of such a package:

    [project.entry-points."kerazoo.networks"]
    my_net = "my_package.networks:my_net"

The names are read from what is installed. The package is imported only when one of its networks is used.
"""

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kerazoo.errors import KerazooError, ModelError, is_out_of_memory
from kerazoo.models.argument_checks import check_count, check_input_shape
from kerazoo.startup import import_keras

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import keras

GROUP = "kerazoo.networks"
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")  # names of runs begin with it, and names of recipe files end in .toml
OF_BUILD = ("name", "weights")  # arguments of `kerazoo.build` itself
WRITTEN = (bool, int, float, str, tuple, list)  # what a run writes into model.json
EXAMPLE = "(*, input_shape=(32, 32, 3), num_classes=10, width=64)"

Builder = Callable[..., "keras.Model"]


def names() -> list[str]:
    """The names that installed packages declare, sorted."""
    return sorted({point.name for point in _points() if NAME.fullmatch(point.name)})


def origin(name: str) -> str:
    """The package that declares `name`, its version and the entry point: "my_package 1.0, my_package.networks:my_net".

    Nothing is imported. If several packages declare it, all are named.
    """
    return _origins(_points(name))


@functools.cache
def load(name: str) -> Builder:
    """The builder that an installed package declares as `name`; this imports the package, and keras before it.

    Raises ModelError, which names the package and the entry point, if there is not exactly one such package, if it
    cannot be imported, or if what it declares is not a builder.
    """
    points = _points(name)
    where = f"the network {name} ({_origins(points)})"
    if len(points) != 1:
        raise ModelError(f"{where} must be declared by one package; uninstall the others")
    import_keras()  # the package imports it, with its messages
    try:
        builder = points[0].load()
    except Exception as error:
        raise ModelError(f"{where} cannot be imported: {_line(error)}; repair or uninstall the package") from error
    return _checked(builder, _defaults(builder, where), where)


def versions() -> dict[str, str]:
    """The versions of the packages that declare networks, of those which this process has imported."""
    used = [point for point in _points() if re.split("[.:]", point.value)[0] in sys.modules]
    return {point.dist.name: point.dist.version for point in used if point.dist is not None}


def _points(name: str | None = None) -> list["EntryPoint"]:
    """The entry points of the group, or those called `name`, sorted by package."""
    from importlib import metadata  # takes longer than all the registry

    found = [point for point in metadata.entry_points(group=GROUP) if name in (None, point.name)]
    return sorted(found, key=lambda point: (point.dist.name if point.dist else "", point.name))


def _origins(points: Iterable["EntryPoint"]) -> str:
    packages = [(point.value, point.dist) for point in points]
    return " and ".join(
        value if package is None else f"{package.name} {package.version}, {value}" for value, package in packages
    )


def _defaults(builder: Any, where: str) -> dict[str, Any]:
    """The arguments of `builder` with their defaults. Raises ModelError if they do not keep the contract."""
    if not callable(builder) or inspect.isclass(builder):
        raise ModelError(f"{where} must be a function such as my_net{EXAMPLE}, got {type(builder).__name__}")
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(builder).parameters
    for name, parameter in parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise ModelError(f"{where} must take keyword arguments with defaults only, as {EXAMPLE}, got {parameter}")
        if name in OF_BUILD:
            raise ModelError(f"{where} must not take {name!r}, which is an argument of kerazoo.build; rename it")
        if not isinstance(parameter.default, WRITTEN):
            raise ModelError(f"{where} must have numbers, text or lists for defaults, got {parameter}")
    if missing := {"input_shape", "num_classes"} - parameters.keys():
        raise ModelError(f"{where} must take {min(missing)!r}, as {EXAMPLE}")
    check_input_shape(parameters["input_shape"].default, smallest=1, model=where)
    check_count(parameters["num_classes"].default, name="num_classes", model=where)
    return {name: parameter.default for name, parameter in parameters.items()}


def _checked(builder: Builder, defaults: Mapping[str, Any], where: str) -> Builder:
    """`builder`, with a check of what it gives, and every error in one line."""

    @functools.wraps(builder)
    def build(**arguments: Any) -> "keras.Model":
        try:
            model = builder(**arguments)
        except Exception as error:
            if isinstance(error, KerazooError) or is_out_of_memory(error):
                raise
            raise ModelError(f"{where} cannot be built: {_line(error)}") from error
        if problem := _problem(model, {**defaults, **arguments}):
            raise ModelError(f"{where} must give {problem}")
        return model

    return build


def _problem(model: Any, arguments: Mapping[str, Any]) -> str:
    """What `model` should be and is not; "" for a model that keeps the contract."""
    import keras

    if not isinstance(model, keras.Model) or not isinstance(model, keras.Function):
        return f"a functional keras.Model, keras.Model(inputs, logits), got {type(model).__name__}"
    names = [layer.name for layer in model.layers]
    if names[-1:] != ["logits"] or "features" not in names:
        return f"layers called features and, last, logits, got {', '.join(names[-3:])}"
    if len(model.get_layer("features").output.shape) != 2:
        return f"features of the shape (batch, count), got {model.get_layer('features').output.shape}"
    if tuple(model.input_shape[1:]) != tuple(arguments["input_shape"]):
        return f"a model for images of {arguments['input_shape']}, got {model.input_shape[1:]}"
    if model.output_shape != (None, arguments["num_classes"]):
        return f"{arguments['num_classes']} logits, got the shape {model.output_shape}"
    return ""


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
