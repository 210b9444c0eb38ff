"""Presets of fine-tuning: the defaults of `kerazoo finetune --preset`.

- linear: the probe alone. Keys of fine-tuning cannot be set.
- light (the default): the last stage, from four stored views of each image, so that an epoch takes a tenth of the time;
  answers from mirror images, too, if they help. Of a transformer, its last two blocks.
- full: all stages, stronger augmentation.
- norm: the normalization layers of the whole network, and the head (after Basu et al. 2023, arXiv:2304.01917).
- lora: low-rank updates of the attention's query and value kernels, and the head (Hu et al. 2021, arXiv:2106.09685).
  They are added to the kernels at the end, so the run's weights are as plain as those of any other run.
- bit: the BiT-HyperRule (Kolesnikov et al. 2019, arXiv:1912.11370, section 3.3, and their bit_hyperrule.py), which
  depends on the number of images. It trains all stages at one learning rate, with plain crops and mirroring. Ours
  starts from the probe and keeps the backbone's own image size; theirs starts from a head of zeros.

A network whose stages are the blocks of a transformer has many of them, so that the rates of its stages fall more
slowly (`BLOCK_DECAY`, as He et al. 2021, arXiv:2111.06377, table 9).

Settings must not contradict their preset (`check_preset`). With 0 epochs, any preset stops after the probe.
"""

import math
from collections.abc import Mapping
from typing import Any

from kerazoo.errors import RecipeError
from kerazoo.recipes.augmentation import AugmentationPart
from kerazoo.recipes.parts import OptimizerPart, Part, TrainingPart
from kerazoo.recipes.transfer_part import TransferPart

Values = dict[str, dict[str, Any]]

LIGHT = 1  # unfrozen stages
LIGHT_BLOCKS = 2  # unfrozen blocks of a transformer
VIEWS = 4  # stored for each image
MANY = 6  # networks with more stages than this are transformers; those of feature maps halve them five times
BLOCK_DECAY = 0.75

PRESETS: dict[str, Values] = {
    "linear": {"training": {"epochs": 0, "batch_size": 32}},
    "light": {
        "training": {"epochs": 24, "batch_size": 32},
        "optimizer": {"learning_rate": 2e-3, "warmup": 0.1},
        "augmentation": {"policy": "light", "crop": 0.35},
        "evaluation": {"flip": "auto"},
    },
    "full": {
        "training": {"epochs": 10, "batch_size": 32, "early_stopping": 10},
        "optimizer": {"learning_rate": 1e-3, "warmup": 0.1},
        "augmentation": {"policy": "standard"},
    },
}
WHOLE: Values = {  # `light` where there are no stages to freeze
    "training": {"epochs": 8, "batch_size": 32, "early_stopping": 8}, "augmentation": {"policy": "light"},
}  # fmt: skip
PRESETS |= {
    # as `full`, with one rate for all layers; batch norm is a normalization, too
    "norm": PRESETS["full"] | {"transfer": {"method": "norm", "decay": 1.0, "batch_norm": "train"}},
    "lora": PRESETS["full"] | {"transfer": {"method": "lora", "decay": 1.0}},
}

# upper bound on training images; steps; steps at which the rate is divided by 10; steps of warmup; mixup
BIT_RULE = (
    (20_000, 500, (200, 300, 400), 100, None),
    (500_000, 10_000, (3_000, 6_000, 9_000), 500, 0.1),
    (math.inf, 20_000, (6_000, 12_000, 18_000), 500, 0.1),
)


# the keys that only fine-tuning uses; None means every key of the part
OF_TUNING: dict[str, tuple[str, ...] | None] = {
    "training": ("epochs", "early_stopping", "loss", "label_smoothing", "focal_gamma"),
    "optimizer": None,
    "transfer": ("unfreeze", "stored_views", "decay", "batch_norm", "method", "rank"),
    "augmentation": None,
}


def preset_values(preset: str, *, images: int, stages: int, whole: bool = False) -> Values:
    """The recipe's parts for `preset`, with `images` to train on and a backbone of `stages` stages (0: no stages).

    `whole` is whether the recipe wants all stages to learn.
    """
    decay = {"decay": BLOCK_DECAY} if stages > MANY else {}
    if preset == "light":
        last = LIGHT_BLOCKS if stages > MANY else LIGHT if stages > LIGHT else 0
        if whole or not last:  # all of it learns, and an epoch takes long
            return PRESETS[preset] | WHOLE | {"transfer": {"unfreeze": 0, **decay}}
        return PRESETS[preset] | {"transfer": {"unfreeze": last, "stored_views": VIEWS, **decay}}
    if preset != "bit":
        return PRESETS[preset] | {"transfer": decay | PRESETS[preset].get("transfer", {})}
    steps, milestones, warmup, mixup = next(row[1:] for row in BIT_RULE if images < row[0])
    batch = min(128, images)
    per_epoch = images // batch
    epochs = math.ceil(steps / per_epoch)
    run = epochs * per_epoch  # the rule's steps become shares of the run, so that they also fit fewer epochs
    return {
        "training": {"epochs": epochs, "batch_size": batch},
        "optimizer": {
            "name": "sgd", "learning_rate": 0.001, "nesterov": False, "weight_decay": 0.0, "schedule": "step",
            "milestones": [milestone / run for milestone in milestones], "warmup": warmup / run,
        },
        "augmentation": {"crop": 0.75, "flip": True} | ({} if mixup is None else {"mixup": mixup}),
        "transfer": {"decay": 1.0},
    }  # fmt: skip


def check_preset(
    transfer: TransferPart, training: TrainingPart, optimizer: OptimizerPart, augmentation: AugmentationPart
) -> None:
    """Raise RecipeError if settings contradict the preset, or use another optimizer at the preset's learning rate.

    Pretrained weights without a preset need a learning rate that the user sets.

    A value that equals the default counts as not set, because the resolved recipe of a run contains all defaults.
    """
    if transfer.preset is None:
        trained = transfer.weights != "none" and training.epochs
        if trained and "learning_rate" not in optimizer.model_fields_set:
            raise RecipeError(
                f"transfer.preset must be set, or optimizer.learning_rate: {optimizer.learning_rate}, the rate for "
                "random weights, destroys pretrained ones; use a preset, such as light or full, or training.epochs=0 "
                "to stop after the probe"
            )
        return
    preset = f"transfer.preset={transfer.preset!r}"
    parts = {"training": training, "optimizer": optimizer, "transfer": transfer, "augmentation": augmentation}
    user_settings = _user_settings(parts)
    if transfer.preset == "linear":
        for key, value in user_settings.items():
            part, _, name = key.partition(".")
            names = OF_TUNING[part]
            if (names is None or name in names) and not (part == "augmentation" and transfer.views > 1):
                way = "; augmentation needs transfer.views above 1" if part == "augmentation" else ""
                raise RecipeError(
                    f"{key}={value!r} contradicts {preset}, which is the probe alone and does not "
                    f"fine-tune; remove it, or use the preset light, full, norm, lora or bit{way}"
                )
    if transfer.preset in ("full", "bit") and transfer.unfreeze:
        raise RecipeError(
            f"transfer.unfreeze={transfer.unfreeze} contradicts {preset}, which unfreezes the whole network; remove "
            "it, or use the preset light"
        )
    method = transfer.preset if transfer.preset in ("norm", "lora") else "all"
    if user_settings.get("transfer.method", method) != method:
        raise RecipeError(
            f"transfer.method={transfer.method!r} contradicts {preset}, which has {method!r}; remove it, or use the "
            f"preset {transfer.method if transfer.method != 'all' else 'full'}"
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
    elif user_settings.get("optimizer.name", "adamw") != "adamw" and "learning_rate" not in optimizer.model_fields_set:
        raise RecipeError(
            f"{preset} has a learning rate for adamw, not for optimizer.name={optimizer.name!r}; set "
            "optimizer.learning_rate, too"
        )


def _user_settings(parts: Mapping[str, Part]) -> dict[str, Any]:
    """The settings of `parts` that are not the defaults, by their dotted keys."""
    settings: dict[str, Any] = {}
    for part, values in parts.items():
        defaults = type(values)()
        for name in sorted(values.model_fields_set):
            value = getattr(values, name)
            default = 0 if (part, name) == ("training", "epochs") else getattr(defaults, name)
            if value != default:
                settings[f"{part}.{name}"] = value
    return settings
