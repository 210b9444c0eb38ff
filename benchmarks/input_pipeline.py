"""Images per second of the training input, as ratios in one run: ours beside Keras's and beside the bare loop.

    python benchmarks/input_pipeline.py FOLDER [--size 224] [--batch 32] [--rounds 5]

FOLDER is an image folder, or a root that holds train/. Each row is a full pass over its training images with nothing
behind it. The rows are run in turn, `rounds` times, and the median counts; a first pass of each warms the file cache.
Beside the rates stand ratios of images per second of processor time (cpu_...), which other work disturbs less.

- bare loop: read, decode (accurate), resize (antialiased), no more: what the decoder allows;
- keras, defaults: keras.utils.image_dataset_from_directory as it comes (fast decoding, no antialiasing, shuffled);
- keras, our settings: its file list and its way of batching, with the accurate decoding and antialiasing that it has no
  switch for;
- ours: `training_batches` of kerazoo, checked headers, EXIF, shuffled by (seed, epoch), scaled; cold from the files,
  and from the cache of fitted images.
"""

import argparse
import csv
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

from kerazoo.startup import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from kerazoo.pipelines.data.load import load_examples  # noqa: E402
from kerazoo.pipelines.input.augmentation import Augmentation  # noqa: E402
from kerazoo.pipelines.input.batches import training_batches  # noqa: E402
from kerazoo.pipelines.input.images import prepared  # noqa: E402
from kerazoo.preprocessing.preprocessing import Preprocessing  # noqa: E402


def accurate(size, fit):
    """Decoding and resizing at our settings, with TensorFlow's own functions."""

    def load(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")
        if fit == "crop":
            side = tf.reduce_min(tf.shape(image)[:2])
            top, left = (tf.shape(image)[0] - side) // 2, (tf.shape(image)[1] - side) // 2
            image = tf.image.crop_to_bounding_box(image, top, left, side, side)
        return tf.image.resize(image, (size, size), antialias=True)

    return load


def datasets(folder, size, batch):
    """{name: (dataset, images in a pass)}; each fit's rows beside one another."""
    examples = load_examples(folder).split("train")
    count, paths = len(examples), list(examples.paths)
    root = folder / "train" if (folder / "train").is_dir() else folder
    defaults = keras.utils.image_dataset_from_directory(root, image_size=(size, size), batch_size=batch, verbose=False)
    made = {"keras, defaults": (defaults, len(defaults.file_paths))}
    for fit in ("crop", "stretch"):
        preprocessing, load = Preprocessing(size, size, resize=fit), accurate(size, fit)
        bare = tf.data.Dataset.from_tensor_slices(paths).map(load, num_parallel_calls=tf.data.AUTOTUNE)
        pairs = tf.data.Dataset.from_tensor_slices((paths, examples.labels)).shuffle(batch * 8, seed=0)
        settings = pairs.map(lambda path, label, load=load: (load(path), label), num_parallel_calls=tf.data.AUTOTUNE)
        options = {"batch_size": batch, "seed": 0, "augmentation": Augmentation(), "drop_last": False}
        cold = training_batches(examples, preprocessing, **options).dataset
        made[f"bare loop, {fit}"] = (bare, count)
        made[f"keras, our settings, {fit}"] = (settings.batch(batch).prefetch(tf.data.AUTOTUNE), count)
        made[f"ours, cold, {fit}"] = (cold, count)
    stored = prepared(examples, preprocessing, cache="always", passes=1)
    cached = training_batches(examples, preprocessing, **options, stored=stored).dataset
    return made | {"ours, cached": (cached, count)}


def rates(made, rounds):
    """{name: images per second of each round} and the same per second of processor time, the rows taken in turn."""
    found, busy = {name: [] for name in made}, {name: [] for name in made}
    for number in range(rounds + 1):
        for name, (dataset, count) in made.items():
            start, before = time.perf_counter(), time.process_time()
            for _ in dataset:
                pass
            if number:
                found[name].append(count / (time.perf_counter() - start))
                busy[name].append(count / (time.process_time() - before))
    return found, busy


def ratio(values, base):
    """The median over rounds of the ratio within a round: what slows the machine down slows both."""
    return base and round(statistics.median(a / b for a, b in zip(values, base, strict=True)), 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as caches:
        os.environ["KERAZOO_CACHE"] = caches
        found, busy = rates(datasets(arguments.folder, arguments.size, arguments.batch), arguments.rounds)
    rows = []
    for name, values in found.items():
        settings, bare = (f"{which}, {name.split(', ')[-1]}" for which in ("keras, our settings", "bare loop"))
        row = {
            "input": name, "images_per_second": round(statistics.median(values)),
            "lowest": round(min(values)), "highest": round(max(values)),
            "of_keras_defaults": ratio(values, found["keras, defaults"]),
            "of_keras_our_settings": ratio(values, found.get(settings)),
            "of_bare_loop": ratio(values, found.get(bare)),
            "cpu_ms": round(1000 / statistics.median(busy[name]), 2),
            "cpu_of_keras_our_settings": ratio(busy[name], busy.get(settings)),
            "cpu_of_bare_loop": ratio(busy[name], busy.get(bare)),
            "size": arguments.size, "batch": arguments.batch, "rounds": arguments.rounds, "cpus": os.cpu_count(),
            "machine": platform.machine(), "tensorflow": tf.__version__, "keras": keras.__version__,
        }  # fmt: skip
        rows.append(row)
        ratios = "".join(f"{row[key] or '':>8} {key.replace('_', ' ')}" for key in list(row)[4:10] if row[key])
        print(f"{name:28} {row['images_per_second']:6}/s ({row['lowest']}-{row['highest']}){ratios}", flush=True)
    with arguments.csv.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
