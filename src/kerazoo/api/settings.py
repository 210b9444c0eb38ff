"""The words of a call -> a recipe; what can be wrong with them is looked at before TensorFlow starts."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.errors import RecipeError
from kerazoo.models.registry import find

if TYPE_CHECKING:
    from kerazoo.api.run import Run
    from kerazoo.exports.folder import Export
    from kerazoo.recipes.recipe import Recipe

PathLike = str | Path
Settings = Mapping[str, Any] | Sequence[str]
KEYS = {  # of the recipe, by the arguments that set them
    "data": "data.path",
    "manifest": "data.manifest",
    "group": "data.group",
    "folds": "data.folds",
    "teacher": "training.teacher",
    "validation": "data.validation",
    "size": "data.size",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "learning_rate": "optimizer.learning_rate",
    "seed": "seed",
    "devices": "devices",
    "log": "log",
    "log_every": "log_every",
    "to": "log_to",
}


def merged(settings: Settings, **values: Any) -> dict[str, Any]:
    """The keys of the recipe that `settings` and the named `values` set. Raises RecipeError where they differ."""
    from kerazoo.recipes.recipe import flattened, read_setting

    if isinstance(settings, Mapping):
        found = flattened(settings)
    else:
        found = {}
        for setting in [settings] if isinstance(settings, str) else settings:
            key, value = read_setting(setting)
            found |= flattened({key: value})  # the last of two settings of a key is used, as on the command line
    for name, value in values.items():
        key = KEYS[name]
        if value is None:
            continue
        if found.get(key, value) != value:
            raise RecipeError(f"{key} is set twice, to {value} and to {found[key]}; remove one of them")
        found[key] = value
    return found


def recipe_to_train(model: "PathLike | Recipe", data: PathLike | None, values: dict[str, Any]) -> "Recipe":
    """The recipe for training `model`, a name, a file or a recipe, on `data`, changed by `values`."""
    from kerazoo.recipes.recipe import Recipe

    values = merged(values, data=None if data is None else os.fspath(data))
    if not isinstance(model, Recipe):
        return Recipe.for_training(model, **values)
    for key, value in values.items():
        model = model.override(key, value)
    return model


def recipe_without_model(values: dict[str, Any]) -> "Recipe":
    """The recipe of what looks at data, or at several models."""
    from kerazoo.recipes.recipe import change, make_recipe

    nested: dict[str, Any] = {"model": {"name": "-"}}
    change(nested, values)
    return make_recipe(nested)


def check_words(recipe: "Recipe", name: str | None = None) -> None:
    """Raise InputError where data, weights, teacher, trackers or the `name` of the run cannot be right."""
    from kerazoo.callbacks.writers.opening import check_trackers
    from kerazoo.models.weights.sources import check_weights
    from kerazoo.pipelines.data.load import check_source
    from kerazoo.runs.run import check_name, open_run

    check_source(recipe.data)
    if recipe.training.teacher is not None:
        open_run(recipe.training.teacher)
    check_trackers(recipe.log_to)
    if name is not None:
        check_name(name)
    if recipe.transfer is not None and recipe.model.name != "-":
        check_weights(find(recipe.model.name), recipe.transfer.weights)


def path_of(thing: "PathLike | Run | Export") -> PathLike:
    """The path itself, or the folder of a run or an export."""
    return thing if isinstance(thing, str | Path) else thing.folder
