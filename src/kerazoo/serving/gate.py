"""The gate: an export is loaded in a fresh process without keras and must answer as the evaluated model did.

`answer` is what that process runs. It imports installed code only (see `fresh.py`).
"""

import io
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import GateError
from kerazoo.fresh import fresh_python
from kerazoo.quiet import start_tensorflow

LIMIT = 1000  # pictures; of a larger split every n-th
FLOAT_PICTURES = 8  # of them are asked for once more as float images


def check_export(export: Path, run: Any) -> dict[str, Any]:
    """What was compared: {"split": ..., "pictures": ..., "largest_difference": ...}, over both signatures.

    Raises GateError where a class or a probability differs from what evaluation recorded, or where the export cannot
    be loaded; DataError where the pictures have changed since.
    """
    from kerazoo.models.stored import load_spec
    from kerazoo.pipelines.evaluation import agree, check_unchanged
    from kerazoo.pipelines.examples import load_examples

    recipe, spec = run.recipe(), load_spec(run.folder)
    examples = load_examples(recipe.data)
    check_unchanged(run, examples)
    val = examples.split("val")
    chosen = list(range(0, len(val), -(-len(val) // LIMIT)))
    recorded = np.load(run.folder / "evaluation" / "val.npy")[chosen]
    with tempfile.TemporaryDirectory() as scratch:
        if spec.preprocessing.channels in (1, 3):
            paths = _pictures(val.take(chosen), Path(scratch))
            images = _decoded(paths[:FLOAT_PICTURES], spec.preprocessing, Path(scratch))
            answers, again = _ask(export, paths, images, Path(scratch))
        else:  # no encoded picture has so many channels: all are asked for as float images
            _, answers = _ask(export, [], _as_images(val.take(chosen), Path(scratch)), Path(scratch))
            again = answers[:0]
    difference = np.abs(answers - recorded).max(axis=1)
    difference[: len(again)] = np.maximum(difference[: len(again)], np.abs(again - recorded[: len(again)]).max(axis=1))
    same = agree(answers, recorded, spec.head)
    same[: len(again)] &= agree(again, recorded[: len(again)], spec.head)
    wrong = [val.keys[i] for i, is_same in zip(chosen, same, strict=True) if not is_same]
    if wrong:
        raise GateError(
            f"the export does not answer as the evaluated model did for {len(wrong)} of {len(chosen)} pictures, "
            f"{wrong[0]} first (largest difference {difference.max():.2g}); it was not kept"
        )
    return {"split": "val", "pictures": len(chosen), "largest_difference": float(difference.max())}


def _decoded(paths: list[str], preprocessing: Any, scratch: Path) -> list[str]:
    """Files with the pixels of the pictures, as `serve_images` takes them."""
    import tensorflow as tf

    files = []
    for number, path in enumerate(paths):
        files.append(str(scratch / f"{number}.npy"))
        np.save(files[-1], preprocessing.decode(tf.io.read_file(path)).numpy().astype(np.float32))
    return files


def _as_images(examples: Any, scratch: Path) -> list[str]:
    """Files with the pixels of an array's examples, as `serve_images` takes them."""
    files = [str(scratch / f"{number}.npy") for number in range(len(examples))]
    for path, picture in zip(files, examples.pixels, strict=True):
        np.save(path, picture.astype(np.float32))
    return files


def _pictures(examples: Any, scratch: Path) -> list[str]:
    """Paths of the examples' files; pictures of an array are written as PNG, which loses nothing."""
    if examples.paths is not None:
        return list(examples.paths)
    from PIL import Image

    paths = []
    for number, pixels in enumerate(examples.pixels):
        path = scratch / f"{number}.png"
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, format="PNG")
        path.write_bytes(buffer.getvalue())
        paths.append(str(path))
    return paths


def _ask(export: Path, pictures: list[str], images: list[str], scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    questions, answers = scratch / "questions.json", scratch / "answers.npz"
    asked = {"pictures": pictures, "images": images, "answers": str(answers)}
    questions.write_text(json.dumps(asked), encoding="utf-8")
    command = fresh_python(__name__, "answer", str(export.resolve()), str(questions.resolve()))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise GateError(f"the export cannot be used in a fresh process: {reason}; it was not kept")
    with np.load(answers) as found:
        return found["pictures"], found["images"]


def answer(export: str, questions: str) -> None:
    """The fresh process: answer every question, where any import of keras would fail."""
    start_tensorflow(keras=False)
    from kerazoo.serving.saved_model import ExportedModel

    asked, model = json.loads(Path(questions).read_text(encoding="utf-8")), ExportedModel(Path(export))
    rows = [row for _, row in model.predict_files([Path(p) for p in asked["pictures"]])]
    images = [model.image_probabilities(np.load(path)[None])[0] for path in asked["images"]]
    np.savez(asked["answers"], pictures=np.stack(rows) if rows else np.zeros((0, 1)), images=np.stack(images))
