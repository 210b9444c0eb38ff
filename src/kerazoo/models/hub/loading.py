"""Load the weights of a preset into a flat network; position embeddings are resized where the images' size differs."""

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerazoo.errors import ModelError, WeightsError
from kerazoo.files import DamagedError
from kerazoo.models.hub.families import FAMILIES
from kerazoo.models.hub.presets import CONFIG
from kerazoo.models.weights.weights_file import SPARE, copy_of, numbers_of

if TYPE_CHECKING:
    import keras

log = logging.getLogger("kerazoo")

WEIGHTS = "model.weights.h5"


def is_preset(folder: Path) -> bool:
    """Whether `folder` has the files of a preset and is not the folder of a run."""
    return (folder / CONFIG).is_file() and not (folder / "model.json").is_file()


def load_preset(features: "keras.Model", folder: Path) -> None:
    """Load the weights in the preset `folder` into `features`, a network of the same architecture without its head.

    Images of another size than the preset's have other position embeddings; these are resized (see `resized`). Raises
    WeightsError.
    """
    import keras

    from kerazoo.models.hub.flat import flatten

    name = f"preset {folder}"
    outer, backbone = _loaded(name, folder)
    flat = flatten(backbone, outer)
    for taker, giver in flat.copies:
        taker.set_weights(giver.get_weights())
    giver = keras.Model(flat.inputs, flat.output)
    antialias = getattr(backbone, "antialias_in_interpolation", True)
    _give(giver, features, folder, FAMILIES[type(backbone).__name__].tokens, antialias)


def _loaded(name: str, folder: Path) -> tuple[Any, Any]:
    """The backbone of keras-hub with its weights."""
    from kerazoo.models.hub.reading import open_backbone

    path = folder / WEIGHTS
    try:
        if not path.is_file():  # several files, or those of timm and Transformers, which keras-hub converts
            return open_backbone(name, folder, load_weights=True)
        outer, backbone = open_backbone(name, folder, load_weights=False)
        whole = backbone if outer is None else outer
        with copy_of(path, numbers_of(whole) + SPARE) as file:
            wanted = sorted(tuple(weight.shape) for weight in whole.weights)
            if file.copy is None or file.legacy or file.weights() != wanted:
                raise WeightsError(
                    f"{path} does not fit {folder / CONFIG}: its {len(file.weights())} arrays have other shapes than "
                    f"the {len(wanted)} of {type(whole).__name__}"
                )
            _load(whole, file.copy)
    except WeightsError as error:
        raise WeightsError(f"the weights in {path} cannot be used: {error}") from error
    except DamagedError as error:
        raise WeightsError(f"{path} is damaged ({error}); copy the preset again") from error
    except ModelError as error:
        raise WeightsError(str(error)) from error
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise WeightsError(f"{path} does not fit {folder / CONFIG}: {' '.join(str(error).split())[:300]}") from error
    return outer, backbone


def _load(backbone: Any, path: Path) -> None:
    """Load all weights; Keras only warns of layers that it does not find in the file, and leaves them random."""
    for weight in backbone.weights:
        if str(weight.dtype).startswith("float"):
            weight.assign(np.full(weight.shape, np.nan, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone.load_weights(path)
    for weight in backbone.weights:
        if str(weight.dtype).startswith("float") and np.isnan(np.asarray(weight)).any():
            raise WeightsError(f"{weight.path} has no value in it, or one that is not a number")


def _give(giver: "keras.Model", taker: "keras.Model", folder: Path, tokens: int, antialias: bool) -> None:
    given = [weight for weight in giver.weights if weight.name != "mask_token"]
    if _names(given) != _names(taker.weights):
        raise WeightsError(f"the preset in {folder} is for another network than {taker.name.removesuffix('_features')}")
    known = {weight.name: weight for weight in given}
    values = []
    for old, new in zip(given, taker.weights, strict=True):
        value = np.asarray(old)
        if old.shape != new.shape:
            if "position" not in new.path:
                raise WeightsError(
                    f"the preset in {folder} does not fit images of {' x '.join(map(str, taker.input_shape[1:3]))} px: "
                    f"{new.path} has the shape {tuple(old.shape)}, not {tuple(new.shape)}; use the preset's own size"
                )
            if "ids" in new.path:  # the numbers of the positions
                value = np.asarray(new)
            else:  # DINOv2 has what was trained, and the same resized to its images
                original = known.get(new.name.removeprefix("interpolated_"), old)
                value = resized(np.asarray(original), new.shape, taker.input_shape[1:3], tokens, antialias=antialias)
        values.append(value)
    taker.set_weights(values)


def _names(weights: list[Any]) -> list[str]:
    """The names of `weights`; Keras numbers those without a name through the process."""
    return [re.sub(r"^variable_\d+$", "variable", weight.name) for weight in weights]


def resized(
    values: np.ndarray, shape: tuple[int, ...], size: tuple[int, int], tokens: int, *, antialias: bool
) -> np.ndarray:
    """Position embeddings (..., N, D) of a square grid -> (..., N', D) for images of `size`, by bicubic interpolation.

    The first `tokens` of N are not on the grid and stay as they are. Source: timm, `resample_abs_pos_embed`, and the
    code of DINOv2, which has no antialiasing.
    """
    import keras

    width = shape[-1]
    flat = values.reshape(-1, width)
    side = round((len(flat) - tokens) ** 0.5)
    rows = round(((shape[-2] - tokens) * size[0] / size[1]) ** 0.5)
    columns = (shape[-2] - tokens) // max(rows, 1)
    if side * side + tokens != len(flat) or rows * columns + tokens != shape[-2]:
        raise WeightsError(f"position embeddings of shape {values.shape} cannot be resized to {tuple(shape)}")
    if shape[-2] == len(flat):
        return values.reshape(shape)
    grid = keras.ops.image.resize(
        flat[tokens:].reshape(1, side, side, width), (rows, columns), interpolation="bicubic", antialias=antialias,
        data_format="channels_last",
    )  # fmt: skip
    patches = np.asarray(keras.ops.convert_to_numpy(grid)).reshape(-1, width)
    log.info(f"position embeddings resized from {side} x {side} to {rows} x {columns}")
    return np.concatenate([flat[:tokens], patches]).reshape(shape)
