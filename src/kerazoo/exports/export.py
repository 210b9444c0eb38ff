"""Export: a finished run -> a SavedModel that takes encoded bytes or float images, and its passport.

The graph is bytes -> decode -> resize -> scale -> model(training=False) -> probabilities -> names. These are the same
functions that evaluated the run. Weights are stored once: the module tracks the variables, and the Keras model exists
only in a closure. Such a SavedModel also loads in TensorFlow Serving, which is in C++.
"""

import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kerazoo.errors import GateError, KerazooError, RunError
from kerazoo.evaluation.answers import Evaluation
from kerazoo.evaluation.evaluate import check_unchanged, recorded_evaluation
from kerazoo.exports.gate import GateResult, check_export
from kerazoo.exports.layout import PASSPORT, is_version
from kerazoo.exports.passport import write_passport
from kerazoo.exports.workplace import workplace
from kerazoo.files import read_json
from kerazoo.models.description import ModelSpec
from kerazoo.models.saved import DESCRIPTION, load_model
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.data.load import check_class_names, load_examples
from kerazoo.runs.digests import check_digests
from kerazoo.runs.environment import environment
from kerazoo.runs.records import read_data
from kerazoo.runs.run import Run, check_name
from kerazoo.tasks.task import find_task
from kerazoo.version import __version__

SAVED_MODELS = Path("saved_models")
TOP_K = 5
ENCODED = (1, 3)  # channels that encoded images are decoded to


def export_run(
    run: Run, *, name: str | None = None, new_version: bool = False, root: str | Path = SAVED_MODELS
) -> Path:
    """The folder `root/name/version` with a SavedModel of `run`, after it passed the gate.

    `name` is by default the run's name. Raises RunError if the name exists and `new_version` is False, and GateError if
    the export does not give the same answers as the evaluated model; then nothing is kept.
    """
    root = Path(root)
    target = _target(root, name or run.name, new_version)
    if keras.config.backend() != "tensorflow":
        raise KerazooError(
            f"a SavedModel needs the TensorFlow backend, got {keras.config.backend()!r}; run the export with "
            "KERAS_BACKEND=tensorflow (the run works with both backends)"
        )
    spec, model, examples, evaluations = _evaluated(run)
    with workplace(root) as temporary:
        folder = temporary / "model"
        scratch = temporary / "scratch"
        try:
            scratch.mkdir()
            write_saved_model(folder, spec, model)
            passport = _passport(run, spec, evaluations)
            write_passport(folder, passport)
            val = examples.split("val")
            try:
                gate = check_export(folder, spec, model, val, evaluations[0].probabilities, scratch)
            except GateError as error:
                raise GateError(f"{error}; it was not kept") from error
            write_passport(folder, {**passport, "gate": gate.to_json()})
        except (OSError, tf.errors.OpError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise KerazooError(f"the export could not be written into {root}: {reason}; nothing was kept") from error
        _put(folder, target)
    return target


def verify_export(folder: Path, run: Run) -> GateResult:
    """The result of the gate for the export in `folder`, compared with `run`. It does not change the export.

    Raises GateError if its passport describes another model, or if it does not give the same answers as the evaluated
    model.
    """
    spec, model, examples, evaluations = _evaluated(run)
    stored_passport = read_json(folder / PASSPORT)
    passport = _passport(run, spec, evaluations)
    for key in (*spec.to_json(), "weights_sha256", "data_digest"):
        if stored_passport.get(key) != json.loads(json.dumps(passport[key])):
            raise GateError(f"{folder} is not an export of {run.folder}: {key} in its {PASSPORT} differs")
    val = examples.split("val")
    with tempfile.TemporaryDirectory(prefix="kerazoo-") as scratch:
        try:
            return check_export(folder, spec, model, val, evaluations[0].probabilities, Path(scratch))
        except GateError as error:
            raise GateError(f"{folder}: {error}; export the run again") from error


def _evaluated(run: Run) -> tuple[ModelSpec, keras.Model, Examples, list[Evaluation]]:
    """The model of `run`, its data, and its recorded answers. Raises InputError if any of these was changed."""
    check_digests(run.folder)
    spec, model = load_model(run.folder)
    examples = load_examples(run.recipe.data)
    check_unchanged(run, examples)
    check_class_names(examples.class_names, spec.class_names, examples.source)
    return spec, model, examples, [recorded_evaluation(run, spec, examples, name) for name in examples.split_names[1:]]


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


def write_saved_model(folder: Path, spec: ModelSpec, model: keras.Model) -> None:
    """Write the SavedModel, with these signatures (B is any number of images, and k = min(5, K)):

    - `serving_default`: `image_bytes` (B,) string, encoded images;
    - `serve_images`: `images` (B, H, W, C) float32 pixels in [0, 255], of any size, with the network's channels C.

    If the network's channels are not 1 or 3, which encoded images have, both names have the second signature.
    Both give `probabilities` (B, K) float32, `label` (B,) string, `top_labels` (B, k) string, `top_probabilities` (B,
    k) float32 and `class_names` (B, K) string, the names in the order of `probabilities`. A regression gives `values`
    (B, K) float32 and `class_names`. An image that cannot be decoded fails its whole batch, with TensorFlow's message.
    """
    preprocessing = spec.preprocessing
    height, width, channels = preprocessing.shape
    prepared = tf.TensorSpec((height, width, channels), tf.float32)
    k = min(TOP_K, len(spec.class_names))
    task = find_task(spec.task)

    module = tf.Module()
    module.variables_ = [variable.value for variable in model.variables]
    names = tf.constant(spec.class_names)

    def answer(x: tf.Tensor) -> Mapping[str, tf.Tensor]:
        answers = spec.answers(model(x, training=False))
        every = tf.repeat(names[None], tf.shape(x)[0], axis=0)
        return task.signature(answers, every, names, k)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")], autograph=False)  # type: ignore[untyped-decorator]
    def serve_bytes(image_bytes: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return answer(tf.map_fn(preprocessing, image_bytes, fn_output_signature=prepared))

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec((None, None, None, channels), tf.float32, "images")], autograph=False
    )
    def serve_images(images: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return answer(tf.map_fn(preprocessing.prepare, images, fn_output_signature=prepared))

    default = serve_bytes if channels in ENCODED else serve_images
    tf.saved_model.save(module, str(folder), {"serving_default": default, "serve_images": serve_images})


def _passport(run: Run, spec: ModelSpec, evaluations: list[Evaluation]) -> dict[str, Any]:
    """The passport of an export. Its metrics are computed from the recorded answers and the labels of the data."""
    return {
        "kerazoo": __version__,
        "run": run.name,
        **spec.to_json(),
        "weights_sha256": read_json(run.folder / DESCRIPTION)["weights_sha256"],
        "data_digest": read_data(run.folder)["digest"],
        "metrics": {name: value for evaluation in evaluations for name, value in evaluation.summary().items()},
        "environment": environment(),
    }
