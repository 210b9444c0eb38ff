"""Histograms of magnitudes over equal bins of their logarithm: those of all layers and steps can be compared."""

from typing import Any

import numpy as np
from keras import ops

LOW, HIGH = -12.0, 4.0  # log10 of the magnitudes; smaller and larger ones are counted in the outermost bins
PER_DECADE = 4
BINS = int((HIGH - LOW) * PER_DECADE)
EDGES = np.linspace(LOW, HIGH, BINS + 1)


def magnitude_counts(values: Any) -> Any:
    """How many of `values` have a magnitude in each bin: float32 (BINS + 1,), the last one for those that are 0.

    Values that are not finite are not counted. Runs inside a compiled step, on the TensorFlow and the JAX backend.

    Example:
    ```python
    counts = magnitude_counts(np.float32([0.0, 0.001, -1.0]))
    counts[-1], counts[36], counts[48]  # (1.0, 1.0, 1.0): zero, 1e-3 and 1
    ```
    """
    magnitudes = ops.reshape(ops.abs(ops.cast(values, "float32")), [-1])
    finite = ops.isfinite(magnitudes)
    zero = ops.equal(magnitudes, 0.0)
    safe = ops.where(ops.logical_or(zero, ops.logical_not(finite)), 1.0, magnitudes)
    # 1e-3 belongs to the bin that begins with it, whatever the rounding of the logarithm
    place = ops.floor((ops.log10(safe) - LOW) * PER_DECADE + 1e-4)
    bins = ops.cast(ops.clip(place, 0, BINS - 1), "int32")
    bins = ops.where(zero, BINS, bins)
    return ops.segment_sum(ops.cast(finite, "float32"), bins, num_segments=BINS + 1)
