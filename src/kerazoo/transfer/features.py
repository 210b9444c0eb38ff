"""Features: one pass of a frozen network over images, in inference mode, cached on disk for each image.

The cache key is the content of the image and everything else that its features depend on. Only changed images are
computed again. Another preprocessing, weight, network, view or engine uses another folder. An interrupted pass
continues after the last chunk that it wrote.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerazoo.caches import cache_folder, sweep
from kerazoo.errors import KerazooError
from kerazoo.files import write_whole
from kerazoo.models.description import ModelSpec
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.pipelines.data.examples import Examples, check_contents
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.transfer.passes import BATCH, FrozenPass, View

CHUNK = 256  # images in a file; a killed pass loses at most this many
VERSION = 3  # change this when the computation or the files change


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
        self.cached = cached
        self._pass = FrozenPass(self.model, spec, engine=engine)

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
        seen = View(view, seed, augmentation)
        folder = self._folder(seen) if self.cached else None
        width = int(self.model.output_shape[-1])
        known = {} if folder is None else _read(folder, width, frozenset(examples.hashes))
        if folder is not None:
            sweep(folder)
        missing = [i for i, key in enumerate(examples.hashes) if key not in known]
        resized = stored() if missing else None
        batches = self._pass(examples, seen, missing, resized)
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

    def _folder(self, view: View) -> Path:
        key = {"version": VERSION, **self._pass.made_by, **view.to_json()}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode())
        return cache_folder("features", digest.hexdigest()[:32])


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
