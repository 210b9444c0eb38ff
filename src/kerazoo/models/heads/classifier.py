"""Heads: how features become logits; a task (`tasks/task.py`) says how logits become answers.

Logits and features are float32 also where the rest of the network computes in 16 bits.
"""

from typing import Any

import keras
from keras import KerasTensor, layers

from kerazoo.models.argument_checks import check_count, check_fraction


def attach(x: KerasTensor, num_classes: int, *, dropout: float = 0.0, model: str, **dense: Any) -> KerasTensor:
    """(B, F) -> (B, num_classes) logits, by the layers `features`, `features_dropout` (where > 0) and `logits`.

    All of them compute in float32 under any mixed precision: a logit of 8 bits is wrong by up to 1 part in 256.
    """
    check_count(num_classes, name="num_classes", model=model)
    rate = check_fraction(dropout, name="dropout", model=model)
    full = keras.config.floatx()
    x = layers.Identity(name="features", dtype=full)(x)
    if rate:
        x = layers.Dropout(rate, name="features_dropout", dtype=full)(x)
    return layers.Dense(num_classes, name="logits", dtype=full, **dense)(x)


def feature_extractor(model: keras.Model) -> keras.Model:
    """The part of `model` below its head: (B, H, W, C) -> (B, F). It shares the model's layers."""
    return keras.Model(model.input, model.get_layer("features").output, name=f"{model.name}_features")
