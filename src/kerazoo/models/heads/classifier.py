"""The head: from features to logits. A task (`tasks/task.py`) turns logits into answers.

Logits and features are always float32, even if the rest of the network uses 16 bits.
"""

from typing import Any

import keras
from keras import KerasTensor, layers

from kerazoo.models.argument_checks import check_count, check_fraction


def attach(x: KerasTensor, num_classes: int, *, dropout: float = 0.0, model: str, **dense: Any) -> KerasTensor:
    """(B, F) -> (B, num_classes) logits, by the layers `features`, `features_dropout` (if > 0) and `logits`.

    They always compute in float32, because a logit with 8 bits of precision is wrong by up to 1 part in 256.
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


def with_features(model: keras.Model) -> keras.Model:
    """(B, H, W, C) -> {"logits": (B, K), "features": (B, F)}, without features if no layer has that name."""
    layers = {layer.name: layer for layer in model.layers}
    features = {"features": layers["features"].output} if "features" in layers else {}
    return keras.Model(model.input, {"logits": model.output, **features})
