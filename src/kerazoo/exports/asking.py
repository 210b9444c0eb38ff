"""The fresh process that uses an export as a server would: only installed code, and no keras."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerazoo.errors import GateError
from kerazoo.exports.layout import CLASS_NAMES, CLASSIFY, DEFAULT, OK, STATUS
from kerazoo.exports.questions import FEW, Question
from kerazoo.preprocessing.image_files import read_encoded
from kerazoo.startup import fresh_python, start_tensorflow
from kerazoo.tasks.measures import TOLERANCE

BROKEN = (b"no image", b"", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")
Outputs = dict[str, Any]


def ask(export: Path, questions: Sequence[Question], scratch: Path) -> list[Outputs]:
    """The outputs for each question by name: numbers as arrays, names as lists. Raises GateError.

    The first question's images are also asked for twice, alone, in another order, and beside broken neighbours.
    """
    file = scratch / "questions.json"
    values = [{"files": list(question.files), "signature": question.signature} for question in questions]
    file.write_text(json.dumps(values), encoding="utf-8")
    command = fresh_python(__name__, "answer", *(str(path.absolute()) for path in (export, file, scratch)))
    process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if process.returncode:
        default = f"it was ended by signal {-process.returncode}" if process.returncode < 0 else "no message"
        reason = (process.stderr.strip().splitlines() or [default])[-1]
        raise GateError(f"the export cannot be used in a fresh process: {reason}")
    for problem, number in json.loads((scratch / "unsteady.json").read_text(encoding="utf-8")):
        raise GateError(f"{questions[0].keys[number]}: {problem}")
    outputs = []
    for number in range(len(questions)):
        names = json.loads((scratch / f"answers{number}.json").read_text(encoding="utf-8"))
        with np.load(scratch / f"answers{number}.npz") as numbers:
            outputs.append({**names, **numbers})
    return outputs


def answer(export: str, questions: str, scratch: str) -> None:
    """Answer every question. The fresh process runs this; an import of keras would fail in it."""
    start_tensorflow(keras=False)
    from kerazoo.exports.examples import example_of
    from kerazoo.exports.saved_model import BATCH, ExportedModel

    model = ExportedModel(Path(export))
    asked = json.loads(Path(questions).read_text(encoding="utf-8"))
    for number, question in enumerate(asked):
        files = question["files"]
        size = 1 if files[0].endswith(".npy") else BATCH  # the sizes of pixels differ
        starts = range(0, len(files), size)
        signature = question["signature"]
        wrap = example_of if signature == CLASSIFY else None
        batches = [model.ask(signature, _read(files[start : start + size], wrap)) for start in starts]
        outputs = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        texts = {name: _decoded(values) for name, values in outputs.items() if values.dtype == object}
        if CLASS_NAMES in texts:  # these are the same for every image, unless something is wrong
            texts[CLASS_NAMES] = [list(row) for row in sorted(set(map(tuple, texts[CLASS_NAMES])))]
        (Path(scratch) / f"answers{number}.json").write_text(json.dumps(texts), encoding="utf-8")
        numbers: dict[str, Any] = {name: values for name, values in outputs.items() if name not in texts}
        np.savez(Path(scratch) / f"answers{number}.npz", **numbers)
    found = unsteady(lambda images: model.ask(DEFAULT, images), _read(asked[0]["files"][:FEW]))
    (Path(scratch) / "unsteady.json").write_text(json.dumps(found), encoding="utf-8")


def unsteady(ask: Callable[[Sequence[Any]], Outputs], images: Sequence[Any]) -> list[tuple[str, int]]:
    """What the answers for `images` depend on beside the image itself, and the number of the first such image.

    The bits of the same batch are the same each time, also if other images of it are broken. In a batch of another
    size or order, TensorFlow may round differently.
    """
    count = len(images)
    first = ask(images)
    found = _differing("its answer differs from one call to the next", first, ask(images), range(count), exact=True)
    turned = {name: values[::-1] for name, values in ask(images[::-1]).items()}
    found += _differing("its answer depends on its place in the batch", first, turned, range(count))
    single = [ask(images[number : number + 1]) for number in range(count)]
    alone = {name: np.concatenate([one[name] for one in single]) for name in first}
    found += _differing("its answer depends on the other images in its batch", first, alone, range(count))
    for start in range(2):
        beside = list(images)
        broken = range(start, count, 2)
        for number in broken:
            beside[number] = _broken(images[number], number)
        outputs = ask(beside)
        good = [number for number in range(count) if number not in broken]
        words = "its answer depends on broken images in its batch"
        found += _differing(words, first, outputs, good, exact=True)
        wrong = [number for number in broken if outputs[STATUS][number].decode() == OK or _has_numbers(outputs, number)]
        found += [("a broken image in its place is answered", number) for number in wrong[:1]]
    return found


def _differing(
    words: str, one: Outputs, other: Outputs, numbers: Sequence[int], exact: bool = False
) -> list[tuple[str, int]]:
    def same(number: int) -> bool:
        pairs = [(values[number], other[name][number]) for name, values in one.items()]
        if exact:
            return all(np.array_equal(a, b) for a, b in pairs)
        numbers = [(a, b) for a, b in pairs if np.asarray(a).dtype.kind == "f"]  # near ties, labels may be exchanged
        return all((np.abs(a - b) <= TOLERANCE * np.maximum(1, np.abs(a))).all() for a, b in numbers)

    return [(words, number) for number in numbers if not same(number)][:1]


def _has_numbers(outputs: Outputs, number: int) -> bool:
    return any(not np.isnan(values[number]).all() for values in outputs.values() if values.dtype != object)


def _broken(image: Any, number: int) -> Any:
    """What cannot be answered, in place of an encoded image or of pixels."""
    if isinstance(image, bytes):
        return BROKEN[number % len(BROKEN)]
    pixels = np.array(image, np.float32)
    pixels[0, 0] = np.nan
    return pixels


def _read(files: Sequence[str], wrap: Callable[[bytes], bytes] | None = None) -> Any:
    if files[0].endswith(".npy"):
        return np.stack([np.load(file) for file in files])
    contents = [read_encoded(Path(file)) for file in files]
    return contents if wrap is None else [wrap(content) for content in contents]


def _decoded(values: np.ndarray) -> list[Any]:
    return [_decoded(row) if isinstance(row, np.ndarray) else row.decode("utf-8") for row in values]
