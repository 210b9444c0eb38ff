"""Adapt weights that were trained on three colors to images with one channel, or with more than three.

Only the first convolution and the scaling change. For C > 1 channels the kernel of the first convolution is tiled R, G,
B, R, ... and multiplied by 3 / C, which preserves the size of its response (timm's `adapt_input_conv`). Each channel is
scaled like the color of its kernel. For one channel the kernel is the sum over the colors, so that a gray image gives
the same result as its copy in three channels. With A_c p - B_c the scaling of color c, a p - b that of the one channel
(means over the colors, see `scaling.affine`), and W_c the kernel, at every pixel p

    sum_c W_c (A_c p - B_c) = V (a p - b) + d,  V = sum_c W_c A_c / a,  d = sum_c W_c (A_c b / a - B_c).

d, summed over the kernel, is one number for each filter. It is added to the convolution's bias, or, if there is none,
subtracted from the mean of the following batch norm. It is zero if all colors have the same scaling ("tf", "unit",
"none"); then the results are equal. With "torch" and "caffe" the padding differs a little: it is zero after scaling,
which is the color of ImageNet's mean, but one channel can only be gray there. So d is too large by the part of the
kernel over the padding. With means for b and a this error is small (the mean color is within 11 of 255 of gray), and it
affects only the border. Without d, the whole image would have that tint.
"""

from typing import TYPE_CHECKING

import numpy as np

from kerazoo.preprocessing.scaling import spread_over

if TYPE_CHECKING:
    import keras


def adapt_input_channels(giver: "keras.Model", taker: "keras.Model", scaling: str) -> bool:
    """Copy the weights of `giver`, for three colors, into `taker`, the same network for C channels; whether they fit.

    `scaling` is that of the taker's pixels, one of `preprocessing.SCALINGS`. If they do not fit, nothing changes.
    """
    from kerazoo.preprocessing.scaling import affine

    arrays = giver.get_weights()
    shapes = [tuple(weight.shape) for weight in taker.weights]
    channels = taker.input_shape[-1]
    if len(arrays) != len(shapes):
        return False
    differing = [index for index, array in enumerate(arrays) if array.shape != shapes[index]]
    kernels = [index for index in differing if len(shapes[index]) == 4]
    inner = [index for index in differing if index not in kernels]  # mean and variance of a Normalization
    wanted = [(*arrays[k].shape[:2], channels, arrays[k].shape[3]) for k in kernels]
    if len(kernels) != 1 or [shapes[k] for k in kernels] != wanted or arrays[kernels[0]].shape[2] != 3:
        return False
    if any(arrays[i].shape != (3,) or shapes[i] != (channels,) for i in inner) or len(inner) not in (0, 2):
        return False

    kernel = arrays[kernels[0]].astype(np.float64)
    if scaling == "caffe":
        kernel = kernel[:, :, ::-1]  # its colors are blue, green, red
    old = affine(scaling, 3)
    new = affine(scaling, channels)
    old = old[0] * np.ones(3), (old[1] * np.ones(3))[:: -1 if scaling == "caffe" else 1]
    if inner:  # the network has its own scaling layer
        mean = arrays[inner[0]].astype(np.float64)
        deviation = np.sqrt(arrays[inner[1]].astype(np.float64))
        old = 1 / deviation, mean / deviation
        mean, deviation = (spread_over(values, channels) for values in (mean, deviation))
        new = 1 / deviation, mean / deviation
        arrays[inner[0]] = mean
        arrays[inner[1]] = deviation**2
    if channels == 1:
        factor = old[0] / new[0]
        offset = old[0] / new[0] * new[1] - old[1]
        rest = np.einsum("hwcf,c->f", kernel, offset)
        kernel = np.einsum("hwcf,c->hwf", kernel, factor)[:, :, None]
        _add(arrays, taker, kernels[0], rest)
    else:
        kernel = kernel[:, :, np.arange(channels) % 3] * (3 / channels)
    arrays[kernels[0]] = kernel
    taker.set_weights([np.asarray(array, np.float32) for array in arrays])
    return True


def _add(arrays: list[np.ndarray], taker: "keras.Model", kernel: int, rest: np.ndarray) -> None:
    """Add `rest` (F,) to the output of the convolution: in its bias, or else in the mean of the next batch norm."""
    if not np.any(rest):
        return
    for index in range(kernel + 1, len(arrays)):
        name = str(taker.weights[index].path).rsplit("/", 1)[-1]
        if index == kernel + 1 and name == "bias":
            arrays[index] = arrays[index] + rest
            return
        if name == "moving_mean":
            arrays[index] = arrays[index] - rest
            return
