"""The settings of augmentation: a named policy, and the keys that change it."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, SerializationInfo, model_serializer, model_validator

from kerazoo.recipes.parts import Part, refuse

POLICIES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "light": {"flip": True, "crop": 0.6},
    "standard": {"flip": True, "crop": 0.35, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "erase": 0.1},
    "strong": {
        "flip": True, "crop": 0.25, "randaugment": 2, "magnitude": 9.0, "erase": 0.25, "mixup": 0.2, "cutmix": 1.0,
    },
}  # fmt: skip
"""The policies are for photographs whose class does not depend on left and right. For digits and letters, use shifts
and small rotations instead.

light: for a few epochs of fine-tuning. The usual crop (0.08) makes objects look larger in training than in validation
(Touvron et al. 2019, arXiv:1906.06423), and a few epochs cannot correct this. standard: for tens of epochs. It has half
of the usual color jitter (timm: 0.4), and the erasing of torchvision's reference recipe. strong: for hundreds of
epochs. It has two operations of magnitude 9 (the paper's for ResNet-50), erasing and CutMix of DeiT (Touvron et al.
2020, arXiv:2012.12877, Table 9), and MixUp of torchvision's reference recipe.
"""


class AugmentationPart(Part):
    """Augmentation of training images. Each random value is drawn uniformly. The policy sets the keys that are not
    set here. Edges are filled by reflection.
    """

    policy: Literal["none", "light", "standard", "strong"] = Field("none", description="Defaults for the other keys")
    shift: float = Field(
        0.0, ge=0, lt=1, description="Largest shift in each direction, as a share of the side"
    )  # fmt: skip
    rotate: float = Field(0.0, ge=0, le=180, description="Largest rotation in each direction, in degrees")
    zoom: float = Field(0.0, ge=0, lt=1, description="Largest share by which an image grows or shrinks")
    flip: bool = Field(False, description="Mirror left and right with probability 1/2")
    flip_alternately: bool = Field(
        False,
        description="In training, let `flip` mirror half of the images, drawn at random, in the first epoch, and then "
        "each image in every other epoch (arXiv:2404.00498, section 3.6)",
    )
    crop: float = Field(
        0.0, ge=0, le=1,
        description="Crop at random, keeping at least this share of the area, and resize to the full size "
        "(arXiv:1409.4842, section 6); 0 for no crop",
    )  # fmt: skip
    flip_vertical: bool = Field(False, description="Mirror top and bottom with probability 1/2")
    brightness: float = Field(0.0, ge=0, lt=1, description="Change brightness by a factor in [1 - v, 1 + v]")
    contrast: float = Field(0.0, ge=0, lt=1, description="Change contrast by a factor in [1 - v, 1 + v]")
    saturation: float = Field(
        0.0, ge=0, lt=1, description="Change saturation by a factor in [1 - v, 1 + v]; only for three channels"
    )
    hue: float = Field(
        0.0, ge=0, le=0.5,
        description="Largest change of hue in each direction, as a share of the color circle; only for three channels",
    )  # fmt: skip
    randaugment: int = Field(
        0, ge=0, description="Number of RandAugment operations on each image (arXiv:1909.13719)"
    )  # fmt: skip
    magnitude: float = Field(9.0, ge=0, le=10, description="Strength of the RandAugment operations")
    erase: float = Field(
        0.0, ge=0, le=1, description="Probability that a rectangle is replaced by noise (arXiv:1708.04896)"
    )  # fmt: skip
    mixup: float = Field(
        0.0, ge=0,
        description="Alpha of MixUp's Beta(alpha, alpha) (arXiv:1710.09412); 0 for no MixUp. With stored views, the "
        "outputs of the frozen stages are mixed in place of images (arXiv:1806.05236)",
    )  # fmt: skip
    cutmix: float = Field(
        0.0, ge=0,
        description="Alpha of CutMix's Beta(alpha, alpha) (arXiv:1905.04899); 0 for no CutMix; with mixup, too, each "
        "example gets one of the two with probability 1/2",
    )  # fmt: skip

    @model_validator(mode="after")
    def _resolve(self) -> Self:
        """Take the keys that are not set from the policy."""
        self.fill(**{key: value for key, value in POLICIES[self.policy].items() if key not in self.model_fields_set})
        if self.flip_alternately and not self.flip:
            refuse("flip_alternately=true needs flip=true; set it, or remove flip_alternately")
        return self

    @model_serializer
    def _written(self, info: SerializationInfo) -> dict[str, Any]:
        """The policy and the keys that differ from it. The policy sets the rest when the recipe is read again."""
        given = AugmentationPart.model_fields
        if info.exclude_unset:
            return {key: getattr(self, key) for key in given if key in self.model_fields_set}
        start = {**{key: field.default for key, field in given.items()}, **POLICIES[self.policy]}
        return {key: getattr(self, key) for key in given if key == "policy" or getattr(self, key) != start[key]}

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed, by MixUp or CutMix."""
        return bool(self.mixup or self.cutmix)

    def unmixed(self) -> Self:
        """The settings without MixUp and CutMix."""
        return self.model_copy(update={"mixup": 0.0, "cutmix": 0.0})

    def describe(self) -> dict[str, Any]:
        """The settings that have an effect; `magnitude` only with `randaugment`."""
        values = {key: getattr(self, key) for key in AugmentationPart.model_fields if key != "policy"}
        return {k: v for k, v in values.items() if v and (k != "magnitude" or self.randaugment)}
