"""The gate: an export is loaded in a fresh process without keras and must answer as the evaluated model did.

`python -m kerazoo.serving.gate EXPORT KEYS` is that process: KEYS names a JSON file with the pictures, and where to
write their probabilities.
"""

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import DataError, GateError
from kerazoo.quiet import start_tensorflow

LIMIT = 1000  # pictures; of a larger split every n-th
TOLERANCE = 1e-4  # largest difference of a probability; batches of another size round otherwise


def check_export(export: Path, run: Any) -> dict[str, Any]:
    """What was compared: {"split": ..., "pictures": ..., "largest_difference": ...}.

    Raises GateError where a class or a probability differs from what evaluation recorded, or where the export cannot
    be loaded.
    """
    from kerazoo.pipelines.examples import load_examples

    recipe = run.recipe()
    examples = load_examples(recipe.data.path, validation=recipe.data.validation).split("val")
    recorded = np.load(run.folder / "evaluation" / "val.npy")
    if len(recorded) != len(examples):
        raise DataError(f"{examples.source} has changed since {run.folder} was evaluated; evaluate it again")
    chosen = range(0, len(examples), -(-len(examples) // LIMIT))
    with tempfile.TemporaryDirectory() as scratch:
        answers = _ask(export, _pictures(examples.take(chosen), Path(scratch)), Path(scratch))
    difference = np.abs(answers - recorded[list(chosen)]).max(axis=1)
    classes_differ = answers.argmax(axis=1) != recorded[list(chosen)].argmax(axis=1)
    wrong = [examples.keys[i] for i, bad in zip(chosen, classes_differ | (difference > TOLERANCE), strict=True) if bad]
    if wrong:
        raise GateError(
            f"the export does not answer as the evaluated model did for {len(wrong)} of {len(chosen)} pictures, "
            f"{wrong[0]} first (largest difference {difference.max():.2g}); it was not kept"
        )
    return {"split": "val", "pictures": len(chosen), "largest_difference": float(difference.max())}


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


def _ask(export: Path, pictures: list[str], scratch: Path) -> np.ndarray:
    questions, answers = scratch / "questions.json", scratch / "answers.npy"
    questions.write_text(json.dumps({"pictures": pictures, "answers": str(answers)}), encoding="utf-8")
    command = [sys.executable, "-m", "kerazoo.serving.gate", str(export), str(questions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise GateError(f"the export cannot be used in a fresh process: {reason}; it was not kept")
    values: np.ndarray = np.load(answers)
    return values


def answer(export: Path, questions: Path) -> None:
    """The fresh process: answer every question, where any import of keras would fail."""
    start_tensorflow(keras=False)
    from kerazoo.serving.saved_model import ExportedModel

    asked = json.loads(questions.read_text(encoding="utf-8"))
    rows = [row for _, row in ExportedModel(export).predict_files([Path(p) for p in asked["pictures"]])]
    np.save(asked["answers"], np.stack(rows))


if __name__ == "__main__":
    answer(Path(sys.argv[1]), Path(sys.argv[2]))
