"""What the search for look-alikes costs: seconds and peak memory for N pictures, N^2 / 2 pairs.

    python benchmarks/near_duplicates.py [--counts 10000 30000 100000]

The pictures are hashes and thumbnails made at random, with one in a hundred planted as a look-alike of another: what
they look like does not change the cost of comparing every pair.
"""

import argparse
import csv
import os
import platform
import resource
import time
from pathlib import Path

import numpy as np

from kerazoo.quiet import start_tensorflow

start_tensorflow()

from kerazoo.pipelines.duplicates import look_alikes  # noqa: E402
from kerazoo.pipelines.inspection import THUMB, Inspection  # noqa: E402


def pictures(count):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (count, 2), dtype=np.uint64) << np.uint64(1)
    thumbs = rng.integers(0, 256, (count, THUMB * THUMB * 3)).astype(np.uint8)
    planted = rng.choice(count // 2, count // 100, replace=False)
    hashes[planted + count // 2, 0] = hashes[planted, 0] ^ np.uint64(0b110)
    thumbs[planted + count // 2] = thumbs[planted]
    found = [
        Inspection(pixels=str(i), hash=int(a), mirrored=int(b), thumb=t.tobytes())
        for i, ((a, b), t) in enumerate(zip(hashes, thumbs, strict=True))
    ]
    return found, len(planted)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    rows = []
    for count in arguments.counts:
        found, planted = pictures(count)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        pairs, _ = look_alikes(found)
        seconds = time.perf_counter() - start
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
        row = {
            "pictures": count, "seconds": round(seconds, 1), "more_memory_mb": round(more), "planted": planted,
            "found": len(pairs), "cpus": os.cpu_count(), "machine": platform.machine(), "numpy": np.__version__,
        }  # fmt: skip
        rows.append(row)
        print(f"{count:8,} pictures: {seconds:6.1f} s, {more:5.0f} MB more, {len(pairs)} of {planted} look-alikes")
    with arguments.csv.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
