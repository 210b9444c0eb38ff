"""Export: a finished run -> a SavedModel (`signatures.py`) and its passport, kept if they pass the gate (`gate.py`)."""

import json
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kerazoo.errors import GateError, KerazooError, RunError
from kerazoo.evaluation.answers import Evaluation
from kerazoo.evaluation.evaluate import check_unchanged, recorded_evaluation, reported_evaluations
from kerazoo.exports.formats.format_gate import FormatResult, check_format, measure_saved_model
from kerazoo.exports.formats.rounding import effect_of_rounding
from kerazoo.exports.formats.table import Format, find_formats
from kerazoo.exports.formats.write import write_format, write_preprocessing
from kerazoo.exports.gate import GateResult, check_export
from kerazoo.exports.hashes import changed_file, file_hashes
from kerazoo.exports.layout import PASSPORT, is_version
from kerazoo.exports.passport import passport_of, write_passport
from kerazoo.exports.questions import questions
from kerazoo.exports.signatures import write_saved_model
from kerazoo.exports.warm_up import write_warm_up
from kerazoo.exports.workplace import workplace
from kerazoo.files import read_json
from kerazoo.models.description import OPTIONAL, ModelSpec
from kerazoo.models.saved import load_model
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.data.load import check_class_names, load_examples
from kerazoo.runs.digests import check_digests
from kerazoo.runs.run import Run, check_name

SAVED_MODELS = Path("saved_models")


def export_run(
    run: Run,
    *,
    name: str | None = None,
    new_version: bool = False,
    images: int | None = None,
    formats: Iterable[str] | str = (),
    root: str | Path = SAVED_MODELS,
) -> Path:
    """The folder `root/name/version` with a SavedModel of `run`, after it passed the gate.

    `name` is by default the run's name; `images` is how many validation images the gate asks for, by default all;
    `formats` are names of `formats.FORMATS`, which are written beside the SavedModel and pass a gate of their own.
    Raises InputError for an unknown format, RunError if the name exists and `new_version` is False, and GateError if
    the export does not give the same answers as the evaluated model; then nothing is kept.
    """
    chosen = find_formats(formats)
    root = Path(root)
    target = _target(root, name or run.name, new_version)
    if keras.config.backend() != "tensorflow":
        raise KerazooError(
            f"a SavedModel needs the TensorFlow backend, got {keras.config.backend()!r}; run the export with "
            "KERAS_BACKEND=tensorflow (the run works with both backends)"
        )
    spec, model, examples, recorded, evaluations = _evaluated(run)
    with workplace(root) as temporary:
        folder = temporary / "model"
        scratch = temporary / "scratch"
        try:
            scratch.mkdir()
            signatures = write_saved_model(folder, spec, model)
            write_warm_up(folder, spec.preprocessing, signatures, target.parent.name)
            try:
                if chosen:
                    write_preprocessing(folder, spec)
                for one in chosen:
                    write_format(folder, one, spec, model, examples.split("train"))
                passport = {**passport_of(run, spec, evaluations), "files": file_hashes(folder)}
                write_passport(folder, passport)
                gate, rows = _gates(folder, chosen, spec, model, examples, recorded, scratch, images)
            except GateError as error:
                raise GateError(f"{error}; it was not kept") from error
            others = {"formats": [row.to_json() for row in rows]} if rows else {}
            write_passport(folder, {**passport, "gate": gate.to_json(), **others})
        except (OSError, tf.errors.OpError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise KerazooError(f"the export could not be written into {root}: {reason}; nothing was kept") from error
        _put(folder, target)
    return target


def verify_export(folder: Path, run: Run, *, images: int | None = None) -> GateResult:
    """The result of the gate for the export in `folder`, compared with `run`. It does not change the export.

    Raises GateError if its passport describes another model, if a file was changed, or if it does not give the same
    answers as the evaluated model.
    """
    spec, model, examples, recorded, evaluations = _evaluated(run)
    stored_passport = read_json(folder / PASSPORT)
    passport = passport_of(run, spec, evaluations)
    for key in dict.fromkeys([*spec.to_json(), *OPTIONAL, "weights_sha256", "data_digest"]):
        if stored_passport.get(key) != json.loads(json.dumps(passport.get(key))):
            raise GateError(f"{folder} is not an export of {run.folder}: {key} in its {PASSPORT} differs")
    changed = changed_file(folder, stored_passport)
    if changed:
        raise GateError(f"{folder}: {changed} is not the file that was exported; export the run again")
    formats = find_formats(row["name"] for row in stored_passport.get("formats", []))
    with tempfile.TemporaryDirectory(prefix="kerazoo-") as temporary:
        scratch = Path(temporary)
        try:
            return _gates(folder, formats, spec, model, examples, recorded, scratch, images)[0]
        except GateError as error:
            raise GateError(f"{folder}: {error}; export the run again") from error


def _gates(
    folder: Path, formats: Sequence[Format], spec: ModelSpec, model: keras.Model, examples: Examples,
    recorded: np.ndarray, scratch: Path, images: int | None,
) -> tuple[GateResult, list[FormatResult]]:  # fmt: skip
    """The result of the gate for the SavedModel, and those of all formats if there are others. Raises GateError."""
    val = examples.split("val")
    chosen = range(0, len(val), -(-len(val) // images) if images else 1)
    val, recorded = val.take(chosen), recorded[list(chosen)]
    asked = questions(spec, model, val, recorded, scratch)
    gate = check_export(folder, spec, model, val, asked, scratch)
    if not formats:
        return gate, []
    own = measure_saved_model(folder, asked[0], val, gate.largest_difference, scratch)
    rounding = effect_of_rounding(spec, model, asked)
    return gate, [own, *(check_format(folder, one, asked, val, rounding, scratch) for one in formats)]


def _evaluated(run: Run) -> tuple[ModelSpec, keras.Model, Examples, np.ndarray, list[Evaluation]]:
    """The model of `run`, its data, its recorded answers for val, and the evaluations that say how good it is.

    Raises InputError if any of these was changed.
    """
    check_digests(run.folder)
    spec, model = load_model(run.folder)
    examples = load_examples(run.recipe.data)
    check_unchanged(run, examples)
    check_class_names(examples.class_names, spec.class_names, examples.source)
    recorded = recorded_evaluation(run, spec, examples, "val").probabilities
    return spec, model, examples, recorded, reported_evaluations(run, spec, examples)


def _put(folder: Path, target: Path) -> None:
    """Rename the export in `folder` to `target`."""
    new = not target.parent.exists()
    try:
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
    except OSError as error:
        if new:
            with suppress(OSError):
                target.parent.rmdir()
        if target.exists():
            raise RunError(
                f"another process has just written export {target}; export again as a new version "
                "(--new-version, in Python new_version=True)"
            ) from error
        raise KerazooError(f"the export cannot be renamed to {target}: {error.strerror}; nothing was kept") from error


def _target(root: Path, name: str, new_version: bool) -> Path:
    check_name(name, "export")
    folder = root / name
    for place in (root, folder):
        if place.exists() and not place.is_dir():
            raise RunError(
                f"{place} must be a folder for exports, but it is a file; choose another name (--name) or folder"
            )
    versions = [int(p.name) for p in folder.glob("*") if is_version(p.name)]
    if versions and not new_version:
        raise RunError(
            f"export {folder} exists (version {max(versions)}); choose another name (--name), or add a version "
            "(--new-version, in Python new_version=True)"
        )
    return folder / str(max(versions, default=0) + 1)
