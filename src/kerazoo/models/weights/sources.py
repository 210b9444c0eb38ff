"""The sources of weights: names, files, runs, and weights that ship with the package."""

from pathlib import Path

from kerazoo.errors import WeightsError
from kerazoo.models.backbone import Backbone
from kerazoo.models.hub.backbone import HubBackbone
from kerazoo.models.registry import Entry, weight_names
from kerazoo.models.saved import DESCRIPTION, WEIGHTS
from kerazoo.models.weights.download import published_path

SHIPPED = Path(__file__).parent / "pretrained"  # <network>_<weights>/ is the folder of a model


def shipped(name: str, weights: str) -> Path:
    """The folder of the weights called `weights` that ship for network `name`. Raises WeightsError."""
    folder = SHIPPED / f"{name}_{weights}"
    if not (folder / DESCRIPTION).is_file():
        names = sorted(p.name.removeprefix(f"{name}_") for p in SHIPPED.glob(f"{name}_*"))
        has = f"it has {', '.join(names)}" if names else "it has none"
        raise WeightsError(f"{name} ships no weights called {weights!r} ({has}); give a weights file or a run, or none")
    return folder


def check_weights(entry: Entry, weights: str) -> None:
    """Raise WeightsError if `weights` is neither a name that `entry` has nor the path of a weights file or model.

    Raises ModelError for a backbone of keras-hub that cannot exist.
    """
    if isinstance(entry, HubBackbone):
        entry.check()
    if weights in weight_names(entry):
        return
    path = Path(weights).expanduser()
    if not path.exists():
        names = ", ".join(weight_names(entry))
        if path.suffix or path.name != str(weights):  # it looks like a path
            raise WeightsError(f"there is no file {path}; use the path of a weights file or a run, or {names}")
        raise WeightsError(
            f"there are no weights {weights!r} for {entry.name}; use {names}, or the path of a file or run"
        )
    check_source(path)


def weights_of(entry: Entry, weights: str | Path) -> Path | None:
    """The file or folder of `weights`, or None for "none"; published weights are downloaded. Raises WeightsError."""
    check_weights(entry, str(weights))
    if weights == "none":
        return None
    if weights not in entry.weights:
        path = Path(weights).expanduser()
        return path.parent if path.name == WEIGHTS and (path.parent / DESCRIPTION).is_file() else path
    if isinstance(entry, HubBackbone):
        return entry.folder()
    return published_path(entry.name) if isinstance(entry, Backbone) else shipped(entry.name, str(weights))


def check_source(source: Path) -> None:
    """Raise WeightsError, which says what to use, if `source` is neither a file nor a folder with a model."""
    if source.suffix == ".keras" and source.is_file():
        raise WeightsError(
            f"{source} is a complete model, not a weights file; load it in Keras, save the weights without the "
            "classifier with model.save_weights('NAME.weights.h5'), and use that file"
        )
    if source.is_file() or (source / DESCRIPTION).is_file():
        return
    if not source.exists():
        raise WeightsError(f"there is no weights file or model folder {source}")
    if not source.is_dir():
        raise WeightsError(f"{source} must be a regular file; give a weights file (.h5) or the folder of a run")
    if (source / "run.json").is_file():
        raise WeightsError(f"run {source} has no {DESCRIPTION}, so it did not finish; resume it, or use another run")
    if (source / "saved_model.pb").is_file():
        raise WeightsError(f"{source} is an export, which cannot be trained; use the run that it was made from")
    runs = sorted(path.parent.name for path in source.glob(f"*/{DESCRIPTION}"))
    files = sorted(path.name for path in source.glob("*.h5"))
    inside = [*runs, *files]
    hint = "; give a weights file (.h5) or a run"
    if inside:
        hint = f"; it contains {', '.join(inside[:3])}{' and others' if len(inside) > 3 else ''}: use one of these"
    raise WeightsError(f"{source} is not the folder of a run: it has no {DESCRIPTION}{hint}")
