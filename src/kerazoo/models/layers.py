"""Layers that Keras does not have: threshold activation, sum and min pooling, the parameter-free residual shortcut.

All are registered (package "kerazoo"), serializable, and written in `keras.ops`, so they run on every Keras backend.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import KerasTensor, layers, ops

from kerazoo.models.argument_checks import check_choice

register = keras.saving.register_keras_serializable(package="kerazoo")

ACTIVATIONS = (
    "threshold", "linear", "sigmoid", "tanh", "relu", "softmax",
    "leaky_relu", "elu", "selu", "gelu", "silu", "softplus",
)  # fmt: skip
POOLINGS = ("max", "mean", "sum", "min")


@register
class Threshold(layers.Layer):  # type: ignore[misc]
    """1 where x >= 0, else 0; any shape. The gradient passes straight through, as if this were the identity.

    With the quadratic cost on its output, the straight-through gradient is Rosenblatt's rule: dw = rate (t - y) x.
    Source: Bengio, Leonard & Courville 2013, arXiv:1308.3432, section 4 (straight-through estimator).
    """

    def call(self, x: KerasTensor) -> KerasTensor:
        """Any shape -> the same shape, values 0 or 1."""
        return ops.cast(x >= 0, x.dtype) + (x - ops.stop_gradient(x))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape."""
        return input_shape


class _Pooling2D(layers.Layer):  # type: ignore[misc]
    """The base of the poolings below: window, stride (default: the window) and padding ("valid" or "same")."""

    def __init__(
        self, pool_size: int = 2, strides: int | None = None, padding: str = "valid", **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.pool_size = pool_size
        self.strides = strides or pool_size
        self.padding = check_choice(padding, ("valid", "same"), name="padding", model=type(self).__name__)

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild it."""
        own = {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}
        return {**super().get_config(), **own}

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(B, H, W, C) -> (B, H', W', C) by the feature-map size formula."""
        batch, height, width, channels = input_shape
        return (batch, self._size(height), self._size(width), channels)

    def _size(self, size: int | None) -> int | None:
        if size is None:
            return None
        if self.padding == "same":
            return math.ceil(size / self.strides)
        return (size - self.pool_size) // self.strides + 1


@register
class MinPooling2D(_Pooling2D):
    """(B, H, W, C) -> (B, H', W', C): the smallest value of each window. Padding is never the smallest value."""

    def call(self, x: KerasTensor) -> KerasTensor:
        """min(x) = -max(-x)."""
        return -ops.max_pool(-x, self.pool_size, self.strides, self.padding, data_format="channels_last")


@register
class SumPooling2D(_Pooling2D):
    """(B, H, W, C) -> (B, H', W', C): the sum of each window; "same" pads with zeros."""

    def call(self, x: KerasTensor) -> KerasTensor:
        """Window size times the mean, over an input padded here, because Keras's mean does not count padding."""
        if self.padding == "same":
            # height and width are static when a network is built; only the batch may be None
            pads = [self._pad(size) for size in x.shape[1:3]]
            x = ops.pad(x, [[0, 0], *pads, [0, 0]])
        return ops.average_pool(x, self.pool_size, self.strides, "valid", data_format="channels_last") * (
            self.pool_size**2
        )

    def _pad(self, size: int) -> list[int]:
        total = max((math.ceil(size / self.strides) - 1) * self.strides + self.pool_size - size, 0)
        return [total // 2, total - total // 2]  # an extra row or column goes below or right, as everywhere in Keras


@register
class ShortcutA(layers.Layer):  # type: ignore[misc]
    """The parameter-free residual shortcut, option A of He et al. 2015 (arXiv:1512.03385), section 3.3.

    (B, H, W, C) -> (B, ceil(H/s), ceil(W/s), filters): every s-th pixel, extra channels filled with zeros.
    """

    def __init__(self, filters: int, strides: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.filters = filters
        self.strides = strides

    def call(self, x: KerasTensor) -> KerasTensor:
        """Subsample, then pad the channel axis on both sides."""
        extra = self.filters - x.shape[-1]
        x = x[:, :: self.strides, :: self.strides, :]
        return ops.pad(x, [[0, 0], [0, 0], [0, 0], [extra // 2, extra - extra // 2]])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(B, H, W, C) -> (B, ceil(H/s), ceil(W/s), filters)."""
        batch, height, width, _ = input_shape
        sizes = [None if size is None else math.ceil(size / self.strides) for size in (height, width)]
        return (batch, *sizes, self.filters)

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild it."""
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


def activation(kind: str, *, name: str) -> layers.Layer:
    """A layer called `name` that applies the activation `kind`, one of ACTIVATIONS."""
    return Threshold(name=name) if kind == "threshold" else layers.Activation(kind, name=name)


def pooling(kind: str, size: int, *, name: str, strides: int | None = None, padding: str = "valid") -> layers.Layer:
    """A layer called `name` that pools windows of `size` x `size` by `kind`, one of POOLINGS."""
    makers: dict[str, Callable[..., layers.Layer]] = {
        "max": layers.MaxPooling2D,
        "mean": layers.AveragePooling2D,
        "sum": SumPooling2D,
        "min": MinPooling2D,
    }
    return makers[kind](size, strides=strides, padding=padding, name=name)


def convolution(
    x: KerasTensor, filters: int, size: int, *, strides: int = 1, name: str, relu: bool = True, momentum: float = 0.99,
    synchronized: bool = False,
) -> KerasTensor:  # fmt: skip
    """(B, H, W, C) -> (B, ceil(H/s), ceil(W/s), filters): convolution without bias, batch norm, optional ReLU.

    `synchronized` batch norm uses the statistics of the whole batch if several replicas share it.
    """
    x = layers.Conv2D(
        filters, size, strides=strides, padding="same", use_bias=False, kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)  # fmt: skip
    # on other backends batch norm always uses the whole batch, and Keras refuses the argument
    shared = synchronized and keras.config.backend() == "tensorflow"
    x = layers.BatchNormalization(momentum=momentum, synchronized=shared, name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x) if relu else x
