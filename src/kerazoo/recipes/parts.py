"""The parts of a recipe: every key, its allowed values, and which keys exclude each other."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from kerazoo.errors import InputError
from kerazoo.models.registry import find
from kerazoo.period import Period


class Part(BaseModel):
    """The base of all parts. It refuses unknown keys, wrong types and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def fill(self, **values: Any) -> None:
        """Set default values without marking them as set by the user."""
        self.__dict__.update(values)


SHARE = "a share of the run in (0, 1), or a whole number of its steps from 1"
PERIOD = 'a number of steps from 1, "epoch", or as "3 epochs"'
SIZE = 'a whole number from 1, or "all"'
NO_MODEL = "-"  # a placeholder: the model does not matter, or is not known yet


def _share_or_steps(value: Any) -> Any:
    """`value`, if it is a share of the run in (0, 1) or a whole number of steps from 1."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (whole and value >= 1) or (isinstance(value, float) and 0 < value < 1):
        return value
    raise ValueError(f"must be {SHARE}")


def _share_steps_or_none(value: Any) -> Any:
    """`value`, if `_share_or_steps` allows it or it is 0 or None."""
    return value if value is None or (value == 0 and not isinstance(value, bool)) else _share_or_steps(value)


def _size_or_all(value: Any) -> Any:
    """`value`, if it is a whole number from 1 or "all"."""
    if value != "all" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"must be {SIZE}")
    return value


def period(value: Any) -> Any:
    """What `Period.of` takes."""
    try:
        Period.of(value)
    except InputError as error:
        raise ValueError(f"must be {PERIOD}") from error
    return value


ShareOrSteps = Annotated[Any, BeforeValidator(_share_or_steps), SHARE]


class ModelPart(Part):
    """The network: its name in the registry and its builder's arguments."""

    name: str = Field(description="A name from `kerazoo models`")
    arguments: dict[str, Any] = Field({}, description="Arguments of the network's builder, such as `dropout`")

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return name if name == NO_MODEL else find(name).name

    @field_validator("arguments")
    @classmethod
    def _only_its_own(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Refuse size, classes and weights, which come from the data and the transfer part."""
        for name, instead in (
            ("input_shape", "data.size and data.channels"),
            ("num_classes", "the data"),
            ("weights", "transfer.weights"),
        ):
            if name in arguments:
                raise ValueError(f"{name} cannot be set here, because it comes from {instead}; remove it")
        return arguments


class DataPart(Part):
    """The data, how it is split, and how images are resized."""

    path: str = Field(description="An image folder, an `.npz` file, a CSV, TSV or Parquet table, or `tfds:NAME`")
    validation: float = Field(
        0.1, gt=0, lt=1, description="Share of train to hold out if the data has no validation split"
    )
    test: float = Field(
        0.0, ge=0, lt=1, description="Share of train to hold out if the data has no test split; 0 for no test split"
    )
    folds: int | None = Field(
        None, ge=2, description="Train one network for each of this many folds of train and val, and put them together"
    )
    fold: int | None = Field(
        None, ge=1, description="The fold of `folds` that is the validation split; the others are train"
    )
    group: str | None = Field(
        None,
        description="A regular expression on file names; images for which it matches the same text stay in one split",
    )
    label: str | None = Field(
        None, description="The label columns of a table, separated by commas; default: `label` or `labels`"
    )
    task: Literal["multiclass", "multilabel", "regression"] | None = Field(
        None, description="The task of a table; default: inferred from its labels"
    )
    license: str | None = Field(None, description="The license of the images, which the model card states")
    data_dir: str | None = Field(None, description="The folder of TensorFlow Datasets")
    download: bool = Field(True, description="Whether TensorFlow Datasets may download")
    manifest: str | None = Field(
        None,
        description="The file that `kerazoo check --write` wrote; default: the one beside the data, if there is one; "
        "'none' ignores it",
    )
    cache: Literal["auto", "always", "never"] = Field(
        "auto", description="Whether to keep prepared images on disk; auto: only if they are read at least twice"
    )
    size: int | None = Field(None, ge=1, description="Image height and width in pixels; default: the network's own")
    channels: Literal[1, 3] | None = Field(None, description="1 for gray, 3 for RGB; default: the network's own")
    resize: Literal["crop", "pad", "stretch"] | None = Field(
        None, description="How to make images square; default: as for the pretrained weights, or crop"
    )

    @field_validator("group")
    @classmethod
    def _is_a_pattern(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"must be a regular expression ({error})") from error
        return group

    @model_validator(mode="after")
    def _whole(self) -> "DataPart":
        if self.fold is not None and (self.folds is None or self.fold > self.folds):
            refuse(f"fold={self.fold} must be at most folds, got folds={self.folds}")
        return self


WARMUP = {"cosine": 0.05, "one_cycle": 0.25, "constant": 0, "step": 0, "plateau": 0}  # defaults by schedule


class OptimizerPart(Part):
    """The optimizer and its learning-rate schedule. A step is a batch."""

    name: Literal["sgd", "lamb", "lion", "adam", "adamw"] = Field("adamw", description="The optimizer")
    learning_rate: float = Field(0.01, gt=0, description="The learning rate; with a schedule, its peak")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd")
    nesterov: bool | None = Field(
        None, description="Whether sgd uses Nesterov momentum; default: true if there is momentum"
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        description="Decoupled weight decay; biases and normalization weights do not decay; default: 1e-4, or 0 for "
        "adam",
    )
    schedule: Literal["cosine", "constant", "step", "one_cycle", "plateau"] = Field(
        "cosine",
        description="The schedule of the learning rate; cosine: falls to zero; step: multiplied by `factor` at each of "
        "`milestones`; one_cycle: rises, then falls; plateau: multiplied by `factor` after `patience` epochs without a "
        "better val_loss",
    )
    warmup: Annotated[Any, BeforeValidator(_share_steps_or_none), f"{SHARE}, or 0"] = Field(
        None,
        description="Length of the linear rise from zero, or of the rise of one_cycle; default: "
        + ", ".join(f"{value} for {name}" for name, value in WARMUP.items() if value)
        + ", else 0",
    )
    milestones: list[ShareOrSteps] | None = Field(
        None,
        min_length=1,
        description="Where the learning rate of the step schedule falls, in rising order; default: [0.5, 0.75]",
    )
    factor: float | None = Field(
        None, gt=0, lt=1, description="The factor of the step and plateau schedules; default: 0.1"
    )
    patience: int | None = Field(
        None, ge=1, description="Epochs that the plateau schedule waits for a better val_loss; default: 5"
    )
    norm_bias_rate: float = Field(
        1.0, gt=0, description="Factor of the learning rate for the biases (beta) of batch normalization"
    )
    clip_norm: float | None = Field(None, gt=0, description="Upper bound on the global norm of all gradients")
    clip_value: float | None = Field(None, gt=0, description="Upper bound on the absolute value of each gradient entry")
    accumulate: int = Field(1, ge=1, description="Number of batches whose gradients make one update")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Momentum of a moving average of the weights, which replaces the weights at the end of training",
    )

    @model_validator(mode="after")
    def _whole(self) -> "OptimizerPart":
        """Refuse contradictions, then set the defaults."""
        if self.nesterov is not None and self.name != "sgd":
            refuse(f"nesterov={_toml(self.nesterov)} applies only to sgd, not {self.name}; remove it")
        if self.nesterov and not self.momentum:
            refuse("nesterov=true needs momentum, but momentum is 0; set momentum in (0, 1), or nesterov=false")
        if self.name == "adam" and self.weight_decay:
            refuse(f"weight_decay={self.weight_decay} does not apply to adam; use name='adamw', or remove it")
        for key, schedules in (("milestones", ("step",)), ("factor", ("step", "plateau")), ("patience", ("plateau",))):
            if getattr(self, key) is not None and self.schedule not in schedules:
                allowed = " or ".join(f"schedule={name!r}" for name in schedules)
                refuse(f"{key}={getattr(self, key)} applies only to {allowed}, not {self.schedule!r}; remove it")
        if self.schedule == "plateau" and self.warmup:
            refuse(
                f"warmup={self.warmup} cannot be combined with schedule='plateau', which changes the learning rate "
                "itself; remove it"
            )
        if self.milestones is not None:
            if len({type(milestone) for milestone in self.milestones}) > 1:
                refuse(f"milestones={self.milestones} mixes shares of the run and steps; use only one of them")
            if self.milestones != sorted(set(self.milestones)):
                refuse(f"milestones={self.milestones} must be in rising order")
        if self.clip_norm is not None and self.clip_value is not None:
            refuse(
                f"clip_norm={self.clip_norm} and clip_value={self.clip_value} exclude each other; remove one of them"
            )
        if self.ema is not None and self.accumulate > 1:
            # Keras 3.15.1 averages after every batch, even if the weights have not changed
            refuse(f"ema={self.ema} cannot be combined with accumulate={self.accumulate}; remove one of them")
        self._resolve()
        return self

    def _resolve(self) -> None:
        if self.nesterov is None and self.name == "sgd":
            self.fill(nesterov=self.momentum > 0)
        if self.weight_decay is None:
            self.fill(weight_decay=0.0 if self.name == "adam" else 1e-4)
        if self.warmup is None:
            self.fill(warmup=WARMUP[self.schedule])
        if self.schedule == "step" and self.milestones is None:
            self.fill(milestones=[0.5, 0.75])
        if self.schedule in ("step", "plateau") and self.factor is None:
            self.fill(factor=0.1)
        if self.schedule == "plateau" and self.patience is None:
            self.fill(patience=5)


TAUGHT = ("cross_entropy", "binary_cross_entropy", "mse", "mae")  # the losses that the answers of a teacher allow


class TrainingPart(Part):
    """The length of training, the loss and the precision."""

    epochs: int = Field(15, ge=0, description="Passes over the training images; 0 stops fine-tuning after the probe")
    batch_size: Annotated[Any, BeforeValidator(_size_or_all), SIZE] = Field(
        128,
        description="Images in a step, at most the number of training images; 'all' is batch gradient descent, 1 is "
        "stochastic",
    )
    loss: Literal["cross_entropy", "binary_cross_entropy", "focal", "perceptron", "quadratic", "mse", "mae"] | None = (
        Field(None, description="The loss; default: the network's own, or the task's")
    )
    teacher: str | None = Field(
        None,
        description="A run whose answers for the augmented training images are learned in place of their labels; it "
        "must have the same data, splits and image size",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Label smoothing of the cross-entropies and the focal loss"
    )
    focal_gamma: float | None = Field(None, ge=0, description="Gamma of the focal loss; default: 2")
    drop_last: bool = Field(True, description="Skip the last batch of an epoch if it is not full")
    balance: Literal["none", "sampling", "weights"] = Field(
        "none",
        description="How to correct for classes of different sizes; sampling: draw small classes more often; weights: "
        "give them a larger weight in the loss",
    )
    early_stopping: int | None = Field(
        None,
        ge=1,
        description="Stop after this many epochs without a better val_loss; the best weights are then always kept",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32", description="Precision of training; evaluation and exports use float32"
    )
    synchronized_batch_norm: bool = Field(
        False, description="Whether devices share the statistics of batch normalization"
    )

    @model_validator(mode="after")
    def _whole(self) -> "TrainingPart":
        if self.focal_gamma is not None and self.loss != "focal":
            refuse(f"focal_gamma={self.focal_gamma} applies only to loss='focal', not {_toml(self.loss)}; remove it")
        if self.label_smoothing and self.loss not in (None, "cross_entropy", "binary_cross_entropy", "focal"):
            refuse(
                f"label_smoothing={self.label_smoothing} cannot be combined with loss={self.loss!r}; remove one of them"
            )
        if self.teacher is not None:
            self._check_taught()
        if self.loss == "focal" and self.focal_gamma is None:
            self.fill(focal_gamma=2.0)
        return self

    def _check_taught(self) -> None:
        if self.label_smoothing:
            refuse(f"label_smoothing={self.label_smoothing} cannot be combined with a teacher; remove one of them")
        if self.loss not in (None, *TAUGHT):
            refuse(f"loss={self.loss!r} cannot be combined with a teacher; use {', '.join(TAUGHT)}, or remove it")
        if not self.epochs:
            refuse("teacher has no effect with epochs=0; remove it, or set epochs")


class EvaluationPart(Part):
    """How the trained network answers: in evaluation, in predictions and in exports."""

    flip: Literal["never", "auto", "always"] = Field(
        "never",
        description="Whether an answer is the mean over the image and its mirror image, which doubles the time of each "
        "answer; auto: if it helps on validation. It needs augmentation.flip: where training does not mirror images, "
        "as for digits, auto does not try it",
    )


class CheckpointPart(Part):
    """How often to write a checkpoint, from which a run can be resumed. The end of training always writes one."""

    seconds: float = Field(
        60.0, ge=0, description="Write a checkpoint at this interval; 0 without `steps`: at the end only"
    )
    steps: int | None = Field(
        None, ge=1, description="Write a checkpoint after this many batches instead, and after every epoch"
    )
    keep: int = Field(2, ge=1, description="Number of newest checkpoints to keep")


def refuse(reason: str) -> None:
    """Refuse the recipe. `reason` names the key, its value and what to do."""
    raise ValueError(reason)


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "the network's own loss" if value is None else repr(value)
