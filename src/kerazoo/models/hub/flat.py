"""A backbone of keras-hub as a flat network: inputs, the ends of its stages, and what its features are pooled from.

keras-hub keeps the blocks of most transformers inside one layer. Here each block is a layer of the network, so that
blocks can be unfrozen, have learning rates of their own, and be tapped. The layers are those of the backbone itself.

Shape letters: B batch, N tokens, D width, H W space, C channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import KerasTensor

from kerazoo.models.hub.families import FAMILIES


@dataclass
class Flat:
    """`stages` are the ends of the stages, by the names of their layers, first to last.

    `copies` are new layers with the layers of the backbone whose weights they need.
    """

    inputs: KerasTensor
    output: KerasTensor
    stages: dict[str, KerasTensor]
    copies: list[tuple[Any, Any]] = field(default_factory=list)


def flatten(backbone: Any, outer: Any = None) -> Flat:
    """`backbone` of keras-hub, flat. `outer` is the backbone of images and text that it is a part of, if there is one.

    The features of MetaCLIP 2 need a norm that its outer backbone has; without `outer`, its weights are the initial
    ones.
    """
    kind = type(backbone).__name__
    if kind in BLOCKS:
        return BLOCKS[kind](backbone)
    inputs = backbone.inputs[0]
    if FAMILIES[kind].blocks == "layers":
        ends = [backbone.embedding, *backbone.encoder_layers]
        flat = Flat(inputs, backbone.output, {layer.name: layer.output for layer in ends})
        if kind == "MetaCLIP2VisionEncoder":
            norm = keras.layers.LayerNormalization(epsilon=1e-5, name="post_layer_norm")
            flat.output = norm(flat.output)
            flat.copies = [] if outer is None else [(norm, outer.vision_post_layer_norm)]
        return flat
    return Flat(inputs, backbone.output, _map_stages(backbone))


def _vit(backbone: Any) -> Flat:
    return _encoded(backbone, backbone.layers[2].dropout, lambda block, x: block(x))


def _deit(backbone: Any) -> Flat:
    return _encoded(backbone, None, lambda block, x: FirstOutput(block, name=block.name)(x))


def _encoded(backbone: Any, first: Any, call: Callable[[Any, Any], Any]) -> Flat:
    """`first` is a layer between the embeddings and the blocks, or None."""
    _, embeddings, encoder = backbone.layers
    x = embeddings.output if first is None else first(embeddings.output)
    stages = {embeddings.name: embeddings.output}
    for block in encoder.encoder_layers:
        x = call(block, x)
        stages[block.name] = x
    return Flat(backbone.inputs[0], encoder.layer_norm(x), stages)


class FirstOutput(keras.layers.Layer):  # type: ignore[misc]
    """The first output of `layer`, whose second is None, which a functional network cannot have."""

    def __init__(self, layer: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.layer = layer
        self.built = True

    def call(self, x: KerasTensor, training: bool | None = None) -> KerasTensor:
        """`layer` on `x`."""
        return self.layer(x, training=training)[0]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The input's shape, as that of any block."""
        return input_shape


def _dinov2(backbone: Any) -> Flat:
    return _dino(backbone, lambda block, x: block(x))


def _dinov3(backbone: Any) -> Flat:
    positions = backbone.rope_embedding.output
    tokens = 1 + backbone.num_register_tokens
    return _dino(backbone, lambda block, x: block(x, position_embeddings=positions, num_prefix_tokens=tokens))


def _dino(backbone: Any, call: Callable[[Any, Any], Any]) -> Flat:
    x = backbone.embeddings.output
    stages = {backbone.embeddings.name: x}
    for block in backbone.encoder.layers:
        x = call(block, x)
        stages[block.name] = x
    # a new norm, because the backbone's was already called on the output of the layer that is not used
    norm = keras.layers.LayerNormalization(epsilon=backbone.layernorm.epsilon, name="layernorm")
    return Flat(backbone.inputs[0], norm(x), stages, [(norm, backbone.layernorm)])


def _hgnet(backbone: Any) -> Flat:
    x = backbone.embedder_layer.output
    stages = {backbone.embedder_layer.name: x}
    for stage in backbone.encoder_layer.stages_list:
        x = stage(x)
        stages[stage.name] = x
    return Flat(backbone.inputs[0], x, stages)


def _swin(backbone: Any) -> Flat:
    names = ["pos_drop", *(stage.name for stage in backbone.stages[:-1]), backbone.norm.name]
    stages = {name: backbone.get_layer(name).output for name in names}
    return Flat(backbone.inputs[0], backbone.output, stages)


def _map_stages(backbone: Any) -> dict[str, KerasTensor]:
    """The levels of a feature pyramid; else, for each size of the feature maps, the last layer that gives it."""
    outputs = {layer.name: layer.output for layer in backbone.layers if isinstance(layer.output, KerasTensor)}
    pyramid = getattr(backbone, "pyramid_outputs", None)
    if pyramid:
        of_level = {id(tensor): name for name, tensor in outputs.items()}
        ends = {of_level[id(tensor)]: tensor for tensor in pyramid.values() if id(tensor) in of_level}
        return _with_last(ends, outputs)
    ends = {}
    height = backbone.inputs[0].shape[1]
    for name, tensor in list(outputs.items())[1:]:
        ends[round(math.log2(height / tensor.shape[1]))] = name  # padding adds some pixels
    return _with_last({name: outputs[name] for name in ends.values()}, outputs)


def _with_last(ends: dict[str, KerasTensor], outputs: dict[str, KerasTensor]) -> dict[str, KerasTensor]:
    """`ends` in the order of the layers, with the last layer as the end of the last stage."""
    order = list(outputs)
    chosen = sorted(ends, key=order.index)
    if chosen and chosen[-1] != order[-1]:
        chosen[-1] = order[-1]
    return {name: outputs[name] for name in chosen or order[-1:]}


BLOCKS: dict[str, Callable[[Any], Flat]] = {
    "ViTBackbone": _vit,
    "DeiTBackbone": _deit,
    "DINOV2Backbone": _dinov2,
    "DINOV3Backbone": _dinov3,
    "HGNetV2Backbone": _hgnet,
    "SwinTransformerBackbone": _swin,
}
