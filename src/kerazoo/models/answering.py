"""The network that answers: a trained network, on each image alone or with its mirror image, or several of them.

Shape letters, NHWC: B images, H W pixels, C channels, F features, K outputs.
"""

from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from kerazoo.models.ensemble import member_name
from kerazoo.models.heads.classifier import feature_extractor, has_features
from kerazoo.tasks.task import find_task

if TYPE_CHECKING:
    from kerazoo.models.description import ModelSpec


def answering_network(spec: "ModelSpec", network: keras.Model) -> keras.Model:
    """(B, H, W, C) prepared images -> (B, K) logits, which `spec.answers` turns into answers.

    Evaluation, predictions, exports and serving all use this network. It has the weights of `network`, which `spec`
    builds, and is `network` itself unless `spec` has mirror images or members. The answers of an ensemble are the means
    of its members' calibrated probabilities, or of their numbers.
    """
    if not spec.members:
        return with_mirror_image(network) if spec.flip else network
    x = keras.Input(network.input_shape[1:], name="images")
    logits = []
    for member, (one, flip) in zip(spec.members, trained_networks(spec, network), strict=True):
        answering = with_mirror_image(one) if flip else one
        logits.append(answering(x) / member.temperature)
    return keras.Model(x, find_task(spec.task).pooled(logits), name=network.name)


def trained_networks(spec: "ModelSpec", network: keras.Model) -> list[tuple[keras.Model, bool]]:
    """The flat network in `network`, or those of an ensemble, each with whether it answers mirror images, too."""
    if not spec.members:
        return [(network, spec.flip)]
    return [(network.get_layer(member_name(n)), one.flip) for n, one in enumerate(spec.members, 1)]


def with_mirror_image(network: keras.Model) -> keras.Model:
    """(B, H, W, C) -> (B, K): the mean of the logits of each image and of its mirror image, left and right exchanged.

    If `network` has the linear head of `attach`, the new network has layers of the same names: `features`, the mean of
    both features, and `logits`. The logits of the mean features are the mean of the logits.
    """
    x = keras.Input(network.input_shape[1:], name="images")
    both = ops.concatenate([x, ops.flip(x, axis=2)], axis=0)  # (2B, H, W, C)
    if not _has_linear_head(network):
        whole = keras.Model(network.input, network.output, name="network")
        return keras.Model(x, _mean_of_views(whole(both)), name=network.name)
    features = keras.layers.Identity(name="features")(_mean_of_views(feature_extractor(network)(both)))
    return keras.Model(x, network.get_layer("logits")(features), name=network.name)


def _mean_of_views(values: Any) -> Any:
    """(2B, n) values of the images and of their mirror images -> (B, n) their means."""
    return ops.mean(ops.reshape(values, (2, -1, values.shape[-1])), axis=0)


def _has_linear_head(network: keras.Model) -> bool:
    """Whether the output is a linear layer `logits` of the layer `features`; a dropout between them has no effect."""
    if not has_features(network):
        return False
    names = {layer.name for layer in network.layers}
    after = network.layers[[layer.name for layer in network.layers].index("features") + 1 :]
    if "logits" not in names or {layer.name for layer in after} - {"features_dropout", "logits"}:
        return False
    logits = network.get_layer("logits")
    return isinstance(logits, keras.layers.Dense) and logits.activation is keras.activations.linear
