"""The gate: load an export in a fresh process without keras, and compare its answers with the evaluated model's.

Every output is compared. For the validation images, the answers must equal those that evaluation recorded, and the
class names those of the data. For images of other shapes and formats, the answers must equal those of the run's own
preprocessing and network. The fresh process runs `answer`; it imports only installed code (see `startup.py`).
"""

import io
import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerazoo.errors import GateError
from kerazoo.startup import fresh_python, start_tensorflow
from kerazoo.tasks.measures import TOLERANCE, near
from kerazoo.tasks.task import find_task

if TYPE_CHECKING:
    import keras

    from kerazoo.models.description import ModelSpec
    from kerazoo.pipelines.data.examples import Examples
    from kerazoo.tasks.base import Task


LIMIT = 1000  # images to compare; of a larger split, every n-th image is used
FLOAT_IMAGES = 8  # number of these that are also compared as float images


@dataclass(frozen=True)
class GateResult:
    """The result for an export that passed: the number of compared `images` of a `split`, and of `synthetic` images.

    `largest_difference` is the largest difference of a probability, or of a regression's number.
    """

    split: str
    images: int
    synthetic: int
    largest_difference: float

    def line(self) -> str:
        """The result in one line."""
        largest = f"largest difference {self.largest_difference:.1g}"
        return f"answers {self.images:,} {self.split} images as the run did ({largest})"

    def to_json(self) -> dict[str, Any]:
        """The fields, as in the passport."""
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """Images, encoded (`is_bytes`) or as float pixels, each in a file, and the (N, K) expected answers."""

    keys: Sequence[str]
    files: Sequence[str]
    expected: np.ndarray
    is_bytes: bool
    recorded: bool = True  # whether evaluation recorded the answers; then the predicted classes must be equal, too


def check_export(
    export: Path, spec: "ModelSpec", model: "keras.Model", val: "Examples", recorded: np.ndarray, scratch: Path
) -> GateResult:
    """The result of the gate for `export`.

    `recorded` are the (N, K) answers of evaluation for `val`; temporary files are written into `scratch`. Raises
    GateError if any output differs, or if the export cannot be loaded.
    """
    chosen = list(range(0, len(val), math.ceil(len(val) / LIMIT)))
    questions = _questions(spec, model, val.take(chosen), recorded[chosen], scratch)
    differences = []
    for question, outputs in zip(questions, _ask(export, questions, scratch), strict=True):
        same, difference = compare(outputs, question, val.class_names, find_task(spec.task))
        wrong = [key for key, is_same in zip(question.keys, same, strict=True) if not is_same]
        if wrong:
            other = "the evaluated model" if question.recorded else "the run's own network"
            raise GateError(
                f"the export does not give the same answers as {other} for {len(wrong)} of {len(same)} images, "
                f"{wrong[0]} first (largest difference {difference.max():.2g})"
            )
        differences.append(float(difference.max()))
    synthetic = sum(len(question.keys) for question in questions if not question.recorded)
    return GateResult("val", len(chosen), synthetic, max(differences))


def compare(
    outputs: dict[str, Any], question: Question, names: Sequence[str], task: "Task"
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) whether every output of a signature is right for each image, and (N,) the largest difference of a number.

    Raises GateError if the outputs are not those of the task, or if their class names are not `names`.
    """
    expected = question.expected
    if set(outputs) != task.outputs:
        raise GateError(
            f"the outputs of the export must be {', '.join(sorted(task.outputs))}, got {', '.join(sorted(outputs))}"
        )
    for row in outputs["class_names"]:
        if row != list(names):
            raise GateError(f"the class names of the export are {row[:5]}, but those of the data are {list(names)[:5]}")
    answers = outputs[task.main_output]
    if answers.shape != expected.shape:
        raise GateError(f"the export's answers must have the shape {expected.shape}, got {answers.shape}")
    difference: np.ndarray = np.abs(answers - expected).max(axis=1)
    same = task.agree(answers, expected) if question.recorded else near(answers, expected)
    if not task.probabilities:
        return same, difference

    count = outputs["top_probabilities"].shape[1]
    index = {name: number for number, name in enumerate(names)}
    top = np.array([[index.get(label, -1) for label in row] for row in outputs["top_labels"]])
    if top.shape != outputs["top_probabilities"].shape or (top < 0).any():
        raise GateError("the export's top_labels are not names of the data's classes")
    best = -np.sort(-expected, axis=1)[:, :count]
    of_labels = np.take_along_axis(expected, top, axis=1)
    for numbers in (best, of_labels):
        off = np.abs(outputs["top_probabilities"] - numbers).max(axis=1)
        same &= off <= TOLERANCE
        difference = np.maximum(difference, off)
    same &= [len(set(row)) == count for row in outputs["top_labels"]]
    same &= [label == row[0] for label, row in zip(outputs["label"], outputs["top_labels"], strict=True)]
    if question.recorded:
        same &= task.is_first(top[:, 0], expected)
    return same, difference


def _questions(
    spec: "ModelSpec", model: "keras.Model", val: "Examples", recorded: np.ndarray, scratch: Path
) -> list[Question]:
    """The validation images for both signatures, then synthetic images."""
    preprocessing = spec.preprocessing
    questions = []
    pixels = _synthetic_pixels(preprocessing.channels, scratch)
    if preprocessing.channels in (1, 3):
        paths = _encoded(val, scratch)
        few = slice(FLOAT_IMAGES)
        decoded = [_decode(path, preprocessing) for path in paths[few]]
        questions += [
            Question(val.keys, paths, recorded, is_bytes=True),
            Question(val.keys[few], _saved(decoded, scratch, "val"), recorded[few], is_bytes=False),
        ]
        files = _synthetic_files(scratch)
        prepared = [preprocessing(Path(file).read_bytes()) for file in files.values()]
        expected = _answers(spec, model, prepared)
        questions.append(Question(list(files), list(files.values()), expected, is_bytes=True, recorded=False))
    else:  # no encoded image has this number of channels, so all are float images
        assert val.pixels is not None
        questions.append(Question(val.keys, _saved(val.pixels, scratch, "val"), recorded, is_bytes=False))
    expected = _answers(spec, model, [preprocessing.prepare(np.load(file)) for file in pixels.values()])
    return [*questions, Question(list(pixels), list(pixels.values()), expected, is_bytes=False, recorded=False)]


def _answers(spec: "ModelSpec", model: "keras.Model", prepared: list[Any]) -> np.ndarray:
    """(N, K) answers of the run's own network for prepared images."""
    import keras
    import tensorflow as tf

    answers: np.ndarray = keras.ops.convert_to_numpy(spec.answers(model(tf.stack(prepared), training=False)))
    return answers


def _synthetic_files(scratch: Path) -> dict[str, str]:
    from kerazoo.exports.synthetic import encoded_images

    files = {}
    for number, (key, contents) in enumerate(encoded_images().items()):
        path = scratch / f"synthetic{number}"
        path.write_bytes(contents)
        files[key] = str(path)
    return files


def _synthetic_pixels(channels: int, scratch: Path) -> dict[str, str]:
    from kerazoo.exports.synthetic import float_images

    images = float_images(channels)
    return dict(zip(images, _saved(list(images.values()), scratch, "synthetic"), strict=True))


def _decode(path: str, preprocessing: Any) -> np.ndarray:
    pixels: np.ndarray = preprocessing.decode(Path(path).read_bytes()).numpy()
    return pixels


def _saved(images: Sequence[np.ndarray] | np.ndarray, scratch: Path, name: str) -> list[str]:
    """The paths of new files with pixels, as for `serve_images`."""
    files = [str(scratch / f"{name}{number}.npy") for number in range(len(images))]
    for path, image in zip(files, images, strict=True):
        np.save(path, image.astype(np.float32))
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


def _ask(export: Path, questions: Sequence[Question], scratch: Path) -> list[dict[str, Any]]:
    """The outputs for each question by name: numbers as arrays, names as lists."""
    file = scratch / "questions.json"
    values = [{"files": list(question.files), "is_bytes": question.is_bytes} for question in questions]
    file.write_text(json.dumps(values), encoding="utf-8")
    command = fresh_python(__name__, "answer", *(str(path.absolute()) for path in (export, file, scratch)))
    process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if process.returncode:
        default = f"it was ended by signal {-process.returncode}" if process.returncode < 0 else "no message"
        reason = (process.stderr.strip().splitlines() or [default])[-1]
        raise GateError(f"the export cannot be used in a fresh process: {reason}")
    outputs = []
    for number in range(len(questions)):
        names = json.loads((scratch / f"answers{number}.json").read_text(encoding="utf-8"))
        with np.load(scratch / f"answers{number}.npz") as numbers:
            outputs.append({**names, **numbers})
    return outputs


def answer(export: str, questions: str, scratch: str) -> None:
    """Answer every question. The fresh process runs this; an import of keras would fail in it."""
    start_tensorflow(keras=False)
    from kerazoo.exports.saved_model import BATCH, ExportedModel, read_file

    model = ExportedModel(Path(export))
    for number, question in enumerate(json.loads(Path(questions).read_text(encoding="utf-8"))):
        files = question["files"]
        if question["is_bytes"]:
            starts = range(0, len(files), BATCH)
            batches = [model.outputs([read_file(Path(f)) for f in files[start : start + BATCH]]) for start in starts]
        else:  # their sizes differ
            batches = [model.image_outputs(np.load(file)[None]) for file in files]
        outputs = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        texts = {name: _decoded(values) for name, values in outputs.items() if values.dtype == object}
        # these are the same for every image, unless something is wrong
        texts["class_names"] = [list(row) for row in sorted(set(map(tuple, texts["class_names"])))]
        (Path(scratch) / f"answers{number}.json").write_text(json.dumps(texts), encoding="utf-8")
        numbers: dict[str, Any] = {name: values for name, values in outputs.items() if name not in texts}
        np.savez(Path(scratch) / f"answers{number}.npz", **numbers)


def _decoded(values: np.ndarray) -> list[Any]:
    return [_decoded(row) if isinstance(row, np.ndarray) else row.decode("utf-8") for row in values]
