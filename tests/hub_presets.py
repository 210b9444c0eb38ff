"""Small presets of keras-hub with random weights, made by keras-hub itself: one for each family."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

TRANSFORMER = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "ViTBackbone": {**TRANSFORMER, "mlp_dim": 32},
    "DeiTBackbone": {**TRANSFORMER, "intermediate_dim": 32},
    "DINOV2Backbone": {**TRANSFORMER, "intermediate_dim": 32, "num_register_tokens": 2, "use_swiglu_ffn": True},
    "DINOV3Backbone": {**TRANSFORMER, "intermediate_dim": 32, "num_register_tokens": 4},
    "SigLIPVisionEncoder": {**TRANSFORMER, "intermediate_dim": 32},
    "CLIPVisionEncoder": {**TRANSFORMER, "intermediate_dim": 32},
    "MetaCLIP2VisionEncoder": {**TRANSFORMER, "intermediate_dim": 32},
    "SwinTransformerBackbone": {
        "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2], "window_size": 2, "patch_size": 2,
    },
    "MiTBackbone": {
        "layerwise_depths": [1, 1], "num_layers": 2, "layerwise_num_heads": [1, 2], "layerwise_sr_ratios": [2, 1],
        "max_drop_path_rate": 0.1, "layerwise_patch_sizes": [7, 3], "layerwise_strides": [4, 2], "hidden_dims": [8, 16],
    },
    "HGNetV2Backbone": {
        "depths": [1, 1], "embedding_size": 8, "hidden_sizes": [8, 16], "stem_channels": [3, 8, 8],
        "hidden_act": "relu", "use_learnable_affine_block": False,
        "stackwise_stage_filters": [(8, 8, 16, 1, 1, 3), (16, 8, 32, 1, 1, 3)], "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, True],
    },
    "ResNetBackbone": {
        "input_conv_filters": [64], "input_conv_kernel_sizes": [7], "stackwise_num_filters": [64, 64],
        "stackwise_num_blocks": [1, 1], "stackwise_num_strides": [1, 2], "block_type": "basic_block",
    },
    "EfficientNetBackbone": {
        "stackwise_kernel_sizes": [3, 3], "stackwise_num_repeats": [1, 2], "stackwise_input_filters": [8, 8],
        "stackwise_output_filters": [8, 16], "stackwise_expansion_ratios": [1, 4], "stackwise_strides": [1, 2],
        "stackwise_squeeze_and_excite_ratios": [0.25, 0.25], "stackwise_block_types": ["v1", "v1"],
        "stackwise_width_coefficients": [1.0, 1.0], "stackwise_depth_coefficients": [1.0, 1.0],
        "stackwise_force_input_filters": [0, 0], "stackwise_nores_option": [False, False],
    },
    "DenseNetBackbone": {"stackwise_num_repeats": [1, 1], "growth_rate": 4},
    "CSPNetBackbone": {
        "stem_filters": 8, "stem_kernel_size": 3, "stem_strides": 1, "stackwise_depth": [1, 1],
        "stackwise_strides": [2, 2], "stackwise_num_filters": [8, 16], "block_type": "dark_block",
        "stage_type": "dark", "bottle_ratio": [0.5], "block_ratio": [1.0], "stem_padding": "same",
    },
    "MobileNetBackbone": {
        "stackwise_expansion": [[16], [32, 32]], "stackwise_num_blocks": [1, 2],
        "stackwise_num_filters": [[8], [16, 16]], "stackwise_kernel_size": [[3], [3, 3]],
        "stackwise_num_strides": [[2], [2, 1]], "stackwise_se_ratio": [[None], [0.25, 0.25]],
        "stackwise_activation": [["relu"], ["hard_swish", "hard_swish"]], "stackwise_padding": [[1], [1, 1]],
        "output_num_filters": 32, "depthwise_filters": 8, "depthwise_stride": 1, "depthwise_residual": True,
        "last_layer_filter": 32, "input_num_filters": 8,
    },
    "XceptionBackbone": {
        "stackwise_conv_filters": [[8, 8], [16, 16], [32, 32]], "stackwise_pooling": [False, True, False],
    },
    "VGGBackbone": {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 16]},
}  # fmt: skip
TEXT = {
    "vocabulary_size": 20, "embedding_dim": 16, "hidden_dim": 16, "num_layers": 1, "num_heads": 2,
    "intermediate_dim": 32, "max_sequence_length": 8,
}  # fmt: skip
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 32


def make_backbone(kind: str, size: int = SIZE, **config: Any) -> tuple[Any, Any]:
    """(the backbone that a preset has, its image backbone), with weights that are not zero."""
    import keras_hub

    models = keras_hub.models
    keras.utils.set_random_seed(1)
    shape_key = "input_shape" if kind == "EfficientNetBackbone" else "image_shape"
    backbone = getattr(models, kind)(**{**FAMILIES[kind], shape_key: (size, size, 3), **config})
    whole = backbone
    if kind == "SigLIPVisionEncoder":
        whole = models.SigLIPBackbone(backbone, models.SigLIPTextEncoder(**TEXT))
    elif kind == "CLIPVisionEncoder":
        whole = models.CLIPBackbone(backbone, models.CLIPTextEncoder(**TEXT), projection_dim=8)
    elif kind == "MetaCLIP2VisionEncoder":
        from keras_hub.src.models.metaclip_2.metaclip_2_text_encoder import MetaCLIP2TextEncoder

        whole = models.MetaCLIP2Backbone(backbone, MetaCLIP2TextEncoder(**TEXT), projection_dim=8)
    draw = np.random.default_rng(2)
    for weight in whole.weights:  # norms, biases and tokens are zeros and ones, which hide mistakes
        if str(weight.dtype) == "float32" and "interpolated" not in weight.path:
            weight.assign(np.asarray(weight) + np.abs(draw.normal(0, 0.05, weight.shape)).astype(np.float32))
    if kind == "DINOV2Backbone":  # they follow from the position embeddings
        embeddings = backbone.embeddings
        embeddings.interpolated_position_embeddings.assign(
            embeddings._interpolate_position_embeddings(
                embeddings.position_embeddings,
                patch_size=embeddings.patch_size,
                source_shape=embeddings.position_embedding_shape,
                target_shape=embeddings.image_shape,
                antialias=embeddings.antialias_in_interpolation,
            )
        )
    return whole, backbone


def save_preset(
    folder: Path, kind: str, size: int = SIZE, converter: Any = None, **config: Any
) -> tuple[Any, Any, Any]:
    """Write a preset into `folder`: (the backbone that it has, its image backbone, its converter)."""
    import keras_hub

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Layer '(attn|stage_)")  # in keras-hub's Swin
        whole, backbone = make_backbone(kind, size, **config)
    whole.save_to_preset(str(folder))
    values = {
        "image_size": (size, size), "scale": [1 / 255 / std for std in STD],
        "offset": [-mean / std for mean, std in zip(MEAN, STD, strict=True)],
    }  # fmt: skip
    made = keras_hub.layers.ImageConverter(**{**values, **(converter or {})})
    made.save_to_preset(str(folder))
    return whole, backbone, made


def expected_features(kind: str, whole: Any, backbone: Any, images: np.ndarray) -> np.ndarray:
    """The features that keras-hub itself gives, pooled here in numpy; `images` are converted."""
    inputs = {next(iter(backbone.input)): images} if isinstance(backbone.input, dict) else images
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Layer 'attn")
        output = backbone.predict(inputs, verbose=0)
    output = list(output.values())[-1] if isinstance(output, dict) else output
    if kind in ("ViTBackbone", "DeiTBackbone", "CLIPVisionEncoder"):
        return output[:, 0]
    if kind == "MetaCLIP2VisionEncoder":
        return np.asarray(whole.vision_post_layer_norm(output[:, 0]))
    if kind in ("DINOV2Backbone", "DINOV3Backbone"):
        patches = output[:, 1 + FAMILIES[kind]["num_register_tokens"] :]
        return np.concatenate([output[:, 0], patches.mean(1)], axis=-1)
    if output.ndim == 2:
        return output
    return output.reshape(len(output), -1, output.shape[-1]).mean(1)
