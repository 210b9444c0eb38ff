"""Is it learning: losses, updates and gradients.

`progress` is the training loss (cross-entropy) over the entropy of the labels: 1 is a network that knows only how
frequent the classes are, 0 one that knows all; None where labels are not classes.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from kerazoo.insight.findings.finding import Finding, Severity

# times ln C. Karpathy's recipe, "verify loss at init"; 1.3 is the rule of thumb, and healthy networks with batch norm
# before a Glorot head begin at up to 1.7 (record 14)
START_FACTOR, START_WARNING = 1.3, 2.5
UNLEARNED = 0.98  # of the entropy of the labels
FEWEST_STEPS = 200  # before nothing learned is serious: a healthy ResNet-32 had learned nothing after 100 (record 14)
SLOW, FAST = 0.9, 0.5  # progress above: hardly learned anything; below: it learns well
LOW_RATIO, HIGH_RATIO = 1e-5, 2e-2  # updates / weights a step; CS231n: about 1e-3, lower and higher are suspicious
DEAD = 0.4  # of a layer's units: CS231n, see network.py
WINDOW = 50  # samples of a median
VANISHING, EXPLODING = 1e-3, 1e3  # of the first kernel over the last, root mean square a weight: Glorot & Bengio 2010
FEWEST_KERNELS = 3  # of which one can say how gradients change with depth
SPIKE = 10.0  # times the running median of the norm: Pascanu et al. 2013 clip there
SPIKES_SHARE = 0.05  # of the samples
BATCH_BAND = 4.0  # a batch between noise / 4 and noise * 4 is well chosen: McCandlish et al. 2018, figure 4
MICRO_BATCHES = 8  # the fewest that a noise scale is estimated from


def loss_at_start(loss: float, classes: int) -> Finding | None:
    """`loss` is the cross-entropy of the first step, before any update; `classes` C."""
    expected = math.log(classes)
    if not math.isfinite(loss) or loss <= START_FACTOR * expected:
        return None
    severity: Severity = "warning" if loss > START_WARNING * expected else "note"
    return Finding(
        "loss_at_start", severity, "step 1", {"loss": loss, "ln_classes": expected, "limit": START_FACTOR * expected},
        f"A new network should guess: a loss of ln {classes} = {expected:.2f}. It began sure of wrong answers: its "
        "outputs are too large.",
        "Check the scale of the inputs (data, model.arguments) and the initial weights of the last layer.",
    )  # fmt: skip


def nothing_learned(loss: float, entropy: float, *, steps: int = FEWEST_STEPS) -> Finding | None:
    """`loss` is the mean cross-entropy of the last of `steps`, `entropy` that of the labels, in nats.

    Before 200 steps a deep network may still be on its way.
    """
    if not math.isfinite(loss) or entropy <= 0 or loss < UNLEARNED * entropy:
        return None
    return Finding(
        "nothing_learned", "serious" if steps >= FEWEST_STEPS else "warning", "",
        {"loss": loss, "label_entropy": entropy, "limit": UNLEARNED * entropy, "steps": steps},
        "The loss is no better than that of answering how frequent the classes are. Other findings may say why.",
        "Run `kerazoo try --one-batch` and `--learning-rate`; then set optimizer.learning_rate, or check the labels.",
    )  # fmt: skip


def update_ratio(
    samples: Mapping[str, Sequence[float]], *, progress: float | None = None, dead: float = 0.0
) -> Finding | None:
    """`samples`: kernel -> norm of update / norm of weight, over time; `dead`: the worst layer's share of dead units.

    Low is judged by the highest median of any 50 samples, since schedules end at zero; high by the median of all, and
    where nothing was learned and units died, by the largest sample: dead units have no updates any more.
    Alone it is weak evidence, where batch norm or Adam make the scale of weights free: it weighs as much as the loss.
    """
    known = [np.asarray(values, float)[np.isfinite(values)] for values in samples.values()]
    known = [values for values in known if values.any()]
    if not known:
        return None  # `unmoved` says so
    low = float(np.median([_highest_median(values) for values in known]))
    high = float(np.median([np.median(values) for values in known]))
    largest = float(np.median([values.max() for values in known]))
    lost = progress is not None and progress >= UNLEARNED
    killed = lost and largest > HIGH_RATIO and (dead > DEAD or largest > 5 * HIGH_RATIO)
    if killed or high > HIGH_RATIO:
        ratio = largest if killed else high
        learns = progress is not None and progress < FAST
        return Finding(
            "update_ratio_high", "serious" if killed or lost else "note" if learns else "warning", "",
            {"ratio": ratio, "limit": HIGH_RATIO, **_known(progress=progress, dead=dead or None)},
            f"A step changes the weights by {ratio:.1g} of their size; about 1e-3 is usual. Steps overshoot, and units "
            "may die.",
            "Lower optimizer.learning_rate 3 to 10 times, or set optimizer.warmup.",
        )  # fmt: skip
    if low < LOW_RATIO and largest < 100 * LOW_RATIO:  # else it died of large ones
        return Finding(
            "update_ratio_low", "note" if progress is not None and progress < SLOW else "warning", "",
            {"ratio": low, "limit": LOW_RATIO, **_known(progress=progress)},
            f"A step changes the weights by {low:.1g} of their size; about 1e-3 is usual. Learning takes too long, or "
            "never begins.",
            "Raise optimizer.learning_rate 3 to 10 times (`kerazoo try --learning-rate` suggests one).",
        )  # fmt: skip
    return None


def unmoved(samples: Mapping[str, Sequence[float]]) -> Finding | None:
    """Trainable kernels whose update ratio was exactly 0 in every sample: no gradient reaches them."""
    still = [name for name, values in samples.items() if len(values) and not np.any(values)]
    if not still:
        return None
    whole = len(still) == len(samples)
    return Finding(
        "unmoved_weights", "serious" if whole else "warning", ", ".join(still[:3]) + (" ..." if len(still) > 3 else ""),
        {"kernels": len(still), "of": len(samples)},
        "These weights may be trained, but no update ever changed them. Nothing between them and the loss passes a "
        "gradient: dead units, or a layer that is not connected.",
        "Lower optimizer.learning_rate; look at dead_units; check the network.",
    )  # fmt: skip


def gradients_by_depth(mean_squares: Mapping[str, Sequence[float]], *, progress: float | None = None) -> Finding | None:
    """`mean_squares`: kernel, the first layer's first -> mean square of the gradient a weight, over time."""
    sizes = []
    for values in mean_squares.values():
        known = np.asarray(values, float)
        known = known[np.isfinite(known)]
        sizes.append(math.sqrt(float(np.median(known))) if known.size else math.nan)
    if len(sizes) < FEWEST_KERNELS or not math.isfinite(sizes[0]) or not math.isfinite(sizes[-1]) or not sizes[-1]:
        return None
    ratio = sizes[0] / sizes[-1]
    names = list(mean_squares)
    severity: Severity = "note" if progress is not None and progress < FAST else "warning"
    if progress is not None and progress >= SLOW:
        severity = "serious"
    evidence = {"first": sizes[0], "last": sizes[-1], "ratio": ratio}
    if ratio < VANISHING:
        return Finding(
            "vanishing_gradients", severity, f"{names[0]} to {names[-1]}",
            {**evidence, "limit": VANISHING, **_known(progress=progress)},
            "Gradients shrink on their way to the first layers, which hardly learn. Each layer multiplies them by less "
            "than 1.",
            "Use ReLU or GELU, batch norm or shortcuts (model.arguments); another initializer for the depth.",
        )  # fmt: skip
    if ratio > EXPLODING:
        return Finding(
            "exploding_gradients", severity, f"{names[0]} to {names[-1]}",
            {**evidence, "limit": EXPLODING, **_known(progress=progress)},
            "Gradients grow on their way to the first layers, whose steps are then too large. Each layer multiplies "
            "them by more than 1.",
            "Use batch norm or shortcuts (model.arguments), optimizer.clip_norm, or a smaller initializer.",
        )  # fmt: skip
    return None


def gradient_spikes(norms: Sequence[float], *, progress: float | None = None) -> Finding | None:
    """`norms` of all gradients together, in order; a spike is ten times the median of the 50 before it."""
    values = np.asarray(norms, float)
    values = values[np.isfinite(values)]
    spikes = [
        float(value / median)
        for index, value in enumerate(values)
        if index >= WINDOW // 2 and (median := float(np.median(values[max(index - WINDOW, 0) : index]))) > 0
        if value > SPIKE * median
    ]
    if not spikes:
        return None
    share = len(spikes) / len(values)
    learns = progress is not None and progress < FAST
    return Finding(
        "gradient_spikes", "warning" if share > SPIKES_SHARE and not learns else "note", "",
        {"spikes": len(spikes), "samples": len(values), "largest_factor": max(spikes), "limit": SPIKE},
        "Single gradients are far larger than those before them. One such step can undo many.",
        "Set optimizer.clip_norm, or lower optimizer.learning_rate; look at the batches at these steps.",
    )  # fmt: skip


def noise_scale(micro_norms: Sequence[float], mean_norm: float, size: int) -> float | None:
    """B_simple = tr(S) / |G|^2 of n gradients of `size` examples each, and of their mean; None where it is unstable.

    |G|^2 = (n |mean|^2 - a) / (n - 1) and tr(S) = size (a - |mean|^2) n / (n - 1), a the mean of the squared norms: the
    two estimators of McCandlish et al. 2018, arXiv:1812.06162, appendix A.1, for batches of `size` and n `size`.
    """
    count = len(micro_norms)
    small = float(np.mean(np.square(micro_norms))) if count else math.nan
    large = mean_norm**2
    if count < MICRO_BATCHES or not math.isfinite(small + large):
        return None
    signal = (count * large - small) / (count - 1)
    # for pure noise count * large / small is 1, on average; below twice that the signal is not told from it
    if not small or count * large < 2 * small:
        return None
    return max(size * (small - large) * count / (count - 1), 0.0) / signal


def batch_against_noise(scale: float | None, batch: int) -> Finding | None:
    """`scale` is `noise_scale`, `batch` the number of examples of a step. A note at most: both may be meant."""
    if scale is None or batch * BATCH_BAND >= scale >= batch / BATCH_BAND:
        return None
    small = batch * BATCH_BAND < scale
    return Finding(
        "noise_scale", "note", "", {"noise_scale": scale, "batch_size": batch, "band": BATCH_BAND},
        "A step is mostly noise of its batch: a larger batch would take fewer steps, almost in proportion."
        if small
        else "Gradients of a batch hardly differ from one another: a smaller batch would learn as much from a step.",
        "Raise training.batch_size, or optimizer.accumulate, or lower optimizer.learning_rate."
        if small
        else "A smaller training.batch_size gives more steps for the same work; a larger one gains little.",
    )  # fmt: skip


def non_finite(
    step: int, *, layer: str = "", cause: str = "", examples: Sequence[int] = (), saved: str = ""
) -> Finding:
    """The first step whose loss was not finite. `cause`: "input" (of rows `examples` of the batch), "weights" or
    "output" of `layer`, "loss", or "" where it is not known; `saved` is the file.
    """
    why = {
        "input": f"{len(examples)} images of the batch hold NaN or infinity.",
        "weights": f"The weights of {layer} were not finite before that step: the update before it broke them.",
        "output": f"{layer} is the first layer whose output was not finite; its input was.",
        "loss": "The outputs were finite: the loss, or a regularizer, was not.",
        "": "Which layer was first is not known.",
    }[cause]
    change = {
        "input": "Run `kerazoo check` on the data, and remove or mend these images.",
        "weights": "Lower optimizer.learning_rate, set optimizer.clip_norm or optimizer.warmup.",
        "output": "Lower optimizer.learning_rate; look for log, sqrt, exp or a division in that layer.",
        "loss": "Check the labels and the loss (training.loss); lower optimizer.learning_rate.",
        "": "Lower optimizer.learning_rate, or set optimizer.clip_norm.",
    }[cause]
    if saved:
        change += f" The batch is in {saved}."
    place = {"input": "the input", "weights": layer, "output": layer, "loss": "the loss", "": ""}[cause]
    return Finding(
        "non_finite", "serious", f"step {step}" + (f", {place}" if place else ""),
        {"step": step, **({"images": len(examples)} if cause == "input" else {})},
        f"The loss became NaN or infinite. {why}", change, tuple(int(index) for index in examples),
    )  # fmt: skip


def _highest_median(known: np.ndarray) -> float:
    windows = [known[start : start + WINDOW] for start in range(0, max(known.size - WINDOW, 0) + 1, WINDOW // 2)]
    return max(float(np.median(window)) for window in windows)


def _known(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
