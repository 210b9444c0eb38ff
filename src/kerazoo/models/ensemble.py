"""Several networks of the same kind side by side, as they are stored; `answering.py` makes one answer of theirs."""

from collections.abc import Sequence

import keras


def side_by_side(networks: Sequence[keras.Model]) -> keras.Model:
    """(B, H, W, C) -> a list with the (B, K) logits of each of `networks`, which are its layers `member_1` and on."""
    x = keras.Input(networks[0].input_shape[1:], name="images")
    named = [keras.Model(one.input, one.output, name=member_name(n)) for n, one in enumerate(networks, 1)]
    return keras.Model(x, [one(x) for one in named], name=networks[0].name)


def member_name(number: int) -> str:
    """The name of the layer that is the network with this number, from 1."""
    return f"member_{number}"
