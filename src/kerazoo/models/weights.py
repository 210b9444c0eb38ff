"""Loading pretrained features into a network: shipped weights, a kerazoo model folder, or a weights file."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerazoo.errors import WeightsError
from kerazoo.models.backbones import BACKBONES, Backbone
from kerazoo.models.channels import colours_to
from kerazoo.models.download import published_path
from kerazoo.models.registry import Network, weight_names
from kerazoo.models.scaling_layers import has_published_scaling, scaling_layers
from kerazoo.models.stored import DESCRIPTION, WEIGHTS, load_model
from kerazoo.models.weights_file import SPARE, DamagedError, Shape, WeightsFile, copy_of, numbers_of

if TYPE_CHECKING:
    import keras

SHIPPED = Path(__file__).parent / "pretrained"  # <network>_<weights>/ holds a model on disk
CLASSIFIER = 6  # arrays: three dense layers, as VGG has
BY_NAME = {backbone.name: backbone for backbone in BACKBONES}


def shipped(name: str, weights: str) -> Path:
    """The folder of the weights called `weights` that ship for network `name`. Raises WeightsError."""
    folder = SHIPPED / f"{name}_{weights}"
    if not (folder / DESCRIPTION).is_file():
        names = sorted(p.name.removeprefix(f"{name}_") for p in SHIPPED.glob(f"{name}_*"))
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise WeightsError(f"{name} ships no weights called {weights!r} ({has}); name a file or run folder, or none")
    return folder


def load_features(model: "keras.Model", source: str | Path, *, scaling: str | None = None) -> None:
    """Fill every layer of `model` below its head from `source`; the head keeps its random weights.

    `source` is a folder with a kerazoo model of the same architecture (any number of classes, any input size that
    leaves the weights' shapes as they are), or a Keras weights file (.h5, .weights.h5) of the network without its
    head. Weights of three channels fill a backbone of any number (see `channels.py`). `scaling` says how the network of
    a backbone's file scaled pixels, "published" or "plain", where the file does not tell (see `scaling_layers.py`).
    Raises WeightsError where the source is missing, damaged, of another architecture, holds what is no finite number,
    or does not tell its scaling.
    """
    from kerazoo.models.heads import feature_extractor

    features = feature_extractor(model)
    source = Path(source)
    if source.name == WEIGHTS and (source.parent / DESCRIPTION).is_file():
        source = source.parent  # the file of a run: its folder says what it is
    check_source(source)
    if source.is_dir():
        stored = feature_extractor(load_model(source)[1])
        if stored.name != features.name or not _give(stored, features):
            raise WeightsError(
                f"the weights in {source} are of {_name(stored)}; they do not fit {_name(features)} as it is built here"
            )
    else:
        _load_file(features, source, scaling)
    for weight in features.weights:
        if not np.isfinite(np.asarray(weight)).all():
            raise WeightsError(
                f"the weights in {source} are not finite in {weight.path}, as of a training that diverged; take others"
            )


def check_weights(entry: Network | Backbone, weights: str) -> None:
    """Raise WeightsError if `weights` is neither a name that `entry` has nor the path of a weights file or model."""
    if weights in weight_names(entry):
        return
    path = Path(weights).expanduser()
    if not path.exists():
        names = ", ".join(weight_names(entry))
        raise WeightsError(
            f"there are no weights {weights!r} for {entry.name}; take {names}, or the path of a file or run"
        )
    check_source(path)


def weights_of(
    entry: Network | Backbone, weights: str | Path, say: Callable[[str], None] = lambda line: None
) -> Path | None:
    """The file or folder that `weights` names, None for "none"; published ones are fetched. Raises WeightsError."""
    check_weights(entry, str(weights))
    if weights == "none":
        return None
    if weights not in entry.weights:
        path = Path(weights).expanduser()
        return path.parent if path.name == WEIGHTS and (path.parent / DESCRIPTION).is_file() else path
    return published_path(entry.name, say=say) if isinstance(entry, Backbone) else shipped(entry.name, str(weights))


def check_source(source: Path) -> None:
    """Raise WeightsError if `source` is neither a file nor a folder with a model; it says what to name instead."""
    if source.suffix == ".keras" and source.is_file():
        raise WeightsError(
            f"{source} is a whole model, not a weights file; load it in Keras, save the weights without the classifier "
            "by model.save_weights('NAME.weights.h5'), and name that file"
        )
    if source.is_file() or (source / DESCRIPTION).is_file():
        return
    if not source.exists():
        raise WeightsError(f"there is no weights file or model folder {source}")
    if not source.is_dir():
        raise WeightsError(f"{source} is no regular file; name a weights file (.h5) or the folder of a run")
    if (source / "run.json").is_file():
        raise WeightsError(f"run {source} has no {DESCRIPTION}: it did not finish; finish it, or name another")
    if (source / "saved_model.pb").is_file():
        raise WeightsError(f"{source} is an export, which cannot be trained on; name the run that it was made from")
    runs = sorted(path.parent.name for path in source.glob(f"*/{DESCRIPTION}"))
    files = sorted(path.name for path in source.glob("*.h5"))
    inside = [*runs, *files]
    hint = f"; it holds {', '.join(inside[:3])}{' and others' if len(inside) > 3 else ''}: name one" if inside else ""
    raise WeightsError(
        f"{source} is not the folder of a run: it has no {DESCRIPTION}{hint or '; name a weights file (.h5) or a run'}"
    )


def copy_weights(giver: "keras.Model", taker: "keras.Model") -> None:
    """Give `taker` the weights of `giver`, which has the same variables in the same order."""
    taker.set_weights(giver.get_weights())
    _finalize(taker)


def _finalize(model: "keras.Model") -> None:
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # Normalization works with what it derived from its weights
            layer.finalize_state()


def weights_digest(model: "keras.Model") -> str:
    """The sha256 of all weights of `model`, in order."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(array.tobytes())
    return digest.hexdigest()


def fold_scaling(features: "keras.Model", std: tuple[float, ...]) -> None:
    """Put EfficientNet's extra 1 / sqrt(std), a layer it has with published weights only, into its Normalization."""
    import keras

    norm = next(layer for layer in features.layers if isinstance(layer, keras.layers.Normalization))
    norm.adapt_variance.assign(norm.adapt_variance * keras.ops.reshape(list(std), norm.adapt_variance.shape))
    norm.finalize_state()


def _give(giver: "keras.Model", taker: "keras.Model") -> bool:
    """Give `taker` the weights of `giver`, of its own channels or of three; False where they do not fit."""
    if _shapes(giver) == _shapes(taker):
        copy_weights(giver, taker)
        return True
    entry = BY_NAME.get(_name(taker))
    if entry is None or not colours_to(giver, taker, entry.scaling_of(taker.input_shape[-1])):
        return False
    _finalize(taker)
    return True


def _load_file(features: "keras.Model", source: Path, scaling: str | None) -> None:
    try:
        with copy_of(source, numbers_of(features) + SPARE) as file:
            _take(features, source, file, scaling)
    except DamagedError as error:
        raise WeightsError(
            f"{source} is not a whole Keras weights file (HDF5): {error}; it may be cut short or something else"
        ) from error


def _take(features: "keras.Model", source: Path, file: WeightsFile, scaling: str | None) -> None:
    """Fill `features` from the clean copy of `source`; its shapes are compared before any array is read."""
    import h5py

    entry = BY_NAME.get(_name(features))
    found, taker = file.weights(), features
    if entry is not None and features.input_shape[-1] != 3 and found != _shapes(features):
        features = _of_three(features, entry)
    if more := _classifier(found, _shapes(features)):
        raise WeightsError(
            f"{source} holds {_name(features)} with its classifier ({more} arrays more); {_without(entry)}"
        )
    # Keras matches the newer format by the kind of layer and its number, and says nothing of what is left over
    if file.copy is None or (not file.legacy and found != _shapes(features)):
        raise WeightsError(
            f"the weights in {source} do not fit {_name(features)}: they have {len(found)} arrays of other shapes "
            f"than its {len(features.weights)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            features.load_weights(file.copy)
        with h5py.File(file.copy) as copy:
            saved = scaling_layers(copy)
    except Exception as error:  # Keras raises ValueError, KeyError, OSError and others for files that do not fit
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"the weights in {source} do not fit {_name(features)}: {reason}") from error
    if entry is not None and has_published_scaling(source, saved, features, entry.published_std, scaling):
        fold_scaling(features, entry.published_std)
    if taker is not features and not _give(features, taker):
        raise WeightsError(
            f"the weights in {source} do not fit {_name(taker)} with input {taker.input_shape[1:]}; take 3 channels"
        )


def _classifier(found: list[Shape], wanted: list[Shape]) -> int:
    """How many arrays there are beside all that are wanted, if they look like a classifier's; else 0."""
    missing, more = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
    dense = all(len(shape) <= 2 or shape[:2] == (1, 1) for shape in more)  # MobileNet's is a convolution of 1 x 1
    return more.total() if dense and not missing and more.total() <= CLASSIFIER else 0


def _without(entry: Backbone | None) -> str:
    """What to take instead of a file with a classifier."""
    from kerazoo.models.published import manifest

    if entry is not None and entry.name in manifest():
        return f"take the file without it, {manifest()[entry.name].file}: `kerazoo weights fetch {entry.name}`"
    return "name the folder of the run that it is of, or save `feature_extractor(model)` alone"


def _of_three(features: "keras.Model", entry: Backbone) -> "keras.Model":
    """The same network, of the same size, for pictures of three channels."""
    from kerazoo.models.heads import feature_extractor

    shape = (*features.input_shape[1:3], 3)
    return feature_extractor(entry.builder()(input_shape=shape, num_classes=1, **entry.arguments))


def _shapes(model: "keras.Model") -> list[Shape]:
    return sorted(tuple(weight.shape) for weight in model.weights)


def _name(model: "keras.Model") -> str:
    return str(model.name).removesuffix("_features")
