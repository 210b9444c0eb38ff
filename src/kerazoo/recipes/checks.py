"""What is wrong with a recipe only beside its data or its devices: known before any work, later than the recipe."""

from collections.abc import Mapping
from typing import Any

from kerazoo.errors import RecipeError
from kerazoo.recipes.recipe import Recipe, make_recipe

# what only fine-tuning reads; None is every key of the part
OF_TUNING: dict[str, tuple[str, ...] | None] = {
    "training": ("epochs", "early_stopping", "loss", "label_smoothing", "focal_gamma"),
    "optimizer": None,
    "transfer": ("unfreeze", "decay", "batch_norm"),
    "augmentation": None,
}


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


def with_defaults(recipe: Recipe, values: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """`recipe` with `values` where it says nothing, as if they were the defaults."""
    return make_recipe(recipe.model_dump(exclude_unset=True), defaults=values)


def with_recorded_batch_size(recipe: Recipe, kept: Recipe) -> Recipe:
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


def check_preset(recipe: "Recipe") -> None:
    """Raise RecipeError where `recipe` asks for what its preset is not, or for another optimizer at the preset's rate.

    Pretrained weights without a preset take a learning rate that was asked for.

    A value that is the default one counts as not asked for: the resolved recipe of a run has all of them.
    """
    transfer, optimizer = recipe.transfer, recipe.optimizer
    if transfer is None:
        return
    if transfer.preset is None:
        trained = transfer.weights != "none" and recipe.training.epochs
        if trained and "learning_rate" not in optimizer.model_fields_set:
            raise RecipeError(
                f"transfer.preset must be set, or optimizer.learning_rate: {optimizer.learning_rate}, the rate for "
                "random weights, destroys pretrained ones; use the preset light, full or bit, or training.epochs=0 "
                "to stop at the probe"
            )
        return
    preset, asked = f"transfer.preset={transfer.preset!r}", _asked(recipe)
    if transfer.preset == "linear":
        for key, value in asked.items():
            part, _, name = key.partition(".")
            names = OF_TUNING[part]
            if (names is None or name in names) and not (part == "augmentation" and transfer.views > 1):
                way = "; augmentation needs transfer.views above 1" if part == "augmentation" else ""
                raise RecipeError(
                    f"{key}={value!r} contradicts {preset}, which is the probe alone and does not "
                    f"fine-tune; remove it, or use the preset light, full or bit{way}"
                )
    if transfer.preset in ("full", "bit") and transfer.unfreeze:
        raise RecipeError(
            f"transfer.unfreeze={transfer.unfreeze} contradicts {preset}, which unfreezes the whole network; remove "
            "it, or use the preset light"
        )
    if transfer.preset == "bit":
        rules: tuple[tuple[Any, str, Any], ...] = (
            (transfer, "decay", 1.0), (optimizer, "name", "sgd"), (optimizer, "schedule", "step"),
        )  # fmt: skip
        for part, key, wanted in rules:
            value = getattr(part, key)
            if key in part.model_fields_set and value != wanted:
                where = "transfer" if part is transfer else "optimizer"
                raise RecipeError(
                    f"{where}.{key}={value!r} contradicts {preset}: the BiT-HyperRule has {wanted!r}; remove it, or "
                    "use the preset full"
                )
    elif asked.get("optimizer.name", "adamw") != "adamw" and "learning_rate" not in optimizer.model_fields_set:
        raise RecipeError(
            f"{preset} has a learning rate for adamw, not for optimizer.name={optimizer.name!r}; set "
            "optimizer.learning_rate, too"
        )


def _asked(recipe: "Recipe") -> dict[str, Any]:
    """The settings of OF_TUNING's parts that are not the defaults, by their dotted keys."""
    found: dict[str, Any] = {}
    for part in OF_TUNING:
        values = getattr(recipe, part)
        defaults = type(values)()
        for name in sorted(values.model_fields_set):
            value = getattr(values, name)
            default = 0 if (part, name) == ("training", "epochs") else getattr(defaults, name)
            if value != default:
                found[f"{part}.{name}"] = value
    return found
