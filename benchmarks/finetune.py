"""Our fine-tuning beside the recipe of Keras's transfer-learning guide: validation accuracy against time.

    python benchmarks/finetune.py flowers240 --weights mobilenet_2_5_224_tf_no_top.h5 [--backbone mobilenet_025]
        [--sizes 25 100 0] [--seeds 3] [--kinds ours guide]

The guide (keras.io/guides/transfer_learning): `image_dataset_from_directory`, random flips and rotations, the backbone
frozen and in inference mode, dropout 0.2, a head learned by Adam for 20 epochs through the whole backbone; then all of
it unfrozen, Adam(1e-5) for 10 more. Ours: what `kerazoo finetune` does by default, with empty caches; neither draws
feature maps. Both are processes of their own on the same files and split, one after the other; their clocks start once
TensorFlow is imported.

`--sizes` are training images a class, 0 for all. The CSV has a row for each epoch or stage: seconds so far, and the
validation accuracy then. What it holds of the same data, backbone, weights and settings is not measured again; the
report and the image (medians over seeds of the best accuracy so far) are of all that. The best of either may be that
of an epoch; what ours keeps in the end stands beside it.
"""

import argparse
import csv
import io
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

KINDS = ("ours", "guide")


def subset(data, folder, size, seed):
    """`folder` with `size` training images of each class (0: all), drawn by seed, and all of val, as links."""
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
    """Rows of (what, seconds, accuracy): the probe, each epoch, and what is kept in the end."""
    from kerazoo.recipes.recipe import make_recipe
    from kerazoo.transfer.finetune import finetune

    begin, rows = time.perf_counter(), []

    def note(record):
        print(record.getMessage(), file=sys.stderr, flush=True)
        found = re.match(r"(probe|epoch \d+).* val(?:_accuracy)? ([\d.]+)", record.getMessage())
        if found:
            rows.append((found[1], time.perf_counter() - begin, float(found[2])))

    lines = logging.Handler()
    lines.emit = note
    logging.getLogger("kerazoo").addHandler(lines)
    logging.getLogger("kerazoo").setLevel(logging.INFO)
    values = {
        "model": {"name": arguments.backbone}, "data": {"path": str(data)}, "seed": seed, "log": [],
        "transfer": {"weights": str(arguments.weights), "preset": "light"},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KERAZOO_CACHE"] = f"{folder}/cache"
        run = finetune(make_recipe(values, arguments.set), root=Path(folder) / "runs")
        kept = json.loads((run.folder / "run.json").read_text())["results"]["val_accuracy"]
    return [*rows, ("kept", time.perf_counter() - begin, kept)]


def measured(kind, size, seed, arguments):
    """The rows of a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data = subset(arguments.data.resolve(), Path(folder) / "data", size, seed)
        command = [sys.executable, __file__, str(data), "--weights", str(arguments.weights), "--child", kind, str(seed)]
        command += ["--backbone", arguments.backbone]
        command += [part for setting in arguments.set for part in ("--set", setting)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.splitlines()[-1])


def asked_of(arguments):
    """What the rows of a CSV have in common that can be compared."""
    names = {"data": arguments.data.name, "backbone": arguments.backbone, "weights": arguments.weights.name}
    return names | {"settings": " ".join(arguments.set)}


def read_rows(path, asked):
    """{(kind, size, seed): rows of (what, seconds, accuracy)} of what was `asked`, in a CSV that is there or not."""
    found = {}
    for row in csv.DictReader(path.read_text().splitlines()) if path.exists() else ():
        if any(row[name] != value for name, value in asked.items()):
            continue
        key = row["kind"], int(row["size"]), int(row["seed"])
        found.setdefault(key, []).append((row["what"], float(row["seconds"]), float(row["val_accuracy"])))
    return found


def report(found, arguments):
    """The table for people, and the chart."""
    from kerazoo.startup import start_tensorflow

    start_tensorflow()
    from kerazoo.insight.curves import draw_curves

    curves = {}
    for size in sorted({size for _, size, _ in found}, key=lambda size: size or 10**9):
        seeds = sorted({seed for _, s, seed in found if s == size and all((k, s, seed) in found for k in KINDS)})
        if not seeds:
            continue
        of = {kind: [found[kind, size, seed] for seed in seeds] for kind in KINDS}
        best = [max(accuracy for _, _, accuracy in rows) for rows in of["guide"]]
        when = [reached(rows, b) for rows, b in zip(of["guide"], best, strict=True)]
        ratios = [w / reached(rows, b) for rows, w, b in zip(of["ours"], when, best, strict=True)]
        name = f"{size} a class" if size else "all images"
        print(f"{name}, {len(seeds)} seeds: the guide's best {spread(best)} after {spread(when, 0)} s of")
        print(
            f"  {spread([rows[-1][1] for rows in of['guide']], 0)} s; ours is there {spread(ratios, 1)} times sooner,"
        )
        for what in ("probe", "kept"):
            values = [next((t, a) for w, t, a in rows if w == what) for rows in of["ours"]]
            print(f"  {what}: {spread([a for _, a in values])} after {spread([t for t, _ in values], 0)} s")
        for kind, runs in of.items():
            points = list(zip(*runs, strict=False))
            seconds = [statistics.median(row[1] for row in rows) for rows in points]
            so_far = [np.maximum.accumulate([row[2] for row in rows])[: len(points)] for rows in runs]
            curves[f"{kind}, {name}"] = (seconds, np.median(so_far, axis=0).tolist())
    if curves:
        draw_curves(
            arguments.chart, curves, title=f"{arguments.data.name}, {arguments.backbone}",
            x_label="seconds", y_label="best validation accuracy so far", log_x=True,
        )  # fmt: skip


def reached(rows, accuracy):
    """When `accuracy` was first there; infinity where it never was."""
    return next((seconds for _, seconds, got in rows if got >= accuracy), float("inf"))


def spread(values, digits=4):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--backbone", default="mobilenet_025")
    parser.add_argument("--sizes", type=int, nargs="+", default=[25, 100, 0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--set", action="append", default=[], help="for ours: KEY=VALUE of the recipe")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--chart", type=Path, default=Path(__file__).parents[1] / "docs" / "finetune.svg")
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    arguments.weights = arguments.weights.resolve()
    if arguments.child is not None:
        from kerazoo.startup import start_tensorflow

        start_tensorflow()
        kind, seed = arguments.child
        print(json.dumps({"guide": guide, "ours": ours}[kind](arguments, arguments.data, int(seed))))
        return
    asked = asked_of(arguments)
    names = [*asked, "kind", "size", "seed", "what", "seconds", "val_accuracy", "cpus", "machine"]
    for seed in range(arguments.seeds):
        for size in arguments.sizes:
            for kind in arguments.kinds:
                if (kind, size, seed) in read_rows(arguments.csv, asked):
                    continue
                rows = measured(kind, size, seed, arguments)
                text = io.StringIO()
                table = csv.writer(text, lineterminator="\n")
                table.writerows([] if arguments.csv.exists() else [names])
                place = [os.cpu_count(), platform.machine()]
                for what, seconds, accuracy in rows:
                    row = [kind, size, seed, what, f"{seconds:.1f}", f"{accuracy:.4f}", *place]
                    table.writerow([*asked.values(), *row])
                with arguments.csv.open("a") as file:
                    file.write(text.getvalue())  # all of it or nothing
                print(f"{kind}, {size} a class, seed {seed}: {rows[-1]}", file=sys.stderr, flush=True)
    report(read_rows(arguments.csv, asked), arguments)


if __name__ == "__main__":
    main()
