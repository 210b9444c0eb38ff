"""How much a network's answers change when single pixels are rounded to the next whole number.

`reference.py` and resizing within a format equal the zoo's preprocessing but for rounding: one pixel in some ten
thousand differs by one of 255. What that does to an answer depends on the network, so it is measured with it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kerazoo.errors import GateError
from kerazoo.exports.formats import reference
from kerazoo.exports.formats.portable import fitted, settings_of
from kerazoo.exports.layout import DEFAULT
from kerazoo.exports.questions import Question, as_graph, outputs_of
from kerazoo.tasks.measures import differences

if TYPE_CHECKING:
    import keras

    from kerazoo.models.description import ModelSpec

BATCH = 32
MOST = 0.025  # of the effect that counts, or a wrong export of a network that answers single pixels could pass
SHARE = 0.1  # of an image's pixels that may be rounded otherwise: 4 % in drawings, whose means are often exact halves


def effect_of_rounding(spec: "ModelSpec", model: "keras.Model", asked: Sequence[Question]) -> float:
    """The largest change of an answer, relative for numbers over 1, in both other ways to resize; at most MOST.

    All images of the gate are prepared by `reference.py`, and resized as formats do within. Raises GateError, which
    names the image, if a pixel differs by more than 1, or more than a SHARE of them.
    """
    rows = [
        (question.keys[number], question.files[number], question.expected[number])
        for question in asked
        if question.signature == DEFAULT
        for number in range(len(question.keys))
    ]
    settings = settings_of(spec.preprocessing)
    network = as_graph(model)
    largest = 0.0
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        expected = np.stack([row for _, _, row in some])
        both = [_resized(spec, settings, key, file) for key, file, _ in some]
        for pixels in zip(*both, strict=True):
            _, answers = outputs_of(spec, network, [spec.preprocessing.scale(image).numpy() for image in pixels])
            largest = max(largest, float(differences(answers, expected).max()))
    return min(largest, MOST)


def _resized(spec: "ModelSpec", settings: reference.Settings, key: str, file: str) -> tuple[np.ndarray, np.ndarray]:
    """The pixels by `reference.py` and by the graph's way, compared with those of the zoo."""
    if file.endswith(".npy"):
        pixels: np.ndarray = np.load(file).round().clip(0, 255).astype(np.uint8)
        own = spec.preprocessing.resize_pixels(pixels).numpy()
    else:
        contents = Path(file).read_bytes()
        own = spec.preprocessing.read(contents).numpy()
        try:
            pixels = reference.decode(contents, settings)
        except OSError as error:
            raise GateError(f"{key}: preprocessing/reference.py does not decode it: {error}") from error
    found = reference.fit(pixels, settings), fitted(pixels[None], spec.preprocessing)[0].numpy().astype(np.uint8)
    for other in found:
        difference = np.abs(other.astype(int) - own.astype(int))
        if difference.max() > 1 or (difference > 0).mean() > SHARE:
            raise GateError(
                f"{key}: preprocessing/reference.py gives other pixels than the run's preprocessing, by up to "
                f"{difference.max()} of 255 and in {(difference > 0).mean():.2%} of them"
            )
    return found
