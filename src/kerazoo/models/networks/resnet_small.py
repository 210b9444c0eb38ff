"""The ResNets for CIFAR-10 of He et al. 2015, arXiv:1512.03385, section 4.2: 6n + 2 layers, option A shortcuts.

Three stages of n blocks with two 3x3 convolutions, of 16, 32 and 64 filters. The first block of stages 2 and 3 has
stride 2.
"""

import keras
from keras import KerasTensor, layers

from kerazoo.errors import ModelError
from kerazoo.models.argument_checks import check_fraction, check_input_shape
from kerazoo.models.heads.classifier import attach
from kerazoo.models.layers import ShortcutA, convolution

FILTERS = (16, 32, 64)


def resnet_small(
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    depth: int = 20,
    dropout: float = 0.0,
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """(B, H, W, C) -> (B, num_classes) logits, by `depth` = 6n + 2 weighted layers (20, 32, 44, 56, ...).

    `dropout` acts before the logits. `momentum` is that of batch norm, and `synchronized` says whether replicas share
    its statistics. Raises ModelError.
    """
    name = f"resnet{depth}"
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise ModelError(f"resnet_small: depth={depth!r} must be 6n + 2: 8, 14, 20, 26, 32, 44, 56, 110, ...")
    shape = check_input_shape(input_shape, smallest=8, model=name)
    check_fraction(momentum, name="momentum", model=name)
    inputs = keras.Input(shape, name="inputs")
    x = convolution(inputs, FILTERS[0], 3, name="stem", momentum=momentum, synchronized=synchronized)
    for stage, filters in enumerate(FILTERS, start=1):
        for block in range(1, (depth - 2) // 6 + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(
                x, filters, strides, name=f"stage{stage}_block{block}", momentum=momentum, synchronized=synchronized
            )
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, attach(x, num_classes, dropout=dropout, model=name), name=name)


def _block(
    x: KerasTensor, filters: int, strides: int, *, name: str, momentum: float, synchronized: bool
) -> KerasTensor:
    """(B, H, W, C) -> (B, H/s, W/s, F): y = relu(f(x) + shortcut(x)), f two 3x3 convolutions with batch norm."""
    shortcut = x
    if strides > 1 or x.shape[-1] != filters:
        shortcut = ShortcutA(filters, strides, name=f"{name}_shortcut")(x)
    y = convolution(x, filters, 3, strides=strides, name=f"{name}_1", momentum=momentum, synchronized=synchronized)
    y = convolution(y, filters, 3, name=f"{name}_2", relu=False, momentum=momentum, synchronized=synchronized)
    y = layers.Add(name=f"{name}_add")([shortcut, y])
    return layers.Activation("relu", name=f"{name}_out")(y)
