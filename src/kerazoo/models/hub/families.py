"""The image backbones of keras-hub 0.32 that kerazoo takes, one row for each class. Reading it imports nothing heavy.

How features are pooled from the output of a backbone: "token" is the class token; "token_mean" the class token beside
the mean of the patches, as in the linear evaluation of DINOv2 (Oquab et al. 2023, arXiv:2304.07193, appendix B.3);
"mean" the mean over patches or over the feature map; "own" what the network pools itself. Register tokens and the
distillation token are never in a mean.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

POOLINGS = ("token", "token_mean", "mean", "own")
DINOV3_LICENSE = "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"


@dataclass(frozen=True)
class Family:
    """A class of keras-hub. `poolings` are allowed, the first by default; "own" needs an output of rank 2.

    `blocks` says where the transformer blocks are: "encoder" (a list inside a layer), "layers" (layers of the model
    itself), or "" for networks with stages of feature maps. `tokens` are those before the patches. `fixed` replaces
    values of the preset's config. `license` and its source are given where keras-hub states none and it is not free.
    """

    title: str
    poolings: tuple[str, ...] = ("mean",)
    blocks: str = ""
    tokens: int = 0
    size_key: str = "image_shape"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    license: str = ""
    license_source: str = ""

    def tokens_of(self, config: Mapping[str, Any]) -> int:
        """The number of tokens before the patches."""
        if not config.get("use_class_token", True):
            return 0
        return self.tokens + int(config.get("num_register_tokens", 0))


TOKENS = ("token", "mean", "token_mean")
# Their DropPath draws from Keras's global generator, whose state no checkpoint has, so a resumed run would differ.
# Nothing here masks patches, so the mask token would have no gradient.
DINO = {"drop_path_rate": 0.0, "use_mask_token": False}

FAMILIES: Mapping[str, Family] = {
    "ViTBackbone": Family("ViT", TOKENS, blocks="encoder", tokens=1),
    "DeiTBackbone": Family("DeiT", TOKENS, blocks="encoder", tokens=2),
    "DINOV2Backbone": Family("DINOv2", ("token_mean", "token", "mean"), blocks="encoder", tokens=1, fixed=DINO),
    "DINOV3Backbone": Family(
        "DINOv3", ("token_mean", "token", "mean"), blocks="encoder", tokens=1, fixed=DINO,
        license="DINOv3 License", license_source=DINOV3_LICENSE,
    ),
    "SigLIPVisionEncoder": Family("SigLIP", ("own",), blocks="layers"),
    "CLIPVisionEncoder": Family(
        "CLIP", TOKENS, blocks="layers", tokens=1, fixed={"intermediate_output_index": None}
    ),
    "MetaCLIP2VisionEncoder": Family(
        "MetaCLIP 2", TOKENS, blocks="layers", tokens=1, fixed={"intermediate_output_index": None}
    ),
    "SwinTransformerBackbone": Family("Swin"),
    "MiTBackbone": Family("MiT"),
    "HGNetV2Backbone": Family("HGNetV2", blocks="encoder", fixed={"out_features": None}),
    "ResNetBackbone": Family("ResNet"),
    "EfficientNetBackbone": Family("EfficientNet", size_key="input_shape"),
    "DenseNetBackbone": Family("DenseNet"),
    "CSPNetBackbone": Family("CSPNet"),
    "MobileNetBackbone": Family("MobileNet"),
    "XceptionBackbone": Family("Xception"),
    "VGGBackbone": Family("VGG"),
}  # fmt: skip

# backbones of images and text, and the class of their vision encoder
OF_BOTH: Mapping[str, str] = {
    "CLIPBackbone": "CLIPVisionEncoder",
    "MetaCLIP2Backbone": "MetaCLIP2VisionEncoder",
    "SigLIPBackbone": "SigLIPVisionEncoder",
}
# other classes in the configs of presets
PARTS = ("CLIPTextEncoder", "MetaCLIP2TextEncoder", "SigLIPTextEncoder", "DTypePolicy", "DTypePolicyMap")


def title_of(kind: str) -> str:
    """The name of the family of the class `kind`."""
    return FAMILIES[OF_BOTH.get(kind, kind)].title


# what `architecture` does not hold: the input's size is an argument of its own, and the rest is decided by the run
LEFT_OUT = (
    "name", "trainable", "dtype", "data_format", "image_shape", "input_shape", "position_embedding_shape",
)  # fmt: skip

LARGEST = 65_536  # limit on whole numbers
MOST_BLOCKS = 1_000  # limit on the number of blocks or layers, and on the numbers in a list
LARGEST_NUMBER = 1e6
LONGEST = 100  # characters of a word
COUNTS = re.compile(r"num_layers|depth|repeats|num_blocks|num_of_layers|stage_filters")


def problem_of(architecture: Any) -> str:
    """What is wrong with an architecture, `{"class": NAME, "config": {...}}`, in words; "" if it is right.

    It may come from an unknown source. Only the classes of FAMILIES are allowed, with plain values within limits that
    no published backbone reaches; their constructors check the rest.
    """
    if not isinstance(architecture, Mapping) or set(architecture) != {"class", "config"}:
        return "an object with the keys class and config"
    if architecture["class"] not in tuple(FAMILIES):
        return f"of a class in {', '.join(FAMILIES)}"
    config = architecture["config"]
    if not isinstance(config, Mapping) or len(config) > LONGEST:
        return f"a config of at most {LONGEST} values"
    for key, value in config.items():
        if not isinstance(key, str) or not key.isidentifier() or len(key) > LONGEST or key in LEFT_OUT:
            return f"a config without the key {str(key)[:LONGEST]!r}"
        leaves = _leaves(value)
        if leaves is None or not all(map(_is_plain, leaves)):
            return f"a config with plain values within the limits, not {key}={str(value)[:LONGEST]}"
        if COUNTS.search(key) and sum(leaf for leaf in leaves if isinstance(leaf, int)) > MOST_BLOCKS * (
            LARGEST if "filters" in key else 1
        ):
            return f"a config with at most {MOST_BLOCKS:,} blocks, not {key}={str(value)[:LONGEST]}"
    return ""


def _leaves(value: Any, depth: int = 4) -> list[Any] | None:
    """The values in nested lists; None if they are too many, or nested too deeply."""
    if not isinstance(value, list | tuple):
        return [value]
    leaves: list[Any] = []
    for part in value if depth else ():
        inner = _leaves(part, depth - 1)
        if inner is None or len(leaves) + len(inner) > MOST_BLOCKS:
            return None
        leaves += inner
    return leaves if depth else None


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return -LARGEST <= value <= LARGEST
    if isinstance(value, float):
        return -LARGEST_NUMBER <= value <= LARGEST_NUMBER
    return isinstance(value, str) and len(value) <= LONGEST
