"""The plain convolutional network of the textbooks: convolution, pooling, flatten, dense (LeCun et al. 1998)."""

from collections.abc import Sequence

import keras
from keras import layers

from kerazoo.errors import ModelError
from kerazoo.models.argument_checks import (
    check_choice,
    check_count,
    check_counts,
    check_fraction,
    check_input_shape,
    check_penalty,
)
from kerazoo.models.heads.classifier import attach
from kerazoo.models.layers import ACTIVATIONS, POOLINGS
from kerazoo.models.layers import activation as activation_layer
from kerazoo.models.layers import pooling as pooling_layer


def cnn(
    *,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    filters: Sequence[int] = (32, 64),
    kernel_size: int = 3,
    strides: int = 1,
    padding: str = "same",
    pooling: str = "max",
    units: Sequence[int] = (128,),
    activation: str = "relu",
    dropout: float = 0.0,
    l1: float = 0.0,
    l2: float = 0.0,
) -> keras.Model:
    """(B, H, W, C) -> (B, num_classes) logits.

    For each of `filters`: a convolution (`kernel_size`, `strides`, `padding` "same" or "valid"), the activation, and
    2x2 pooling by `pooling` ("max", "mean", "sum" or "min"); then flatten and a dense layer for each of `units`.
    Sizes follow floor((W - K + 2P) / S) + 1. `activation`, `dropout`, `l1` and `l2` as in `mlp`; dropout acts after
    each dense layer. Raises ModelError, also if the feature map would become too small.
    """
    shape = check_input_shape(input_shape, smallest=4, model="cnn")
    filters = check_counts(filters, name="filters", model="cnn")
    units = check_counts(units, name="units", model="cnn", allow_empty=True)
    check_count(kernel_size, name="kernel_size", model="cnn")
    check_count(strides, name="strides", model="cnn")
    check_choice(pooling, POOLINGS, name="pooling", model="cnn")
    check_choice(activation, ACTIVATIONS, name="activation", model="cnn")
    check_choice(padding, ("same", "valid"), name="padding", model="cnn")
    rate = check_fraction(dropout, name="dropout", model="cnn")
    penalties = check_penalty(l1, name="l1", model="cnn"), check_penalty(l2, name="l2", model="cnn")
    regularizer = keras.regularizers.L1L2(*penalties) if any(penalties) else None

    inputs = keras.Input(shape, name="inputs")
    x = inputs
    for index, width in enumerate(filters, start=1):
        _check_size(x, kernel_size if padding == "valid" else 1, shape, f"convolution {index}")
        x = layers.Conv2D(
            width, kernel_size, strides=strides, padding=padding, kernel_regularizer=regularizer, name=f"conv{index}"
        )(x)
        x = activation_layer(activation, name=f"conv{index}_{activation}")(x)
        _check_size(x, 2, shape, f"pooling {index}")
        x = pooling_layer(pooling, 2, name=f"pool{index}")(x)
    x = layers.Flatten(name="flatten")(x)
    for index, width in enumerate(units, start=1):
        x = layers.Dense(width, kernel_regularizer=regularizer, name=f"dense{index}")(x)
        x = activation_layer(activation, name=f"dense{index}_{activation}")(x)
        if rate:
            x = layers.Dropout(rate, name=f"dense{index}_dropout")(x)
    logits = attach(x, num_classes, model="cnn", kernel_regularizer=regularizer)
    return keras.Model(inputs, logits, name="cnn")


def _check_size(x: keras.KerasTensor, window: int, input_shape: tuple[int, ...], where: str) -> None:
    if min(x.shape[1:3]) < window:
        raise ModelError(
            f"cnn: input_shape={input_shape!r} gives a feature map of {x.shape[1]}x{x.shape[2]} before {where}, which "
            f"needs {window}x{window}; use larger images, fewer filters, or smaller strides"
        )
