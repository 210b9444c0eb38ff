"""What the thresholds of labels are worth for new examples: F1 at 0.5, at the best threshold, and at the kept one.

    python benchmarks/label_thresholds.py

Writes label_thresholds.csv beside it; numpy only, half a minute. A label has calibrated probabilities of a beta
distribution; some examples choose its threshold, and 20,000 others measure it. Means over 60 draws, seed 0.
"""

import csv
from pathlib import Path

import numpy as np

from kerazoo.tasks.thresholds import HALF, best_threshold, f1, kept_threshold

DRAWS, NEW = 60, 20_000
SHAPES = ((0.3, 2.7), (0.9, 2.1), (3.0, 7.0), (1.0, 1.0), (5.0, 5.0))
EXAMPLES = (50, 200, 1000)


def measure(rng: np.random.Generator, a: float, b: float, count: int) -> list[float]:
    """F1 of new examples at 0.5, at the best and at the kept threshold; whether one was kept."""
    chances, others = rng.beta(a, b, count), rng.beta(a, b, NEW)
    has, new = rng.random(count) < chances, rng.random(NEW) < others
    kept = kept_threshold(has, chances)
    return [*(f1(new, others >= limit) for limit in (HALF, best_threshold(has, chances), kept)), kept != HALF]


def main() -> None:
    """Measure, print and write the table."""
    rng = np.random.default_rng(0)
    rows = [["beta", "share with the label", "examples", "F1 at 0.5", "F1 at the best", "F1 at the kept", "kept"]]
    for a, b in SHAPES:
        for count in EXAMPLES:
            means = np.mean([measure(rng, a, b, count) for _ in range(DRAWS)], axis=0)
            rows.append([f"{a:g}, {b:g}", f"{a / (a + b):.2f}", f"{count}", *(f"{mean:.3f}" for mean in means)])
            print("  ".join(rows[-1]))
    with Path(__file__).with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
