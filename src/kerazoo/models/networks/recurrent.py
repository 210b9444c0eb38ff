"""A recurrent network that reads an image row by row, for comparison with the feed-forward ones (Le et al. 2015)."""

import keras
from keras import layers

from kerazoo.models.argument_checks import check_choice, check_count, check_input_shape
from kerazoo.models.heads.classifier import attach

CELLS = {"simple": layers.SimpleRNN, "gru": layers.GRU, "lstm": layers.LSTM}


def recurrent(
    *,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    cell: str = "lstm",
    units: int = 64,
    dropout: float = 0.0,
) -> keras.Model:
    """(B, H, W, C) -> (B, num_classes) logits: H time steps of W * C values; the last state is the feature.

    `cell` is "simple" (Elman 1990), "gru" (Cho et al. 2014) or "lstm" (Hochreiter & Schmidhuber 1997); `dropout` acts
    on the last state. Raises ModelError.
    """
    height, width, channels = check_input_shape(input_shape, smallest=1, model="recurrent")
    check_choice(cell, CELLS, name="cell", model="recurrent")
    check_count(units, name="units", model="recurrent")
    inputs = keras.Input((height, width, channels), name="inputs")
    x = layers.Reshape((height, width * channels), name="rows")(inputs)
    x = CELLS[cell](units, name=cell)(x)
    logits = attach(x, num_classes, dropout=dropout, model="recurrent")
    return keras.Model(inputs, logits, name="recurrent")
