"""The recipe: all that a run depends on. Read from TOML, changed by `--set`, written resolved into the run."""

import tomllib
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kerazoo.errors import RecipeError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPart(_Part):
    """The network: a name of the registry and its builder's arguments."""

    name: str
    arguments: dict[str, Any] = {}

    @field_validator("arguments")
    @classmethod
    def _only_its_own(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Size, classes and weights follow from the data and the transfer part."""
        for name, instead in (
            ("input_shape", "data.size and data.channels"),
            ("num_classes", "the data"),
            ("weights", "transfer.weights"),
        ):
            if name in arguments:
                raise ValueError(f"{name} is not set here: it comes from {instead}")
        return arguments


class DataPart(_Part):
    """The data, how it is split, and how pictures are fitted.

    `path` is an image folder, an `.npz` file, a CSV, TSV or Parquet table, or `tfds:NAME`. `validation` and `test` are
    the shares of train held out where the data has no such split. `group` is a regular expression on file names: what
    it finds in them stays in one split. `label` and `task` say what of a table is learned. `data_dir` and `download`
    are for TFDS. `manifest` is what `kerazoo check --write` wrote, beside the data if None; "none" ignores it.
    `size` (px), `channels` and `fit`: None is the network's own.
    """

    path: str
    validation: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.0, ge=0, lt=1)
    group: str | None = None
    label: str | None = None
    task: Literal["multiclass", "multilabel", "regression"] | None = None
    data_dir: str | None = None
    download: bool = True
    manifest: str | None = None
    cache: Literal["auto", "always", "never"] = "auto"
    size: int | None = Field(None, ge=1)
    channels: Literal[1, 3] | None = None
    fit: Literal["crop", "pad", "stretch"] | None = None


class OptimizerPart(_Part):
    """The optimizer: cosine decay to zero after a linear warm-up over the share `warmup` of all steps."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(1e-4, ge=0, description="decoupled; not on biases and norms")
    warmup: float = Field(0.05, ge=0, lt=1)


class AugmentationPart(_Part):
    """Augmentation in training: a named policy, and parts of it set otherwise; see `augmentation.Augmentation`."""

    policy: str = "none"
    shift: float | None = None
    rotate: float | None = None
    zoom: float | None = None
    flip: bool | None = None
    flip_vertical: bool | None = None
    crop: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: float | None = None
    randaugment: int | None = None
    magnitude: float | None = None
    erase: float | None = None
    mixup: float | None = None
    cutmix: float | None = None


class TrainingPart(_Part):
    """How long and by what loss; `loss` None is the network's own.

    `drop_last` leaves the last, partial batch of an epoch out. `balance` makes up for classes of unlike sizes, by
    sampling or by weights; see `batches.training_batches`.
    """

    epochs: int = Field(15, ge=0)
    batch_size: int = Field(128, ge=1)
    loss: str | None = None
    drop_last: bool = True
    balance: Literal["none", "sampling", "weights"] = "none"


class CheckpointPart(_Part):
    """How often the state of training is written, so that it can be resumed.

    After every `seconds`, or, where `steps` is given, after every so many optimizer steps; and at the end of every
    epoch that is at least `seconds` long. The last `keep` are kept. 0 seconds and no `steps` writes at the end only.
    """

    seconds: float = Field(60.0, ge=0)
    steps: int | None = Field(None, ge=1)
    keep: int = Field(2, ge=1)


class TransferPart(_Part):
    """Fine-tuning: a head on frozen features first, then, where `training.epochs` > 0, the unfrozen part at its rate.

    `weights` is "imagenet", the name of shipped weights, a path, or "none". `unfreeze` counts stages of the backbone
    from its end; 0 means all of it.
    """

    weights: str = "imagenet"
    head_epochs: int = Field(60, ge=1)
    head_learning_rate: float = Field(0.003, gt=0)
    head_l2: float = Field(0.02, ge=0, description="on standardised features")
    unfreeze: int = Field(0, ge=0)


class Recipe(_Part):
    """Everything a run depends on beside the code and the data. `transfer` is None where a network is trained anew."""

    model: ModelPart
    data: DataPart
    training: TrainingPart = TrainingPart()
    optimizer: OptimizerPart = OptimizerPart()
    augmentation: AugmentationPart = AugmentationPart()
    checkpoint: CheckpointPart = CheckpointPart()
    transfer: TransferPart | None = None
    devices: str = "auto"
    seed: int = Field(0, ge=0, lt=2**31)
    watch: bool = True

    def anchored(self) -> "Recipe":
        """The same, with absolute paths, so that it can be run from anywhere."""
        data = self.data
        if not data.path.startswith("tfds:"):
            data = data.model_copy(update={"path": str(Path(data.path).expanduser().resolve())})
        for name in ("manifest", "data_dir"):
            place = getattr(data, name)
            if place is not None and place != "none":
                data = data.model_copy(update={name: str(Path(place).expanduser().resolve())})
        transfer = self.transfer
        if transfer is not None and Path(transfer.weights).expanduser().exists():
            path = str(Path(transfer.weights).expanduser().resolve())
            transfer = transfer.model_copy(update={"weights": path})
        return self.model_copy(update={"data": data, "transfer": transfer})

    def to_toml(self) -> str:
        """The resolved recipe, as it can be read again."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def make_recipe(values: dict[str, Any], settings: list[str] | tuple[str, ...] = ()) -> Recipe:
    """The recipe in `values` (nested), changed by `settings` such as "optimizer.learning_rate=0.1".

    Raises RecipeError that names the key, the value and what is allowed.
    """
    for setting in settings:
        _set(values, setting)
    return _validated(values)


def data_part(values: dict[str, Any]) -> DataPart:
    """The data part of a recipe by itself. Raises RecipeError as `make_recipe` does."""
    return _validated({"model": {"name": "-"}, "data": values}).data


def _validated(values: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = _known_keys(first["loc"][:-1])
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"the recipe has no key {key!r}; known here: {', '.join(known)}") from error
        received = "" if first["type"] == "missing" else f", not {first['input']!r}"
        raise RecipeError(f"recipe key {key}: {first['msg'].lower()}{received}") from error


def read_recipe(path: Path) -> dict[str, Any]:
    """The values in a TOML recipe. Raises RecipeError where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"there is no recipe {path}") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from error


def _set(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {setting!r} is not key=value, such as optimizer.learning_rate=0.1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    override(values, key.strip(), value)


def override(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `key` (dotted) in nested `values`. Raises RecipeError where a part of it is a value itself."""
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise RecipeError(f"recipe key {key}: {part!r} is {values!r}, which has no keys of its own")
    values[last] = value


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    parts: dict[str, type[_Part]] = {
        "model": ModelPart,
        "data": DataPart,
        "training": TrainingPart,
        "optimizer": OptimizerPart,
        "augmentation": AugmentationPart,
        "checkpoint": CheckpointPart,
        "transfer": TransferPart,
    }
    part: type[_Part] = parts[str(location[0])] if location else Recipe
    return list(part.model_fields)
