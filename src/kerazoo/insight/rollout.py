"""Attention rollout, how much each patch flows into the answer of a vision transformer: Abnar & Zuidema 2020.

arXiv:2005.00928, section 3: A = (I + W)/2 for the mean W of the heads of a block, its rows made to sum to 1, and the
product of all blocks. Shape letters: B images, N tokens, P patches.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from kerazoo.errors import ModelError
from kerazoo.insight.layer_outputs import layers_by_path, run_recorded


def attention_rollout(model: keras.Model, images: Any) -> np.ndarray:
    """(B, H, W, C) prepared images -> (B, h, w) float32 in [0, 1]: what each patch gives to the first token.

    The patches are the last h*w tokens, in rows of a square; the tokens before them are the class token and registers.
    Without one, what each patch gives to all tokens, on average. Each image is divided by its maximum. The model is not
    changed. Raises ModelError if it has no layer `MultiHeadAttention` that all tokens go through.
    """
    images = keras.ops.convert_to_tensor(images)
    blocks = [layer for layer in layers_by_path(model).values() if isinstance(layer, keras.layers.MultiHeadAttention)]
    with _scores(blocks) as scores:
        run_recorded(model, images, {}, lambda name, outputs: None)
    if not scores or len({score.shape for score in scores}) > 1 or scores[0].shape[1] != scores[0].shape[2]:
        raise ModelError(
            f"{model.name} has no blocks of attention over the same tokens, so that there is no attention rollout; use "
            "Grad-CAM"
        )
    tokens = scores[0].shape[1]
    flow = np.eye(tokens)
    for score in scores:
        mixed = (score + np.eye(tokens)) / 2
        flow = mixed / mixed.sum(axis=-1, keepdims=True) @ flow  # (B, N, N)
    side = math.isqrt(tokens)
    first = tokens - side * side
    given = flow[:, 0, first:] if first else flow.mean(axis=1)
    heat = given.reshape(-1, side, side)
    shares: np.ndarray = (heat / heat.max(axis=(1, 2), keepdims=True)).astype(np.float32)
    return shares


@contextmanager
def _scores(blocks: list[keras.layers.MultiHeadAttention]) -> Iterator[list[np.ndarray]]:
    """Inside, each call of one of `blocks` adds (B, N, N) scores to the list, the means over the heads."""
    kept: list[np.ndarray] = []
    before = [(block, vars(block).get("call")) for block in blocks]

    def keeping(call: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            outputs, scores = call(*args, **{**kwargs, "return_attention_scores": True})
            numbers = keras.ops.convert_to_numpy(keras.ops.cast(scores, "float32"))
            kept.append(np.asarray(numbers, np.float64).mean(axis=1))
            return (outputs, scores) if kwargs.get("return_attention_scores") else outputs

        return called

    try:
        for block in blocks:
            object.__setattr__(block, "call", keeping(block.call))  # `object`: Keras would track the attribute
        yield kept
    finally:
        for block, own in before:
            object.__delattr__(block, "call")
            if own is not None:
                object.__setattr__(block, "call", own)
