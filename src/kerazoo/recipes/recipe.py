"""The recipe: all that a run depends on. It is read from TOML, changed by `--set`, and saved in the run's folder."""

import copy
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from kerazoo.errors import InputError, RecipeError
from kerazoo.files import open_regular
from kerazoo.models.hub.presets import PREFIX as HUB
from kerazoo.models.registry import REGISTRY, find, weight_names
from kerazoo.recipes.augmentation import AugmentationPart
from kerazoo.recipes.device_names import parse_devices
from kerazoo.recipes.parts import (
    NO_MODEL,
    PERIOD,
    CheckpointPart,
    DataPart,
    EvaluationPart,
    ModelPart,
    OptimizerPart,
    Part,
    TrainingPart,
    period,
    refuse,
)
from kerazoo.recipes.presets import PRESETS, check_preset, preset_values
from kerazoo.recipes.refusals import one_line
from kerazoo.recipes.transfer_part import TransferPart

ZOO = Path(__file__).parent / "zoo"  # NAME.toml: the recipe of the network called NAME
OWN = ("optimizer", "augmentation")  # the parts of that recipe that also apply to other data
OF_SCHEDULE = ("schedule", "warmup", "milestones", "factor", "patience")

__all__ = [
    "AugmentationPart", "CheckpointPart", "DataPart", "EvaluationPart", "ModelPart", "OptimizerPart", "Recipe",
    "TrainingPart", "TransferPart", "data_part", "make_recipe", "override", "read_recipe",
]  # fmt: skip


class Recipe(Part):
    """Everything a run depends on except the code and the data. `transfer` is None when training from scratch.

    `for_training`, `for_finetuning` and `read` make one. They raise RecipeError, which names the key, the value and
    what is allowed. A recipe does not change: `override` returns a new one.

    Example:
    ```python
    recipe = Recipe.for_training("resnet20", "photos", training={"epochs": 20}, seed=1)
    recipe = recipe.override("optimizer.learning_rate", 0.05)
    ```
    """

    model: ModelPart
    data: DataPart
    training: TrainingPart = TrainingPart()
    optimizer: OptimizerPart = OptimizerPart()
    augmentation: AugmentationPart = AugmentationPart()
    evaluation: EvaluationPart = EvaluationPart()
    checkpoint: CheckpointPart = CheckpointPart()
    transfer: TransferPart | None = None
    devices: str = Field(
        "auto",
        description="The devices to train on: auto, cpu, gpu, mirrored[:N], multiworker or tpu; auto uses all GPUs, "
        "or the CPU if there are none",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of all random numbers")
    log: list[Literal["gradients", "weights", "feature_maps"]] = Field(
        ["gradients", "weights", "feature_maps"], description="The loggers that watch the training; [] logs nothing"
    )
    log_every: Annotated[Any, BeforeValidator(period), PERIOD] = Field(
        "epoch", description="How often the loggers write"
    )
    log_histograms: bool | None = Field(
        None,
        description="Also log histograms and the filters of the first convolution; if not set: true if `log` is set",
    )
    log_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = Field(
        [], description="Trackers to write to, in addition to the run folder"
    )
    findings: bool = Field(
        True, description="At the end, say what the numbers of the training mean, and write `findings.json`"
    )
    report: bool = Field(True, description="At the end, write `report.html`: the results and their reasons on one page")

    @field_validator("devices")
    @classmethod
    def _are_known(cls, devices: str) -> str:
        parse_devices(devices)
        return devices

    @model_validator(mode="after")
    def _whole(self) -> "Recipe":
        if self.log_histograms is None:
            self.fill(log_histograms="log" in self.model_fields_set and bool(self.log))
        if self.transfer is not None and self.model.name.startswith(HUB) and self.transfer.weights == "imagenet":
            self.fill(transfer=self.transfer.model_copy(update={"weights": "preset"}))  # those of the preset itself
        patience, epochs = self.optimizer.patience, self.training.epochs
        if patience is not None and 0 < epochs <= patience:
            refuse(
                f"optimizer.patience={patience} must be smaller than training.epochs={epochs}, or the learning rate "
                "never falls; use a smaller patience or more epochs"
            )
        if self.evaluation.flip == "always" and not self.augmentation.flip:
            refuse(
                "evaluation.flip='always' needs augmentation.flip=true: only a network that was trained on mirrored "
                "images can answer them; set it, or remove evaluation.flip"
            )
        if self.augmentation.flip_alternately and self.transfer is not None:
            refuse(
                "augmentation.flip_alternately works only with `kerazoo train`; remove it, and let flip draw each time"
            )
        if self.training.teacher is not None and self.devices == "multiworker":
            refuse("training.teacher works only on one machine; remove it, or use other devices")
        if self.training.teacher is not None and self.data.folds is not None and self.data.fold is None:
            refuse(
                "training.teacher cannot be combined with data.folds, because a teacher has seen images of each fold; "
                "train a fold with the teacher of that fold, by data.fold, or remove one of them"
            )
        if self.transfer is not None and self.devices == "multiworker":
            refuse("devices='multiworker' works only with `kerazoo train`; fine-tune on one machine")
        return self

    @classmethod
    def for_training(
        cls, model: str | Path, /, data: str | Path | Mapping[str, Any] | None = None, **settings: Any
    ) -> "Recipe":
        """The recipe of `kerazoo train MODEL --data DATA`, changed by `settings`.

        For a network, it starts from the optimizer and the augmentation of the network's own recipe, `zoo/NAME.toml`. A
        recipe of the zoo that is not named after a network, such as "fast", is taken whole.

        Args:
            model: A name of the registry, the name of such a recipe, or a recipe file (.toml).
            data: An image folder, a table, an `.npz` file or `tfds:NAME`; optional if the recipe file names the data.
                Or the keys of the recipe's `data`, as a mapping.
            **settings: Keys of the recipe: a part as a mapping (`optimizer={"learning_rate": 0.1}`), or one key
                (`seed=1`, `**{"data.size": 64}`).

        Returns:
            The checked recipe.

        Raises:
            ModelError: No model is called `model`.
            RecipeError: A key or a value is unknown or not allowed.
        """
        where = flattened(_data_keys(data))
        file = model if str(model).endswith(".toml") else _zoo_file(str(model))
        if file is not None:
            return cls.read(file, **{**where, **flattened(settings)})
        values: dict[str, Any] = {"model": {"name": find(str(model)).name}}
        change(values, where)
        change(values, settings)
        return make_recipe(values, defaults=own_recipe(str(model)))

    @classmethod
    def for_finetuning(
        cls, backbone: str, data: str | Path | Mapping[str, Any], *, weights: str | Path = "imagenet",
        preset: str | None = "light", **settings: Any,
    ) -> "Recipe":  # fmt: skip
        """The recipe of `kerazoo finetune DATA --backbone BACKBONE`: the preset, changed by `settings`.

        Args:
            backbone: A name of the registry.
            data: As in `for_training`.
            weights: "imagenet", the name of shipped weights, a file or a run, or "none".
            preset: "linear", "light", "full", "norm", "lora" or "bit"; None uses no preset.
            **settings: Keys of the recipe, as in `for_training`.

        Returns:
            The checked recipe.

        Raises:
            ModelError: No model is called `backbone`.
            RecipeError: A key or a value is unknown or not allowed.
        """
        values: dict[str, Any] = {"model": {"name": find(backbone).name}}
        change(values, {**_data_keys(data), "transfer": {"weights": weights, "preset": preset}})
        change(values, settings)
        return make_recipe(values)

    @classmethod
    def read(cls, path: str | Path, **settings: Any) -> "Recipe":
        """The recipe in a TOML file, changed by `settings` as in `for_training`. Raises RecipeError."""
        values = read_recipe(path)
        change(values, settings)
        return make_recipe(values)

    def override(self, key: str, value: Any) -> "Recipe":
        """The recipe with `key` (dotted) set to `value`, as if it had been set from the start. Raises RecipeError."""
        values = self.model_dump(exclude_unset=True)
        # values that the user did not set, and that are not the defaults, come from the network's own recipe
        starts_from_own = self.transfer is None and make_recipe(values) != self
        change(values, {key: value})
        return make_recipe(values, defaults=own_recipe(values["model"]["name"]) if starts_from_own else None)

    def anchored(self) -> "Recipe":
        """The recipe with absolute paths, so that it can be run from any folder."""
        data = self.data
        if not data.path.startswith("tfds:"):
            data = data.model_copy(update={"path": str(Path(data.path).expanduser().resolve())})
        for name in ("manifest", "data_dir"):
            place = getattr(data, name)
            if place is not None and place != "none":
                data = data.model_copy(update={name: str(Path(place).expanduser().resolve())})
        transfer = self.transfer
        if transfer is not None and transfer.weights not in weight_names(find(self.model.name)):
            path = Path(transfer.weights).expanduser()
            transfer = transfer.model_copy(update={"weights": str(path.resolve())}) if path.exists() else transfer
        training = self.training
        if training.teacher is not None and Path(training.teacher).expanduser().exists():
            place = str(Path(training.teacher).expanduser().resolve())
            training = training.model_copy(update={"teacher": place})
        return self.model_copy(update={"data": data, "transfer": transfer, "training": training})

    def to_toml(self) -> str:
        """The resolved recipe as TOML, which `read` can read again."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def make_recipe(
    values: dict[str, Any],
    settings: list[str] | tuple[str, ...] = (),
    *,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> Recipe:
    """The recipe in `values` (nested), changed by `settings` such as "optimizer.learning_rate=0.1".

    `defaults` come from a network or a command. They apply to keys that `values` and `settings` do not set, and do not
    count as set by the user. Defaults of an optimizer apply only to that optimizer, and defaults of a schedule only to
    that schedule. If `defaults` is None, the preset's values are used, as far as they are known without the data.

    Raises RecipeError, which names the key, the value and what is allowed.
    """
    values = copy.deepcopy(values)
    for setting in settings:
        change(values, dict([read_setting(setting)]))
    defaults = _of_preset(values) if defaults is None else defaults
    recipe = _with_defaults(values, defaults) if defaults else _validated(values)
    if recipe.transfer is not None:
        check_preset(recipe.transfer, recipe.training, recipe.optimizer, recipe.augmentation)
    return recipe


def _with_defaults(values: dict[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> Recipe:
    merged = copy.deepcopy(values)
    own = {part: dict(keys) for part, keys in defaults.items()}
    user_optimizer = values.get("optimizer", {})
    if isinstance(user_optimizer, dict):
        name = own.get("optimizer", {}).get("name", OptimizerPart().name)
        if user_optimizer.get("name", name) != name:
            own.pop("optimizer", None)
        own_optimizer = own.get("optimizer", {})
        schedule = own_optimizer.get("schedule", OptimizerPart().schedule)
        if user_optimizer.get("schedule", schedule) != schedule:
            own["optimizer"] = {key: value for key, value in own_optimizer.items() if key not in OF_SCHEDULE}
    for part, keys in own.items():
        if isinstance(merged.setdefault(part, {}), dict):
            merged[part] = keys | merged[part]
    recipe = _validated(merged)
    for part, keys in own.items():
        for key in keys.keys() - values.get(part, {}).keys():
            getattr(recipe, part).model_fields_set.discard(key)
    return recipe


def _of_preset(values: dict[str, Any]) -> Mapping[str, Mapping[str, Any]] | None:
    transfer = values.get("transfer")
    preset = transfer.get("preset") if isinstance(transfer, dict) else None
    if preset not in (*PRESETS, "bit"):
        return None
    # the BiT-HyperRule trains longest on the fewest images
    return preset_values(preset, images=1, stages=_stages_of(values.get("model")))


def _stages_of(model: Any) -> int:
    """The number of stages of the network that `model` names, as far as it is known without its preset's files."""
    name = model.get("name") if isinstance(model, dict) else None
    if not isinstance(name, str) or name.startswith(HUB):
        return 0
    try:
        return len(getattr(find(name), "stages", ()))
    except InputError:  # said where the part is read
        return 0


def data_part(values: dict[str, Any]) -> DataPart:
    """The data part of a recipe alone. Raises RecipeError as `make_recipe` does."""
    return _validated({"model": {"name": NO_MODEL}, "data": values}).data


def _validated(values: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(one_line(error, Recipe)) from error


def _zoo_file(name: str) -> Path | None:
    """The recipe of the zoo called `name`, if no network of the registry has that name; None if there is none."""
    own = [path for path in ZOO.glob("*.toml") if path.stem == name and name not in REGISTRY]
    return own[0] if own else None


def own_recipe(model: str) -> Mapping[str, Mapping[str, Any]] | None:
    """The defaults for training `model` by name: its own optimizer and augmentation; None if it has no recipe.

    Its epochs and splits are for the data that its file names, so they are not defaults for other data.
    """
    path = ZOO / f"{model}.toml"
    if not path.is_file():
        return None
    return {part: keys for part, keys in read_recipe(path).items() if part in OWN}


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The values in a TOML recipe. Raises RecipeError if it cannot be read."""
    try:
        with open_regular(path) as file:  # reading a pipe would block
            return tomllib.load(file)
    except FileNotFoundError as error:
        raise RecipeError(f"there is no recipe {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {' '.join(str(error).split())[:200]}") from error


def read_setting(setting: str) -> tuple[str, Any]:
    """The key and the value of `KEY=VALUE`, whose value is TOML or a bare word. Raises RecipeError."""
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"a setting must be key=value, such as optimizer.learning_rate=0.1, got {setting!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text.strip()  # a bare word is a string


def flattened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with one entry per dotted key: {"data": {"size": 64}} becomes {"data.size": 64}.

    An empty table stays as it is. Raises RecipeError if a key has two values.
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found = {f"{name}.{key}": inner for key, inner in flattened(value).items()}
        else:
            found = {str(name): os.fspath(value) if isinstance(value, os.PathLike) else value}
        for key, inner in found.items():
            if key in flat and flat[key] != inner:
                raise RecipeError(f"{key} is set twice, to {flat[key]!r} and to {inner!r}; remove one of them")
            flat[key] = inner
    return flat


def change(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Set keys in nested `values`; `settings` are nested, dotted, or both. Raises RecipeError."""
    for key, value in flattened(settings).items():
        override(values, key, value)


def override(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `key` (dotted) in nested `values`. Raises RecipeError if `key` goes through a plain value."""
    *path, last = key.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise RecipeError(f"recipe key {key}: {part!r} must be a table of keys, got {values!r}")
    if isinstance(value, Mapping) and not value and isinstance(values.get(last), dict):
        return  # an empty table sets nothing
    values[last] = value


def _data_keys(data: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    if data is None:
        return {}
    return {"data": data} if isinstance(data, Mapping) else {"data.path": data}
