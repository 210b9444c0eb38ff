"""The settings of augmentation: a named policy, and what of it is set otherwise. They exist here alone."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, SerializationInfo, model_serializer, model_validator

from kerazoo.recipes.parts import Part

POLICIES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "light": {"flip": True, "crop": 0.6},
    "standard": {"flip": True, "crop": 0.35, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "erase": 0.1},
    "strong": {
        "flip": True, "crop": 0.25, "randaugment": 2, "magnitude": 9.0, "erase": 0.25, "mixup": 0.2, "cutmix": 1.0,
    },
}  # fmt: skip
"""Photographs whose class does not depend on left and right; digits and letters want shifts and small turns instead.

light: a few epochs of fine-tuning. The usual crop (0.08) makes things look larger in training than in validation
(Touvron et al. 2019, arXiv:1906.06423), which few epochs do not make up for. standard: tens of epochs; half of the
usual color jitter (timm: 0.4), and the erasing of torchvision's reference recipe. strong: hundreds of epochs; two
operations of magnitude 9 (the paper's for ResNet-50), erasing and CutMix of DeiT (Touvron et al. 2020,
arXiv:2012.12877, Table 9), MixUp of torchvision's reference recipe.
"""


class AugmentationPart(Part):
    """Augmentation of training images, each part uniformly at random; what is not set is the policy's. Edges are
    reflected.
    """

    policy: Literal["none", "light", "standard", "strong"] = Field("none", description="What the other keys start from")
    shift: float = Field(0.0, ge=0, lt=1, description="Move both ways by up to this share of the side")
    rotate: float = Field(0.0, ge=0, le=180, description="Turn both ways by up to this many degrees")
    zoom: float = Field(0.0, ge=0, lt=1, description="Share by which an image grows or shrinks")
    flip: bool = Field(False, description="Mirror left and right, half of the time")
    crop: float = Field(
        0.0, ge=0, le=1,
        description="Least share of the area that is kept and resized to the whole (arXiv:1409.4842, section 6); "
        "0 is off",
    )  # fmt: skip
    flip_vertical: bool = Field(False, description="Turn upside down by mirroring, half of the time")
    brightness: float = Field(0.0, ge=0, lt=1, description="Change by a factor in [1 - v, 1 + v]")
    contrast: float = Field(0.0, ge=0, lt=1, description="Change by a factor in [1 - v, 1 + v]")
    saturation: float = Field(0.0, ge=0, lt=1, description="Change by a factor in [1 - v, 1 + v]; of three channels")
    hue: float = Field(0.0, ge=0, le=0.5, description="Turn both ways by a share of the color circle; three channels")
    randaugment: int = Field(0, ge=0, description="Operations of RandAugment on each image (arXiv:1909.13719)")
    magnitude: float = Field(9.0, ge=0, le=10, description="How strong RandAugment's operations are")
    erase: float = Field(
        0.0, ge=0, le=1, description="Probability that a rectangle turns to noise (arXiv:1708.04896)"
    )  # fmt: skip
    mixup: float = Field(0.0, ge=0, description="Alpha of Beta(alpha, alpha) (arXiv:1710.09412); 0 is off")
    cutmix: float = Field(
        0.0, ge=0,
        description="The same (arXiv:1905.04899); with mixup on, too, each example takes either half of the time",
    )  # fmt: skip

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        """What was left out is the policy's."""
        self.fill(**{key: value for key, value in POLICIES[self.policy].items() if key not in self.model_fields_set})
        return self

    @model_serializer
    def _written(self, info: SerializationInfo) -> dict[str, Any]:
        """The policy, and what differs from it: read with another policy, the rest is that one's."""
        given = AugmentationPart.model_fields
        if info.exclude_unset:
            return {key: getattr(self, key) for key in given if key in self.model_fields_set}
        start = {**{key: field.default for key, field in given.items()}, **POLICIES[self.policy]}
        return {key: getattr(self, key) for key in given if key == "policy" or getattr(self, key) != start[key]}

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return bool(self.mixup or self.cutmix)

    def unmixed(self) -> Self:
        """The same without mixing."""
        return self.model_copy(update={"mixup": 0.0, "cutmix": 0.0})

    def describe(self) -> dict[str, Any]:
        """The settings that are not off; `magnitude` only beside `randaugment`."""
        values = {key: getattr(self, key) for key in AugmentationPart.model_fields if key != "policy"}
        return {k: v for k, v in values.items() if v and (k != "magnitude" or self.randaugment)}
