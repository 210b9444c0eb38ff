"""Build a backbone of keras-hub from its architecture, with random weights; no preset and no network is needed."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kerazoo.errors import ModelError
from kerazoo.keras_private import all_layers
from kerazoo.models.argument_checks import check_choice, check_input_shape
from kerazoo.models.hub.families import FAMILIES, problem_of

if TYPE_CHECKING:
    import keras

Architecture = Mapping[str, Any]
NONE: Architecture = MappingProxyType({})


def build_hub(
    name: str,
    /,
    *,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    dropout: float = 0.0,
    taps: Sequence[str] = (),
    pooling: str = "",
    architecture: Architecture = NONE,
) -> "keras.Model":
    """(B, H, W, 3) from the preset's preprocessing -> (B, num_classes) logits, over pooled `features`.

    `architecture` is {"class": a class of keras-hub, "config": its arguments}. `pooling` is one of those of its family
    (`families.py`); "" is the family's own. `taps` are stages whose pooled outputs are added to `features`. Raises
    ModelError.
    """
    import keras

    from kerazoo.models.heads import classifier as heads
    from kerazoo.models.hub.flat import flatten
    from kerazoo.models.hub.pooling import pooled

    shape = check_input_shape(input_shape, smallest=1, model=name)
    flat = flatten(make_backbone(name, architecture, shape))
    family = FAMILIES[architecture["class"]]
    how = check_choice(pooling or family.poolings[0], family.poolings, name="pooling", model=name)
    stages = list(flat.stages)
    if isinstance(taps, str) or len(set(taps)) < len(taps) or not set(taps) <= set(stages[:-1]):
        raise ModelError(f"{name}: taps={taps!r} must be a list of different stages of {', '.join(stages[:-1])}")
    tokens = family.tokens_of(architecture["config"])
    x = pooled(flat.output, how, tokens, name="pooling")
    if taps:
        inner = "mean" if how == "own" else how
        means = [pooled(flat.stages[tap], inner, tokens, name=f"{tap}_mean") for tap in taps]
        x = keras.layers.Concatenate(name="taps")([*means, x])
    logits = heads.attach(x, num_classes, dropout=dropout, model=name)
    return keras.Model(flat.inputs, logits, name=name)


def make_backbone(name: str, architecture: Architecture, shape: tuple[int, int, int]) -> Any:
    """The backbone of keras-hub with random weights, for images of `shape`. Raises ModelError."""
    problem = problem_of(architecture)
    if problem:
        raise ModelError(f"{name}: architecture must be {problem}")
    kind = class_of(architecture["class"])
    family = FAMILIES[architecture["class"]]
    config = {**architecture["config"], **family.fixed, family.size_key: shape}
    known = inspect.signature(kind.__init__).parameters
    unknown = sorted(set(config) - set(known) - {"depth_coefficient", "width_coefficient"})
    if unknown:
        raise ModelError(f"{name}: architecture.config.{unknown[0]} is not an argument of {kind.__name__}")
    if "position_embedding_shape" in known:  # they have the size of the images: see `loading.py`
        config["position_embedding_shape"] = shape
    config = {key: value for key, value in config.items() if key in known or key.endswith("coefficient")}
    from kerazoo.models.depthwise import compute_depthwise  # it imports keras

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Layer 'attn'")
            backbone = kind(**config)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(
            f"{name}: keras-hub cannot build {kind.__name__} for images of {shape[0]} x {shape[1]} px: "
            f"{' '.join(str(error).split())[:300]}; use another size"
        ) from error
    compute_depthwise(backbone)
    for layer in all_layers(backbone):
        if type(layer).__name__ == "WindowAttention":  # its argument called mask is not Keras's mask, which it warns of
            layer.supports_masking = True
    return backbone


def class_of(name: str) -> Any:
    """The class of keras-hub called `name`. Raises ModelError if keras-hub is missing."""
    return getattr(import_hub().models, name)


def import_hub() -> Any:
    """keras-hub, which takes seconds to import. Raises ModelError if it is not installed."""
    from kerazoo.startup import import_keras

    check_installed()
    import_keras()
    import keras_hub

    return keras_hub


def check_installed() -> None:
    """Raise ModelError if keras-hub is not installed. Nothing is imported."""
    from importlib.util import find_spec

    if find_spec("keras_hub") is None:
        raise ModelError("backbones of keras-hub need keras-hub; run pip install 'kerazoo[hub]'")
