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


def has_features(model: keras.Model) -> bool:
    """Whether `model` has a layer `features`, see `attach`. A network of another package may have none."""
    return any(layer.name == "features" for layer in model.layers)


def logits_and_features(model: keras.Model, x: Any) -> dict[str, Any]:
    """(B, H, W, C) -> {"logits": (B, K), "features": (B, F)} by one call in inference mode; features if it has them."""
    if not has_features(model):
        return {"logits": model(x, training=False)}
    outputs = {"logits": model.output, "features": model.get_layer("features").output}
    both: dict[str, Any] = keras.Model(model.input, outputs)(x, training=False)
    return both
