"""Weights under `fit`: how large they are, and how far they have moved from where training began."""

import difflib
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerazoo.callbacks.steps import PeriodicLogger
from kerazoo.callbacks.writers.writer import Writer
from kerazoo.errors import InputError
from kerazoo.insight.activations import count_values, trimmed
from kerazoo.insight.grids import draw_filters
from kerazoo.insight.layer_outputs import layers_by_path
from kerazoo.period import Period

log = logging.getLogger("kerazoo")

Reference = Mapping[str, np.ndarray] | Callable[[], Mapping[str, np.ndarray]]


class WeightLogger(PeriodicLogger):
    """Logs the trainable variables of any model, by their paths ("conv_1/kernel").

    - `weights/PATH/norm`: the L2 norm;
    - `weights/PATH/distance`: ||w - w0|| / ||w0||, of variables that did not start as zeros;
    - `weights/PATH/values`, with `histograms`: a histogram of the values, whose bins are the same for all variables and
      steps: those of a signed logarithm;
    - `weights/PATH/filters`: an image of the kernels of the first convolution (see `draw_filters`).

    Frozen variables are left out. Under mirrored replicas, which hold the same weights, one replica's are read.

    The start w0 is what the model holds when `fit` begins: random or pretrained weights; for a model that its first
    step builds, what it holds after that step. `reference` takes its place for the variables that it names. A resumed
    training needs the same start: build the model as before (same seed, same pretrained weights). Otherwise the log
    says so, and distances are left out.

    It observes only: weights, optimizer state and losses are equal, bit for bit, to those of a training without it.

    Args:
        writer: One writer, or a list.
        every: "epoch", "3 epochs", or a number of steps.
        histograms: Whether to log histograms, too.
        filters: Whether to log the image.
        reference: path -> array, or a function that gives this when training begins.

    Raises:
        InputError: `reference` names no variable of the model, or has another shape; before the first step.
    """

    def __init__(
        self,
        writer: "Writer | Sequence[Writer]",
        *,
        every: "int | str | Period" = "epoch",
        histograms: bool = False,
        filters: bool = True,
        reference: Reference | None = None,
    ) -> None:
        super().__init__(writer, every)
        if reference is not None and not callable(reference) and not isinstance(reference, Mapping):
            raise InputError(f"reference must be a dict of path -> array, or a function, got {reference!r:.80}")
        self.histograms = histograms
        self.filters = filters
        self.reference = reference
        self._start: dict[str, np.ndarray] | None = None
        self._digest = ""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keep the start, unless an earlier `fit` did."""
        super().on_train_begin(logs)
        if self._start is None and self.model.built:
            self._keep_start()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the start of a model that its first step has built."""
        if self._start is None and self.model.built:
            self._keep_start()
        super().on_train_batch_begin(batch, logs)

    def record(self, step: int) -> None:
        """Read the variables and write what they are."""
        if self._start is None:
            self._keep_start()
        start = self._start or {}
        for variable in self.model.trainable_variables:
            tag, values = f"weights/{variable.path}", values_of(variable)
            self.writer.scalar(f"{tag}/norm", _norm(values), step)
            first = start.get(variable.path)
            if first is not None and (size := _norm(first)) > 0:
                self.writer.scalar(f"{tag}/distance", _norm(values - first) / size, step)
            if self.histograms:
                self.writer.histogram(f"{tag}/values", *trimmed(count_values(values)), step)
        kernel = first_kernel(self.model) if self.filters else None
        if kernel is not None and kernel.trainable:
            self.writer.image(f"weights/{kernel.path}/filters", draw_filters(values_of(kernel)), step)

    def state(self) -> dict[str, Any]:
        """Step and epoch, and a digest of the start, which would be as large as the weights."""
        return super().state() | {"start": self._digest}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`; without distances where the start is another."""
        super().restore(state)
        if state["start"] not in ("", self._digest):
            self._start, self._digest = {}, state["start"]
            log.info(
                "weights/.../distance is left out: the model did not start with the weights that this training began "
                "with; build it with the same seed, or give WeightLogger a reference"
            )

    def _keep_start(self) -> None:
        reference = self.reference() if callable(self.reference) else self.reference or {}
        _check_reference(self.model, reference)
        start, digest = {}, hashlib.sha256()
        for variable in self.model.trainable_variables:
            given = reference.get(variable.path)
            start[variable.path] = values_of(variable) if given is None else np.array(given, np.float32)
            digest.update(start[variable.path].tobytes())  # not the path: Keras counts names anew in each process
        self._start, self._digest = start, digest.hexdigest()


def values_of(variable: Any) -> np.ndarray:
    """The values of a variable, of one replica where there are several, in float32 at least."""
    values = keras.ops.convert_to_numpy(variable)
    return np.array(values, np.promote_types(values.dtype, np.float32))


def first_kernel(model: keras.Model) -> Any:
    """The kernel of the first convolution over images, (H, W, C, filters); None where there is none."""
    for layer in layers_by_path(model).values():
        if isinstance(layer, keras.layers.Conv2D) and layer.built:
            return layer.kernel
    return None


def _norm(values: np.ndarray) -> float:
    return float(np.linalg.norm(values.ravel()))


def _check_reference(model: keras.Model, reference: Mapping[str, np.ndarray]) -> None:
    """Raise InputError where a path is not one of the model's, or its array has another shape."""
    shapes = {variable.path: tuple(variable.shape) for variable in model.variables}
    for path, array in reference.items():
        if path not in shapes:
            close = difflib.get_close_matches(path, shapes, 1)
            hint = f"; the nearest is {close[0]}" if close else ""
            raise InputError(f"reference has {path!r:.80}, and {model.name} has no such variable{hint}")
        if np.shape(array) != shapes[path]:
            raise InputError(f"reference {path} must have the shape {shapes[path]}, got {np.shape(array)}")
