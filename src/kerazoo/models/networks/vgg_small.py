"""VGG for small images: stages of two 3x3 convolutions and a max pooling.

Source: Simonyan & Zisserman 2014, arXiv:1409.1556, section 2.

It has batch norm after each convolution, and global pooling in place of the 4096-unit layers, which are too large for
32 px.
"""

from collections.abc import Sequence

import keras
from keras import layers

from kerazoo.models.argument_checks import check_counts, check_fraction, check_input_shape
from kerazoo.models.heads.classifier import attach
from kerazoo.models.layers import convolution


def vgg_small(
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    filters: Sequence[int] = (32, 64, 128),
    dropout: float = 0.0,
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """(B, H, W, C) -> (B, num_classes) logits; each of `filters` is a stage that halves H and W.

    `dropout` acts before the logits. `momentum` is that of batch norm, and `synchronized` says whether replicas share
    its statistics. Raises ModelError.
    """
    filters = check_counts(filters, name="filters", model="vgg_small")
    shape = check_input_shape(input_shape, smallest=max(8, 2 ** len(filters)), model="vgg_small")
    check_fraction(momentum, name="momentum", model="vgg_small")
    inputs = keras.Input(shape, name="inputs")
    x = inputs
    for stage, width in enumerate(filters, start=1):
        x = convolution(x, width, 3, name=f"stage{stage}_1", momentum=momentum, synchronized=synchronized)
        x = convolution(x, width, 3, name=f"stage{stage}_2", momentum=momentum, synchronized=synchronized)
        x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, attach(x, num_classes, dropout=dropout, model="vgg_small"), name="vgg_small")
