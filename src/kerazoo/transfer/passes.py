"""One pass of a frozen network, or of its first layers, over images, in inference mode.

Every batch has the same shape, so the outputs for an image do not depend on the other images in the batch. Its
augmentation depends on its content, the seed and the number of the view, so it does not depend on the order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.models.description import ModelSpec
from kerazoo.models.engines import Runner, make_runner, versions_of
from kerazoo.models.weights.loading import weights_digest
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.pipelines.input.images import DECODERS, decoded_from, graph_code, untuned
from kerazoo.pipelines.input.images import VERSION as IMAGES
from kerazoo.runs.timings import timed

BATCH = 32  # images in every batch
HEAD_ONLY = ("num_classes", "dropout", "weights", "momentum", "synchronized")  # arguments that do not affect features


@dataclass(frozen=True)
class View:
    """View `number` of each image: the image itself for 0, else `augmentation` with the seed (seed, number)."""

    number: int = 0
    seed: int = 0
    augmentation: Augmentation | None = None

    @property
    def augments(self) -> Augmentation | None:
        """The augmentation without mixing, because outputs are kept for single images; None for the image itself."""
        return self.augmentation.unmixed() if self.number and self.augmentation is not None else None

    def to_json(self) -> dict[str, Any]:
        """What the view depends on besides the image; {} for the image itself."""
        if self.augments is None:
            return {}
        return {"view": self.number, "seed": self.seed, "augmentation": self.augments.describe()}

    def seeds(self, contents: Sequence[str]) -> np.ndarray:
        """(N, 2) int64 seeds from the hashes of the images."""
        numbers = np.array([int(key[:15], 16) for key in contents], np.int64)
        return np.stack([np.full(len(numbers), self.seed * 1_000_003 + self.number, np.int64), numbers], axis=1)


class FrozenPass:
    """`model`, the first layers of a network that `spec` built, as a function of examples.

    `engine` is "keras", "onnx" or "openvino"; see `engines.py`. `name` names the layers in `timings`. `made_by` has all
    that the outputs depend on besides the image and the view.
    """

    def __init__(self, model: keras.Model, spec: ModelSpec, *, engine: str = "keras", name: str = "features") -> None:
        self.model = model
        self.preprocessing = spec.preprocessing
        self.engine = engine
        self.name = name
        self.made_by: Mapping[str, Any] = {
            "tensorflow": tf.__version__, "keras": keras.__version__,
            "backend": keras.config.backend(), "precision": model.dtype_policy.name,
            "engine": [engine, versions_of(engine)],
            "network": spec.name, "weights": weights_digest(model),
            "arguments": {k: v for k, v in spec.arguments.items() if k not in HEAD_ONLY},
            "preprocessing": spec.preprocessing.to_json(), "images": IMAGES,
            "devices": sorted({device.device_type for device in tf.config.get_visible_devices()}),
        }  # fmt: skip
        self._run: Runner | None = None

    def __call__(
        self, examples: Examples, view: View, chosen: Sequence[int], resized: np.ndarray | None
    ) -> Iterator[np.ndarray]:
        """(BATCH, ...) float32 outputs for each batch of the `chosen` examples; the last is padded with its last image.

        `resized` has the resized images of `examples`, if they are cached.
        """
        read = decoded_from(examples, self.preprocessing, resized)
        inputs = self._inputs(read, view, chosen, [examples.hashes[i] for i in chosen])
        with true_causes(None, examples, self.preprocessing):
            batches = inputs.as_numpy_iterator()
            while True:
                with timed(f"{self.name}: images"):
                    batch = next(batches, None)
                if batch is None:
                    return
                whole = np.concatenate([batch, np.repeat(batch[-1:], BATCH - len(batch), axis=0)])
                with timed(f"{self.name}: network"):
                    if self._run is None:
                        self._run = make_runner(self.model, self.engine, whole)
                    rows = self._run(whole)
                yield rows

    def _inputs(
        self, read: Callable[[tf.Tensor], tf.Tensor], view: View, chosen: Sequence[int], contents: Sequence[str]
    ) -> tf.data.Dataset:
        augmentation = view.augments

        @graph_code
        def one(index: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            pixels = read(index)
            return self.preprocessing.scale(pixels if augmentation is None else augmentation(pixels, seed))

        rows = tf.data.Dataset.from_tensor_slices((np.array(chosen, np.int64), view.seeds(contents)))
        return untuned(rows.map(one, num_parallel_calls=DECODERS, deterministic=True).batch(BATCH).prefetch(2))
