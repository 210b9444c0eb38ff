"""Checks of a recipe that need its data or its devices. They run before any work is done."""

import math
from collections.abc import Mapping
from typing import Any

from kerazoo.errors import RecipeError
from kerazoo.recipes.recipe import Recipe, make_recipe


def check_against(recipe: Recipe, count: int) -> Recipe:
    """The recipe for `count` training examples, with the batch size as a number.

    "all" becomes `count`. So does a default batch size that is larger than the data. Raises RecipeError if there is no
    data, if the user's batch size is larger than the data, or if a schedule is longer than the run.
    """
    training = recipe.training
    if count < 1:
        raise RecipeError(f"{recipe.data.path} has no training examples; inspect it with `kerazoo check`")
    size = count if training.batch_size == "all" else training.batch_size
    if size > count:
        if "batch_size" in training.model_fields_set:
            raise RecipeError(
                f"training.batch_size={size} is larger than the number of training examples, {count}; use at most "
                f'{count}, or "all"'
            )
        size = count
    steps = steps_of(recipe, count, size)
    if training.epochs:
        _check_steps(recipe, steps)
    return recipe.model_copy(update={"training": training.model_copy(update={"batch_size": size})})


def with_defaults(recipe: Recipe, values: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """`recipe` with `values` as the defaults for the keys that the user did not set."""
    return make_recipe(recipe.model_dump(exclude_unset=True), defaults=values)


def with_recorded_batch_size(recipe: Recipe, kept: Recipe) -> Recipe:
    """`recipe` with the batch size of the run's recipe `kept`, if it has no number of its own; to compare the two."""
    training = recipe.training
    if training.batch_size != "all" and "batch_size" in training.model_fields_set:
        return recipe
    size = {"batch_size": kept.training.batch_size}
    return recipe.model_copy(update={"training": training.model_copy(update=size)})


def steps_of(recipe: Recipe, count: int, batch_size: int) -> int:
    """The number of batches in the whole run: the batches of an epoch of `count` examples, times the epochs."""
    per_epoch = count // batch_size if recipe.training.drop_last else math.ceil(count / batch_size)
    return per_epoch * recipe.training.epochs


def _check_steps(recipe: Recipe, steps: int) -> None:
    part = recipe.optimizer
    run = f"the run, which has {steps} steps (training.epochs={recipe.training.epochs})"
    advice = "use a smaller number, a share of the run in (0, 1), or more epochs"
    if isinstance(part.warmup, int) and part.warmup >= steps:
        raise RecipeError(f"optimizer.warmup={part.warmup} must be shorter than {run}; {advice}")
    for milestone in part.milestones or ():
        if isinstance(milestone, int) and milestone >= steps:
            raise RecipeError(f"optimizer.milestones: {milestone} must be within {run}; {advice}")
    if part.accumulate > steps:
        raise RecipeError(
            f"optimizer.accumulate={part.accumulate} is longer than {run}, so the weights would never change; use at "
            f"most {steps}"
        )


def check_replicas(recipe: Recipe, replicas: int) -> None:
    """Refuse settings that Keras 3.15.1 gets wrong on more than one replica. Raises RecipeError, which says what to do.

    Gradient accumulation fails late. The other settings train without an error, but differ from training on one device.
    """
    if replicas < 2:
        return
    part = recipe.optimizer
    where = f"on {replicas} replicas (devices={recipe.devices!r})"
    if recipe.training.precision == "mixed_float16":
        raise RecipeError(
            f"training.precision='mixed_float16' does not work {where}: only the first replica's gradients are checked "
            "for overflow; use 'mixed_bfloat16'"
        )
    if part.accumulate > 1:
        raise RecipeError(f"optimizer.accumulate={part.accumulate} does not work {where}; use a larger batch instead")
    for key in ("clip_norm", "clip_value"):
        if getattr(part, key) is not None:
            raise RecipeError(
                f"optimizer.{key}={getattr(part, key)} does not work {where}: each replica would clip its own gradient "
                "before they are added; remove it, or use one device"
            )
