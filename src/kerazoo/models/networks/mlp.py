"""The multilayer perceptron: dense layers with any activation, dropout and L1/L2 penalties."""

from collections.abc import Sequence

import keras
from keras import layers

from kerazoo.models.argument_checks import check_choice, check_counts, check_fraction, check_penalty
from kerazoo.models.heads.classifier import attach
from kerazoo.models.layers import ACTIVATIONS
from kerazoo.models.layers import activation as activation_layer


def mlp(
    *,
    input_shape: tuple[int, ...] = (28, 28, 1),
    num_classes: int = 10,
    units: Sequence[int] = (128, 64),
    activation: str = "relu",
    dropout: float = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
) -> keras.Model:
    """(B, ...) -> (B, num_classes) logits: flatten, then for each of `units` a dense layer, activation and dropout.

    `activation` is one of `layers.ACTIVATIONS`; "threshold" uses a straight-through gradient. `dropout` is the share
    of units that are dropped, in [0, 1); `l1` and `l2` add l1 * sum|w| + l2 * sum w^2 over kernels to the loss.
    Raises ModelError.
    """
    shape = check_counts(input_shape, name="input_shape", model="mlp")
    units = check_counts(units, name="units", model="mlp", allow_empty=True)
    check_choice(activation, ACTIVATIONS, name="activation", model="mlp")
    rate = check_fraction(dropout, name="dropout", model="mlp")
    penalties = check_penalty(l1, name="l1", model="mlp"), check_penalty(l2, name="l2", model="mlp")
    regularizer = keras.regularizers.L1L2(*penalties) if any(penalties) else None

    inputs = keras.Input(shape, name="inputs")
    x = layers.Flatten(name="flatten")(inputs)
    for index, width in enumerate(units, start=1):
        x = layers.Dense(width, kernel_regularizer=regularizer, name=f"dense{index}")(x)
        x = activation_layer(activation, name=f"dense{index}_{activation}")(x)
        if rate:
            x = layers.Dropout(rate, name=f"dense{index}_dropout")(x)
    logits = attach(x, num_classes, model="mlp", kernel_regularizer=regularizer)
    return keras.Model(inputs, logits, name="mlp")
