"""Export: a finished run -> a SavedModel that takes encoded bytes or float images, and its passport.

The graph is bytes -> decode -> fit -> scale -> model(training=False) -> probabilities -> names: the very functions that
evaluated the run. Weights are stored once: the module tracks the variables, the Keras model lives in a closure only,
which also loads in the C++ loader of TensorFlow Serving.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from kerazoo import __version__
from kerazoo.errors import KerazooError, RunError
from kerazoo.files import read_json
from kerazoo.models.stored import ModelSpec, load_model
from kerazoo.pipelines.environment import environment
from kerazoo.pipelines.runs import Run
from kerazoo.serving.gate import check_export
from kerazoo.serving.saved_model import PASSPORT

SAVED_MODELS = Path("saved_models")
TOP_K = 5
ENCODED = (1, 3)  # channels that encoded pictures are decoded to


def export_run(run: Run, *, name: str | None = None, new_version: bool = False, root: Path = SAVED_MODELS) -> Path:
    """`root/name/version` with a SavedModel of `run`, after it passed the gate.

    `name` is the run's by default. Raises RunError where the name exists and `new_version` is not asked for, GateError
    where the export does not answer as the evaluated model did; nothing is left behind then.
    """
    target = _target(root, name or run.name, new_version)
    if keras.config.backend() != "tensorflow":
        raise KerazooError(
            f"a SavedModel is written on the TensorFlow backend, not on {keras.config.backend()!r}: "
            "run the export with KERAS_BACKEND=tensorflow; the run loads on either"
        )
    spec, model = load_model(run.folder)
    temporary = target.parent.parent / f".{target.parent.name}.{os.getpid()}.tmp"
    try:
        write_saved_model(temporary, spec, model)
        _write_passport(temporary, run, spec)
        passed = check_export(temporary, run)
        passport = json.loads((temporary / PASSPORT).read_text(encoding="utf-8"))
        (temporary / PASSPORT).write_text(json.dumps({**passport, "gate": passed}, indent=2) + "\n", encoding="utf-8")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.rename(target)
        except OSError as error:
            raise RunError(f"export {target} appeared meanwhile; ask for --new-version again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _target(root: Path, name: str, new_version: bool) -> Path:
    if not name or name != Path(name).name or name.startswith("."):
        raise RunError(f"export name {name!r} must be a plain folder name")
    folder = root / name
    versions = [int(p.name) for p in folder.glob("*") if p.name.isdigit()]
    if versions and not new_version:
        raise RunError(
            f"export {folder} exists (version {max(versions)}); choose another --name, or ask for --new-version"
        )
    return folder / str(max(versions, default=0) + 1)


def write_saved_model(folder: Path, spec: ModelSpec, model: keras.Model) -> None:
    """Write the SavedModel, with these signatures (B, any number of pictures; k = min(5, K)):

    - `serving_default`: `image_bytes` (B,) string, encoded pictures;
    - `serve_images`: `images` (B, H, W, C) float32 pixels in [0, 255], any size, C the network's own;

    a network for other than 1 or 3 channels, which no encoded picture has, has the second under both names;
    each giving `probabilities` (B, K) float32, `label` (B,) string, `top_labels` (B, k) string,
    `top_probabilities` (B, k) float32 and `class_names` (B, K) string, the names in the order of `probabilities`. A
    regression gives `values` (B, K) float32 and `class_names`.
    One picture that cannot be decoded fails its whole batch, with TensorFlow's message.
    """
    preprocessing = spec.preprocessing
    height, width, channels = preprocessing.shape
    prepared = tf.TensorSpec((height, width, channels), tf.float32)
    k = min(TOP_K, len(spec.class_names))

    module = tf.Module()
    module.variables_ = [variable.value for variable in model.variables]
    names = tf.constant(spec.class_names)

    def answer(x: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = spec.answers(model(x, training=False))
        if spec.head == "regression":
            return {"values": probabilities, "class_names": tf.repeat(names[None], tf.shape(x)[0], axis=0)}
        values, indices = tf.math.top_k(probabilities, k)
        top = tf.gather(names, indices)
        every = tf.repeat(names[None], tf.shape(x)[0], axis=0)
        return {
            "probabilities": probabilities, "label": top[:, 0], "top_labels": top, "top_probabilities": values,
            "class_names": every,
        }  # fmt: skip

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])  # type: ignore[untyped-decorator]
    def serve_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(tf.map_fn(preprocessing, image_bytes, fn_output_signature=prepared))

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec((None, None, None, channels), tf.float32, "images")]
    )
    def serve_images(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(tf.map_fn(preprocessing.prepare, images, fn_output_signature=prepared))

    default = serve_bytes if channels in ENCODED else serve_images
    tf.saved_model.save(module, str(folder), {"serving_default": default, "serve_images": serve_images})


def _write_passport(folder: Path, run: Run, spec: ModelSpec) -> None:
    state, data = read_json(run.folder / "run.json"), read_json(run.folder / "data.json")
    passport: dict[str, Any] = {
        "kerazoo": __version__,
        "run": run.name,
        **spec.to_json(),
        "weights_sha256": read_json(run.folder / "model.json")["weights_sha256"],
        "data_digest": data["digest"],
        "metrics": state.get("results", {}),
        "environment": environment(),
    }
    path = folder / PASSPORT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(passport, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
