"""A small CNN that learns CIFAR-10 in a few epochs: the network of airbench94.

Source: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, section 3.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import KerasTensor, layers, ops

from kerazoo.models.argument_checks import check_counts, check_fraction, check_input_shape
from kerazoo.models.heads.classifier import attach
from kerazoo.models.layers import register
from kerazoo.models.whitening import PatchWhitening

LOGIT_SCALE = 1 / 9  # their scaling_factor


def fast_cnn(
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    filters: Sequence[int] = (64, 256, 256),
    dropout: float = 0.0,
    momentum: float = 0.99,
    synchronized: bool = False,
) -> keras.Model:
    """(B, H, W, C) -> (B, num_classes) logits; each of `filters` is a block that halves H and W.

    The first layer, `whitening`, is not trained: `kerazoo train` computes it from training images. In a network built
    by hand, call `model.get_layer("whitening").adapt` (see `PatchWhitening`).

    `dropout` acts before the logits. `momentum` is that of batch norm, and `synchronized` says whether replicas share
    its statistics. Raises ModelError.
    """
    filters = check_counts(filters, name="filters", model="fast_cnn")
    shape = check_input_shape(input_shape, smallest=max(9, 2 ** len(filters) + 1), model="fast_cnn")
    check_fraction(momentum, name="momentum", model="fast_cnn")
    inputs = keras.Input(shape, name="inputs")
    x = PatchWhitening(name="whitening")(inputs)
    x = layers.Activation("gelu", name="whitening_gelu")(x)
    for number, width in enumerate(filters, start=1):
        name = f"block{number}"
        x = _convolution(x, width, name=f"{name}_1", pool=True, momentum=momentum, synchronized=synchronized)
        x = _convolution(x, width, name=f"{name}_2", pool=False, momentum=momentum, synchronized=synchronized)
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    x = layers.Rescaling(LOGIT_SCALE, dtype=keras.config.floatx(), name="scale")(x)
    return keras.Model(inputs, attach(x, num_classes, dropout=dropout, model="fast_cnn"), name="fast_cnn")


def _convolution(
    x: KerasTensor, filters: int, *, name: str, pool: bool, momentum: float, synchronized: bool
) -> KerasTensor:
    """(B, H, W, C) -> (B, H/2, W/2, filters) with `pool`, else (B, H, W, filters): 3x3, max pooling, batch norm, GELU.

    Batch norm has no scale, as in theirs.
    """
    x = layers.Conv2D(
        filters, 3, padding="same", use_bias=False, kernel_initializer=DiracUniform(), name=f"{name}_conv"
    )(x)
    if pool:
        x = layers.MaxPooling2D(name=f"{name}_pool")(x)
    # on other backends batch norm always uses the whole batch, and Keras refuses the argument
    shared = synchronized and keras.config.backend() == "tensorflow"
    x = layers.BatchNormalization(
        momentum=momentum, epsilon=1e-12, scale=False, synchronized=shared, name=f"{name}_bn"
    )(x)
    return layers.Activation("gelu", name=f"{name}_gelu")(x)


@register
class DiracUniform(keras.initializers.VarianceScaling):  # type: ignore[misc]
    """A kernel (h, w, C, F) whose first min(C, F) filters pass the channels on as they are.

    The others are uniform in +- 1 / sqrt(h w C). Source: arXiv:2404.00498, section 3.3.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(scale=1 / 3, mode="fan_in", distribution="uniform", seed=seed)

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> KerasTensor:
        """The kernel."""
        height, width, channels, filters = shape
        passed = min(channels, filters)
        center = ops.reshape(ops.eye(channels, passed, dtype=dtype), (1, 1, channels, passed))
        before = ((height - 1) // 2, (width - 1) // 2)
        around = [(before[0], height - 1 - before[0]), (before[1], width - 1 - before[1]), (0, 0), (0, 0)]
        rest = super().__call__(shape, dtype)
        return ops.concatenate([ops.pad(center, around), rest[..., passed:]], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild it."""
        return {"seed": super().get_config()["seed"]}
