"""How often a phase is kept that makes the expected test loss worse, by simulation: temperature, fine-tuning, average.

    python benchmarks/phase_selection.py [--repetitions 400] [--sizes 20 50 100 400 1000]

A cell is a population of 10,000 examples; a validation set of `size` is drawn from it again and again, the phase is
fitted and judged on it by the pipeline's own functions, and what would be shipped is measured on the whole population.
The true logits s of 5 classes give the labels (a share `noise` of which is then drawn anew):

- temperature: the model answers T s, with T = 0.5 (not sure enough), 1 (calibrated), 2 and 4 (too sure), or
  s + errors of its own ("uneven"); with 10 labels an example in place of classes, too ("labels").
- fine-tuning: the probe answers 0.7 s + errors; the tuned network s or 3 s + errors ("sure"), or as the probe ("same"),
  or the best on the validation set of 8 such epochs ("epochs").
- average: the mean of these logits by the share that is chosen, over the one of the two that was kept.
- regression: fine-tuning and the average where answers and labels are numbers and the loss is the squared error. Labels
  are s + errors of size `noise`, normal ones or such that some are far larger ("tails", Student's t of 3 degrees); the
  probe answers s + errors of size 0.5, the tuned network s + smaller errors ("better"), 1.5 s ("wide"), or as above.

`kept` is the share of repetitions in which the phase is kept; `harm` that in which it is kept and the loss on the
population is higher with it; `bound` the upper end of harm's 95 % interval (Clopper-Pearson); `before` and `after` are
the mean loss on the population without and with the phase, where it is kept.
"""

import argparse
import csv
import platform
from pathlib import Path

import numpy as np

from kerazoo.startup import start_tensorflow

start_tensorflow()

from kerazoo.tasks.scores import Measured  # noqa: E402
from kerazoo.tasks.task import find_task  # noqa: E402
from kerazoo.transfer.cross_fitting import SHARES, best_average, best_temperature, folds_of  # noqa: E402

POPULATION = 10_000
CLASSES = 5
LABELS = 10
EPOCHS = 8
PHASES = ("temperature", "average", "regression")
LABEL_ERRORS = (0.1, 0.5, 1.5)  # of numbers whose standard deviation is 1
MARGINS = {0.99: 8.0, 0.9: 4.3, 0.6: 1.7}  # of the true class, by the accuracy that it gives
FIELDS = ("phase", "state", "accuracy", "noise", "size", "repetitions", "kept", "harm", "bound", "before", "after")


def population(draw, accuracy, noise):
    """True logits (P, 5) and labels (P,) drawn from them, some of them anew."""
    logits = draw.normal(size=(POPULATION, CLASSES))
    logits[np.arange(POPULATION), draw.integers(CLASSES, size=POPULATION)] += MARGINS[accuracy]
    labels = (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)
    again = draw.random(POPULATION) < noise
    labels[again] = draw.integers(CLASSES, size=int(again.sum()))
    return logits, labels


def population_of_labels(draw, accuracy, noise):
    """The same of several labels, (P, 10) each."""
    logits = MARGINS[accuracy] * draw.choice([-1.0, 1.0], size=(POPULATION, LABELS)) + draw.normal(
        size=(POPULATION, LABELS)
    )
    labels = draw.random(logits.shape) < 1 / (1 + np.exp(-logits))
    labels ^= draw.random(logits.shape) < noise / 2
    return logits, labels.astype(np.float32)


def temperature_cell(draw, state, accuracy, noise, size, repetitions):
    """(kept, loss before, loss after) of each repetition."""
    task = "multilabel" if state.startswith("labels") else "multiclass"
    make = population_of_labels if task == "multilabel" else population
    truth, labels = make(draw, accuracy, noise)
    logits = truth + draw.normal(0, 2, truth.shape) if state == "uneven" else float(state.split()[-1]) * truth
    before = find_task(task).losses(logits, labels).mean()
    for _ in range(repetitions):
        rows = draw.choice(POPULATION, size, replace=False)
        best = best_temperature(logits[rows], labels[rows], find_task(task), folds_of(labels[rows], find_task(task)))
        after = find_task(task).losses(logits / best.value, labels).mean() if best.helps else before
        yield best.helps, before, after


def two_models(draw, state, accuracy, noise):
    """Labels, the probe's logits, and those of the tuned epochs."""
    truth, labels = population(draw, accuracy, noise)

    def errors(size):
        return draw.normal(0, size, truth.shape)

    probe = 0.7 * truth + errors(1)
    if state == "epochs":
        return labels, probe, [0.7 * truth + errors(1) for _ in range(EPOCHS)]
    tuned = {"better": truth + errors(1), "sure": 3 * truth + errors(3), "same": 0.7 * truth + errors(1)}
    return labels, probe, [tuned[state]]


def two_regressions(draw, state, noise):
    """The same of numbers, (P, 1) each."""
    truth = draw.normal(size=(POPULATION, 1))
    spread = draw.standard_t(3, truth.shape) / np.sqrt(3) if state == "tails" else draw.normal(size=truth.shape)
    labels = truth + noise * spread

    def answers(size):
        return truth + draw.normal(0, size, truth.shape)

    probe = answers(0.5)
    if state == "epochs":
        return labels, probe, [answers(0.5) for _ in range(EPOCHS)]
    if state == "wide":
        return labels, probe, [1.5 * truth]
    return labels, probe, [answers(0.3 if state == "better" else 0.5)]


def model_cells(draw, models, task, size, repetitions):
    """(kept, loss before, loss after) of each repetition, for fine-tuning and for the average."""
    labels, probe, epochs = models
    whole = [find_task(task).losses(logits, labels) for logits in epochs]
    loss_of_probe = find_task(task).losses(probe, labels).mean()
    expected = [
        {share: find_task(task).losses((1 - share) * probe + share * logits, labels).mean() for share in SHARES}
        for logits in epochs
    ]
    tuning, averaging = [], []
    for _ in range(repetitions):
        rows = draw.choice(POPULATION, size, replace=False)

        def measure(logits, rows=rows):
            return Measured.of(logits[rows], labels[rows], find_task(task))

        best = int(np.argmin([losses[rows].mean() for losses in whole]))
        before, after = measure(probe), measure(epochs[best])
        kept = after.helps_over(before, choices=len(epochs))
        now = whole[best].mean() if kept else loss_of_probe
        tuning.append((kept, loss_of_probe, now))

        folds = folds_of(labels[rows], find_task(task))
        found = best_average(
            [probe[rows]], [epochs[best][rows]],
            lambda weights, rows=rows: Measured.of(weights[0], labels[rows], find_task(task)),
            after if kept else before, folds,
        )  # fmt: skip
        kept_too = found.helps_over(after if kept else before)
        averaging.append((kept_too, now, expected[best][found.share] if kept_too else now))
    return {"fine-tuning": tuning, "average": averaging}


def row_of(phase, state, accuracy, noise, size, outcomes):
    from scipy.stats import beta

    kept, before, after = (np.array(column, float) for column in zip(*outcomes, strict=True))
    harm = int(((after > before) & (kept > 0)).sum())
    count = len(kept)
    bound = 1.0 if harm == count else beta.ppf(0.975, harm + 1, count - harm)
    chosen = kept > 0
    return {
        "phase": phase, "state": state, "accuracy": accuracy, "noise": noise, "size": size, "repetitions": count,
        "kept": f"{kept.mean():.4f}", "harm": f"{harm / count:.4f}", "bound": f"{bound:.4f}",
        "before": f"{before[chosen].mean():.4f}" if chosen.any() else "",
        "after": f"{after[chosen].mean():.4f}" if chosen.any() else "",
    }  # fmt: skip


def simulate(*, sizes, repetitions, accuracies=tuple(MARGINS), noises=(0.0, 0.05), phases=PHASES):
    """The rows of all cells, one by one."""
    for accuracy in accuracies:
        for noise in noises:
            for size in sizes:
                draw = np.random.default_rng([int(1000 * accuracy), int(1000 * noise), size])
                if "temperature" in phases:
                    for state in ("T 0.5", "T 1", "T 2", "T 4", "uneven", "labels 0.5", "labels 1", "labels 2"):
                        outcomes = list(temperature_cell(draw, state, accuracy, noise, size, repetitions))
                        yield row_of("temperature", state, accuracy, noise, size, outcomes)
                if "average" in phases:
                    for state in ("better", "sure", "same", "epochs"):
                        models = two_models(draw, state, accuracy, noise)
                        cells = model_cells(draw, models, "multiclass", size, repetitions)
                        for phase, outcomes in cells.items():
                            yield row_of(phase, state, accuracy, noise, size, outcomes)
    for noise in LABEL_ERRORS if "regression" in phases else ():
        for size in sizes:
            draw = np.random.default_rng([int(1000 * noise), size])
            for state in ("better", "wide", "same", "epochs", "tails"):
                models = two_regressions(draw, state, noise)
                for phase, outcomes in model_cells(draw, models, "regression", size, repetitions).items():
                    yield row_of(phase, f"regression, {state}", "", noise, size, outcomes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 50, 100, 400, 1000])
    parser.add_argument("--accuracies", type=float, nargs="+", choices=list(MARGINS), default=list(MARGINS))
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    rows = []
    settings = {name: getattr(arguments, name) for name in ("sizes", "repetitions", "accuracies", "phases")}
    for row in simulate(**settings):
        rows.append({**row, "numpy": np.__version__, "python": platform.python_version()})
        print(*(f"{row[field]!s:>18}" for field in FIELDS), flush=True)
    with arguments.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*FIELDS, "numpy", "python"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    worst = max(rows, key=lambda row: float(row["harm"]))
    print(f"worst cell: {worst['harm']} (up to {worst['bound']}), {worst['phase']} {worst['state']}, {worst['size']}")


if __name__ == "__main__":
    main()
