"""Read a data set of TensorFlow Datasets by name: `tfds:NAME`, `tfds:NAME/CONFIG`, `tfds:NAME:VERSION`.

Its encoded images are written once, as files, to the cache folder. They are then checked, decoded and split like any
other images, with the decoder of training. It uses the splits train, validation and test, and lists the others.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.caches import cache_folder, room_for
from kerazoo.errors import DataError
from kerazoo.files import read_json, write_json
from kerazoo.pipelines.data.examples import SPLITS, TFDS, Examples
from kerazoo.recipes.parts import DataPart
from kerazoo.tasks.base import Task
from kerazoo.tasks.task import MULTICLASS, MULTILABEL, REGRESSION

ENDINGS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"RI": "webp"}
INDEX = "index.json"
OWN_FEATURES = "tensorflow_datasets.core.features."


def read(part: DataPart) -> Examples:
    """The examples of a TFDS data set, with its class names. Raises DataError if it is not available."""
    name = part.path.removeprefix(TFDS)
    builder = _builder(name, part)
    image, label, task, class_names = _features(name, builder.info)
    # the same name may be prepared in two places, with different contents
    splits = {split: [info.num_examples, info.num_bytes] for split, info in builder.info.splits.items()}
    mark = hashlib.sha256(json.dumps([str(builder.data_dir), splits], sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_folder("tfds") / f"{builder.info.full_name.replace('/', '-')}-{mark}"
    if not (folder / INDEX).is_file():
        _write_out(builder, image, label, folder)
    index = read_json(folder / INDEX)
    labels = task.from_stored(index["labels"], len(class_names))
    labelled = task.labelled(labels)
    left_out = dict(index["left_out"])
    left_out |= {index["files"][i]: "it has no label (-1)" for i in np.flatnonzero(~labelled)}
    files = [index["files"][i] for i in np.flatnonzero(labelled)]
    return Examples(
        part.path, tuple(files), labels[labelled], np.array([file.split("/")[0] for file in files]), class_names,
        task.name,
        paths=tuple(str(folder / file) for file in files), left_out=left_out,
    )  # fmt: skip


def _builder(name: str, part: DataPart) -> Any:
    import tensorflow_datasets as tfds

    place = {"data_dir": part.data_dir} if part.data_dir else {}
    where = part.data_dir or tfds.core.constants.DATA_DIR
    try:
        with _own_features(f"{TFDS}{name} in {where}"):
            builder = tfds.builder(name, try_gcs=False, **place)
        # a folder on disk is not prepared if it lacks the builder's version
        if not builder.is_prepared():
            if not part.download:
                raise DataError(
                    f"{TFDS}{name} is not in {where}; prepare it there, set its folder with data.data_dir, or allow "
                    "the download with data.download=true"
                )
            builder.download_and_prepare()
    except DataError:
        raise
    except Exception as error:  # the builders of TFDS may raise any error
        words = " ".join(str(error).split())[:300]
        raise DataError(f"{TFDS}{name} cannot be loaded from {where}: {type(error).__name__}: {words}") from error
    return builder


@contextmanager
def _own_features(what: str) -> Iterator[None]:
    """Inside, TFDS accepts only its own feature classes. Raises DataError for others.

    Otherwise TFDS imports any module that a `features.json` names, and so runs code that came with copied data.
    """
    from tensorflow_datasets.core.features.feature import FeatureConnector

    find = FeatureConnector.cls_from_name

    def cls_from_name(name: Any) -> Any:
        if not isinstance(name, str) or not name.startswith(OWN_FEATURES):
            raise DataError(
                f"the features.json of {what} names the feature class {name!r}; it must be one of TensorFlow "
                f"Datasets' own ({OWN_FEATURES}...), because any other would run code that came with the data"
            )
        return find(name)

    FeatureConnector.cls_from_name = cls_from_name
    try:
        yield
    finally:
        FeatureConnector.cls_from_name = find


def _features(name: str, info: Any) -> tuple[str, str, Task, tuple[str, ...]]:
    """The names of the image feature and the label feature, the task, and the class names."""
    import tensorflow_datasets as tfds

    features = dict(info.features.items()) if hasattr(info.features, "items") else {}
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    keys: tuple[Any, ...] = info.supervised_keys or ()
    image = keys[0] if keys and keys[0] in images else (images[0] if len(images) == 1 else None)
    if image is None:
        raise DataError(f"{TFDS}{name} has no image feature; its features are {', '.join(features) or 'none'}")
    wanted = [keys[1]] if len(keys) > 1 and isinstance(keys[1], str) else []
    for key in [*wanted, "label", "labels", *features]:
        feature: Any = features.get(key)
        if isinstance(feature, tfds.features.ClassLabel):
            return image, key, MULTICLASS, tuple(feature.names)
        inner = getattr(feature, "feature", None)
        if isinstance(inner, tfds.features.ClassLabel):
            return image, key, MULTILABEL, tuple(inner.names)
        if key in wanted and getattr(feature, "dtype", None) is not None and np.issubdtype(feature.np_dtype, np.number):
            return image, key, REGRESSION, (key,)
    raise DataError(f"{TFDS}{name} has no labels; its features are {', '.join(features)}")


def _write_out(builder: Any, image: str, label: str, folder: Path) -> None:
    """Write every encoded image to `folder/SPLIT/N.ending`, and the index. If it fails, nothing is left."""
    import tensorflow_datasets as tfds

    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    room_for(folder, builder.info.dataset_size, f"the images of {builder.info.full_name}")
    files: list[str] = []
    labels: list[Any] = []
    taken: dict[str, str] = {}
    for split in builder.info.splits:
        if split in SPLITS and SPLITS[split] not in taken.values():
            taken[split] = SPLITS[split]
    others = {f"split {split}": "it is not train, validation or test" for split in builder.info.splits}
    left_out = {key: why for key, why in others.items() if key.removeprefix("split ") not in taken}
    if "train" not in taken.values():
        has = ", ".join(builder.info.splits)
        raise DataError(f"{TFDS}{builder.info.full_name} has no train split; it has {has}")
    try:
        for split, ours in taken.items():
            (temporary / ours).mkdir(parents=True)
            encoded = builder.as_dataset(split=split, decoders={image: tfds.decode.SkipDecoding()}, shuffle_files=False)
            for number, row in enumerate(encoded.as_numpy_iterator()):
                contents = row[image]
                file = f"{ours}/{number:07d}.{ENDINGS.get(contents[:2], 'jpg')}"
                (temporary / file).write_bytes(contents)
                files.append(file)
                labels.append(np.asarray(row[label]).tolist())
        write_json(temporary / INDEX, {"files": files, "labels": labels, "left_out": left_out})
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / INDEX).is_file():  # otherwise another process has just written the same images
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
