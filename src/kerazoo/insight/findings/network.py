"""What the units of the network, its statistics, its output and its frozen parts look like."""

import math
from collections.abc import Mapping, Sequence

from kerazoo.insight.findings.finding import Finding, Severity

DEAD, DEAD_SERIOUS = 0.1, 0.4  # of a layer's units; CS231n: "as much as 40 % ... if the learning rate is too high"
FEWEST_IMAGES = 256  # of which dead units are more than a note; better are 512
FAST = 0.5  # progress below: the network learns well
SATURATED = 0.5  # of a layer's activations: Glorot & Bengio 2010
LAG = 0.5  # standard deviations of the means, and log ratio of the variances
GAP = 0.02  # of accuracy, between batch statistics and moving ones
SUM_TO_ONE = 1e-3  # how near outputs sum to 1 that are taken for probabilities
BEYOND = 0.5  # of the width of the expected range: how far values may lie outside
NARROW = 0.1  # of the expected width: values that use less were scaled twice
LARGEST_PLAIN = 20.0  # of inputs that no layer scales; 0-255 is far beyond, standardized values are not
SMALLEST_PLAIN = 0.05  # 0-255 divided by 255 twice gives at most 0.004
MOVED = 0.1  # of their norm: pretrained weights that moved more
HEAD_FACTOR = 1.0  # times the movement of the head


def dead_units(
    shares: Mapping[str, float], *, images: int = FEWEST_IMAGES, progress: float | None = None
) -> Finding | None:
    """`shares`: layer -> share of its ReLU units or channels that are 0 on every one of `images`.

    In a network that learns well (`progress`: see learning.py) they cost room only, and weigh one degree less. On few
    images many healthy units are 0: a note at most. So are up to 40 % of a layer where layers have at most 10 % on
    average.
    """
    bad = {layer: share for layer, share in shares.items() if share > DEAD}
    if not bad:
        return None
    worst = max(bad, key=lambda layer: bad[layer])
    degree = (bad[worst] > DEAD_SERIOUS) + (progress is None or progress >= FAST)
    few = bad[worst] <= DEAD_SERIOUS and sum(shares.values()) <= DEAD * len(shares)
    degree = degree if images >= FEWEST_IMAGES and not few else 0
    severities: tuple[Severity, ...] = ("note", "warning", "serious")
    return Finding(
        "dead_units", severities[degree], worst,
        {"share": bad[worst], "layers": len(bad), "of": len(shares), "images": images, "limit": DEAD},
        f"{bad[worst]:.0%} of the units of this layer are 0 on every probe image. They get no gradient and do not come "
        "back.",
        "Lower optimizer.learning_rate, set optimizer.warmup, or use leaky ReLU or GELU.",
    )  # fmt: skip


def saturated_units(shares: Mapping[str, float]) -> Finding | None:
    """`shares`: layer -> share of its sigmoid (below 0.05, over 0.95) or tanh (beyond 0.97) activations at the ends."""
    bad = {layer: share for layer, share in shares.items() if share > SATURATED}
    if not bad:
        return None
    worst = max(bad, key=lambda layer: bad[layer])
    return Finding(
        "saturated_units", "warning", worst,
        {"share": bad[worst], "layers": len(bad), "of": len(shares), "limit": SATURATED},
        "Most activations of this layer lie at the flat ends of their function. Hardly any gradient passes there.",
        "Use ReLU or GELU, batch norm before the activation (model.arguments), or smaller initial weights or inputs.",
    )  # fmt: skip


def batch_norm_lag(
    shifts: Mapping[str, float], spreads: Mapping[str, float], *, gap: float | None = None
) -> Finding | None:
    """`shifts`: layer -> median |moving mean - mean| / deviation; `spreads`: median |ln(moving variance / variance)|.

    `gap` is accuracy with batch statistics minus accuracy with moving ones, on the same images.
    """
    bad = [layer for layer in shifts if shifts[layer] > LAG or spreads[layer] > LAG]
    if not bad:
        return None
    worst = max(bad, key=lambda layer: max(shifts[layer], spreads[layer]))
    severity: Severity = "warning"
    if gap is not None:
        severity = "serious" if gap > 5 * GAP else "warning" if gap > GAP else "note"
    evidence = {"shift": shifts[worst], "spread": spreads[worst], "layers": len(bad), "of": len(shifts), "limit": LAG}
    return Finding(
        "batch_norm_lag", severity, worst, evidence | ({} if gap is None else {"accuracy_gap": gap}),
        "The moving statistics of batch norm are not those of the data. Validation and exports use them, so answers "
        "there are worse than in training.",
        "Set model.arguments momentum to max(1 - 10 / steps an epoch, 0.9), train longer, or re-estimate the "
        "statistics.",
    )  # fmt: skip


def output_activation(*, from_logits: bool, sum_error: float, lowest: float) -> Finding | None:
    """Whether outputs and loss agree: `sum_error` is the largest |sum - 1| of an output, `lowest` the lowest number."""
    probabilities = sum_error < SUM_TO_ONE and lowest >= 0
    evidence = {"largest_sum_error": sum_error, "lowest": lowest, "limit": SUM_TO_ONE}
    if from_logits and probabilities:
        return Finding(
            "softmax_twice", "serious", "the last layer", evidence,
            "The outputs are probabilities already, and the loss takes them for logits: softmax is applied twice. The "
            "loss cannot come near 0, and gradients are weak.",
            "Remove the softmax of the last layer, or compile the loss with from_logits=False.",
        )  # fmt: skip
    if not from_logits and not probabilities and math.isfinite(sum_error):
        return Finding(
            "softmax_missing", "serious", "the last layer", evidence,
            "The outputs are not probabilities, and the loss takes them for such. Negative outputs count as 0.",
            "Compile the loss with from_logits=True, or end the network with a softmax.",
        )  # fmt: skip
    return None


def loss_floor(classes: int) -> float:
    """The lowest cross-entropy of a softmax of probabilities: ln(1 + (C - 1) / e)."""
    return math.log(1 + (classes - 1) / math.e)


def input_range(
    lowest: float, highest: float, mean: float, *, expects: tuple[float, float] | None = None, scaled: bool = False
) -> Finding | None:
    """The values of inputs against what the network `expects`, or against what is usual.

    `scaled`: the network begins with a layer that scales or normalizes; nothing is then said without `expects`.
    """
    if not all(map(math.isfinite, (lowest, highest))):
        return None
    wrong = ""
    if expects is not None:
        low, high = expects
        width = high - low
        if lowest < low - BEYOND * width or highest > high + BEYOND * width:
            wrong = f"they should lie within {low:g} to {high:g}"
        elif highest - lowest < NARROW * width:
            wrong = f"they use less than {NARROW:.0%} of {low:g} to {high:g}; they may be scaled twice"
        limits = {"expected_lowest": low, "expected_highest": high}
    else:
        limits = {"limit": LARGEST_PLAIN}
        size = max(abs(lowest), abs(highest))
        if size > LARGEST_PLAIN and not scaled:
            wrong = "no layer of the network scales them"
        elif 0 < size < SMALLEST_PLAIN and not scaled:
            wrong = "they are very small; they may be scaled twice"
            limits = {"limit": SMALLEST_PLAIN}
    if not wrong:
        return None
    return Finding(
        "input_range", "serious" if expects is not None else "warning", "the input",
        {"lowest": lowest, "highest": highest, "mean": mean, **limits},
        f"Inputs lie within {lowest:.4g} to {highest:.4g}: {wrong}. Initial weights, rates and pretrained features fit "
        "another scale.",
        "Scale the images as the network expects, e.g. by a Rescaling layer or the preprocessing of its weights.",
    )  # fmt: skip


def frozen_moves(moved: Sequence[str], frozen: int) -> Finding | None:
    """`moved`: the frozen variables whose bits changed, of `frozen` ones."""
    if not moved:
        return None
    return Finding(
        "frozen_weights_move", "serious", moved[0], {"moved": len(moved), "frozen": frozen},
        "These weights are marked as frozen, and training changed them. Keras uses what `trainable` was when the step "
        "was first traced.",
        "Call `model.compile` again after a change of `trainable`; set transfer.unfreeze in a recipe.",
    )  # fmt: skip


def feature_movement(body: Mapping[str, float], head: float) -> Finding | None:
    """`body`: block -> |w - w_pre| / |w_pre|, early blocks first; `head`: the same of the new head.

    Early features that move before the head has learned anything are lost. Source: Kumar et al. 2022, arXiv:2202.10054.
    """
    if not body:
        return None
    early = list(body)[: max(len(body) // 2, 1)]
    worst = max(early, key=lambda block: body[block])
    if body[worst] <= MOVED or body[worst] <= HEAD_FACTOR * head:
        return None
    return Finding(
        "feature_movement", "warning", worst, {"moved": body[worst], "head_moved": head, "limit": MOVED},
        "Pretrained early layers moved by more than a tenth of their norm, and more than the head. What they had "
        "learned may be lost.",
        "Train the head first (the probe), lower optimizer.learning_rate or transfer.decay, or freeze more.",
    )  # fmt: skip
