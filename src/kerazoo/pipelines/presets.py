"""Presets of fine-tuning: what `kerazoo finetune --preset` starts from; other keys can be set otherwise.

- linear: the probe alone. Nothing of fine-tuning can be set.
- light (the default): a few epochs of the last two stages, mild augmentation.
- full: all stages, stronger augmentation.
- bit: the BiT-HyperRule (Kolesnikov et al. 2019, arXiv:1912.11370, section 3.3, and their bit_hyperrule.py), which
  plans by the number of pictures; all stages at one rate, plain crops and mirroring. Ours begins at the probe, where
  theirs begins at a head of zeros, and keeps the backbone's own picture size.

What a preset is cannot be set otherwise (`check_preset`). 0 epochs of any preset stop at the probe.
"""

import math
from typing import TYPE_CHECKING, Any

from kerazoo.errors import RecipeError

if TYPE_CHECKING:
    from kerazoo.pipelines.recipe import Recipe

Values = dict[str, dict[str, Any]]

LIGHT = 2  # stages that learn

PRESETS: dict[str, Values] = {
    "linear": {"training": {"epochs": 0, "batch_size": 32}},
    "light": {
        "training": {"epochs": 8, "batch_size": 32, "early_stopping": 8},
        "optimizer": {"learning_rate": 2e-3, "warmup": 0.1},
        "augmentation": {"policy": "light"},
    },
    "full": {
        "training": {"epochs": 10, "batch_size": 32, "early_stopping": 10},
        "optimizer": {"learning_rate": 1e-3, "warmup": 0.1},
        "augmentation": {"policy": "standard"},
    },
}

# pictures to train on, fewer than; steps; where the rate is divided by 10; steps of warm-up; mixup
BIT_RULE = (
    (20_000, 500, (200, 300, 400), 100, None),
    (500_000, 10_000, (3_000, 6_000, 9_000), 500, 0.1),
    (math.inf, 20_000, (6_000, 12_000, 18_000), 500, 0.1),
)


def preset_values(preset: str, *, pictures: int, stages: int) -> Values:
    """The recipe's parts for `preset`, `pictures` to train on, and a backbone of so many `stages` (0: not parted)."""
    if preset == "light":
        return PRESETS[preset] | {"transfer": {"unfreeze": LIGHT if stages > LIGHT else 0}}
    if preset != "bit":
        return PRESETS[preset]
    steps, milestones, warmup, mixup = next(row[1:] for row in BIT_RULE if pictures < row[0])
    batch = min(128, pictures)
    per_epoch = pictures // batch
    epochs = math.ceil(steps / per_epoch)
    run = epochs * per_epoch  # steps; as shares of them, the rule's fall where they should, and fit fewer epochs, too
    return {
        "training": {"epochs": epochs, "batch_size": batch},
        "optimizer": {
            "name": "sgd", "learning_rate": 0.001, "nesterov": False, "weight_decay": 0.0, "schedule": "step",
            "milestones": [milestone / run for milestone in milestones], "warmup": warmup / run,
        },
        "augmentation": {"crop": 0.75, "flip": True} | ({} if mixup is None else {"mixup": mixup}),
        "transfer": {"decay": 1.0},
    }  # fmt: skip


# what only fine-tuning reads; None is every key of the part
OF_TUNING: dict[str, tuple[str, ...] | None] = {
    "training": ("epochs", "early_stopping", "loss", "label_smoothing", "focal_gamma"),
    "optimizer": None,
    "transfer": ("unfreeze", "decay", "batch_norm"),
    "augmentation": None,
}


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
                    f"{key}={value!r} contradicts {preset} (--probe-only), which is the probe alone and does not "
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
