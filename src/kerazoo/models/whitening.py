"""A frozen first convolution that whitens patches: its filters come from training images, not from gradients.

Source: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, section 3.2, after Page 2019,
"How to Train Your ResNet 8". Shape letters: B batch, H W space, C channels, S patch side, D = S S C.
"""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from kerazoo.errors import ModelError
from kerazoo.models.layers import register


@register
class PatchWhitening(layers.Layer):  # type: ignore[misc]
    """(B, H, W, C) -> (B, H-S+1, W-S+1, 2D): the principal components of each patch, with both signs.

    Over the patches of the images that `adapt` has seen, each component has mean 0, variance 1 and no correlation with
    the others: filter i is v_i / sqrt(l_i + e m), with eigenvector v_i and eigenvalue l_i of the covariance of the
    patches, m the mean of the eigenvalues, and e = `epsilon`, which limits the gain of components that hardly vary. The
    other D filters are the negatives, so that an activation such as GELU passes both signs.

    Before `adapt`, each component is one number of the patch. The weights are never trained, even if the layer is
    trainable. They are saved and loaded as those of any layer. The layer computes in float32.

    Example:
    ```python
    model = kerazoo.build("fast_cnn", num_classes=5)
    model.get_layer("whitening").adapt([images])  # (N, 32, 32, 3), scaled as for training
    ```
    """

    def __init__(self, size: int = 2, epsilon: float = 5e-4, **arguments: Any) -> None:
        super().__init__(**{"dtype": keras.config.floatx(), **arguments})
        self.size = size
        self.epsilon = epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the kernel (S, S, C, 2D) and the bias (2D,)."""
        count = self.size**2 * int(input_shape[-1] or 0)
        shape = (self.size, self.size, input_shape[-1], 2 * count)
        self.kernel = self.add_weight(shape=shape, name="kernel", initializer=_numbers_of_patches, trainable=False)
        self.bias = self.add_weight(shape=(2 * count,), name="bias", initializer="zeros", trainable=False)

    def call(self, x: KerasTensor) -> KerasTensor:
        """A convolution without padding."""
        return ops.conv(x, self.kernel, strides=1, padding="valid", data_format="channels_last") + self.bias

    def adapt(self, batches: Iterable[Any]) -> None:
        """Compute the filters from `batches` of images, each (B, H, W, C) and scaled as the network takes them.

        The result does not depend on how the images are divided into batches, but for rounding. Raises ModelError if
        there are no images, or if they are all of one color.
        """
        if not self.built:
            raise ModelError(f"{self.name}: build the network before adapt, so that the number of channels is known")
        total = 0
        sums = np.zeros(self.kernel.shape[-1] // 2)
        products = np.zeros((len(sums), len(sums)))
        for batch in batches:
            for image in np.asarray(batch, np.float32):  # one at a time: patches of many take much memory
                patches = self._patches(image[np.newaxis])
                total += len(patches)
                sums += patches.sum(axis=0)
                products += patches.T @ patches
        mean = sums / max(total, 1)
        values, vectors = np.linalg.eigh(products / max(total, 1) - np.outer(mean, mean))
        if not total or not values.mean() > 1e-12:
            raise ModelError(f"{self.name}: adapt needs images that are not all of one color, got {total} patches")
        values = np.maximum(values[::-1], 0)
        vectors = vectors[:, ::-1].T
        # an eigenvector has no sign of its own; its largest number is made positive, so that any machine gives the same
        largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
        filters = np.sign(largest) * vectors / np.sqrt(values + self.epsilon * values.mean())[:, None]
        both = np.concatenate([filters, -filters]).T
        self.kernel.assign(both.reshape(self.kernel.shape).astype(np.float32))
        self.bias.assign((-mean @ both).astype(np.float32))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(B, H, W, C) -> (B, H-S+1, W-S+1, 2D)."""
        batch, height, width, channels = input_shape
        sides = [None if side is None else side - self.size + 1 for side in (height, width)]
        return (batch, *sides, 2 * self.size**2 * int(channels or 0))

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild it."""
        return {**super().get_config(), "size": self.size, "epsilon": self.epsilon}

    def _patches(self, images: np.ndarray) -> np.ndarray:
        """(B, H, W, C) -> (B (H-S+1) (W-S+1), D) float64, in the order of the kernel's first three axes."""
        windows = np.lib.stride_tricks.sliding_window_view(images, (self.size, self.size), axis=(1, 2))
        return np.moveaxis(windows, 3, -1).reshape(-1, self.kernel.shape[-1] // 2).astype(np.float64)


def _numbers_of_patches(shape: tuple[int, ...], dtype: Any = None) -> KerasTensor:
    """The (S, S, C, 2D) kernel that gives each number of a patch, then each negative."""
    identity = ops.eye(shape[-1] // 2, dtype=dtype)
    return ops.reshape(ops.concatenate([identity, -identity], axis=-1), shape)
