"""Weights learned on three colours, in a network for images of one channel or of many.

Only what meets the pixels differs. For C > 1 channels the kernel of the first convolution is tiled R, G, B, R, ... and
multiplied by 3 / C, which keeps the size of its response (timm's `adapt_input_conv`); each channel is scaled as the
colour whose kernel it got. For one channel the kernel is the sum over the colours, so that a grey image gives what
its copy in three channels gave. With A_c p - B_c the scaling of colour c, a p - b that of the one channel (means over
the colours, see `scaling.affine`), and W_c the kernel, at every pixel p

    sum_c W_c (A_c p - B_c) = V (a p - b) + d,  V = sum_c W_c A_c / a,  d = sum_c W_c (A_c b / a - B_c).

d, summed over the kernel, is one number for each filter; it goes into the convolution's bias, or, where it has none,
into the mean of the batch norm that follows. It is zero where all colours are scaled alike ("tf", "unit", "none"), and
then nothing differs. With "torch" and "caffe" the padding differs a little: it is zero after scaling, that is, the
colour of ImageNet's mean, and one channel can only be grey there. So d is too much by the part of the kernel that lies
over the padding; choosing b and a as means keeps that small (the mean colour is within 11 of 255 of grey), and it
concerns the border alone. Without d, it would be that tint over the whole image.
"""

from typing import TYPE_CHECKING

import numpy as np

from kerazoo.preprocessing.scaling import spread_over

if TYPE_CHECKING:
    import keras


def adapt_input_channels(giver: "keras.Model", taker: "keras.Model", scaling: str) -> bool:
    """Give `taker`, for C channels, the weights of `giver`, the same network for three colours; whether they fit.

    `scaling` is that of the taker's pixels, one of `preprocessing.SCALINGS`. Nothing is changed where they do not.
    """
    from kerazoo.preprocessing.scaling import affine

    arrays, shapes = giver.get_weights(), [tuple(weight.shape) for weight in taker.weights]
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
        kernel = kernel[:, :, ::-1]  # its colours are blue, green, red
    old, new = affine(scaling, 3), affine(scaling, channels)
    old = old[0] * np.ones(3), (old[1] * np.ones(3))[:: -1 if scaling == "caffe" else 1]
    if inner:  # the network scales by itself
        mean, deviation = arrays[inner[0]].astype(np.float64), np.sqrt(arrays[inner[1]].astype(np.float64))
        old = 1 / deviation, mean / deviation
        mean, deviation = (spread_over(values, channels) for values in (mean, deviation))
        new = 1 / deviation, mean / deviation
        arrays[inner[0]], arrays[inner[1]] = mean, deviation**2
    if channels == 1:
        factor, offset = old[0] / new[0], old[0] / new[0] * new[1] - old[1]
        rest = np.einsum("hwcf,c->f", kernel, offset)
        kernel = np.einsum("hwcf,c->hwf", kernel, factor)[:, :, None]
        _add(arrays, taker, kernels[0], rest)
    else:
        kernel = kernel[:, :, np.arange(channels) % 3] * (3 / channels)
    arrays[kernels[0]] = kernel
    taker.set_weights([np.asarray(array, np.float32) for array in arrays])
    return True


def _add(arrays: list[np.ndarray], taker: "keras.Model", kernel: int, rest: np.ndarray) -> None:
    """Add `rest` (F,) to what the convolution gives: by its bias, else by the mean of the next batch norm."""
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
