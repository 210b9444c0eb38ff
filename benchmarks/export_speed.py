"""What an export costs, as ratios in one run: preprocessing in its graph beside training's, each format beside it.

    python benchmarks/export_speed.py EXPORT FOLDER [--images 200] [--rounds 3]

EXPORT is a folder that `kerazoo export --format ...` made, FOLDER the image folder of its run, of which val/ is used.
Two tables:

- preprocessing: processor time of the signature for encoded images less that of the one for prepared images, in
  batches of 32, over that of the input of evaluation (`evaluation_batches`) for the same files; all in one
  process, in turn. It includes the guard that makes a bad image a row;
- formats: each in a process of its own, which is started, answers its first image, then all images one by one from
  their bytes, then the network alone at its own size. Start-up and memory are of the whole process, imports included.
  The rows are run in turn, `rounds` times; a ratio is of one round, and the median counts.
"""

import argparse
import csv
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

BATCH = 32
KEYS = ("image", "image_cpu", "network_1", "network_8", "start_up", "memory")  # ms, s and MB in the table
REPEATS = 30  # calls of the network alone


def timed(call):
    """(wall, processor) seconds of a call."""
    start, before = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - before


def preprocessing(export, files, rounds):
    """Processor time of preprocessing in the graph over that of evaluation's input, in each round."""
    from kerazoo.startup import start_tensorflow

    start_tensorflow()
    import numpy as np

    from kerazoo.exports.saved_model import ExportedModel
    from kerazoo.pipelines.data.examples import Examples
    from kerazoo.pipelines.input.batches import evaluation_batches

    model = ExportedModel(export)
    examples = Examples(
        source="files", keys=tuple(map(str, files)), labels=np.zeros(len(files), np.int64),
        splits=np.array(["val"] * len(files)), class_names=("a", "b"), paths=tuple(map(str, files)),
    )  # fmt: skip
    batches = evaluation_batches(examples, model.preprocessing, batch_size=BATCH)
    contents = [path.read_bytes() for path in files]
    encoded = [contents[start : start + BATCH] for start in range(0, len(contents), BATCH)]
    prepared = [images.numpy() for images, _ in batches]
    rows = []
    for number in range(rounds + 1):
        bytes_, network, inputs = (
            timed(call)[1]
            for call in (
                lambda: [model.ask("serving_default", batch) for batch in encoded],
                lambda: [model.ask("serve_prepared", batch) for batch in prepared],
                lambda: [images for images, _ in batches],
            )
        )
        if number:  # the first builds the graphs
            rows.append({"graph": bytes_ - network, "input": inputs, "network": network})
    print(json.dumps(rows))


def answering(export, name, files):
    """What the process of one format measures: it has imported nothing of kerazoo yet."""
    begin = time.perf_counter()
    if name == "saved_model":
        from kerazoo.startup import start_tensorflow

        start_tensorflow(keras=False)
        from kerazoo.exports.saved_model import ExportedModel

        model = ExportedModel(export)
        size = model.preprocessing.shape

        def answer(contents):
            return model.rows([contents])

        network = model.pixel_answers
    else:
        from kerazoo.exports.formats.answering import FormatModel
        from kerazoo.exports.formats.table import FORMATS, SETTINGS
        from kerazoo.files import read_json

        served = FormatModel(export, FORMATS[name])
        answer, network = served.answer, served.answers
        settings = read_json(export / SETTINGS)
        size = (settings["height"], settings["width"], settings["channels"])
    import numpy as np

    contents = [path.read_bytes() for path in files]
    answer(contents[0])
    start_up = time.perf_counter() - begin
    every, busy = timed(lambda: [answer(one) for one in contents])
    found = {"start_up": start_up, "image": every / len(files), "image_cpu": busy / len(files)}
    for count in (1, 8):
        pixels = np.zeros((count, *size), np.uint8)
        network(pixels)
        found[f"network_{count}"] = statistics.median(timed(lambda: network(pixels))[0] for _ in range(REPEATS)) / count  # noqa: B023
    print(json.dumps(found | {"memory": peak()}))


def peak():
    """The largest number of bytes that this process had; Linux would count its parent's, too, in `getrusage`."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return (1 if sys.platform == "darwin" else 1024) * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def child(*arguments):
    """What this script prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("export", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    paths = sorted(path for path in (arguments.folder / "val").rglob("*") if path.is_file())
    files = paths[:: max(1, len(paths) // arguments.images)][: arguments.images]
    if arguments.way == "preprocessing":
        return preprocessing(arguments.export, files, arguments.rounds)
    if arguments.way:
        return answering(arguments.export, arguments.way, files)

    given = (arguments.export, arguments.folder, "--images", len(files), "--rounds", arguments.rounds, "--way")
    shares = [row["graph"] / row["input"] for row in child(*given, "preprocessing")]
    spread = f"{min(shares):.3f}-{max(shares):.3f}"
    print(f"preprocessing in the graph over that of evaluation: {statistics.median(shares):.3f} ({spread})", flush=True)
    passport = json.loads((arguments.export / "assets.extra/passport.json").read_text())
    names = ["saved_model", *(row["name"] for row in passport["formats"][1:] if row["name"] != "web")]
    found = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            found[name].append(child(*given, name))
    rows = [{"what": "preprocessing", "ratio": round(statistics.median(shares), 3), "spread": spread}]
    for name in names:
        row = {"what": name}
        for key in KEYS:
            values = [measured[key] for measured in found[name]]
            ratios = [mine / base[key] for mine, base in zip(values, found["saved_model"], strict=True)]
            unit = 1e-6 if key == "memory" else 1 if key == "start_up" else 1000
            row[key] = round(unit * statistics.median(values), 2)
            row[f"{key}_range"] = f"{unit * min(values):.2f}-{unit * max(values):.2f}"
            row[f"{key}_ratio"] = round(statistics.median(ratios), 3)
        rows.append(row)
        words = (f"{key} {row[key]} ({row[f'{key}_ratio']})" for key in KEYS)
        print(f"{name:15} {', '.join(words)}", flush=True)
    fields = dict.fromkeys(key for row in rows for key in row)
    about = {"images": len(files), "rounds": arguments.rounds, "cores": os.cpu_count(), "machine": platform.machine()}
    with arguments.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*fields, *about], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **about} for row in rows)
    return None


if __name__ == "__main__":
    main()
