"""The part of a recipe for transfer learning."""

from typing import Literal

from pydantic import Field, model_validator

from kerazoo.recipes.parts import Part, refuse


class TransferPart(Part):
    """Transfer learning in phases: compute the features of the frozen network, train a probe on them, then fine-tune
    the unfrozen network from the probe if `training.epochs` > 0.
    """

    weights: str = Field(
        "imagenet",
        description="The pretrained weights: imagenet, the name of shipped weights, a weights file, a run, or none for "
        "random weights",
    )
    preset: Literal["linear", "light", "full", "norm", "lora", "bit"] | None = Field(
        None, description="Defaults for other keys; see the guide to fine-tuning"
    )
    scaling: Literal["published", "plain"] | None = Field(
        None,
        description="How the network of a weights file scaled pixels, if the file does not record it; published: as "
        "for the published weights; plain: as keras.applications with weights=None",
    )
    engine: Literal["keras", "onnx", "openvino"] = Field("keras", description="The library that computes the features")
    views: int = Field(
        1, ge=1, description="Views of each training image for the probe; all but the first are augmented"
    )
    penalties: list[float] | None = Field(
        None,
        min_length=1,
        description="L2 strengths in [1e-12, 1e12] to try by cross-validation; default: a fixed series",
    )
    folds: int = Field(5, ge=2, description="Number of folds of the cross-validation")
    unfreeze: int = Field(
        0, ge=0, description="Number of stages to fine-tune, counted from the end of the backbone; 0 for all of it"
    )
    stored_views: int = Field(
        0, ge=0,
        description="Number of views of each training image for which the frozen stages are computed once; epochs use "
        "them in turn. 0: a new view in each epoch, through the whole network",
    )  # fmt: skip
    decay: float = Field(
        0.4, gt=0, le=1, description="Learning rate of each stage relative to the next one; the head has the full rate"
    )
    method: Literal["all", "norm", "lora"] = Field(
        "all",
        description="What of the unfrozen layers is fine-tuned; all: their weights; norm: those of normalization "
        "layers; lora: low-rank updates of the attention's query and value kernels",
    )
    rank: int = Field(8, ge=1, le=1024, description="Rank of the updates with method='lora'")
    batch_norm: Literal["frozen", "stats", "train"] | None = Field(
        None,
        description="Batch normalization in the unfrozen layers; frozen: unchanged; stats: only its statistics are "
        "updated; train: its weights, too; default: frozen, or train for random weights",
    )
    average: bool = Field(True, description="Whether to try averages of the weights before and after fine-tuning")
    calibrate: bool = Field(True, description="Whether to fit a softmax temperature on validation")

    @model_validator(mode="after")
    def _whole(self) -> "TransferPart":
        if self.penalties is not None and not all(1e-12 <= penalty <= 1e12 for penalty in self.penalties):
            refuse(f"penalties={self.penalties} must all be in [1e-12, 1e12]; 1e-5 is almost no penalty")
        if self.method != "lora" and "rank" in self.model_fields_set and self.rank != 8 and self.preset != "lora":
            refuse(f"rank={self.rank} applies only to method='lora', not {self.method!r}; remove it")
        return self
