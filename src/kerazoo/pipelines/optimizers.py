"""Optimizers and what steers them: the rate over the run, averages of the weights, and when to stop.

Batch, mini-batch and stochastic gradient descent are one optimizer at three batch sizes; see `training.batch_size`.
"""

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import KerasTensor, ops

from kerazoo.pipelines.layer_rates import with_layer_rates
from kerazoo.pipelines.recipe import OptimizerPart, Recipe

# Biases, norms, PReLU slopes, and the scales of keras.applications' ConvNeXt, which have no name of their own. Keras
# searches the whole path on TensorFlow ("stage1_bn/gamma:0"), the name alone on other backends: match whole names.
NOT_DECAYED = r"(^|/)(bias|gamma|beta|alpha|scale|variable(_\d+)?)(:\d+)?$"

register = keras.saving.register_keras_serializable(package="kerazoo")


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


def make_rate(part: OptimizerPart, *, steps: int) -> Any:
    """The learning rate: a schedule over `steps` batches, or a number where a callback moves it or nothing does.

    A schedule is a function of the optimizer's count of batches alone, so that a resumed run goes on exactly.
    """
    warmup, peak = in_steps(part.warmup or 0, steps), part.learning_rate
    if part.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else peak, max(steps - warmup, 1),
            warmup_target=peak if warmup else None, warmup_steps=warmup,
        )  # fmt: skip
    if part.schedule == "one_cycle":
        return OneCycle(peak, rise=warmup, steps=steps)
    if part.schedule == "step":
        milestones = [in_steps(milestone, steps) for milestone in part.milestones or ()]
        return StepDecay(peak, milestones, part.factor or 0.1, warmup=warmup)
    return StepDecay(peak, [], 1.0, warmup=warmup) if warmup else peak


def in_steps(part: float, steps: int) -> int:
    """A share of the run, or a whole number of steps as it is."""
    return part if isinstance(part, int) else round(part * steps)


@register
class StepDecay(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """rate * factor^n after n milestones (steps, counted from 0), rising from 0 over the first `warmup` steps.

    The step that a milestone names is the first of the lower rate.
    """

    def __init__(self, rate: float, milestones: list[int], factor: float, *, warmup: int = 0) -> None:
        super().__init__()
        self.rate, self.milestones, self.factor, self.warmup = rate, list(milestones), factor, warmup

    def __call__(self, step: Any) -> KerasTensor:
        """The rate of this step, float32."""
        rate = ops.convert_to_tensor(self.rate, "float32")
        for number, milestone in enumerate(self.milestones, start=1):
            rate = ops.where(step >= milestone, ops.cast(self.rate * self.factor**number, "float32"), rate)
        if self.warmup:
            rate = rate * ops.minimum(ops.cast(step, "float32") / self.warmup, 1.0)
        return rate

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"rate": self.rate, "milestones": self.milestones, "factor": self.factor, "warmup": self.warmup}


@register
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Half a cosine from rate / 25 up to rate over `rise` steps, another down to rate / 100,000 at the end of `steps`.

    Source: Smith & Topin 2017, arXiv:1708.07120, with fastai's shape and divisors. Momentum stays as it is, where
    theirs goes down and up again.
    """

    first, last = 1 / 25, 1e-5  # shares of the rate

    def __init__(self, rate: float, *, rise: int, steps: int) -> None:
        super().__init__()
        self.rate, self.rise, self.steps = rate, rise, steps

    def __call__(self, step: Any) -> KerasTensor:
        """The rate of this step, float32."""
        step = ops.cast(step, "float32")
        up = ops.minimum(step / max(self.rise, 1), 1.0)
        down = ops.clip((step - self.rise) / max(self.steps - self.rise, 1), 0.0, 1.0)
        rising = self.first + (1 - self.first) * (1 - ops.cos(math.pi * up)) / 2
        falling = self.last + (1 - self.last) * (1 + ops.cos(math.pi * down)) / 2
        return self.rate * ops.where(step < self.rise, rising, falling)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"rate": self.rate, "rise": self.rise, "steps": self.steps}


def steering(recipe: Recipe) -> list[keras.callbacks.Callback]:
    """The callbacks that change training as the recipe asks: the plateau's rate, and early stopping.

    Both watch val_loss. They keep state; they go before watchers, and after whatever sets the epoch.
    """
    part, patience = recipe.optimizer, recipe.training.early_stopping
    callbacks: list[keras.callbacks.Callback] = []
    if part.schedule == "plateau":
        callbacks.append(keras.callbacks.ReduceLROnPlateau("val_loss", factor=part.factor, patience=part.patience))
    if patience is not None:
        callbacks.append(EarlyStopping(patience))
    return callbacks


class EarlyStopping(keras.callbacks.EarlyStopping):  # type: ignore[misc]
    """Stops after `patience` epochs without a lower val_loss; at the end the best epoch's weights come back.

    With `ema`, what is kept of that epoch is what `fit` would have ended with: the averages. Keras's own keeps the
    weights, and puts them over the averages that `fit` has just set.
    """

    def __init__(self, patience: int) -> None:
        super().__init__("val_loss", patience=patience, restore_best_weights=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compare, and keep the weights or their averages where they are the best so far."""
        before, loss = self.best_weights, (logs or {}).get("val_loss")
        if loss is not None and not math.isfinite(loss):
            logs = {**(logs or {}), "val_loss": math.inf}  # nothing is ever lower than NaN
        super().on_epoch_end(epoch, logs)
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if self.best_weights is before or not optimizer.use_ema:
            return
        averages = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True)
        average_of = {id(variable): average for variable, average in averages}
        for index, variable in enumerate(self.model.weights):
            if id(variable) in average_of:
                self.best_weights[index] = ops.convert_to_numpy(average_of[id(variable)])
