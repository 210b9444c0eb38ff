"""The scalings of pixels that networks' weights expect."""

import numpy as np
import tensorflow as tf

# ImageNet's statistics as in keras.applications: RGB for "torch", BGR for "caffe"
TORCH_MEAN, TORCH_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CAFFE_MEAN = np.array([103.939, 116.779, 123.68])
# scaling -> (a, b) of a * pixel - b. It uses no division: TensorFlow's graph optimizer changes a division by a constant
# into a multiplication, and a SavedModel would then differ from eager code in the last bit.
AFFINE: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "none": (np.array(1.0), np.array(0.0)),
    "unit": (np.array(1 / 255), np.array(0.0)),
    "tf": (np.array(1 / 127.5), np.array(1.0)),
    "torch": (1 / (255 * TORCH_STD), TORCH_MEAN / TORCH_STD),
    "caffe": (np.array(1.0), CAFFE_MEAN),
}


def spread_over(values: np.ndarray, channels: int) -> np.ndarray:
    """(3,) values of the colors R, G, B -> (channels,): their mean for one channel, else R, G, B, R, ..."""
    return np.mean(values, keepdims=True) if channels == 1 else np.resize(values, channels)


def affine(scaling: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) of `scaling` in a * pixel - b, as one number for all channels or one for each.

    The statistics of ImageNet are for three colors, for "caffe" in the order blue, green, red. One channel uses their
    mean. Other numbers of channels use them in turn, R, G, B, R, ..., like the kernels in `channels.py`.
    """
    factor, offset = AFFINE[scaling]
    if channels == 3 or offset.ndim == 0:
        return factor, offset
    if scaling == "caffe":
        return factor, spread_over(offset[::-1], channels)
    deviation = spread_over(TORCH_STD, channels)
    mean = spread_over(TORCH_MEAN, channels)
    return 1 / (255 * deviation), mean / deviation


def scale(image: tf.Tensor, numbers: tuple[np.ndarray, np.ndarray], *, reverse: bool) -> tf.Tensor:
    """(..., C) pixels in [0, 255] -> float32: (a, b) `numbers` of a * pixel - b; see `Preprocessing.scale`.

    With `reverse`, the order of the channels is reversed first.
    """
    x = tf.cast(image, tf.float32)
    x = x[..., ::-1] if reverse else x
    factor, offset = (np.asarray(value, np.float32) for value in numbers)
    x = x * factor if np.any(factor != 1) else x  # a pass over the batch takes as long as reading it from a cache
    return x - offset if np.any(offset) else x
