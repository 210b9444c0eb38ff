"""What kerazoo's training costs beside bare Keras: the same network and arrays, processor time and wall time as ratios.

    python benchmarks/training_overhead.py ARRAYS.npz [--model bottleneck_cnn] [--epochs 4] [--rounds 3]

ARRAYS.npz holds x_train (N, H, W) or (N, H, W, C) uint8 and y_train (N,). Each round runs two processes in turn:

- bare: `model.fit` on float32 arrays in memory, shuffled, with validation, verbose=0, no callbacks;
- ours: `kerazoo.training.fit.fit` as `kerazoo train` calls it: batches from uint8 by (seed, epoch), deterministic
  kernels, watchers, metrics, curves, and a checkpoint in its default period.

Measured is all but the first epoch, in which both trace their graphs; a ratio is of one round, and the median counts.
Peak memory is of the whole process. Where two cores are two threads of one, processor time is not conserved: each runs
slower while the other is busy, so that work done side by side (input and network) counts for more of it, and takes less
wall time.
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
import tempfile
import time
from pathlib import Path

from kerazoo.startup import start_tensorflow


class Clocks:
    """Wall and processor time from the end of the first epoch to the end of `fit`, the last checkpoint counted in."""

    def __init__(self):
        import keras

        self.marks = []
        note = lambda *_: self.marks.append((time.perf_counter(), time.process_time()))  # noqa: E731
        self.callback = keras.callbacks.LambdaCallback(on_epoch_end=note, on_train_end=note)

    def result(self):
        """Seconds, and the peak of memory in MB."""
        (wall, cpu), (wall_end, cpu_end) = self.marks[0], self.marks[-1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"wall": wall_end - wall, "cpu": cpu_end - cpu, "peak_mb": peak}


def bare(arguments):
    """A plain `fit`, as the guides of Keras have it."""
    import keras
    import numpy as np

    from kerazoo.models.build import build

    with np.load(arguments.arrays) as arrays:
        x, y = arrays["x_train"], arrays["y_train"]
    x = (x if x.ndim == 4 else x[..., None]).astype(np.float32) / 255
    held = len(x) // 10
    model = build(arguments.model, input_shape=x.shape[1:], num_classes=10)
    steps = (len(x) - held) // arguments.batch * arguments.epochs
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=0.01, warmup_steps=steps // 20)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-4), loss, metrics=["accuracy"])
    clocks = Clocks()
    model.fit(
        x[held:], y[held:], batch_size=arguments.batch, epochs=arguments.epochs, verbose=0,
        validation_data=(x[:held], y[:held]), validation_batch_size=64, callbacks=[clocks.callback],
    )  # fmt: skip
    return clocks.result()


def ours(arguments):
    """The `fit` of a run; its clock is put among the run's own callbacks."""
    from kerazoo.recipes.recipe import make_recipe
    from kerazoo.training import fit
    from kerazoo.training.train import train

    clocks = Clocks()
    control_callbacks = fit.control_callbacks
    fit.control_callbacks = lambda *given: [*control_callbacks(*given), clocks.callback]
    values = {
        "model": {"name": arguments.model}, "data": {"path": str(arguments.arrays), "validation": 0.1},
        "training": {"epochs": arguments.epochs, "batch_size": arguments.batch},
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 1e-4, "warmup": 0.05},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as root:
        train(make_recipe(values), root=Path(root))
    return clocks.result()


def measured(kind, arguments):
    """What a process of its own measures."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arrays", type=Path)
    parser.add_argument("--model", default="bottleneck_cnn")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=("bare", "ours"))
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    if arguments.epochs < 2:
        parser.exit(2, f"--epochs must be at least 2, got {arguments.epochs}: the first epoch only warms up\n")
    if arguments.rounds < 1:
        parser.exit(2, f"--rounds must be at least 1, got {arguments.rounds}\n")
    if arguments.child:
        start_tensorflow()
        print(json.dumps({"bare": bare, "ours": ours}[arguments.child](arguments)))
        return
    rounds = [{kind: measured(kind, arguments) for kind in ("bare", "ours")} for _ in range(arguments.rounds)]
    ratios = {what: [r["ours"][what] / r["bare"][what] for r in rounds] for what in ("cpu", "wall", "peak_mb")}
    row = {"model": arguments.model, "arrays": arguments.arrays.name, "epochs": arguments.epochs, "rounds": len(rounds)}
    for what, values in ratios.items():
        row |= {f"{what}_ratio": round(statistics.median(values), 3), f"{what}_lowest": round(min(values), 3)}
        row |= {f"{what}_highest": round(max(values), 3)}
    for kind in ("bare", "ours"):
        row |= {f"{kind}_cpu_s": round(statistics.median(r[kind]["cpu"] for r in rounds), 1)}
        row |= {f"{kind}_peak_mb": round(statistics.median(r[kind]["peak_mb"] for r in rounds))}
    row |= {"cpus": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps(row))
    exists = arguments.csv.exists()
    with arguments.csv.open("a", newline="") as file:
        table = csv.DictWriter(file, list(row), lineterminator="\n")
        if not exists:
            table.writeheader()
        table.writerow(row)


if __name__ == "__main__":
    main()
