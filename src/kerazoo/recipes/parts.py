"""The parts of a recipe: every key, what it is allowed to be, and which keys exclude one another."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from kerazoo.models.registry import find


class Part(BaseModel):
    """What all parts have in common: unknown keys, other types and numbers that are not finite are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def fill(self, **values: Any) -> None:
        """Resolve what was left out, without marking it as asked for."""
        self.__dict__.update(values)


SHARE = "a share of the run in (0, 1), or a whole number of its steps from 1"
SIZE = 'a whole number from 1, or "all"'
NO_MODEL = "-"  # where the model does not matter, or is yet to be named


def _share_or_steps(value: Any) -> Any:
    """A share of the run in (0, 1), or a whole number of steps from 1."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (whole and value >= 1) or (isinstance(value, float) and 0 < value < 1):
        return value
    raise ValueError(f"must be {SHARE}")


def _share_steps_or_none(value: Any) -> Any:
    """The same, or 0 for nothing at all, or None."""
    return value if value is None or (value == 0 and not isinstance(value, bool)) else _share_or_steps(value)


def _size_or_all(value: Any) -> Any:
    """A whole number from 1, or "all"."""
    if value != "all" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"must be {SIZE}")
    return value


ShareOrSteps = Annotated[Any, BeforeValidator(_share_or_steps), SHARE]


class ModelPart(Part):
    """The network: a name of the registry and its builder's arguments."""

    name: str = Field(description="A name from `kerazoo models`")
    arguments: dict[str, Any] = Field({}, description="Arguments of its builder, such as `dropout`")

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return name if name == NO_MODEL else find(name).name

    @field_validator("arguments")
    @classmethod
    def _only_its_own(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Size, classes and weights follow from the data and the transfer part."""
        for name, instead in (
            ("input_shape", "data.size and data.channels"),
            ("num_classes", "the data"),
            ("weights", "transfer.weights"),
        ):
            if name in arguments:
                raise ValueError(f"{name} is not set here: it comes from {instead}")
        return arguments


class DataPart(Part):
    """The data, how it is split, and how images are resized."""

    path: str = Field(description="An image folder, an `.npz` file, a CSV, TSV or Parquet table, or `tfds:NAME`")
    validation: float = Field(0.1, gt=0, lt=1, description="Share of train held out where the data has no validation")
    test: float = Field(0.0, ge=0, lt=1, description="Share of train held out where the data has no test; 0 is none")
    group: str | None = Field(
        None, description="A regular expression on file names: what it finds in them stays in one split"
    )
    label: str | None = Field(
        None, description="Columns of a table that are learned, separated by commas; left out: `label` or `labels`"
    )
    task: Literal["multiclass", "multilabel", "regression"] | None = Field(
        None, description="What is learned of a table's labels; left out: told by the labels"
    )
    data_dir: str | None = Field(None, description="The folder of TensorFlow Datasets")
    download: bool = Field(True, description="Whether TensorFlow Datasets may download")
    manifest: str | None = Field(
        None,
        description="What `kerazoo check --write` wrote; left out: the one beside the data, if any; 'none' ignores it",
    )
    cache: Literal["auto", "always", "never"] = Field(
        "auto", description="Whether prepared images are kept on disk; auto: where they are read twice or more"
    )
    size: int | None = Field(None, ge=1, description="Height and width in pixels; left out: the network's own")
    channels: Literal[1, 3] | None = Field(None, description="Grey or RGB; left out: the network's own")
    resize: Literal["crop", "pad", "stretch"] | None = Field(
        None, description="How images that are not square become so; left out: as the weights were made, or crop"
    )

    @field_validator("group")
    @classmethod
    def _is_a_pattern(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"must be a regular expression ({error})") from error
        return group


WARMUP = {"cosine": 0.05, "one_cycle": 0.25, "constant": 0, "step": 0, "plateau": 0}  # where it is left out


class OptimizerPart(Part):
    """The optimizer and how its rate goes. A step is a batch."""

    name: Literal["sgd", "lamb", "lion", "adam", "adamw"] = Field("adamw", description="The rule of an update")
    learning_rate: float = Field(0.01, gt=0, description="Its peak, where it follows a schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd")
    nesterov: bool | None = Field(None, description="Of sgd; left out: true where there is momentum")
    weight_decay: float | None = Field(
        None, ge=0, description="Decoupled; not on biases and norms; left out: 1e-4, of adam 0"
    )
    schedule: Literal["cosine", "constant", "step", "one_cycle", "plateau"] = Field(
        "cosine",
        description="cosine: down to zero; step: times `factor` at each of `milestones`; one_cycle: up and down again; "
        "plateau: times `factor` after `patience` epochs without a better val_loss",
    )
    warmup: Annotated[Any, BeforeValidator(_share_steps_or_none), f"{SHARE}, or 0"] = Field(
        None,
        description="The linear rise from zero, of one_cycle its rise; left out: "
        + ", ".join(f"{value} of {name}" for name, value in WARMUP.items() if value)
        + ", else 0",
    )
    milestones: list[ShareOrSteps] | None = Field(
        None, min_length=1, description="Of step, rising; left out: [0.5, 0.75]"
    )
    factor: float | None = Field(None, gt=0, lt=1, description="Of step and plateau; left out: 0.1")
    patience: int | None = Field(None, ge=1, description="Epochs, of plateau; left out: 5")
    clip_norm: float | None = Field(None, gt=0, description="The largest norm of all gradients together")
    clip_value: float | None = Field(None, gt=0, description="The largest number of a gradient, in either direction")
    accumulate: int = Field(1, ge=1, description="Batches that make one update")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Momentum of an average of the weights, which takes their place in the end"
    )

    @model_validator(mode="after")
    def _whole(self) -> "OptimizerPart":
        """Refuse what contradicts itself, then resolve what was left out."""
        if self.nesterov is not None and self.name != "sgd":
            refuse(f"nesterov={_toml(self.nesterov)} applies only to sgd, not {self.name}; remove it")
        if self.nesterov and not self.momentum:
            refuse("nesterov=true needs momentum, which is 0; set momentum in (0, 1), or nesterov=false")
        if self.name == "adam" and self.weight_decay:
            refuse(f"weight_decay={self.weight_decay} has no part in adam; take name='adamw', or leave it out")
        for key, schedules in (("milestones", ("step",)), ("factor", ("step", "plateau")), ("patience", ("plateau",))):
            if getattr(self, key) is not None and self.schedule not in schedules:
                allowed = " or ".join(f"schedule={name!r}" for name in schedules)
                refuse(f"{key}={getattr(self, key)} goes with {allowed}, not with {self.schedule!r}; leave it out")
        if self.schedule == "plateau" and self.warmup:
            refuse(
                f"warmup={self.warmup} does not go with schedule='plateau', which moves the rate itself; leave it out"
            )
        if self.milestones is not None:
            if len({type(milestone) for milestone in self.milestones}) > 1:
                refuse(f"milestones={self.milestones} mixes shares of the run and steps; take one of them")
            if self.milestones != sorted(set(self.milestones)):
                refuse(f"milestones={self.milestones} must grow from each to the next")
        if self.clip_norm is not None and self.clip_value is not None:
            refuse(f"clip_norm={self.clip_norm} and clip_value={self.clip_value} exclude one another; take one of them")
        if self.ema is not None and self.accumulate > 1:
            # Keras 3.15.1 averages after every batch, also where the weights have not moved
            refuse(f"ema={self.ema} does not go with accumulate={self.accumulate}; leave out one of them")
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


class TrainingPart(Part):
    """How long, by what loss, in what arithmetic."""

    epochs: int = Field(15, ge=0, description="Passes over the training images; 0 stops fine-tuning at the probe")
    batch_size: Annotated[Any, BeforeValidator(_size_or_all), SIZE] = Field(
        128, description="Images of a step; 'all' is batch gradient descent, 1 is stochastic; at most the data"
    )
    loss: Literal["cross_entropy", "binary_cross_entropy", "focal", "perceptron", "quadratic", "mse", "mae"] | None = (
        Field(None, description="Left out: the network's own, or that of the task")
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Of the cross-entropies and the focal loss")
    focal_gamma: float | None = Field(None, ge=0, description="Of the focal loss; left out: 2")
    drop_last: bool = Field(True, description="Leave the last, partial batch of an epoch out")
    balance: Literal["none", "sampling", "weights"] = Field(
        "none", description="Make up for classes of unlike sizes: draw small ones more often, or weigh them more"
    )
    early_stopping: int | None = Field(
        None,
        ge=1,
        description="Epochs without a better val_loss that end training; the best weights are then kept in any case",
    )
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32", description="Of training; evaluation and exports compute in float32"
    )
    synchronized_batch_norm: bool = Field(False, description="Share the statistics of batch norm between devices")

    @model_validator(mode="after")
    def _whole(self) -> "TrainingPart":
        if self.focal_gamma is not None and self.loss != "focal":
            refuse(f"focal_gamma={self.focal_gamma} goes with loss='focal', not with {_toml(self.loss)}; leave it out")
        if self.label_smoothing and self.loss not in (None, "cross_entropy", "binary_cross_entropy", "focal"):
            refuse(f"label_smoothing={self.label_smoothing} does not go with loss={self.loss!r}; leave out one of them")
        if self.loss == "focal" and self.focal_gamma is None:
            self.fill(focal_gamma=2.0)
        return self


class CheckpointPart(Part):
    """How often the state of training is written, so that it can be resumed; at its end in any case."""

    seconds: float = Field(60.0, ge=0, description="Write when so many have passed; 0 without `steps`: at the end only")
    steps: int | None = Field(None, ge=1, description="Write after so many batches instead, and after every epoch")
    keep: int = Field(2, ge=1, description="The last so many are kept")


class TransferPart(Part):
    """Transfer in phases: features of the frozen network, a probe on them, then, where `training.epochs` > 0, the
    unfrozen network from the probe on.
    """

    weights: str = Field(
        "imagenet", description="imagenet, the name of shipped weights, a weights file or a run, or none (random ones)"
    )
    preset: Literal["linear", "light", "full", "bit"] | None = Field(
        None, description="What other keys start from; see the guide to fine-tuning"
    )
    scaling: Literal["published", "plain"] | None = Field(
        None,
        description="How the network of a weights file scaled pixels, where the file does not tell: as the published "
        "weights, or as keras.applications with weights=None",
    )
    engine: Literal["keras", "onnx", "openvino"] = Field("keras", description="What computes the features")
    views: int = Field(
        1, ge=1, description="How many of each training image the probe sees; all but the first are augmented"
    )
    penalties: list[float] | None = Field(
        None,
        min_length=1,
        description="L2 strengths in [1e-12, 1e12] tried by cross-validation; left out: the default path",
    )
    folds: int = Field(5, ge=2, description="Of the cross-validation")
    unfreeze: int = Field(0, ge=0, description="Stages of the backbone that learn, from its end; 0 is all of it")
    decay: float = Field(
        0.4, gt=0, le=1, description="Each stage learns at so many times the rate of the one above it, the head at 1"
    )
    batch_norm: Literal["frozen", "stats", "train"] | None = Field(
        None,
        description="Within what learns; stats: its statistics move; train: its weights, too; left out: frozen, or "
        "train where weights are random",
    )
    average: bool = Field(True, description="Try averages of the probe's and the tuned weights")
    calibrate: bool = Field(True, description="Find a temperature on validation")

    @model_validator(mode="after")
    def _whole(self) -> "TransferPart":
        if self.penalties is not None and not all(1e-12 <= penalty <= 1e12 for penalty in self.penalties):
            refuse(f"penalties={self.penalties} must all be in [1e-12, 1e12]; 1e-5 is next to none")
        return self


def refuse(reason: str) -> None:
    """Have the recipe refused for `reason`, which names the key, its value and what to do."""
    raise ValueError(reason)


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "the network's own loss" if value is None else repr(value)
