"""The outputs of the frozen stages, computed once for a few views of each image, from which the other stages learn.

Where only the last stages learn, each epoch would compute the first ones again, which take most of its time. With
`transfer.stored_views` = V, epoch e learns from view e mod V. The outputs are kept in the cache until the end of
fine-tuning. A resumed run takes them from there, or computes the same ones again. The frozen stages are in inference
mode, so their dropout does nothing. MixUp mixes these outputs in place of images.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerazoo.caches import cache_folder, room_for, sweep
from kerazoo.errors import DataError, KerazooError
from kerazoo.models.registry import Network
from kerazoo.pipelines.data.examples import Examples, check_contents
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.input.batches import TrainingBatches, evaluation_batches, training_batches
from kerazoo.pipelines.input.images import SMALL
from kerazoo.pipelines.input.kept import open_rows, write_rows
from kerazoo.runs.timings import timed
from kerazoo.terminal import format_bytes, progress_bar
from kerazoo.training.plan import EVALUATED, Plan
from kerazoo.transfer.passes import BATCH, FrozenPass, View

log = logging.getLogger("kerazoo")

VERSION = 2  # change this when the computation or the files change


@dataclass(frozen=True)
class StoredViews:
    """`tail`, the layers of the fine-tuned network after the frozen ones, with the batches that it learns from.

    `val_logits` gives (N, K) logits on validation by the network that evaluates the run, with its weights of then.
    """

    tail: keras.Model
    batches: TrainingBatches
    validation: tf.data.Dataset
    val_logits: Callable[[], np.ndarray]


@contextmanager
def stored_views(
    single: keras.Model, model: keras.Model, plan: Plan, devices: Devices, *, run: Path
) -> Iterator[StoredViews | None]:
    """The stored views of `plan` for `model`, whose frozen weights `single` has, too, for the run in the folder `run`.

    They are removed at the end, but not if the run is stopped, so that it can go on with them. None if the recipe wants
    none, or if they are of no use; the log says why. Raises KerazooError if the outputs are not finite or the disk is
    full.
    """
    front = _front(single, plan) if plan.transfer.stored_views else ""
    if isinstance(front, str):
        if front:
            log.info(f"transfer.stored_views is not used: {front}")
        yield None
        return
    train, val = plan.examples.split("train"), plan.examples.split("val")
    frozen = FrozenPass(front, plan.spec, engine=plan.transfer.engine, name="stored views")
    numbers = range(1, 1 + (plan.transfer.stored_views if plan.augmentation else 1))
    seen = [(train, View(number, plan.recipe.seed, plan.augmentation)) for number in numbers] + [(val, View())]
    files = [_path(frozen, examples, view, run) for examples, view in seen]
    if reason := _too_large(seen, files, frozen, plan):
        log.info(f"transfer.stored_views is not used: {reason}")
        yield None
        return
    begin = time.perf_counter()
    with timed("stored views"), progress_bar("views", "frozen stages of") as progress:
        rows: list[np.ndarray] = []
        for (examples, view), path in zip(seen, files, strict=True):
            rows.append(_rows(frozen, examples, view, path, plan.stored("train" if view.number else "val")))
            progress(sum(map(len, rows)), sum(len(one) for one, _ in seen))
    size = format_bytes(sum(array.nbytes for array in rows))
    log.info(
        f"frozen stages of {len(numbers)} views of {len(train):,} images: {size}; {time.perf_counter() - begin:.1f} s"
    )
    with devices.scope():
        tail = _after(front, model)
    answering = _after(front, single)
    outputs = evaluation_batches(val, plan.preprocessing, view=rows[-1])
    yield StoredViews(
        tail, *_batches(plan, devices, train, val, rows),
        val_logits=lambda: np.asarray(answering.predict(outputs, verbose=0)),
    )  # fmt: skip
    for path in files:
        with suppress(OSError):
            path.unlink()


def _after(front: keras.Model, network: keras.Model) -> keras.Model:
    """The layers of `network` after those of `front`."""
    start = network.get_layer(front.output_names[0]).output
    return keras.Model(start, network.output, name=f"{network.name}_tail")


def _front(single: keras.Model, plan: Plan) -> keras.Model | str:
    """The frozen first stages of `single`; or, in words, why their outputs cannot be stored."""
    transfer = plan.transfer
    if isinstance(plan.entry, Network) or not transfer.unfreeze:
        return "all stages learn (transfer.unfreeze is 0)"
    if plan.augmentation.cutmix:
        return "augmentation.cutmix exchanges parts of images, not of outputs"
    if plan.recipe.training.teacher is not None:
        return "the teacher (training.teacher) answers images"
    if plan.recipe.data.cache == "never":
        return "data.cache is never"
    last = single.get_layer(plan.entry.stages[-1 - transfer.unfreeze])
    try:
        keras.Model(last.output, single.output)
    except ValueError:  # a layer after it uses an earlier one
        return f"layers after {last.name} use layers before it"
    return keras.Model(single.input, last.output, name=f"{single.name}_to_{last.name}")


def _too_large(seen: list[tuple[Examples, View]], files: list[Path], frozen: FrozenPass, plan: Plan) -> str:
    """In words, why the files that are not there yet need too much of the disk; "" if they do not.

    Raises DataError with data.cache=always.
    """
    numbers = int(np.prod(frozen.model.output_shape[1:]))
    missing = [one for one, path in zip(seen, files, strict=True) if not path.exists()]
    size = sum(numbers * len(examples) * (2 if view.number else 4) for examples, view in missing)
    share = SMALL if plan.recipe.data.cache == "auto" else None
    try:
        room_for(files[0].parent, size, "the outputs of the frozen stages", share=share)
    except DataError as error:
        if share is None:
            raise
        return str(error)
    return ""


def _path(frozen: FrozenPass, examples: Examples, view: View, run: Path) -> Path:
    """The file of a view of `examples`, which may not exist. Runs share none, because each removes its own."""
    key = {"version": VERSION, **frozen.made_by, **view.to_json(), "layers": frozen.model.name, "run": run.resolve()}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode())
    for content in examples.hashes:
        digest.update(content.encode())
    return cache_folder("views") / f"{digest.hexdigest()[:32]}.npy"


def _rows(frozen: FrozenPass, examples: Examples, view: View, path: Path, resized: np.ndarray | None) -> np.ndarray:
    """(N, ...): the outputs for a view of `examples`, from `path` or computed and written there.

    Those of a view are float16, or float32 if they are too large for it. Those for the images themselves are float32,
    because they are judged.
    """
    shape = (len(examples), *frozen.model.output_shape[1:])
    kinds = (np.float16, np.float32) if view.number else (np.float32,)
    for kind in kinds:
        known = open_rows(path, shape, kind)
        if known is not None:
            os.utime(path)  # others remove files that are older than a day
            return known
    sweep(path.parent, "*.npy")
    for kind in kinds:
        try:
            return write_rows(path, shape, _blocks(frozen, examples, view, resized, kind), kind)
        except OverflowError as error:
            reason = str(error)
    raise KerazooError(f"{frozen.model.name}: {reason}; use other weights or another size")


def _blocks(
    frozen: FrozenPass, examples: Examples, view: View, resized: np.ndarray | None, kind: type
) -> Iterator[np.ndarray]:
    """The outputs in blocks. Raises OverflowError if one is too large for `kind`."""
    left = len(examples)
    for rows in frozen(examples, view, range(len(examples)), resized):
        with np.errstate(over="ignore"):
            block: np.ndarray = rows[: min(left, BATCH)].astype(kind)
        if not np.isfinite(block).all():
            raise OverflowError(f"outputs are not finite in {8 * block.itemsize} bits")
        left -= len(block)
        yield block
    if resized is None:  # a cache of resized images was checked when it was opened
        check_contents(examples, examples.hashes)


def _batches(
    plan: Plan, devices: Devices, train: Examples, val: Examples, rows: list[np.ndarray]
) -> tuple[TrainingBatches, tf.data.Dataset]:
    """The batches for training and for validation, of the outputs `rows`: those of the views, then those of val."""
    training = plan.recipe.training
    batches = training_batches(
        train, plan.preprocessing, batch_size=int(training.batch_size), seed=plan.recipe.seed,
        augmentation=plan.augmentation, balance=training.balance, drop_last=training.drop_last, views=rows[:-1],
    )  # fmt: skip
    count = devices.whole_count(len(val))
    validation = evaluation_batches(
        val.take(range(count)), plan.preprocessing, batch_size=devices.evaluation_size(count, EVALUATED),
        view=rows[-1][:count], one_hot=plan.soft,
    )  # fmt: skip
    return batches, validation
