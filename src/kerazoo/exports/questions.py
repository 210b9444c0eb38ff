"""What the gate asks of an export, and the answers that it must give.

For the validation images, the answers are those that evaluation recorded. For images of other shapes and formats, and
for the signatures that evaluation did not need, they are those of the run's own preprocessing and network.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerazoo.exports.layout import CLASSIFY, DEFAULT, FEATURES, PREPARE, SERVE_PREPARED
from kerazoo.exports.synthetic import encoded_images, float_images
from kerazoo.tasks.task import find_task

if TYPE_CHECKING:
    import keras

    from kerazoo.models.description import ModelSpec
    from kerazoo.pipelines.data.examples import Examples

Network = Callable[[np.ndarray], Mapping[str, Any]]
FEW = 8  # number of validation images that all signatures are asked for


@dataclass(frozen=True)
class Question:
    """Images for one signature, encoded or as arrays, each in a file, and the (N, ...) numbers that it must give."""

    keys: Sequence[str]
    files: Sequence[str]
    expected: np.ndarray
    signature: str = DEFAULT
    recorded: bool = True  # whether evaluation recorded the answers; then the predicted classes must be equal, too


def questions(
    spec: "ModelSpec", model: "keras.Model", val: "Examples", recorded: np.ndarray, scratch: Path
) -> list[Question]:
    """The questions of the gate: all of `val` first, whose (N, K) answers are `recorded`; files go into `scratch`."""
    preprocessing = spec.preprocessing
    network = as_graph(model)
    takes_bytes = preprocessing.channels in (1, 3)
    few = slice(FEW)
    keys = val.keys[few]
    if takes_bytes:
        files = _encoded(val, scratch)
        contents = [Path(file).read_bytes() for file in files[few]]
        pixels = [preprocessing.decode(one).numpy() for one in contents]
        images = [preprocessing(one).numpy() for one in contents]
    else:  # no encoded image has this number of channels, so all are pixels
        assert val.pixels is not None
        files = _saved(val.pixels, scratch, "val")
        pixels = list(val.pixels[few])
        images = [preprocessing.prepare(one).numpy() for one in pixels]
    features, answers = outputs_of(spec, network, images)
    asked = [
        Question(val.keys, files, recorded),
        Question(keys, _saved(pixels, scratch, "images"), recorded[few], "serve_images"),
        Question(keys, _saved(pixels, scratch, "pixels", np.uint8), recorded[few], "serve_pixels"),
        Question(keys, _saved(images, scratch, "prepared"), recorded[few], SERVE_PREPARED),
    ]
    if features is not None:
        asked.append(Question(keys, files[few], features, FEATURES, recorded=False))
    if takes_bytes:
        encoded = encoded_images()
        written = _written(encoded, scratch)
        prepared = [preprocessing(one).numpy() for one in encoded.values()]
        _, answers = outputs_of(spec, network, prepared)
        asked.append(Question(list(encoded), written, answers, recorded=False))
        asked.append(Question(list(encoded), written, np.stack(prepared), PREPARE, recorded=False))
        asked.append(Question(keys, files[few], np.stack(images), PREPARE, recorded=False))
        if find_task(spec.task).probabilities:
            asked.append(Question(keys, files[few], recorded[few], CLASSIFY))
    drawn = float_images(preprocessing.channels)
    _, answers = outputs_of(spec, network, [preprocessing.prepare(image).numpy() for image in drawn.values()])
    asked.append(Question(list(drawn), _saved(list(drawn.values()), scratch, "drawn"), answers, "serve_images", False))
    return asked


def as_graph(model: "keras.Model") -> Network:
    """The network as evaluation runs it, (N, H, W, C) prepared images -> its logits and features by name.

    One operation at a time, TensorFlow rounds otherwise than in a graph, and 101 layers with random weights make that
    visible.
    """
    import tensorflow as tf

    from kerazoo.models.heads.classifier import logits_and_features

    return tf.function(lambda images: logits_and_features(model, images), autograph=False)  # type: ignore[no-any-return]


def outputs_of(
    spec: "ModelSpec", network: Network, prepared: Sequence[np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray]:
    """(N, F) features, or None if the network has no such layer, and (N, K) answers of the run's own network."""
    import keras

    outputs = network(np.stack(prepared))
    answers: np.ndarray = keras.ops.convert_to_numpy(spec.answers(outputs["logits"]))
    features = outputs.get(FEATURES)
    return (None if features is None else keras.ops.convert_to_numpy(features)), answers


def _written(contents: Mapping[str, bytes], scratch: Path) -> list[str]:
    files = [scratch / f"encoded{number}" for number in range(len(contents))]
    for file, content in zip(files, contents.values(), strict=True):
        file.write_bytes(content)
    return [str(file) for file in files]


def _saved(images: Sequence[np.ndarray] | np.ndarray, scratch: Path, name: str, kind: Any = np.float32) -> list[str]:
    """The paths of new files with pixels, as for `serve_images`."""
    files = [str(scratch / f"{name}{number}.npy") for number in range(len(images))]
    for path, image in zip(files, images, strict=True):
        np.save(path, image.astype(kind))
    return files


def _encoded(examples: "Examples", scratch: Path) -> list[str]:
    """The paths of the examples' files. Images of an array are written as PNG, which is lossless."""
    if examples.paths is not None:
        return [str(Path(path).absolute()) for path in examples.paths]
    from PIL import Image

    assert examples.pixels is not None
    paths = []
    for number, pixels in enumerate(examples.pixels):
        path = scratch / f"{number}.png"
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, format="PNG")
        path.write_bytes(buffer.getvalue())
        paths.append(str(path))
    return paths
