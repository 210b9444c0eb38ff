"""The networks of an ensemble as one model, which has the weights of all.

Shape letters, NHWC: B images, H W pixels, C channels, K outputs.
"""

from collections.abc import Sequence

import keras


def side_by_side(networks: Sequence[keras.Model]) -> keras.Model:
    """(B, H, W, C) -> a list with the (B, K) logits of each of `networks`, which are its layers `member_1` and on."""
    x = keras.Input(networks[0].input_shape[1:], name="images")
    named = [keras.Model(one.input, one.output, name=f"member_{n}") for n, one in enumerate(networks, 1)]
    return keras.Model(x, [one(x) for one in named], name=networks[0].name)
