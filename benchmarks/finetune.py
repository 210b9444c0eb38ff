"""Our fine-tuning beside the recipe of Keras's transfer-learning guide: validation accuracy against time.

    python benchmarks/finetune.py flowers240 --weights mobilenet_2_5_224_tf_no_top.h5 [--backbone mobilenet_025]
        [--sizes 25 100 0] [--seeds 3] [--rounds guide ours]

The guide (keras.io/guides/transfer_learning): `image_dataset_from_directory`, random flips and rotations, the backbone
frozen and in inference mode, dropout 0.2, a head learned by Adam for 20 epochs through the whole backbone; then all of
it unfrozen, Adam(1e-5) for 10 more. Ours: `kerazoo finetune` with its defaults and an empty cache. Both are processes
of their own on the same files and split, one after the other; time is from the first look at a picture, start-up left
out.

`--sizes` are training pictures a class, 0 for all. The CSV has a row for each epoch or stage: seconds so far, and the
validation accuracy then; the picture shows the medians over seeds.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def subset(data, folder, size, seed):
    """`folder` with `size` training pictures of each class (0: all), drawn by seed, and all of val, as links."""
    for path in sorted(data.glob("*/*")):
        files = sorted(path.iterdir())
        if path.parent.name == "train" and size:
            files = [files[i] for i in np.random.default_rng(seed).permutation(len(files))[:size]]
        target = folder / path.relative_to(data)
        target.mkdir(parents=True)
        for file in files:
            (target / file.name).symlink_to(file.resolve())
    return folder


def guide(arguments, data, seed):
    """Rows of (what, seconds, accuracy) by the guide's recipe."""
    import keras

    from kerazoo.models.registry import find

    keras.utils.set_random_seed(seed)
    entry = find(arguments.backbone)
    side = (entry.size, entry.size)
    begin, rows = time.perf_counter(), []
    options = {"image_size": side, "batch_size": 32, "seed": seed}
    train = keras.utils.image_dataset_from_directory(data / "train", verbose=False, **options).prefetch(2)
    val = keras.utils.image_dataset_from_directory(data / "val", verbose=False, **options).prefetch(2)
    classes = len(list((data / "train").iterdir()))
    make = getattr(keras.applications, entry.function)
    base = make(include_top=False, weights=str(arguments.weights), input_shape=(*side, 3), **entry.arguments)
    base.trainable = False
    inputs = keras.Input((*side, 3))
    x = keras.layers.RandomRotation(0.1)(keras.layers.RandomFlip("horizontal")(inputs))
    x = getattr(keras.applications, entry.module).preprocess_input(x)
    x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
    model = keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Dropout(0.2)(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def note(epoch, logs):
        rows.append((f"epoch {len(rows) + 1}", time.perf_counter() - begin, logs["val_accuracy"]))

    for optimizer, epochs in ((keras.optimizers.Adam(), 20), (keras.optimizers.Adam(1e-5), 10)):
        model.compile(optimizer, loss, metrics=["accuracy"])
        mark = keras.callbacks.LambdaCallback(on_epoch_end=note)
        model.fit(train, validation_data=val, epochs=epochs, verbose=0, callbacks=[mark])
        base.trainable = True
    return rows


def ours(arguments, data, seed):
    """The stages of `kerazoo finetune`; a stage that was dropped leaves the accuracy as it was."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "kerazoo.cli", "finetune", str(data), "--backbone", arguments.backbone]
        command += ["--weights", str(arguments.weights), "--seed", str(seed), "--json", "--set", "watch=false"]
        command += [part for setting in arguments.set for part in ("--set", setting)]
        environment = {**os.environ, "KERAZOO_CACHE": f"{folder}/cache"}
        done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    print(done.stderr[-1500:], file=sys.stderr)
    rows, seconds, accuracy = [], 0.0, 0.0
    for stage in json.loads(done.stdout)["stages"]:
        seconds += stage["seconds"]
        accuracy = stage["score"] if stage["kept"] and stage["score"] is not None else accuracy
        rows.append((stage["name"], seconds, accuracy))
    return rows[1:]  # features alone answer nothing


def measured(kind, size, seed, arguments):
    with tempfile.TemporaryDirectory() as folder:
        data = subset(arguments.data.resolve(), Path(folder) / "data", size, seed)
        if kind == "ours":
            return ours(arguments, data, seed)
        command = [sys.executable, __file__, str(data), "--weights", str(arguments.weights), "--child", str(seed)]
        command += ["--backbone", arguments.backbone]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])


def report(found, arguments):
    """The table for people, and the chart."""
    from kerazoo.callbacks.curves import draw_curves

    curves = {}
    for size in arguments.sizes:
        of = {kind: [rows for (k, s, _), rows in found.items() if (k, s) == (kind, size)] for kind in ("guide", "ours")}
        if not all(of.values()):
            continue
        best = [max(accuracy for _, _, accuracy in rows) for rows in of["guide"]]
        when = [next(t for _, t, a in rows if a == b) for rows, b in zip(of["guide"], best, strict=True)]
        final = [rows[-1][2] for rows in of["ours"]]
        reached = [
            next((t for _, t, a in rows if a >= b), float("inf")) for rows, b in zip(of["ours"], best, strict=True)
        ]
        ratios = sorted(w / r for w, r in zip(when, reached, strict=True))
        name = f"{size} a class" if size else "all pictures"
        print(f"{name}: guide's best {spread(best)} after {spread(when, 0)} s; ours ends at {spread(final)};")
        print(f"  the guide's best is reached after {spread(reached, 1)} s: {spread(ratios, 1)} times sooner")
        for kind, runs in of.items():
            points = list(zip(*runs, strict=False))
            seconds = [statistics.median(row[1] for row in rows) for rows in points]
            accuracies = [statistics.median(row[2] for row in rows) for rows in points]
            curves[f"{kind}, {name}"] = (seconds, accuracies)
    if curves:
        draw_curves(
            arguments.csv.with_suffix(".svg"), curves, title=f"{arguments.data.name}, {arguments.backbone}",
            x_label="seconds", y_label="validation accuracy", log_x=True,
        )  # fmt: skip


def spread(values, digits=4):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--backbone", default="mobilenet_025")
    parser.add_argument("--sizes", type=int, nargs="+", default=[25, 100, 0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", nargs="+", choices=("guide", "ours"), default=["ours", "guide"])
    parser.add_argument("--set", action="append", default=[], help="for ours: KEY=VALUE of the recipe")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    arguments.weights = arguments.weights.resolve()
    if arguments.child is not None:
        from kerazoo.quiet import start_tensorflow

        start_tensorflow()
        print(json.dumps(guide(arguments, arguments.data, arguments.child)))
        return
    found, names = {}, ["kind", "size", "seed", "what", "seconds", "val_accuracy", "cpus", "machine"]
    for seed in range(arguments.seeds):
        for size in arguments.sizes:
            for kind in arguments.rounds:
                rows = found[kind, size, seed] = measured(kind, size, seed, arguments)
                exists = arguments.csv.exists()
                with arguments.csv.open("a", newline="") as file:
                    table = csv.writer(file, lineterminator="\n")
                    table.writerows([] if exists else [names])
                    for what, seconds, accuracy in rows:
                        place = [os.cpu_count(), platform.machine()]
                        table.writerow([kind, size, seed, what, f"{seconds:.1f}", f"{accuracy:.4f}", *place])
                print(f"{kind}, {size} a class, seed {seed}: {rows[-1]}", file=sys.stderr, flush=True)
    report(found, arguments)


if __name__ == "__main__":
    main()
