"""A small CNN of 1x1 bottlenecks and 3x3 convolutions: under 8,000 parameters for MNIST.

A block first reduces the channels with a 1x1 convolution, then widens them again with a 3x3 convolution. The 3x3
kernel, which costs nine times as much per channel, then has few input channels (Lin et al. 2013, arXiv:1312.4400; He et
al. 2015, Figure 5). The 1x1 convolution is linear, as in Sandler et al. 2018, arXiv:1801.04381, section 3.2.
"""

from collections.abc import Sequence

import keras
from keras import layers

from kerazoo.errors import ModelError
from kerazoo.models.argument_checks import check_counts, check_fraction, check_input_shape
from kerazoo.models.heads.classifier import attach
from kerazoo.models.layers import convolution


def bottleneck_cnn(
    *,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    stem: Sequence[int] = (8, 16),
    stages: Sequence[Sequence[Sequence[int]]] = (((8, 24), (8, 24)), ((8, 24),)),
    dropout: float = 0.0,
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """(B, H, W, C) -> (B, num_classes) logits.

    `stem`: filters of the 3x3 convolutions at full size. Each of `stages` halves H and W by max pooling, then has a
    block for each (squeeze, filters): linear 1x1 to `squeeze` channels, 3x3 to `filters`. Then global mean pooling and
    the head. `dropout` acts before the logits. `momentum` is that of batch norm, and `synchronized` says whether
    replicas share its statistics. Raises ModelError.
    """
    stem = check_counts(stem, name="stem", model="bottleneck_cnn")
    if not isinstance(stages, Sequence) or not all(isinstance(blocks, Sequence) for blocks in stages):
        raise ModelError(f"bottleneck_cnn: stages={stages!r} must have a list of (squeeze, filters) for each stage")
    shape = check_input_shape(input_shape, smallest=max(8, 2 ** len(stages)), model="bottleneck_cnn")
    check_fraction(momentum, name="momentum", model="bottleneck_cnn")
    inputs = keras.Input(shape, name="inputs")
    x = inputs
    for index, filters in enumerate(stem, start=1):
        x = convolution(x, filters, 3, name=f"stem{index}", momentum=momentum, synchronized=synchronized)
    for stage, blocks in enumerate(stages, start=1):
        x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
        for block, widths in enumerate(blocks, start=1):
            widths = check_counts(widths, name="stages", model="bottleneck_cnn")
            if len(widths) != 2:
                raise ModelError(f"bottleneck_cnn: each block in stages must be (squeeze, filters), got {widths!r}")
            name = f"stage{stage}_block{block}"
            x = layers.Conv2D(widths[0], 1, use_bias=False, name=f"{name}_squeeze")(x)  # linear: ReLU would lose half
            x = convolution(x, widths[1], 3, name=f"{name}_expand", momentum=momentum, synchronized=synchronized)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = attach(x, num_classes, dropout=dropout, model="bottleneck_cnn")
    return keras.Model(inputs, logits, name="bottleneck_cnn")
