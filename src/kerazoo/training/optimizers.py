"""Optimizers, and the callbacks that control training: the plateau schedule and early stopping.

Batch, mini-batch and stochastic gradient descent are the same optimizer with three batch sizes; see
`training.batch_size`.
"""

from collections.abc import Mapping
from typing import Any

import keras

from kerazoo.callbacks.stopping import EarlyStopping
from kerazoo.recipes.parts import OptimizerPart
from kerazoo.training.layer_rates import with_layer_rates
from kerazoo.training.schedules import make_rate

# Biases, norms, PReLU slopes, and the scales of keras.applications' ConvNeXt, which are named "variable". Keras
# searches the whole path on TensorFlow ("stage1_bn/gamma:0"), but only the name on other backends: match whole names.
NOT_DECAYED = r"(^|/)(bias|gamma|beta|alpha|scale|variable(_\d+)?)(:\d+)?$"


def make_optimizer(
    part: OptimizerPart, *, steps: int, factors: Mapping[str, float] | None = None
) -> keras.optimizers.Optimizer:
    """The optimizer, with a schedule over `steps` batches; `factors` multiply its rate by the variables' paths.

    Weight decay is decoupled (Loshchilov & Hutter 2017, arXiv:1711.05101): each update subtracts rate * decay * w from
    w before the gradient's step, except for biases and norms. It does not pass through the momentum. An L2 penalty of
    strength d in SGD with momentum m corresponds to a decay of d / (1 - m) here. Keras's LAMB applies the decay outside
    the trust ratio, not inside it as You et al. 2019 (arXiv:1904.00962) do.

    `clip_norm` bounds the global norm of all gradients (Pascanu et al. 2013, arXiv:1211.5063), and `clip_value` bounds
    each number. `accumulate` batches make one update with their mean gradient. The schedule counts batches, not
    updates. An incomplete group at the end of the run makes no update. With `ema`, `fit` validates the weights
    themselves and replaces them by their averages at the end. The statistics of batch norm are not averaged.
    """
    rate = make_rate(part, steps=steps)
    common: dict[str, Any] = {"global_clipnorm": part.clip_norm, "clipvalue": part.clip_value}
    if part.accumulate > 1:
        common["gradient_accumulation_steps"] = part.accumulate
    if part.ema is not None:
        common |= {"use_ema": True, "ema_momentum": part.ema}
    if part.name == "sgd":
        common |= {"momentum": part.momentum, "nesterov": bool(part.nesterov)}
    # Keras's Adam has decoupled weight decay, too, so "adam" is AdamW with a decay of 0
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
    """The callbacks that change training: the plateau schedule, and early stopping after `patience` epochs.

    Both monitor val_loss and have state. Call them after the callback that sets the epoch, and before the loggers.
    """
    callbacks: list[keras.callbacks.Callback] = []
    if part.schedule == "plateau":
        callbacks.append(keras.callbacks.ReduceLROnPlateau("val_loss", factor=part.factor, patience=part.patience))
    if patience is not None:
        callbacks.append(EarlyStopping(patience))
    return callbacks
