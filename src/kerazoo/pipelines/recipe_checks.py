"""What is wrong with a recipe only beside its data or its devices: known before any work, later than the recipe."""

from collections.abc import Mapping
from typing import Any

from kerazoo.errors import RecipeError
from kerazoo.pipelines.recipe import Recipe, make_recipe


def check_against(recipe: Recipe, count: int) -> Recipe:
    """The recipe for `count` training examples, its batch size a whole number of them.

    "all" becomes `count`. So does a batch size that nobody asked for and that the data cannot fill: the run keeps what
    it trained by. Raises RecipeError where there is no data, where a batch that was asked for is larger than the data,
    and where a schedule is longer than the run.
    """
    training = recipe.training
    if count < 1:
        raise RecipeError(f"{recipe.data.path} has no training example; look at it by `kerazoo check`")
    size = count if training.batch_size == "all" else training.batch_size
    if size > count:
        if "batch_size" in training.model_fields_set:
            raise RecipeError(
                f"training.batch_size={size} is larger than the data, {count} training examples; take at most {count}, "
                'or "all"'
            )
        size = count
    steps = steps_of(recipe, count, size)
    if training.epochs:
        _check_steps(recipe, steps)
    return recipe.model_copy(update={"training": training.model_copy(update={"batch_size": size})})


def filled(recipe: Recipe, values: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """`recipe` with `values` where it says nothing, as if they were the defaults."""
    return make_recipe(recipe.model_dump(exclude_unset=True), defaults=values)


def as_kept(recipe: Recipe, kept: Recipe) -> Recipe:
    """`recipe` with the batch size that a run kept, where `recipe` leaves it to the data; to compare the two by."""
    training = recipe.training
    if training.batch_size != "all" and "batch_size" in training.model_fields_set:
        return recipe
    size = {"batch_size": kept.training.batch_size}
    return recipe.model_copy(update={"training": training.model_copy(update=size)})


def steps_of(recipe: Recipe, count: int, batch_size: int) -> int:
    """The batches of the whole run: those of an epoch of `count` examples, times the epochs."""
    per_epoch = count // batch_size if recipe.training.drop_last else -(-count // batch_size)
    return per_epoch * recipe.training.epochs


def _check_steps(recipe: Recipe, steps: int) -> None:
    part = recipe.optimizer
    run = f"the run, {steps} steps in training.epochs={recipe.training.epochs}"
    out = "take less, a share of the run in (0, 1), or more epochs"
    if isinstance(part.warmup, int) and part.warmup >= steps:
        raise RecipeError(f"optimizer.warmup={part.warmup} is not shorter than {run}; {out}")
    for milestone in part.milestones or ():
        if isinstance(milestone, int) and milestone >= steps:
            raise RecipeError(f"optimizer.milestones: {milestone} is not within {run}; {out}")
    if part.accumulate > steps:
        raise RecipeError(
            f"optimizer.accumulate={part.accumulate} is more than {run}: no weight would ever move; "
            f"take at most {steps}"
        )


def check_replicas(recipe: Recipe, replicas: int) -> None:
    """Refuse what Keras 3.15.1 gets wrong on more than one replica, with the way out. Raises RecipeError.

    Each of these trains on and gives something else than one device does, but for accumulation, which fails late.
    """
    if replicas < 2:
        return
    part, where = recipe.optimizer, f"on {replicas} replicas (devices={recipe.devices!r})"
    if recipe.training.precision == "mixed_float16":
        raise RecipeError(
            f"training.precision='mixed_float16' does not go {where}: only the first one's gradients are looked at for "
            "overflow; take 'mixed_bfloat16'"
        )
    if part.accumulate > 1:
        raise RecipeError(f"optimizer.accumulate={part.accumulate} does not go {where}; take a larger batch instead")
    for key in ("clip_norm", "clip_value"):
        if getattr(part, key) is not None:
            raise RecipeError(
                f"optimizer.{key}={getattr(part, key)} does not go {where}: each replica would clip its own gradient "
                "before they are added; leave it out, or take one device"
            )
