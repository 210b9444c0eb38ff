"""Presets of fine-tuning: the defaults of `kerazoo finetune --preset`.

- linear: the probe alone. Keys of fine-tuning cannot be set.
- light (the default): a few epochs of the last two stages, mild augmentation.
- full: all stages, stronger augmentation.
- bit: the BiT-HyperRule (Kolesnikov et al. 2019, arXiv:1912.11370, section 3.3, and their bit_hyperrule.py), which
  depends on the number of images. It trains all stages at one learning rate, with plain crops and mirroring. Ours
  starts from the probe and keeps the backbone's own image size; theirs starts from a head of zeros.

Settings must not contradict their preset (`check_preset`). With 0 epochs, any preset stops after the probe.
"""

import math
from typing import Any

Values = dict[str, dict[str, Any]]

LIGHT = 2  # unfrozen stages

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

# upper bound on training images; steps; steps at which the rate is divided by 10; steps of warmup; mixup
BIT_RULE = (
    (20_000, 500, (200, 300, 400), 100, None),
    (500_000, 10_000, (3_000, 6_000, 9_000), 500, 0.1),
    (math.inf, 20_000, (6_000, 12_000, 18_000), 500, 0.1),
)


def preset_values(preset: str, *, images: int, stages: int) -> Values:
    """The recipe's parts for `preset`, with `images` to train on and a backbone of `stages` stages (0: no stages)."""
    if preset == "light":
        return PRESETS[preset] | {"transfer": {"unfreeze": LIGHT if stages > LIGHT else 0}}
    if preset != "bit":
        return PRESETS[preset]
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
