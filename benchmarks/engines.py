"""The engines that can compute features: time an image, processor time an image, and time to prepare the network.

    python benchmarks/engines.py [--models mobilenet_025 resnet50 efficientnet_b0] [--rounds 5]

Engines take turns, a batch of 32 images each, in one process; the medians of the rounds are compared with Keras's in
the same process. Processor time counts all cores; it does not depend on what else runs as much as time does.
"""

import argparse
import csv
import os
import platform
import statistics
import time
from pathlib import Path

from kerazoo.startup import start_tensorflow

BATCH = 32
COLUMNS = (
    "network",
    "engine",
    "prepared_in_s",
    "ms_an_image",
    "cpu_ms_an_image",
    "time_beside_keras",
    "cores",
    "machine",
)


def measured(name, rounds):
    """Rows of a network."""
    import numpy as np

    import kerazoo
    from kerazoo.models.engines import PACKAGES, make_runner
    from kerazoo.models.heads.classifier import feature_extractor

    model = feature_extractor(kerazoo.build(name, weights="none"))
    batch = np.random.default_rng(0).uniform(0, 1, (BATCH, *model.input_shape[1:])).astype(np.float32)
    runners, made = {}, {}
    for engine in PACKAGES:
        begin = time.perf_counter()
        runners[engine] = make_runner(model, engine, batch)
        made[engine] = time.perf_counter() - begin
        runners[engine](batch)
    took = {engine: [] for engine in runners}
    for _ in range(rounds):
        for engine, run in runners.items():
            begin, cpu = time.perf_counter(), time.process_time()
            run(batch)
            took[engine].append((time.perf_counter() - begin, time.process_time() - cpu))
    keras = statistics.median(seconds for seconds, _ in took["keras"])
    for engine, times in took.items():
        seconds, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        values = (made[engine], 1000 * seconds / BATCH, 1000 * cpu / BATCH, seconds / keras)
        yield dict(zip(COLUMNS, (name, engine, *(round(v, 3) for v in values)), strict=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=["mobilenet_025", "mobilenet_v2_100", "efficientnet_b0", "resnet50"]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    start_tensorflow()
    rows = []
    for name in arguments.models:
        for row in measured(name, arguments.rounds):
            print("  ".join(map(str, row.values())), flush=True)
            rows.append(row | {"cores": os.cpu_count(), "machine": platform.machine()})
    with arguments.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
