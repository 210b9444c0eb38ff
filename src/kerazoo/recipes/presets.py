"""Presets of fine-tuning: what `kerazoo finetune --preset` starts from; other keys can be set otherwise.

- linear: the probe alone. Nothing of fine-tuning can be set.
- light (the default): a few epochs of the last two stages, mild augmentation.
- full: all stages, stronger augmentation.
- bit: the BiT-HyperRule (Kolesnikov et al. 2019, arXiv:1912.11370, section 3.3, and their bit_hyperrule.py), which
  plans by the number of images; all stages at one rate, plain crops and mirroring. Ours begins at the probe, where
  theirs begins at a head of zeros, and keeps the backbone's own image size.

What a preset is cannot be set otherwise (`check_preset`). 0 epochs of any preset stop at the probe.
"""

import math
from typing import Any

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

# images to train on, fewer than; steps; where the rate is divided by 10; steps of warm-up; mixup
BIT_RULE = (
    (20_000, 500, (200, 300, 400), 100, None),
    (500_000, 10_000, (3_000, 6_000, 9_000), 500, 0.1),
    (math.inf, 20_000, (6_000, 12_000, 18_000), 500, 0.1),
)


def preset_values(preset: str, *, images: int, stages: int) -> Values:
    """The recipe's parts for `preset`, `images` to train on, and a backbone of so many `stages` (0: not parted)."""
    if preset == "light":
        return PRESETS[preset] | {"transfer": {"unfreeze": LIGHT if stages > LIGHT else 0}}
    if preset != "bit":
        return PRESETS[preset]
    steps, milestones, warmup, mixup = next(row[1:] for row in BIT_RULE if images < row[0])
    batch = min(128, images)
    per_epoch = images // batch
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
