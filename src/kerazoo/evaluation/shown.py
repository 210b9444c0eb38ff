"""The images of some examples as the network of a run gets them, and the networks that answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerazoo.models.answering import trained_networks
from kerazoo.models.description import ModelSpec
from kerazoo.models.saved import load_network
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.data.load import read_examples
from kerazoo.pipelines.input.images import DECODERS, decoded_from, graph_code, untuned
from kerazoo.runs.records import read_data
from kerazoo.runs.run import Run

BATCH = 64


@dataclass(frozen=True)
class Shown:
    """The images of a finished run's data, and its networks; each is read when it is first asked for."""

    run: Run

    @cached_property
    def spec(self) -> ModelSpec:
        """The network's description."""
        return self.run.spec

    def examples(self, keys: Iterable[str]) -> Examples:
        """Those of some examples that are there now, without their labels. Raises DataError if the data cannot be read.

        The keys of an image folder are paths below it, so that it need not be searched.
        """
        source = Path(read_data(self.run.folder).get("source", ""))
        if not source.is_dir():
            whole = read_examples(self.run.recipe.data)
            rows = {key: row for row, key in enumerate(whole.keys)}
            part = whole.take([rows[key] for key in dict.fromkeys(keys) if key in rows])
            if part.paths is None:
                return part
            return part.take([row for row, path in enumerate(part.paths) if Path(path).is_file()])
        kept = tuple(key for key in dict.fromkeys(keys) if (source / key).is_file())
        paths = tuple(str(source / key) for key in kept)
        labels, splits = np.zeros(len(kept), np.int64), np.full(len(kept), "val")
        return Examples(str(source), kept, labels, splits, self.spec.class_names, paths=paths)

    @cached_property
    def networks(self) -> list[tuple[keras.Model, bool]]:
        """The trained network, or those of an ensemble, each with whether it answers mirror images, too.

        Raises RunError or WeightsError if they cannot be loaded.
        """
        return trained_networks(*load_network(self.run.folder))

    def images(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        """Key -> (h, w, C) uint8 image, decoded and resized; files that are gone are left out.

        Raises DataError if the data cannot be read, and TensorFlow's error if a file cannot be decoded.
        """
        part = self.examples(keys)
        if not len(part):
            return {}
        read = graph_code(decoded_from(part, self.spec.preprocessing))
        dataset = tf.data.Dataset.range(len(part)).map(read, num_parallel_calls=DECODERS, deterministic=True)
        batches = list(untuned(dataset.batch(BATCH)).as_numpy_iterator())
        return dict(zip(part.keys, np.concatenate(batches), strict=True))

    def prepared(self, images: np.ndarray) -> np.ndarray:
        """(B, h, w, C) uint8 -> (B, h, w, C) float32, the input of the network."""
        scaled: np.ndarray = self.spec.preprocessing.scale(tf.constant(images)).numpy()
        return scaled
