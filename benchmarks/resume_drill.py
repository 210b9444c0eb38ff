"""The drill: a training is killed (kill -9) at random moments until it is done, and compared with one that never was.

    python benchmarks/resume_drill.py [--kills 30] [--devices cpu|mirrored:2] [--schedule cosine|plateau] [--seed 0]

Dropout, batch norm, augmentation (policy strong, mixup), AdamW, averaged weights, early stopping, and a cosine or
ReduceLROnPlateau (which excludes a planned rate) are on; a checkpoint is written at every step, so that kills fall into
writing, too. Each restart is left to take one step, then killed within half a second; three times in ten it is killed
at any time up to --longest seconds after its start.
Compared to the last bit: weights, optimizer and seeds (the last checkpoint), best weights, history, answers.
"""

import argparse
import csv
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from kerazoo.callbacks.checkpoints import newest_checkpoint

RECIPE = """
[model]
name = "vgg_small"
arguments = { dropout = 0.2 }
[training]
epochs = 10
batch_size = 4
drop_last = false
early_stopping = 3
[augmentation]
policy = "strong"
mixup = 0.2
[optimizer]
name = "adamw"
learning_rate = 0.003
ema = 0.9
[checkpoint]
steps = 1
"""
SCHEDULES = {"cosine": [], "plateau": ["optimizer.schedule='plateau'", "optimizer.warmup=0", "optimizer.patience=1"]}


def make_data(folder, *, count=21, size=16, seed=0):
    """Two classes of noise, one of them brighter."""
    draw = np.random.default_rng(seed)
    for name, low in (("dark", 0), ("light", 60)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(low, 196 + low, (size, size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    return folder


def start(folder, name, *, devices, schedule, log):
    """A process that trains run `name`, or goes on with it."""
    command = [sys.executable, "-P", "-m", "kerazoo", "train", "recipe.toml", "--data", "data", "--name", name]
    shared = ["training.synchronized_batch_norm=true"] if devices != "cpu" else []
    for setting in [f"devices='{devices}'", *shared, *SCHEDULES[schedule]]:
        command += ["--set", setting]
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def drill(folder, *, kills, devices="cpu", schedule="cosine", longest=20.0, seed=0):
    """(kills that fell into training, differences found); [] where there is none."""
    draw, options = random.Random(seed), {"devices": devices, "schedule": schedule}
    (folder / "recipe.toml").write_text(RECIPE)
    make_data(folder / "data")
    with (folder / "log.txt").open("w") as log:
        if start(folder, "whole", **options, log=log).wait():
            raise SystemExit(f"the undisturbed run failed; see {folder / 'log.txt'}")
        killed = 0
        while True:
            process = start(folder, "killed", **options, log=log)
            if killed < kills:
                draw_at = draw.uniform(0, longest) if draw.random() < 0.3 else None
                checkpoints = folder / "runs" / "killed" / "checkpoints"
                before = newest(checkpoints)
                while draw_at is None and process.poll() is None and newest(checkpoints) == before:
                    time.sleep(0.02)  # until it has gone on at least one step, so that the drill ends
                time.sleep(draw.uniform(0, 0.5) if draw_at is None else draw_at)
                process.kill()
            code = process.wait()
            if code == 0:
                return killed, differences(folder / "runs" / "whole", folder / "runs" / "killed")
            if code != -9:
                raise SystemExit(f"a resumed run failed with code {code}; see {folder / 'log.txt'}")
            killed += 1
            print(f"kill {killed}: {newest(checkpoints) or 'before the first checkpoint'}", file=sys.stderr, flush=True)


def newest(folder):
    """The name of the newest checkpoint, as far as epoch and step."""
    return max((path.name[:15] for path in folder.glob("*.ckpt")), default="")


def differences(one, other):
    """The names of what is not the same in two finished runs."""
    states = [newest_checkpoint(run / "checkpoints") for run in (one, other)]
    found = []

    def compare(a, b, path):
        if isinstance(a, dict):
            for key in {*a, *b} - {"seconds", "times"}:  # how long epochs and steps took is no result
                compare(a.get(key), b.get(key), f"{path}/{key}")
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            for index, pair in enumerate(zip(a, b, strict=True)):
                compare(*pair, f"{path}/{index}")
        elif isinstance(a, np.ndarray):
            if a.tobytes() != b.tobytes():
                found.append(path)
        elif a != b and not (a != a and b != b):
            found.append(path)

    compare(*states, "state")
    for name in ("history.csv", "evaluation/val.npy", "watch.jsonl"):
        if (one / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--devices", default="cpu")
    parser.add_argument("--schedule", choices=SCHEDULES, default="cosine")
    parser.add_argument("--longest", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        options = {key: value for key, value in vars(arguments).items() if key != "csv"}
        killed, found = drill(Path(folder), **options)
    row = {
        **options, "killed": killed, "differences": " ".join(found), "seconds": round(time.perf_counter() - started),
        "cpus": os.cpu_count(), "machine": platform.machine(),
    }  # fmt: skip
    print(row)
    exists = arguments.csv.exists()
    with arguments.csv.open("a", newline="") as file:
        table = csv.DictWriter(file, list(row), lineterminator="\n")
        if not exists:
            table.writeheader()
        table.writerow(row)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
