"""Learning-rate schedules."""

import math
from typing import Any

import keras
from keras import KerasTensor, ops

from kerazoo.recipes.parts import OptimizerPart

register = keras.saving.register_keras_serializable(package="kerazoo")


def make_rate(part: OptimizerPart, *, steps: int) -> Any:
    """The learning rate: a schedule over `steps` batches, or a number if it is constant or a callback changes it.

    A schedule depends only on the optimizer's count of batches, so a resumed run continues exactly.
    """
    warmup = in_steps(part.warmup or 0, steps)
    peak = part.learning_rate
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
    """The number of steps of `part`, which is a share of the run or already a number of steps."""
    return part if isinstance(part, int) else round(part * steps)


@register
class StepDecay(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """rate * factor^n after n milestones (steps, counted from 0), with a rise from 0 over the first `warmup` steps.

    The step of a milestone is the first with the lower rate.
    """

    def __init__(self, rate: float, milestones: list[int], factor: float, *, warmup: int = 0) -> None:
        super().__init__()
        self.rate = rate
        self.milestones = list(milestones)
        self.factor = factor
        self.warmup = warmup

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

    Source: Smith & Topin 2017, arXiv:1708.07120, with fastai's shape and divisors. Momentum does not change here;
    theirs falls and rises again.
    """

    first, last = 1 / 25, 1e-5  # shares of the rate

    def __init__(self, rate: float, *, rise: int, steps: int) -> None:
        super().__init__()
        self.rate = rate
        self.rise = rise
        self.steps = steps

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
