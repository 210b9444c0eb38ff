"""The small Inception network of Zhang et al. 2016, arXiv:1611.03530, Figure 3, with batch norm.

A module has a 1x1 and a 3x3 convolution in parallel. A downsampling module has a strided 3x3 convolution and a strided
max pooling in parallel.
"""

import keras
from keras import KerasTensor, layers

from kerazoo.models.argument_checks import check_fraction, check_input_shape
from kerazoo.models.heads.classifier import attach
from kerazoo.models.layers import convolution

# (filters of the 1x1 branch, filters of the 3x3 branch); a single number is a downsampling module
MODULES: tuple[tuple[int, int] | int, ...] = (
    (32, 32), (32, 48), 80, (112, 48), (96, 64), (80, 80), (48, 96), 96, (176, 160), (176, 160),
)  # fmt: skip


def inception_small(
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    dropout: float = 0.0,
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """(B, H, W, C) -> (B, num_classes) logits; H and W are halved twice before global pooling.

    `dropout` acts before the logits. `momentum` is that of batch norm, and `synchronized` says whether replicas share
    its statistics. Raises ModelError.
    """
    shape = check_input_shape(input_shape, smallest=8, model="inception_small")
    check_fraction(momentum, name="momentum", model="inception_small")
    inputs = keras.Input(shape, name="inputs")
    x = convolution(inputs, 96, 3, name="stem", momentum=momentum, synchronized=synchronized)
    for index, module in enumerate(MODULES, start=1):
        if isinstance(module, int):
            x = _downsample(x, module, name=f"module{index}", momentum=momentum, synchronized=synchronized)
        else:
            x = _inception(x, *module, name=f"module{index}", momentum=momentum, synchronized=synchronized)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = attach(x, num_classes, dropout=dropout, model="inception_small")
    return keras.Model(inputs, logits, name="inception_small")


def _inception(
    x: KerasTensor, pointwise: int, wide: int, *, name: str, momentum: float, synchronized: bool
) -> KerasTensor:
    """(B, H, W, C) -> (B, H, W, pointwise + wide)."""
    a = convolution(x, pointwise, 1, name=f"{name}_1x1", momentum=momentum, synchronized=synchronized)
    b = convolution(x, wide, 3, name=f"{name}_3x3", momentum=momentum, synchronized=synchronized)
    return layers.Concatenate(name=f"{name}_out")([a, b])


def _downsample(x: KerasTensor, filters: int, *, name: str, momentum: float, synchronized: bool) -> KerasTensor:
    """(B, H, W, C) -> (B, H/2, W/2, C + filters)."""
    a = convolution(x, filters, 3, strides=2, name=f"{name}_3x3", momentum=momentum, synchronized=synchronized)
    b = layers.MaxPooling2D(3, strides=2, padding="same", name=f"{name}_pool")(x)
    return layers.Concatenate(name=f"{name}_out")([a, b])
