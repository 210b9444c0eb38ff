"""Batches of images from requests that come at the same time, by TensorFlow's batch kernel.

Each request calls from a thread of its own and waits; the kernel concatenates what waits along the first axis, calls
the network once, and gives each its rows.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kerazoo.serving.limits import Limits

THREADS = 1  # batches that are computed at a time; each uses all cores
NUMBERS = itertools.count()

Network = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
Outputs = dict[str, np.ndarray]


def batched(network: Network, images: tf.TensorSpec, limits: Limits) -> Callable[[Any], Outputs]:
    """A function of up to `limits.max_batch` images that calls `network` with those of other threads.

    `network` maps (B, ...) images, as the spec `images` says, to outputs by name.
    """
    names: list[str] = []

    @tf.nondifferentiable_batch_function(
        THREADS, limits.max_batch, round(limits.batch_timeout_ms * 1000), None, limits.queue, autograph=False
    )  # type: ignore[untyped-decorator]
    def together(values: tf.Tensor) -> list[tf.Tensor]:
        outputs = network(values)
        names[:] = sorted(outputs)
        return [outputs[name] for name in names]

    @tf.function(input_signature=[images], autograph=False)  # type: ignore[untyped-decorator]
    def alone(values: tf.Tensor) -> list[tf.Tensor]:
        # the kernel finds its queue by this name, in the whole process: two models must not share one
        with tf.name_scope(f"served{next(NUMBERS)}"):
            found: list[tf.Tensor] = together(values)
            return found

    call = alone.get_concrete_function()

    def answer(values: Any) -> Outputs:
        parts = [values]
        if len(values) > limits.max_batch:  # a slice of a tensor is a copy
            parts = [values[start : start + limits.max_batch] for start in range(0, len(values), limits.max_batch)]
        rows = [[output.numpy() for output in call(tf.convert_to_tensor(part, images.dtype))] for part in parts]
        columns = rows[0] if len(rows) == 1 else [np.concatenate(column) for column in zip(*rows, strict=True)]
        return dict(zip(names, columns, strict=True))

    return answer
