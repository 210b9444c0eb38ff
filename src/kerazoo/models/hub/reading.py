"""What a preset's files say: the architecture, the preprocessing and the license. Weights are read in `loading.py`."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerazoo.errors import KerazooError, ModelError
from kerazoo.files import read_json
from kerazoo.keras_private import without_variables
from kerazoo.models.hub.build import import_hub
from kerazoo.models.hub.families import FAMILIES, LEFT_OUT, OF_BOTH, PARTS, problem_of
from kerazoo.models.hub.presets import CONFIG, as_values
from kerazoo.preprocessing.preprocessing import INTERPOLATIONS

SIDE = 224  # px, for presets that state no size


@dataclass(frozen=True)
class PresetFacts:
    """The architecture of a preset (see `families.problem_of`), and its preprocessing: (H, W), and a * pixel - b."""

    architecture: dict[str, Any]
    size: tuple[int, int]
    resize: str
    interpolation: str
    factor: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def kind(self) -> str:
        """The class of keras-hub."""
        return str(self.architecture["class"])


def read_facts(name: str, folder: Path) -> PresetFacts:
    """The facts of the preset in `folder`. Raises ModelError."""
    with without_variables():
        _, backbone = open_backbone(name, folder, load_weights=False)
    kind = type(backbone).__name__
    config = {key: value for key, value in backbone.get_config().items() if key not in LEFT_OUT}
    config |= {key: value for key, value in FAMILIES[kind].fixed.items() if key in config}
    if kind == "EfficientNetBackbone":
        config |= _left_out(backbone)
    architecture = as_values({"class": kind, "config": config})
    problem = problem_of(architecture)
    if problem:
        raise ModelError(f"{name}: its architecture must be {problem}")
    shape = tuple(getattr(backbone, "image_shape", None) or backbone.inputs[0].shape[1:])
    return _converted(name, folder, architecture, shape)


def open_backbone(name: str, folder: Path, *, load_weights: bool) -> tuple[Any, Any]:
    """(the backbone of images and text or None, the image backbone) of a preset, as keras-hub makes it.

    Raises ModelError.
    """
    hub = import_hub()
    _check_config(name, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            backbone = hub.models.Backbone.from_preset(str(folder), load_weights=load_weights, dtype="float32")
    except Exception as error:  # from keras-hub, keras, or the numbers in the config
        raise ModelError(
            f"{name}: keras-hub cannot read the preset in {folder}: {' '.join(str(error).split())[:300]}"
        ) from error
    kind = type(backbone).__name__
    if kind in OF_BOTH:
        return backbone, backbone.vision_encoder
    if kind not in FAMILIES:
        raise ModelError(
            f"{name} is a {kind}, which has no image features that kerazoo can use; it takes "
            f"{', '.join(family.title for family in FAMILIES.values())}"
        )
    return None, backbone


def _left_out(backbone: Any) -> dict[str, Any]:
    """The arguments of an EfficientNet that its `get_config` leaves out."""
    stacks = range(1, len(backbone.stackwise_kernel_sizes) + 1)
    of_stack = [[layer for layer in backbone.layers if layer.name.startswith(f"block{stack}")] for stack in stacks]
    return {
        "num_features": backbone.output.shape[-1],
        "stackwise_nores_option": [any(getattr(layer, "nores", False) for layer in layers) for layers in of_stack],
    }


def _check_config(name: str, folder: Path) -> None:
    """Raise ModelError if the config names other classes than those of images; Keras would import them."""
    try:
        values = read_json(folder / CONFIG)
    except KerazooError as error:
        raise ModelError(f"{name}: {error}") from error
    allowed = (*FAMILIES, *OF_BOTH, *PARTS)
    waiting: list[Any] = [values] if "registered_name" in values else []
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key in ("class_name", "registered_name"):
                text = str(value.get(key) or allowed[0]).removeprefix("keras_hub>").removeprefix("Keras>")
                if text not in allowed:
                    raise ModelError(
                        f"{name}: {folder / CONFIG} names {text[:100]!r}, which is not a class of an image backbone; "
                        f"it must be one of {', '.join((*FAMILIES, *OF_BOTH))}"
                    )
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _converted(name: str, folder: Path, architecture: dict[str, Any], shape: tuple[int | None, ...]) -> PresetFacts:
    """The facts, from the preset's ImageConverter and the `shape` of the backbone's images."""
    hub = import_hub()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converter = hub.layers.ImageConverter.from_preset(str(folder))
    except Exception as error:
        converter = None
        reason = " ".join(str(error).split())[:200]
    else:
        reason = "keras-hub finds no preprocessing in it"
    if converter is None:
        raise ModelError(
            f"{name}: the preset in {folder} does not say how pixels are scaled ({reason}); save it with its "
            "converter, too: keras_hub.layers.ImageConverter(...).save_to_preset(FOLDER)"
        )
    height, width = (converter.image_size or shape[:2])[:2]
    if converter.interpolation not in INTERPOLATIONS:
        raise ModelError(f"{name}: its interpolation {converter.interpolation!r} must be one of {INTERPOLATIONS}")
    resize = "crop" if converter.crop_to_aspect_ratio else "pad" if converter.pad_to_aspect_ratio else "stretch"
    factor = _numbers(1.0 if converter.scale is None else converter.scale)
    offset = _numbers(0.0 if converter.offset is None else converter.offset)
    return PresetFacts(
        architecture=architecture, size=(int(height or SIDE), int(width or SIDE)), resize=resize,
        interpolation=str(converter.interpolation), factor=factor, offset=tuple(0.0 - value for value in offset),
    )  # fmt: skip


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values) if hasattr(values, "__len__") else (float(values),)
