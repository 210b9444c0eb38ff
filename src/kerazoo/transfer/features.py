"""Features: one pass of a frozen network over images, in inference mode, cached on disk for each image.

The cache key is the content of the image and everything else that its features depend on. Only changed images are
computed again. Another preprocessing, weight, network, view or engine uses another folder. An interrupted pass
continues after the last chunk that it wrote. Every batch has the same shape, so the features of an image do not depend
on the other images in the batch.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerazoo.caches import cache_folder, sweep
from kerazoo.errors import KerazooError
from kerazoo.files import write_whole
from kerazoo.models.description import ModelSpec
from kerazoo.models.engines import Runner, make_runner, versions_of
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.weights.loading import weights_digest
from kerazoo.pipelines.data.examples import Examples, check_contents
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.pipelines.input.images import DECODERS, decoded_from, graph_code
from kerazoo.pipelines.input.images import VERSION as IMAGES
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.runs.timings import timed

BATCH = 32  # images in every batch
CHUNK = 256  # images in a file; a killed pass loses at most this many
VERSION = 2  # change this when the computation or the files change
HEAD_ONLY = ("num_classes", "dropout", "weights", "momentum", "synchronized")  # arguments that do not affect features


@dataclass(frozen=True)
class Features:
    """(N, F) float32, a row for each example; the number of rows computed in this pass; the time in seconds."""

    values: np.ndarray
    computed: int
    seconds: float


class FeaturePass:
    """The frozen part of `model` (built by `spec`) as a function of examples; `cached` stores its results on disk.

    `engine` is "keras", "onnx" or "openvino"; see `engines.py`.
    """

    def __init__(self, model: keras.Model, spec: ModelSpec, *, engine: str = "keras", cached: bool = True) -> None:
        self.model = feature_extractor(model)
        self.preprocessing = spec.preprocessing
        self.engine = engine
        self.cached = cached
        self._made_by: dict[str, Any] = {
            "version": VERSION, "tensorflow": tf.__version__, "keras": keras.__version__,
            "backend": keras.config.backend(), "precision": model.dtype_policy.name,
            "engine": [engine, versions_of(engine)],
            "network": spec.name, "weights": weights_digest(self.model),
            "arguments": {k: v for k, v in spec.arguments.items() if k not in HEAD_ONLY},
            "preprocessing": spec.preprocessing.to_json(), "images": IMAGES,
            "devices": sorted({device.device_type for device in tf.config.get_visible_devices()}),
        }  # fmt: skip
        self._run: Runner | None = None

    def __call__(
        self, examples: Examples, *, view: int = 0, augmentation: Augmentation | None = None, seed: int = 0,
        progress: Callable[[int, int], None] = lambda count, of: None,
        stored: Callable[[], np.ndarray | None] = lambda: None,
    ) -> Features:  # fmt: skip
        """The features of all `examples`; for views from 1 on, of the images augmented with the seed (seed, view).

        `progress` is called with (done, total) of the images to compute. `stored` gives the resized images, if they are
        cached; it is called only if there are images to compute. Raises DataError, which names the image, if an
        image has changed or cannot be decoded; KerazooError if memory or a device fails (see `causes.py`), if features
        are not finite, or if the disk is full.
        """
        start = time.perf_counter()
        if view and augmentation is not None:
            augmentation = augmentation.unmixed()  # features are cached for single images
            view_key: Mapping[str, Any] = {"view": view, "seed": seed, "augmentation": augmentation.describe()}
        else:
            augmentation = None
            view_key = {}
        folder = self._folder(view_key) if self.cached else None
        width = int(self.model.output_shape[-1])
        known = {} if folder is None else _read(folder, width, frozenset(examples.hashes))
        if folder is not None:
            sweep(folder)
        missing = [i for i, key in enumerate(examples.hashes) if key not in known]
        resized = stored() if missing else None
        read = decoded_from(examples, self.preprocessing, resized)
        seeds = _seeds([examples.hashes[i] for i in missing], seed, view)
        batches = self._computed(examples, _inputs(read, self.preprocessing, augmentation, missing, seeds))
        for first in range(0, len(missing), CHUNK):
            chosen = missing[first : first + CHUNK]
            keys = tuple(examples.hashes[i] for i in chosen)
            part = replace(examples.take(chosen), known_hashes=keys)
            rows = np.concatenate(list(islice(batches, CHUNK // BATCH)))[: len(part)]
            if resized is None:  # a cache of resized images was checked when it was opened
                check_contents(part, keys)
            not_finite = [key for key, row in zip(part.keys, rows, strict=True) if not np.isfinite(row).all()]
            if not_finite:
                raise KerazooError(
                    f"{self.model.name} of {not_finite[0]} are not finite; use other weights or another size"
                )
            if folder is not None:
                _write(folder, keys, rows)
            known.update(zip(keys, rows, strict=True))
            progress(first + len(part), len(missing))
        values = np.stack([known[key] for key in examples.hashes])
        return Features(values, len(missing), time.perf_counter() - start)

    def _folder(self, view_key: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps({**self._made_by, **view_key}, sort_keys=True, default=str).encode())
        return cache_folder("features", digest.hexdigest()[:32])

    def _computed(self, examples: Examples, inputs: tf.data.Dataset) -> Iterator[np.ndarray]:
        """(BATCH, F) for each batch; the last batch is padded with copies of its last image."""
        with true_causes(None, examples, self.preprocessing):
            batches = inputs.as_numpy_iterator()
            while True:
                with timed("features: images"):
                    batch = next(batches, None)
                if batch is None:
                    return
                whole = np.concatenate([batch, np.repeat(batch[-1:], BATCH - len(batch), axis=0)])
                with timed("features: network"):
                    if self._run is None:
                        self._run = make_runner(self.model, self.engine, whole)
                    rows = self._run(whole)
                yield rows


def _inputs(
    read: Callable[[tf.Tensor], tf.Tensor], preprocessing: Preprocessing, augmentation: Augmentation | None,
    chosen: Sequence[int], seeds: np.ndarray,
) -> tf.data.Dataset:  # fmt: skip
    @graph_code
    def one(index: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        pixels = read(index)
        return preprocessing.scale(pixels if augmentation is None else augmentation(pixels, seed))

    rows = tf.data.Dataset.from_tensor_slices((np.array(chosen, np.int64), seeds))
    return rows.map(one, num_parallel_calls=DECODERS, deterministic=True).batch(BATCH).prefetch(2)


def _seeds(keys: Sequence[str], seed: int, view: int) -> np.ndarray:
    """(N, 2) int64 seeds from the images' contents, so that the order and the other images do not matter."""
    contents = np.array([int(key[:15], 16) for key in keys], np.int64)
    return np.stack([np.full(len(contents), seed * 1_000_003 + view, np.int64), contents], axis=1)


def _read(folder: Path, width: int, wanted: frozenset[str]) -> dict[str, np.ndarray]:
    """The rows in the chunks of `folder`. A chunk whose hash differs from its name is damaged, and is removed."""
    known: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.npy")):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:32] != path.stem:
            path.unlink(missing_ok=True)
            continue
        rows = np.load(io.BytesIO(content), allow_pickle=False)
        if rows.dtype == _row_type(width):
            keys = (key.decode() for key in rows["key"].tolist())
            known |= {key: row for key, row in zip(keys, rows["features"], strict=True) if key in wanted}
    return known


def _write(folder: Path, keys: tuple[str, ...], values: np.ndarray) -> None:
    """Write a chunk under a temporary name, then rename it."""
    rows = np.empty(len(keys), _row_type(values.shape[1]))
    rows["key"], rows["features"] = [key.encode() for key in keys], values
    buffer = io.BytesIO()
    np.save(buffer, rows)
    content = buffer.getvalue()
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.npy"
    try:
        write_whole(path, content)
    except OSError as error:
        raise KerazooError(
            f"{path} cannot be written: {error.strerror}; free some disk space, set KERAZOO_CACHE to another folder, "
            "or use data.cache=never"
        ) from error


def _row_type(width: int) -> np.dtype[Any]:
    return np.dtype([("key", "S64"), ("features", "<f4", (width,))])
