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

    name: str
    arguments: dict[str, Any] = {}

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
    """The data, how it is split, and how images are fitted.

    `path` is an image folder, an `.npz` file, a CSV, TSV or Parquet table, or `tfds:NAME`. `validation` and `test` are
    the shares of train held out where the data has no such split. `group` is a regular expression on file names: what
    it finds in them stays in one split. `label` and `task` say what of a table is learned. `data_dir` and `download`
    are for TFDS. `manifest` is what `kerazoo check --write` wrote, beside the data if None; "none" ignores it.
    `size` (px), `channels` and `fit`: None is the network's own.
    """

    path: str
    validation: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.0, ge=0, lt=1)
    group: str | None = None
    label: str | None = None
    task: Literal["multiclass", "multilabel", "regression"] | None = None
    data_dir: str | None = None
    download: bool = True
    manifest: str | None = None
    cache: Literal["auto", "always", "never"] = "auto"
    size: int | None = Field(None, ge=1)
    channels: Literal[1, 3] | None = None
    resize: Literal["crop", "pad", "stretch"] | None = None

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
    """The optimizer and how its rate goes. What is None is resolved when the recipe is read; see `optimizers.py`.

    `schedule`: "cosine" to zero; "constant"; "step", times `factor` at each of `milestones`; "one_cycle", up and down
    again; "plateau", times `factor` after `patience` epochs without a better val_loss. `warmup` is the linear rise from
    zero (of one_cycle: its rise). `warmup` and `milestones` are shares of the run, or whole numbers of its steps; a
    step is a batch. `accumulate` batches make one update. `ema` is the momentum of an average of the weights.
    """

    name: Literal["sgd", "lamb", "lion", "adam", "adamw"] = "adamw"
    learning_rate: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool | None = Field(None, description="of sgd; true where there is momentum")
    weight_decay: float | None = Field(None, ge=0, description="decoupled; not on biases and norms; 1e-4, of adam 0")
    schedule: Literal["cosine", "constant", "step", "one_cycle", "plateau"] = "cosine"
    warmup: Annotated[Any, BeforeValidator(_share_steps_or_none), f"{SHARE}, or 0"] = None
    milestones: list[ShareOrSteps] | None = Field(None, min_length=1, description="of step; [0.5, 0.75]")
    factor: float | None = Field(None, gt=0, lt=1, description="of step and plateau; 0.1")
    patience: int | None = Field(None, ge=1, description="epochs, of plateau; 5")
    clip_norm: float | None = Field(None, gt=0, description="of all gradients together")
    clip_value: float | None = Field(None, gt=0, description="of each number of a gradient")
    accumulate: int = Field(1, ge=1)
    ema: float | None = Field(None, gt=0, lt=1)

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
    """How long, by what loss, in what arithmetic; `loss` None is the network's own.

    `batch_size` "all" makes every step see all of train (batch gradient descent), 1 a single example (stochastic).
    `drop_last` leaves the last, partial batch of an epoch out. `balance` makes up for classes of unlike sizes, by
    sampling or by weights; see `batches.training_batches`. `label_smoothing` and `focal_gamma`: see `losses.py`.
    `early_stopping` ends training after so many epochs without a better val_loss; with it the best weights are kept,
    also where training goes to its end. `synchronized_batch_norm` shares statistics between devices.
    """

    epochs: int = Field(15, ge=0)
    batch_size: Annotated[Any, BeforeValidator(_size_or_all), SIZE] = 128
    loss: Literal["cross_entropy", "binary_cross_entropy", "focal", "perceptron", "quadratic", "mse", "mae"] | None = (
        None
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    focal_gamma: float | None = Field(None, ge=0, description="of the focal loss; 2")
    drop_last: bool = True
    balance: Literal["none", "sampling", "weights"] = "none"
    early_stopping: int | None = Field(None, ge=1)
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    synchronized_batch_norm: bool = False

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
    """How often the state of training is written, so that it can be resumed.

    When `seconds` have passed since the last, or, where `steps` is given, after every so many batches and every epoch;
    and at the end, in any case. 0 seconds and no `steps` is at the end only. The last `keep` are kept.
    """

    seconds: float = Field(60.0, ge=0)
    steps: int | None = Field(None, ge=1)
    keep: int = Field(2, ge=1)


class TransferPart(Part):
    """Transfer in stages: features of the frozen network, a probe on them, then, where `training.epochs` > 0, the
    unfrozen network from the probe on; see `finetune.py`.

    `weights` is "imagenet", the name of shipped weights, a path, or "none". `scaling` says how the network of a weights
    file scaled pixels where the file does not tell: "published", as that of the published weights, or "plain", as
    keras.applications builds it with weights=None (they differ for EfficientNet B0 to B7 only). `engine` computes the
    features; `views` is how many of each training image the probe sees, the image itself and `views` - 1 drawn by
    the augmentation.
    `penalties` are the L2 strengths tried by cross-validation over `folds`; None is the default path. `unfreeze` counts
    stages of the backbone from its end; 0 is all of it. Each stage learns at `decay` times the rate of the one above
    it, the head at the optimizer's own. `batch_norm` within what is unfrozen: "frozen"; "stats", its statistics move;
    "train", its weights too; None is frozen, or train where the weights are random. `average` tries averages of the
    probe's and the tuned weights, `calibrate` a temperature.
    """

    weights: str = "imagenet"
    preset: Literal["linear", "light", "full", "bit"] | None = None
    scaling: Literal["published", "plain"] | None = None
    engine: Literal["keras", "onnx", "openvino"] = "keras"
    views: int = Field(1, ge=1)
    penalties: list[float] | None = Field(None, min_length=1)
    folds: int = Field(5, ge=2)
    unfreeze: int = Field(0, ge=0)
    decay: float = Field(0.4, gt=0, le=1)
    batch_norm: Literal["frozen", "stats", "train"] | None = None
    average: bool = True
    calibrate: bool = True

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
