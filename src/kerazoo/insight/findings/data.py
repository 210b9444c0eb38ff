"""What training says about its data: labels, overfitting, and waiting."""

from collections.abc import Sequence

import numpy as np

from kerazoo.insight.findings.finding import Finding, Severity

WORST = 0.02  # of the examples are listed
FEWEST_EPOCHS = 3  # of margins, before they say anything
RISE = 1.1  # times the best validation loss
GAP_FACTOR = 2.0  # times the training loss in the same mode
AGE = 0.25  # of the epochs since the best one
WAITING, WAITING_SERIOUS = 0.2, 0.5  # of the time of a step
LEAST_WAITING = 0.01  # seconds a step: a call of the step from Python alone takes up to 3 ms here, which counts in
PACE = 0.9  # of a step: a batch that takes longer by itself leaves no room for computing
CHANGE_PIPELINE = (
    "Set data.cache to 'always', store the images smaller, or use more processor cores; outside kerazoo, `prefetch` "
    "and parallel `map`."
)


def label_errors(margins: np.ndarray, epochs: int) -> Finding | None:
    """`margins` (N,): the mean over epochs of z_y - max of the others, NaN where an example was not seen.

    Area under the margin: Pleiss et al. 2020, arXiv:2001.10528. A note: a person must look, nothing is removed.
    """
    known = np.flatnonzero(np.isfinite(margins))
    if epochs < FEWEST_EPOCHS or not known.size or np.median(margins[known]) <= 0:
        return None  # what has not been learned cannot contradict a label
    order = known[np.argsort(margins[known], kind="stable")]
    count = int((margins[known] < 0).sum())
    listed = order[: max(round(WORST * known.size), 1)]
    listed = listed[margins[listed] < 0]
    if not listed.size:
        return None
    return Finding(
        "label_errors", "note", "",
        {"examples": known.size, "negative_margin": count, "listed": listed.size, "lowest_margin": margins[order[0]]},
        f"Of {known.size} examples, {count} were on average answered with another class than their label. The worst "
        "ones often have a wrong label; hard and rare images are among them.",
        "Look at the listed images, and correct or remove those that are wrong.",
        tuple(int(index) for index in listed),
    )  # fmt: skip


def overfitting(val_losses: Sequence[float], train_loss: float | None, *, kept_best: bool = False) -> Finding | None:
    """`val_losses` by epoch; `train_loss` at the end in the same mode as validation, dropout and augmentation off.

    `kept_best`: the weights of the best epoch came back, so that it costs time only.
    """
    losses = np.asarray(val_losses, float)
    if losses.size < 2 or not np.isfinite(losses).all():
        return None
    best = int(losses.argmin())
    age = losses.size - 1 - best
    last = float(losses[-1])
    rose = age >= max(AGE * losses.size, 2) and last > RISE * losses[best]
    apart = train_loss is None or last > GAP_FACTOR * train_loss
    if not (rose and apart):
        return None
    evidence = {"best_val_loss": float(losses[best]), "last_val_loss": last, "epochs_since_best": age}
    severity: Severity = "note" if kept_best or last < 1.5 * losses[best] else "warning"
    return Finding(
        "overfitting", severity, f"epoch {best + 1}",
        evidence | ({} if train_loss is None else {"train_loss": train_loss}),
        f"The validation loss was best after epoch {best + 1} and rose since, while the training loss fell. The "
        "network learns the training images by heart.",
        "Set training.early_stopping, more augmentation, optimizer.weight_decay or dropout, or fewer epochs.",
    )  # fmt: skip


def data_bound(waiting: float, step: float) -> Finding | None:
    """Seconds a step takes, and those of them that it waits for its batch."""
    share = waiting / step if step > 0 else 0.0
    if share <= WAITING or waiting < LEAST_WAITING:
        return None
    return Finding(
        "data_bound", "serious" if share > WAITING_SERIOUS else "warning", "",
        {"share": share, "seconds_waiting": waiting, "seconds_a_step": step, "limit": WAITING},
        f"Steps wait for their images {share:.0%} of the time. The network could train "
        f"{1 / max(1 - share, 0.01):.1f} times as fast.",
        CHANGE_PIPELINE,
    )  # fmt: skip


def data_alone(batch: float, step: float) -> Finding | None:
    """Seconds that a batch takes to be made while nothing is trained, and seconds of a step.

    A step cannot be shorter than its batch. Where both are equal, nothing but the data sets the pace.
    """
    if step <= 0 or batch < LEAST_WAITING or batch / step < PACE:
        return None
    return Finding(
        "data_bound", "warning", "", {"seconds_a_batch": batch, "seconds_a_step": step, "limit": PACE},
        "To make a batch takes about as long as a step: the data set the pace. Processors or GPUs wait.",
        CHANGE_PIPELINE,
    )  # fmt: skip
