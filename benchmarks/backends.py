"""The same recipe on TensorFlow, on JAX, and on JAX in two processes: test accuracy and loss over seeds.

    python benchmarks/backends.py ARRAYS.npz [--recipe recipes/zoo/resnet20.toml] [--images 2000] [--epochs 6]
        [--batch 32] [--seeds 3]

ARRAYS.npz is whole CIFAR-10 (or alike); `--images` of train and of test are drawn by lot. The rate of the recipe,
which is for 128 images, goes down with the batch. Random numbers differ between the backends (initial weights), so
that runs can only agree as those of two seeds do: the band is that of Welch's t-test, 99 %, between the seeds' means.
"""

import argparse
import csv
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import ttest_ind

KINDS = ("tensorflow", "jax", "jax, 2 processes")


def take(arrays, images, path):
    """Write `images` of both splits, drawn by lot, to `path`."""
    with np.load(arrays) as whole:
        found = {}
        for split in ("train", "test"):
            x, y = whole[f"x_{split}"], whole[f"y_{split}"]
            drawn = np.random.default_rng(0).permutation(len(y))[:images]
            found |= {f"x_{split}": x[drawn], f"y_{split}": y[drawn]}
    np.savez(path, **found)


def command_of(arguments, data, seed):
    settings = {
        "training.epochs": arguments.epochs, "training.batch_size": arguments.batch, "data.validation": 0.1,
        "optimizer.learning_rate": 0.1 * arguments.batch / 128, "seed": seed, "log": "[]",
    }  # fmt: skip
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-P", "-m", "kerazoo", "train", str(arguments.recipe.resolve()), "--data", str(data), *sets]


def run(kind, command, folder):
    """The results of one training as `--json` gives them, and its seconds."""
    started = time.perf_counter()
    environment = {**os.environ, "KERAS_BACKEND": kind.split(",")[0], "JAX_PLATFORMS": "cpu"}
    count, on = (2, "multiworker") if "2 processes" in kind else (1, "cpu")
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    workers = []
    for index in range(count):
        place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        more = {"TF_CONFIG": json.dumps(place)} if count > 1 else {}
        workers.append(
            subprocess.Popen(
                [*command, "--devices", on, "--name", kind.replace(", ", "-").replace(" ", "-"), "--json"],
                cwd=folder, env=environment | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    said = [worker.communicate() for worker in workers]
    for worker, (_, errors) in zip(workers, said, strict=True):
        if worker.returncode:
            raise SystemExit(f"{kind}: code {worker.returncode}\n{errors[-2000:]}")
    return json.loads(said[0][0]) | {"wall": time.perf_counter() - started}


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arrays", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).parents[1] / "recipes/zoo/resnet20.toml")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    found = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as root:
        data = Path(root) / "subset.npz"
        take(arguments.arrays, arguments.images, data)
        for seed in range(arguments.seeds):
            folder = Path(root) / str(seed)
            folder.mkdir()
            for kind in KINDS:
                found[kind].append(run(kind, command_of(arguments, data, seed), folder))
                last = found[kind][-1]
                line = f"{kind}, seed {seed}: accuracy {last['test_accuracy']:.4f}, loss {last['test_loss']:.4f}"
                print(f"{line}, {last['wall']:.0f} s", file=sys.stderr, flush=True)
    rows = []
    for kind, results in found.items():
        row = {"recipe": arguments.recipe.stem, "images": arguments.images, "epochs": arguments.epochs}
        row |= {"batch": arguments.batch, "seeds": arguments.seeds, "backend": kind}
        for what in ("accuracy", "loss"):
            values = [result[f"test_{what}"] for result in results]
            row |= {f"{what}_mean": round(statistics.mean(values), 4), f"{what}_sd": round(statistics.stdev(values), 4)}
            other = [result[f"test_{what}"] for result in found["tensorflow"]]
            band = ttest_ind(values, other, equal_var=False).confidence_interval(0.99)
            row |= {f"{what}_difference": round(statistics.mean(values) - statistics.mean(other), 4)}
            row |= {f"{what}_band": f"{band.low:.4f} to {band.high:.4f}" if kind != "tensorflow" else ""}
        rows.append(row | {"cpus": os.cpu_count(), "machine": platform.machine()})
        print(rows[-1])
    exists = arguments.csv.exists()
    with arguments.csv.open("a", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        if not exists:
            table.writeheader()
        table.writerows(rows)
    outside = [r["backend"] for r in rows[1:] for what in ("accuracy", "loss") if not _holds_zero(r[f"{what}_band"])]
    sys.exit(f"outside of the band: {', '.join(outside)}" if outside else 0)


def _holds_zero(band):
    low, high = map(float, band.split(" to "))
    return low <= 0 <= high


if __name__ == "__main__":
    main()
