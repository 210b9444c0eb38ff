"""Build a network by name and load its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerazoo.models.registry import construct, find
from kerazoo.startup import import_keras

if TYPE_CHECKING:
    import keras


def build(
    name: str, *, weights: str | Path | None = None, num_classes: int | None = None,
    input_shape: tuple[int, int, int] | None = None, **arguments: Any,
) -> "keras.Model":  # fmt: skip
    """An uncompiled, flat `keras.Model`: (B, H, W, C) scaled pixels -> (B, num_classes) logits.

    Args:
        name: A name of `list_models()`.
        weights: None or "none" for random ones; "imagenet" for what keras.applications publishes, taken from a cache or
            downloaded; the name of weights that ship with the network, such as "mnist"; the path of a weights file
            without a classifier (.h5, .weights.h5), or of a run. They fill all layers below the head, which stays
            random. Weights of three channels fill a backbone of any number of channels.
        num_classes: Classes, labels or numbers that the network gives. The default is the network's own.
        input_shape: (H, W, C). The default is the network's own.
        **arguments: Other keyword arguments of the network's builder; `describe(name).arguments` lists them.

    Returns:
        The model. Its last two named layers are `features`, (B, F), and `logits`.

    Raises:
        ModelError: if the name or an argument is unknown, or the builder does not allow a value.
        WeightsError: if there are no such weights, or they do not fit.

    Example:
    ```python
    model = kerazoo.build("resnet20", num_classes=5, input_shape=(32, 32, 3))
    ```
    """
    import_keras()
    named = {"num_classes": num_classes, "input_shape": input_shape}
    model = construct(name, **{key: value for key, value in named.items() if value is not None}, **arguments)
    if weights is not None and weights != "none":
        from kerazoo.models.weights.loading import load_features
        from kerazoo.models.weights.sources import weights_of

        source = weights_of(find(name), weights)
        assert source is not None
        load_features(model, source)
    return model
