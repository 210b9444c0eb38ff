"""A run's network with its preprocessing, for looking into it: what it sees of an encoded image, its answer, its heat.

Shape letters: H W pixels of the network's input, C channels, K outputs; h w positions of a layer.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from kerazoo.errors import DataError, InputError, KerazooError
from kerazoo.insight.grad_cam import mean_grad_cam
from kerazoo.models.answering import answering_network, trained_networks
from kerazoo.models.saved import load_network
from kerazoo.preprocessing.decoding import reason_of
from kerazoo.preprocessing.image_files import EMPTY
from kerazoo.runs.digests import check_digests
from kerazoo.tasks.task import find_task

SMALLEST = 224  # pixels of a picture's shorter side: smaller images are shown with larger pixels


class RunNetwork:
    """The network of the run in `folder`. Raises RunError and WeightsError if it cannot be loaded."""

    def __init__(self, folder: Path) -> None:
        check_digests(folder)
        self.spec, self.network = load_network(folder)
        self._answering = answering_network(self.spec, self.network)
        self._probabilities = find_task(self.spec.task).probabilities

    @property
    def zoom(self) -> int:
        """How many times an image is enlarged to be shown."""
        return max(1, SMALLEST // min(self.spec.preprocessing.height, self.spec.preprocessing.width))

    def read(self, image: bytes) -> np.ndarray:
        """(H, W, C) uint8 of an encoded image, as the network sees it. Raises DataError."""
        if not image:
            raise DataError(EMPTY)
        try:
            pixels: np.ndarray = self.spec.preprocessing.read(tf.constant(image, tf.string)).numpy()
        except tf.errors.ResourceExhaustedError as error:
            raise KerazooError("there is not enough memory for Grad-CAM of one image") from error
        except tf.errors.OpError as error:
            raise DataError(f"it cannot be decoded: {reason_of(error)}") from error
        return pixels

    def prepared(self, pixels: np.ndarray) -> np.ndarray:
        """(1, H, W, C) float32, the network's input."""
        scaled: np.ndarray = self.spec.preprocessing.scale(pixels[np.newaxis]).numpy()
        return scaled

    def answer(self, prepared: np.ndarray) -> int:
        """The number of the most probable class; for a regression, that of its first number."""
        return int(self._answering.predict_on_batch(prepared).argmax()) if self._probabilities else 0

    def number_of(self, name: str) -> int:
        """The number of the output called `name`. Raises InputError."""
        names = self.spec.class_names
        if name not in names:
            known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise InputError(f"the run has no class {name!r:.60}; its classes are {known}")
        return names.index(name)

    def heat(
        self, prepared: np.ndarray, number: int, *, layer: str | None = None, method: str = "grad-cam"
    ) -> np.ndarray:
        """(h, w) float32 in [0, 1] for the output `number`: the mean of all networks and views of which the answer is.

        Raises ModelError.
        """
        networks = trained_networks(self.spec, self.network)
        heat: np.ndarray = mean_grad_cam(networks, prepared, classes=number, layer=layer, method=method)[0]
        return heat
