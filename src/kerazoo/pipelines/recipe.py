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
    """The data, and how pictures are fitted: a side in px, 1 or 3 channels, and a way. None: the network's own."""

    path: str
    validation: float = Field(0.1, gt=0, lt=1, description="share of train held out where the data has no val")
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
    """Augmentation in training; see `augmentation.Augmentation`."""

    shift: float = Field(0.0, ge=0, lt=1)
    rotate: float = Field(0.0, ge=0, le=180)
    zoom: float = Field(0.0, ge=0, lt=1)
    flip: bool = False


class TrainingPart(_Part):
    """How long and by what loss; `loss` None is the network's own."""

    epochs: int = Field(15, ge=0)
    batch_size: int = Field(128, ge=1)
    loss: str | None = None


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
    transfer: TransferPart | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    watch: bool = True

    def anchored(self) -> "Recipe":
        """The same, with absolute paths, so that it can be run from anywhere."""
        data = self.data.model_copy(update={"path": str(Path(self.data.path).expanduser().resolve())})
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
        "transfer": TransferPart,
    }
    part: type[_Part] = parts[str(location[0])] if location else Recipe
    return list(part.model_fields)
