"""Export every network of the registry in every format: which pass the gate, and why others do not.

    python benchmarks/export_registry.py [--models mobilenet_025 ...] [--formats onnx litert ...] [--csv FILE]

Weights are random, and the statistics of batch norm are those of 64 drawn images, so that answers differ from image to
image; for networks that are STEADIED, of as many images of noise, too, as the gate asks for them. On it a linear probe
is fitted (a small network of the zoo is trained for one epoch), the run is exported with each format that it can have,
and a row says what the gate measured, or its words. Images are as small as the network allows, 64 px or more. Each
network has a process of its own. Rows are added to the CSV file; networks that it has are left out.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kerazoo.errors import KerazooError
from kerazoo.exports.formats.table import FORMATS
from kerazoo.models.registry import list_models
from kerazoo.startup import start_tensorflow

SIZE = 64  # px, where the network takes so small images
COUNT = 32  # images of each of the two classes
NOISE = 0.003  # standard deviation of what is added to pixels from 0 to 255
ROUNDED = 0.003  # share of pixels that change by 1; of these images formats round 0.002 to 0.003 otherwise
CHANGED = 0.1  # change of a probability
STEADIED = (
    "efficientnet_v2_l",
)  # without noise, its features of noise are 100,000 times larger, and its answers chance
OTHER = "does not give the same answers"  # of a refusal
COLUMNS = ("network", "px", "format", "passed", "agreement", "largest_difference", "megabytes", "seconds", "why_not")


def draw(folder):
    """Two classes of images, which a linear probe can tell apart: noise over two colors."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(2 * COUNT):
        kind = ("cold", "warm")[number % 2]
        tint = {"cold": (0, 20, 140), "warm": (140, 20, 0)}[kind]
        coarse = rng.integers(0, 80, (9, 11, 3)).astype(np.uint8)
        pixels = np.asarray(Image.fromarray(coarse).resize((110, 90), Image.Resampling.BICUBIC)).astype(int)
        path = folder / kind / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels + tint + rng.integers(0, 30, pixels.shape)).astype(np.uint8)).save(path)


def calibrate(model, images):
    """Set the statistics of every batch norm to those of (N, H, W, C) prepared images."""
    import keras

    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def run_of(name, folder):
    """A finished run of the network, in `folder`, and the size of its images."""
    import keras
    import numpy as np

    import kerazoo
    from kerazoo.models.backbone import Backbone
    from kerazoo.models.description import ModelSpec
    from kerazoo.models.registry import find
    from kerazoo.models.saved import save_model
    from kerazoo.pipelines.data.load import load_examples

    data = folder / "images"
    draw(data)
    entry = find(name)
    keras.utils.set_random_seed(0)
    common = {"name": name, "root": folder / "runs"}
    settings = {"data.validation": 0.5, "data.cache": "never"}
    if not isinstance(entry, Backbone):
        size = entry.input_shape[0]
        return kerazoo.train(name, data, epochs=1, settings=settings, **common), size
    size = max(SIZE, entry.smallest)
    preprocessing = entry.preprocessing(size, size)
    arguments = {"input_shape": (size, size, 3), "num_classes": 2}
    model = kerazoo.build(name, **arguments)
    examples = load_examples(data)
    images = np.stack([preprocessing(Path(path).read_bytes()) for path in examples.paths])
    if name in STEADIED:
        noise = np.random.default_rng(0).uniform(images.min(), images.max(), images.shape).astype(images.dtype)
        images = np.concatenate([images, noise])
    calibrate(model, images)
    (folder / "weights").mkdir()
    save_model(folder / "weights", ModelSpec(name, arguments, preprocessing, ("a", "b")), model)
    run = kerazoo.finetune(
        data, name, weights=folder / "weights", preset="linear", size=size, settings=settings, **common
    )
    return run, size


def rows_of(name, formats):
    """A row for the SavedModel and for each format of a network: one export, which goes on after a refusal."""
    start_tensorflow()
    from kerazoo.exports import export as exports

    with tempfile.TemporaryDirectory(prefix="kerazoo-") as folder:
        run, size = run_of(name, Path(folder))
        rows = {one: row(name, size, one) for one in formats}
        exports.write_format = noting(exports.write_format, rows, folder)
        exports.check_format = noting(exports.check_format, rows, folder)
        start = time.perf_counter()
        export = run.export(formats=formats, root=Path(folder) / "saved_models")
        seconds = round((time.perf_counter() - start) / (1 + len(formats)))
        largest = f"{export.gate.largest_difference:.1g}"
        first = row(name, size, "saved_model", passed=True, agreement=1.0, largest_difference=largest)
        if any(OTHER in one["why_not"] for one in rows.values()):
            changed = chaos(run)
            for one in rows.values():
                one["why_not"] += f"; {changed}" if OTHER in one["why_not"] else ""
        yield from (one | {"seconds": seconds} for one in (first, *rows.values()))


def chaos(run):
    """In words: how many images Keras itself answers otherwise if pixels change by next to nothing.

    What changes is all pixels by NOISE, or a few by 1 of 255, as formats round them.
    """
    import numpy as np

    from kerazoo.exports.synthetic import encoded_images
    from kerazoo.models.saved import load_model
    from kerazoo.pipelines.data.load import load_examples

    spec, model = load_model(run.folder)
    val = load_examples(run.recipe.data).split("val")
    contents = [*(Path(path).read_bytes() for path in val.paths), *encoded_images().values()]
    pixels = np.stack([spec.preprocessing.read(one) for one in contents]).astype(np.float32)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, NOISE, pixels.shape)
    rounded = np.where(rng.random(pixels.shape) < ROUNDED, np.where(pixels > 0, -1, 1), 0)
    before, *after = (
        np.asarray(spec.answers(model.predict(spec.preprocessing.scale(x.astype(np.float32)).numpy(), verbose=0)))
        for x in (pixels, pixels + noise, pixels + rounded)
    )
    changed = int((np.abs(np.stack(after) - before).max(axis=(0, 2)) > CHANGED).sum())
    return (
        f"Keras answers {changed} of {len(pixels)} images otherwise if pixels change by {NOISE}, or {ROUNDED} of them "
        "by 1, of 255"
    )


class Refused:
    """In place of the result of a format that was refused, in the passport of an export that nobody keeps."""

    def to_json(self):
        return {}


def noting(function, rows, folder):
    """A step of an export for one format, whose result or first refusal goes into its row."""

    def step(place, one, *arguments):
        known = rows[one.name]
        if known["why_not"]:
            return Refused()
        try:
            found = function(place, one, *arguments)
        except KerazooError as error:
            known["why_not"] = " ".join(str(error).replace(folder, "").split())[:300]
            return Refused()
        if found is not None:
            known |= {
                "passed": True, "agreement": found.agreement, "megabytes": round(found.bytes / 1e6, 2),
                "largest_difference": f"{found.largest_difference:.1g}",
            }  # fmt: skip
        return found

    return step


def row(name, size, one, **known):
    """A row of the table, as a mapping."""
    return dict.fromkeys(COLUMNS, "") | {"network": name, "px": size, "format": one, "passed": False} | known


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(list_models()))
    parser.add_argument("--formats", nargs="*", default=[name for name in FORMATS if name != "web"])
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        for row in rows_of(arguments.one, arguments.formats):
            print(json.dumps(row), flush=True)
        return
    rows = []
    if arguments.csv.exists():
        with arguments.csv.open(newline="") as file:
            rows = list(csv.DictReader(file))
    about = {"cores": os.cpu_count(), "machine": platform.machine()}
    for name in arguments.models:
        if any(row["network"] == name for row in rows):
            continue
        command = [sys.executable, __file__, "--one", name, "--formats", *arguments.formats]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode:
            lines.append(dict.fromkeys(COLUMNS, "") | {"network": name, "why_not": f"exit code {done.returncode}"})
        for row in lines:
            print(
                f"{row['network']:20} {row['format']:15} {row['passed'] or row['why_not']} {row['seconds']}", flush=True
            )
            rows.append(row | about)
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *about], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
