"""Numbers of a layer's output over many images, added up batch by batch: dead channels, saturation, histograms."""

import numpy as np

# bins of a signed logarithm: four a decade on either side of one bin around 0, the same for all layers and steps
SMALLEST, LARGEST, PER_DECADE = -6, 6, 4  # log10; what is larger is counted in the outermost bins
_POSITIVE = np.logspace(SMALLEST, LARGEST, (LARGEST - SMALLEST) * PER_DECADE + 1)
EDGES = np.concatenate([-_POSITIVE[::-1], _POSITIVE])

SATURATING = ("sigmoid", "hard_sigmoid", "tanh", "softmax")
RELUS = ("relu", "relu6")
LOW, HIGH = 0.05, 0.95  # a sigmoid beyond these is saturated
TANH = 0.97
CERTAIN = 0.999  # a softmax whose highest probability is above


class Activations:
    """What a layer gives, (N, ..., C), images and positions taken together.

    `activation` is the name of the function that it comes of; "" where that is not known.
    """

    def __init__(self, activation: str = "", *, histograms: bool = True) -> None:
        self.activation = activation
        self._with_histograms = histograms
        self._rows = 0  # images x positions
        self._sums = self._squares = np.zeros(())  # of each channel, as soon as their number is known
        self._highest = np.float32(-np.inf)
        self._lowest = np.float32(np.inf)
        self._zeros = self._saturated = 0
        self._values = np.zeros(len(EDGES) - 1, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count a batch, float32."""
        flat = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
        with np.errstate(all="ignore"):  # NaN and infinity are seen in the result
            self._sums = self._sums + flat.sum(0, dtype=np.float64)
            self._squares = self._squares + np.square(flat, dtype=np.float64).sum(0)
            self._highest = np.maximum(self._highest, flat.max(0))
            self._lowest = np.minimum(self._lowest, flat.min())
            self._zeros += int(np.sum(flat == 0))
            self._saturated += self._count_saturated(flat)
        if self._with_histograms:
            self._values += count_values(flat)
        self._rows += len(flat)

    def _count_saturated(self, flat: np.ndarray) -> int:
        if self.activation == "softmax":
            return int(np.sum(flat.max(1) > CERTAIN)) * int(flat.shape[1])
        if self.activation == "tanh":
            return int(np.sum(np.abs(flat) > TANH))
        return int(np.sum((flat < LOW) | (flat > HIGH)))

    def scalars(self) -> dict[str, float]:
        """The numbers by name.

        - `mean` and `std` of all values;
        - `saturated`: of a sigmoid the share of values below 0.05 or above 0.95, of a tanh of those beyond -0.97 and
          0.97, of a softmax the share of rows whose highest probability is above 0.999;
        - `dead` and `zero`, of a ReLU, and where there is no function but no negative value either, as after pooling
          what a ReLU gives: the share of channels never above 0, and the share of values that are 0.
        """
        channels = len(self._sums)
        size = self._rows * channels
        with np.errstate(all="ignore"):
            mean = self._sums.sum() / size
            numbers = {"mean": mean, "std": np.sqrt(max(self._squares.sum() / size - mean**2, 0.0))}
        if self.activation in SATURATING:
            numbers["saturated"] = self._saturated / size
        elif self.activation in RELUS or (not self.activation and self._lowest >= 0):
            numbers["dead"] = np.mean(self._highest <= 0)
            numbers["zero"] = self._zeros / size
        return {name: float(number) for name, number in numbers.items()}

    def histograms(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """(counts, edges): of all `values`, and over the channels of `channel_mean` and `channel_std`."""
        with np.errstate(all="ignore"):
            means = self._sums / self._rows
            deviations = np.sqrt(np.maximum(self._squares / self._rows - means**2, 0.0))
        return {
            "values": trimmed(self._values),
            "channel_mean": trimmed(count_values(means)),
            "channel_std": trimmed(count_values(deviations)),
        }


def count_values(values: np.ndarray) -> np.ndarray:
    """How many of `values` lie in each bin of EDGES; what is not finite is not counted."""
    finite = values[np.isfinite(values)]
    counts: np.ndarray = np.histogram(np.clip(finite, EDGES[0], EDGES[-1]), EDGES)[0]
    return counts


def trimmed(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(counts, edges) of the bins from the first to the last that holds anything; the bin around 0 where none does."""
    [full] = np.nonzero(counts)
    first, last = (full[0], full[-1]) if len(full) else (len(counts) // 2, len(counts) // 2)
    return counts[first : last + 1], EDGES[first : last + 2]
