"""Optimizers and what steers them: the rate over the run, averages of the weights, and when to stop.

Batch, mini-batch and stochastic gradient descent are one optimizer at three batch sizes; see `training.batch_size`.
"""

from collections.abc import Mapping
from typing import Any

import keras

from kerazoo.callbacks.stopping import EarlyStopping
from kerazoo.recipes.parts import OptimizerPart
from kerazoo.training.layer_rates import with_layer_rates
from kerazoo.training.schedules import make_rate

# Biases, norms, PReLU slopes, and the scales of keras.applications' ConvNeXt, which have no name of their own. Keras
# searches the whole path on TensorFlow ("stage1_bn/gamma:0"), the name alone on other backends: match whole names.
NOT_DECAYED = r"(^|/)(bias|gamma|beta|alpha|scale|variable(_\d+)?)(:\d+)?$"


def make_optimizer(
    part: OptimizerPart, *, steps: int, factors: Mapping[str, float] | None = None
) -> keras.optimizers.Optimizer:
    """The optimizer, its rate planned over `steps` batches; `factors` of it by the variables' paths.

    Weight decay is decoupled (Loshchilov & Hutter 2017, arXiv:1711.05101): each update takes rate * decay * w from w
    before the gradient's step, and spares biases and norms. So it does not pass through the momentum: a penalty of
    L2 strength d in SGD with momentum m, which the momentum adds up, is a decay of d / (1 - m) here. Keras's LAMB
    decays beside the trust ratio, not within it as You et al. 2019 (arXiv:1904.00962) do.

    `clip_norm` bounds the norm of all gradients together (Pascanu et al. 2013, arXiv:1211.5063), `clip_value` each
    number. `accumulate` batches make one update of their mean gradient; batches, not updates, are the steps of the
    rate's plan, and what is left of a group at the end of the run moves nothing. `ema`: `fit` replaces the weights by
    their averages at its end, and validates the weights themselves until then; batch norm's statistics stay those of
    the weights.
    """
    rate = make_rate(part, steps=steps)
    common: dict[str, Any] = {"global_clipnorm": part.clip_norm, "clipvalue": part.clip_value}
    if part.accumulate > 1:
        common["gradient_accumulation_steps"] = part.accumulate
    if part.ema is not None:
        common |= {"use_ema": True, "ema_momentum": part.ema}
    if part.name == "sgd":
        common |= {"momentum": part.momentum, "nesterov": bool(part.nesterov)}
    # weight_decay in Keras's Adam is decoupled too: "adam" is AdamW that decays nothing
    kind = {"sgd": keras.optimizers.SGD, "lamb": keras.optimizers.Lamb, "lion": keras.optimizers.Lion}.get(
        part.name, keras.optimizers.AdamW
    )
    decay = part.weight_decay or 0.0
    if factors is not None:
        return with_layer_rates(kind)(
            rate, weight_decay=0.0, factors=factors, decay=decay, spared=NOT_DECAYED, **common
        )
    optimizer = kind(rate, weight_decay=decay if part.name in ("adam", "adamw") else decay or None, **common)
    optimizer.exclude_from_weight_decay(var_names=[NOT_DECAYED])
    return optimizer


def control_callbacks(part: OptimizerPart, patience: int | None) -> list[keras.callbacks.Callback]:
    """The callbacks that change training: the plateau's rate, and early stopping after `patience` epochs.

    Both watch val_loss. They keep state; they go before watchers, and after whatever sets the epoch.
    """
    callbacks: list[keras.callbacks.Callback] = []
    if part.schedule == "plateau":
        callbacks.append(keras.callbacks.ReduceLROnPlateau("val_loss", factor=part.factor, patience=part.patience))
    if patience is not None:
        callbacks.append(EarlyStopping(patience))
    return callbacks
