"""Features from the output of a backbone: the class token, the mean of the patches, or both."""

from typing import Any

import keras
from keras import KerasTensor, layers, ops

from kerazoo.models.layers import register


@register
class TokenPooling(layers.Layer):  # type: ignore[misc]
    """(B, N, D) tokens -> (B, D) or (B, 2D) features.

    `how` is "token" (the first token), "mean" (of all but the first `tokens`), or "token_mean" (both side by side).
    """

    def __init__(self, how: str, tokens: int = 0, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.how = how
        self.tokens = tokens

    def call(self, x: KerasTensor) -> KerasTensor:
        """Pool the tokens."""
        token = x[:, 0]
        mean = ops.mean(x[:, self.tokens :], axis=1)
        if self.how == "token":
            return token
        return mean if self.how == "mean" else ops.concatenate([token, mean], axis=-1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(B, D) or (B, 2D)."""
        batch, _, width = input_shape
        return (batch, 2 * width if self.how == "token_mean" and width else width)

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild it."""
        return {**super().get_config(), "how": self.how, "tokens": self.tokens}


def pooled(x: KerasTensor, how: str, tokens: int, *, name: str) -> KerasTensor:
    """(B, N, D) or (B, H, W, C) -> (B, F) features; (B, F) stays as it is."""
    if len(x.shape) == 4:
        return keras.layers.GlobalAveragePooling2D(name=name)(x)
    return TokenPooling(how, tokens, name=name)(x) if len(x.shape) == 3 else x
