"""The whole path on small images: train or fine-tune, evaluate, export, predict; and what must never differ."""

import csv
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import as_arrays, make_images, plant_modules

import kerazoo
from kerazoo.cli import app as cli
from kerazoo.errors import DataError, GateError, KerazooError, ModelError, RecipeError, RunError, WeightsError
from kerazoo.evaluation.answers import Evaluation
from kerazoo.evaluation.evaluate import answers_of, evaluate, recorded_evaluation
from kerazoo.exports.export import export_run
from kerazoo.exports.folder import find_export
from kerazoo.exports.layout import PASSPORT
from kerazoo.exports.passport import passport_of
from kerazoo.exports.saved_model import ExportedModel
from kerazoo.exports.signatures import write_saved_model
from kerazoo.files import read_json, sha256
from kerazoo.models import registry
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.saved import load_model, load_spec, save_model
from kerazoo.models.weights.loading import load_features
from kerazoo.pipelines.data.load import load_examples
from kerazoo.recipes.recipe import make_recipe, read_recipe
from kerazoo.runs.begin import choose_folder
from kerazoo.runs.run import open_run, unfinished
from kerazoo.serving.predict import predict
from kerazoo.training.optimizers import make_optimizer
from kerazoo.training.plan import momentum_for
from kerazoo.training.train import train
from kerazoo.transfer import finetune as transfer
from kerazoo.transfer.finetune import finetune
from kerazoo.transfer.unfreezing import layers_to_unfreeze


def recipe(data, model="bottleneck_cnn", **parts):
    values = {
        "model": {"name": model},
        "data": {"path": str(data), "size": 24, "channels": 3, "validation": 0.25},
        "training": {"epochs": 2, "batch_size": 6},
        "augmentation": {"shift": 0.1, "flip": True},
    }
    for name, part in parts.items():
        values[name] = {**values.get(name, {}), **part} if isinstance(part, dict) else part
    return make_recipe(values)


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def tags_in(folder):
    return {json.loads(line)["tag"] for line in (folder / "watch.jsonl").read_text().splitlines()}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("data") / "shapes", count=20, size=40)


@pytest.fixture(scope="module")
def arrays(images):
    return as_arrays(images)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """A finished training run."""
    loggers = ["gradients", "weights", "feature_maps"]
    return train(
        recipe(images, log=loggers, log_histograms=False, findings=True),
        name="first",
        root=tmp_path_factory.mktemp("runs"),
    )


@pytest.fixture(scope="module")
def export(run, tmp_path_factory):
    return export_run(run, root=tmp_path_factory.mktemp("saved_models"))


def test_a_run_holds_all_that_it_should(run, images):
    files = {str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file()}
    maps = {name for name in files if name.startswith("feature_maps")}
    states = {name for name in files if name.startswith("checkpoints")}
    assert (len(maps), len(states)) == (3, 1)
    assert files - maps - states == {
        "run.json", "recipe.toml", "environment.json", "data.json", "model.json", "model.weights.h5", "history.csv",
        "metrics.jsonl", "curves.svg", "curves.png", ".lock",
        "watch.jsonl", "config.json", "findings.json", "evaluation/val.json", "evaluation/val.csv",
        "evaluation/val.npy",
    }  # fmt: skip
    state = read_json(run.folder / "run.json")
    assert state["status"] == "finished"
    rows = table(run.folder / "history.csv")
    assert [row["epoch"] for row in rows] == ["1.0", "2.0"]
    # fit's own validation and the evaluation afterwards are the same number
    assert float(rows[-1]["val_accuracy"]) == pytest.approx(state["results"]["val_accuracy"])
    assert float(rows[-1]["val_loss"]) == pytest.approx(state["results"]["val_loss"], rel=1e-5)
    data = read_json(run.folder / "data.json")
    counts = data["counts"]
    assert data["examples"] == {split: sum(each.values()) for split, each in counts.items()}
    for name in ("circle", "square"):
        assert counts["train"][name] + counts["val"][name] == 20
    tags = tags_in(run.folder)
    assert {"gradients/global/norm", "weights/logits/kernel/norm"} <= tags


def test_the_same_recipe_gives_the_same_bits(run, images, tmp_path):
    """Run again from the recipe that the run kept, without its watchers; then with another seed."""
    kept = read_recipe(run.folder / "recipe.toml")
    unwatched = train(make_recipe(kept, ["log=[]"]), root=tmp_path)
    other = train(make_recipe(kept, ["seed=1", 'log=["weights"]']), root=tmp_path)
    assert not (unwatched.folder / "watch.jsonl").exists()
    assert {tag.partition("/")[0] for tag in tags_in(other.folder)} == {"weights", "epoch"}
    assert not (other.folder / "feature_maps").exists()
    digests = [read_json(r.folder / "model.json")["weights_sha256"] for r in (run, unwatched, other)]
    weights = [load_model(r.folder)[1].get_weights() for r in (run, unwatched, other)]
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))
    assert digests[0] != digests[2]
    assert [r.name for r in (unwatched, other)] == [f"bottleneck_cnn-shapes-{i}" for i in (1, 2)]


def test_the_step_of_a_training_is_traced_once(arrays, tmp_path, monkeypatch):
    """TensorFlow traces a function again that made variables, such as those of the optimizer: seconds in a ResNet."""
    traced, step = [], keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda model, data: traced.append(model.name) or step(model, data))
    train(recipe(arrays), root=tmp_path)
    assert len(traced) == 1


def test_evaluate_gives_what_training_recorded(run, images, tmp_path):
    recorded = np.load(run.folder / "evaluation" / "val.npy")
    [result] = evaluate(run)
    np.testing.assert_allclose(result.probabilities, recorded, atol=1e-6)
    assert result.accuracy == read_json(run.folder / "run.json")["results"]["val_accuracy"]
    # other data is tested on whole, though training could not be: one class has one image
    other = make_images(tmp_path / "other", count=4, seed=9)
    for path in sorted((other / "square").iterdir())[1:]:
        path.unlink()
    [result] = evaluate(run, str(other))
    assert (result.split, len(result.keys)) == ("test", 5)
    assert len(list((run.folder / "evaluation").glob("other-*/test.csv"))) == 1
    strange = make_images(tmp_path / "strange", classes=("circle", "star"), count=4)
    with pytest.raises(DataError, match=r"differ from the model's: missing \['square'\], unknown \['star'\]"):
        evaluate(run, str(strange))
    with (
        changed(run, "evaluation/val.npy", lambda answers: answers * 0.99, sealed=True),
        pytest.raises(GateError, match="does not give the same answers for its val images"),
    ):
        evaluate(run)


def test_folders_and_files_are_taken_as_text(run, export, images, tmp_path):
    spec, model = load_model(str(run.folder))
    save_model(str(tmp_path), spec, model)
    assert load_spec(str(tmp_path)) == spec
    load_features(model, str(run.folder))
    assert read_recipe(f"{run.folder}/recipe.toml")["model"]["name"] == spec.name
    assert choose_folder(run.recipe, "new", name="new", root=str(tmp_path)) == tmp_path / "new"
    for place in (str(tmp_path), str(tmp_path / "none")):
        with pytest.raises(RunError, match="there is no run"):
            unfinished(place)
    assert len(list(predict(str(export), [str(images / "circle" / "00.png")]))) == 1
    with pytest.raises(RunError, match="must be a plain folder name"):
        export_run(run, name="../up", root=str(tmp_path))


def test_metrics_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], np.float32)
    result = Evaluation("val", tuple("abcd"), np.array([0, 1, 1, 1]), probabilities, ("no", "yes"), 0.5)
    assert result.accuracy == 0.75
    assert result.confusion().tolist() == [[1, 0], [1, 2]]
    np.testing.assert_allclose(result.interval(), (0.3006, 0.9544), atol=1e-4)  # Wilson, n=4, x=3


@pytest.mark.parametrize("right", [True, False])
def test_the_interval_stays_within_0_and_1(right):
    """The closed form gives -4e-19 and 1.0000000000000002 for 736 images, all wrong or all right."""
    labels = np.full(736, int(right))
    answers = np.tile(np.float32([0.1, 0.9]), (736, 1))
    low, high = Evaluation("val", tuple(map(str, range(736))), labels, answers, ("no", "yes"), 0.5).interval()
    assert (low, high) == (pytest.approx(0.99481, abs=1e-5), 1.0) if right else (0.0, pytest.approx(0.00519, abs=1e-5))


def test_the_export_answers_what_evaluation_recorded(run, export, images):
    """Every validation file's bytes, in a fresh process in which keras cannot be imported."""
    recorded = table(run.folder / "evaluation" / "val.csv")
    files = [row["key"] for row in recorded]
    script = """
import sys
sys.modules["keras"] = None
import json, numpy as np, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
out = serve(image_bytes=tf.constant([open(p, "rb").read() for p in sys.argv[2:]]))
print(json.dumps({k: v.numpy().astype(str if v.dtype == tf.string else float).tolist() for k, v in out.items()}))
"""
    command = [sys.executable, "-c", script, str(export), *(str(images / f) for f in files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = json.loads(done.stdout)
    assert answers["label"] == [row["predicted"] for row in recorded]
    np.testing.assert_allclose(answers["probabilities"], np.load(run.folder / "evaluation" / "val.npy"), atol=1e-5)
    assert answers["class_names"][0] == ["circle", "square"]
    assert answers["top_labels"][0] == [answers["label"][0], *({"circle", "square"} - {answers["label"][0]})]
    np.testing.assert_allclose(np.sum(answers["top_probabilities"], axis=1), 1, atol=1e-5)


@pytest.mark.slow  # test_export_faults.py asks all signatures
def test_both_signatures_and_a_run_agree(run, export, images):
    files = sorted((images / "square").glob("*.png"))[:3]
    loaded = tf.saved_model.load(str(export))
    pixels = np.stack([tf.io.decode_png(p.read_bytes(), channels=3) for p in files]).astype(np.float32)
    arrays = loaded.signatures["serve_images"](images=tf.constant(pixels))
    contents = loaded.signatures["serving_default"](image_bytes=tf.constant([p.read_bytes() for p in files]))
    assert set(arrays) == set(contents)
    for key in arrays:
        np.testing.assert_array_equal(arrays[key], contents[key])
    from_run, from_export = list(predict(run.folder, files)), list(predict(export, files))
    for a, b in zip(from_run, from_export, strict=True):
        assert (a.path, a.top[0][0]) == (b.path, b.top[0][0])
        assert a.top[0][1] == pytest.approx(b.top[0][1], abs=1e-5)
    everything = [list(predict(model, [images])) for model in (run.folder, export, export.parent)]
    assert [len(found) for found in everything] == [40, 40, 40]  # a whole batch, and a part of one
    for a, *others in zip(*everything, strict=True):
        for b in others:
            assert (a.path, a.top[0][0]) == (b.path, b.top[0][0])
            assert a.top[0][1] == pytest.approx(b.top[0][1], abs=1e-6)


def test_the_newest_version_of_an_export_answers(run, export, tmp_path):
    for version in ("9", "10", "11"):
        (tmp_path / "saved" / version).mkdir(parents=True)
    for version in ("9", "10"):
        (tmp_path / "saved" / version / "saved_model.pb").touch()
    assert find_export(export.parent) == export
    with pytest.raises(RunError, match="saved/10 is a SavedModel without assets.extra/passport.json"):
        find_export(tmp_path / "saved")
    assert find_export(run.folder) is None


def test_a_passport_that_was_changed_is_refused(export, images, tmp_path):
    shutil.copytree(export, tmp_path / "1")
    path = tmp_path / "1" / PASSPORT
    kept = json.loads(path.read_text())
    for text, message in (
        (json.dumps({**kept, "class_names": ["square", "circle"]}), "class names in .* differ from the SavedMod"),
        (json.dumps({**kept, "class_names": "circle"}), "class_names must be a list of names"),
        (json.dumps({**kept, "task": "regression"}), "the task in .* differs from the SavedModel's; ex"),
        (json.dumps({**kept, "task": None}), "task must be one of multiclass, multilabel, regression, got 'None'"),
        ("{", "passport.json cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=message):
            list(predict(tmp_path, [images]))


DAMAGED = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")


@pytest.mark.parametrize("name", [DAMAGED[2], *(pytest.param(name, marks=pytest.mark.slow) for name in DAMAGED[:2])])
def test_a_damaged_export_is_one_line(export, images, tmp_path, name):
    shutil.copytree(export, tmp_path / "1")
    (path,) = (tmp_path / "1").glob(name)
    for contents in (path.read_bytes()[: path.stat().st_size // 2], b"", None):
        path.unlink() if contents is None else path.write_bytes(contents)
        with pytest.raises(
            RunError, match=r"there is no run|cannot be loaded \(.*it is damaged: export the run"
        ) as error:
            list(predict(tmp_path, [images]))
        assert "\n" not in str(error.value)


def test_answers_do_not_depend_on_batch_mates(export, images):
    files = sorted(images.rglob("*.png"))[:7]
    model = ExportedModel(export)
    together = model.file_probabilities(files)
    alone = np.concatenate([model.file_probabilities([p]) for p in files])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_export_loads_in_the_c_api_and_holds_each_weight_once(run, export):
    """What TensorFlow Serving loads with. That it also runs in a session is the next test."""
    library = ctypes.CDLL(str(next(Path(tf.__file__).parent.glob("libtensorflow_cc.so*"))))
    for name in ("TF_NewStatus", "TF_NewSessionOptions", "TF_NewGraph", "TF_LoadSessionFromSavedModel"):
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    status, graph = ctypes.c_void_p(library.TF_NewStatus()), ctypes.c_void_p(library.TF_NewGraph())
    options, tags = ctypes.c_void_p(library.TF_NewSessionOptions()), (ctypes.c_char_p * 1)(b"serve")
    session = library.TF_LoadSessionFromSavedModel(
        options, None, ctypes.c_char_p(str(export).encode()), tags, 1, graph, None, status
    )
    assert library.TF_GetCode(status) == 0, library.TF_Message(status).decode()
    assert session
    stored = sum(p.stat().st_size for p in (export / "variables").iterdir())
    weights = 4 * load_model(run.folder)[1].count_params()
    assert weights <= stored <= weights + 20_000


@pytest.mark.slow  # a process of its own; the C API's loader is tested beside it
def test_saved_model_cli_runs_it(export, images, tmp_path):
    np.save(tmp_path / "bytes.npy", np.array([next(images.rglob("*.png")).read_bytes()]))
    tool = Path(sys.executable).with_name("saved_model_cli")
    command = [tool, "run", "--dir", export, "--tag_set", "serve", "--signature_def", "serving_default"]
    command += ["--inputs", f"image_bytes={tmp_path / 'bytes.npy'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    assert "Result for output key probabilities" in done.stdout


def test_the_passport(run, export):
    passport = json.loads((export / PASSPORT).read_text())
    assert passport["class_names"] == ["circle", "square"]
    assert passport["preprocessing"] == load_spec(run.folder).preprocessing.to_json()
    assert passport["weights_sha256"] == read_json(run.folder / "model.json")["weights_sha256"]
    assert passport["gate"]["synthetic"] == 12
    assert passport["metrics"]["val_accuracy"] == read_json(run.folder / "run.json")["results"]["val_accuracy"]
    assert passport["gate"]["images"] == len(np.load(run.folder / "evaluation" / "val.npy"))
    assert passport["gate"]["largest_difference"] < 1e-5


@contextmanager
def changed(run, name, change, *, sealed):
    """Inside, a file of the run holds `change(its values)`; by `sealed`, run.json has the digest of that."""
    path, state = run.folder / name, run.folder / "run.json"
    kept, kept_state = path.read_bytes(), state.read_bytes()
    try:
        if path.suffix == ".npy":
            np.save(path, change(np.load(path)))
        elif path.suffix == ".json":
            path.write_text(json.dumps(change(read_json(path))))
        else:
            path.write_text(change(path.read_text()))
        if sealed:
            values = read_json(state)
            state.write_text(json.dumps({**values, "digests": {**values["digests"], name: sha256(path)}}))
        yield
    finally:
        path.write_bytes(kept)
        state.write_bytes(kept_state)


@pytest.mark.slow  # exports; test_export_faults.py has other answers
def test_an_export_that_answers_otherwise_than_recorded_is_refused(run, tmp_path):
    """What was evaluated is changed behind the gate's back: nothing is exported, nothing is left."""
    with (
        changed(run, "evaluation/val.npy", lambda answers: answers[:, ::-1], sealed=True),
        pytest.raises(GateError, match=r"does not give the same answers as the evaluated model for (\d+) of \1 images"),
    ):
        export_run(run, root=tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # an export; test_export_faults.py has one of another preprocessing
def test_an_export_that_crops_otherwise_is_refused_though_all_images_are_square(run, tmp_path, monkeypatch):
    def planted(folder, spec, model):
        return write_saved_model(
            folder, replace(spec, preprocessing=replace(spec.preprocessing, resize="stretch")), model
        )

    monkeypatch.setattr("kerazoo.exports.export.write_saved_model", planted)
    with pytest.raises(GateError, match=r"not give the same answers as the run's own network .* of 9 images, a PNG"):
        export_run(run, root=tmp_path)
    assert not list(tmp_path.iterdir())


def put(**values):
    return lambda found: {**found, **values}


def put_in(part, **values):
    return lambda found: {**found, part: {**found[part], **values}}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.json", put(class_names=["square", "circle"])),
        ("model.json", put(class_names=["circle", "circle"])),
        ("model.json", put(class_names=["circle"])),
        ("model.json", put(class_names=["circle", "square", "star"])),
        ("model.json", put(class_names=["circle", "squares"])),
        ("model.json", put(task="multilabel")),
        ("model.json", put(temperature=0.999999)),
        ("model.json", put(name="cnn")),
        ("model.json", put(weights_sha256="0" * 64)),
        ("model.json", put_in("arguments", dropout=0.5)),
        ("model.json", put_in("arguments", momentum=0.5)),
        ("model.json", put_in("preprocessing", resize="stretch")),
        ("model.json", put_in("preprocessing", interpolation="bicubic")),
        ("model.json", put_in("preprocessing", scaling="tf")),
        ("model.json", lambda found: found),  # the same values, written otherwise
        ("data.json", put(digest="0" * 64)),
        ("data.json", put(class_names=["a", "b"])),
        ("evaluation/val.npy", lambda answers: answers + 1e-7),
        ("evaluation/val.json", put(val_accuracy=1.0)),
        ("evaluation/val.csv", lambda text: text.replace("circle", "square", 1)),
    ],
)
def test_a_file_that_was_changed_is_named(run, images, tmp_path, name, change):
    for use in (
        lambda: export_run(run, root=tmp_path),
        lambda: evaluate(run),
        lambda: list(predict(run.folder, [images])),
    ):
        with changed(run, name, change, sealed=False), pytest.raises(RunError) as error:
            use()
        assert str(error.value).startswith(f"{run.folder / name} was changed after the run finished")
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [["square", "circle"], ["circle", "circle"], ["circle"], ["circle", "squares"]])
def test_names_are_those_of_the_data_even_where_the_digest_was_changed_too(run, tmp_path, names):
    with (
        changed(run, "model.json", put(class_names=names), sealed=True),
        pytest.raises((RunError, DataError), match=r"differ from the model's|class_names"),
    ):
        export_run(run, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_metrics_are_those_of_the_recorded_answers_whatever_run_json_says(run):
    results = read_json(run.folder / "run.json")["results"]
    spec, examples = load_spec(run.folder), load_examples(run.recipe.data)
    evaluation = recorded_evaluation(run, spec, examples, "val")
    found = evaluation.summary()
    with changed(run, "run.json", put_in("results", val_accuracy=0.125, val_loss=0.125), sealed=False):
        assert passport_of(run, spec, [evaluation])["metrics"] == found
    assert found.pop("val_loss") == pytest.approx(results.pop("val_loss"), rel=1e-5)
    assert found == results


def test_a_run_without_digests_is_refused(run, tmp_path):
    def old(state):
        return {key: value for key, value in state.items() if key != "digests"}

    with (
        changed(run, "run.json", old, sealed=False),
        pytest.raises(RunError, match="run.json has no digests of the run's files.*train the run again"),
    ):
        export_run(run, root=tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted")
@pytest.mark.parametrize("options", ["size=48k", "size=4m,ro"])
def test_an_export_onto_a_full_or_read_only_disk_is_one_line(run, tmp_path, options):
    root = tmp_path / "disk"
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", root]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(KerazooError) as error:
            export_run(run, root=root)
        assert not list(root.iterdir())
    finally:
        subprocess.run(["umount", "-l", root], check=True)
    assert re.match(r"nothing can be written into|the export could not be written into", str(error.value))
    assert re.search("No space left|Read-only file system", str(error.value))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1


def commands_of_children():
    """The command of each child of this process, as bytes."""
    for path in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it has ended meanwhile
            if f"\nPPid:\t{os.getpid()}\n" in path.read_text():
                yield path.with_name("cmdline").read_bytes()


def test_a_terminated_export_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    """SIGTERM while the SavedModel is there and the fresh process works, or starts to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kerazoo", "export", str(run.folder)])

    def terminate():
        while not any(b"kerazoo.exports.asking" in command for command in commands_of_children()):
            time.sleep(0.01)
        time.sleep(0.3)  # a signal in the middle of subprocess.Popen would leave a child that nobody waits for
        assert any(path.stat().st_size for path in tmp_path.glob("saved_models/.export-*/scratch/questions.json"))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    with pytest.raises(SystemExit) as stop:
        cli.main()
    thread.join()
    said = capsys.readouterr()
    assert (stop.value.code, said.out, said.err.count("\n")) == (143, "", 1)
    assert not list(tmp_path.iterdir())


def test_exports_are_versioned_and_run_no_code_of_the_current_folder(run, export, tmp_path, monkeypatch):
    with pytest.raises(
        RunError,
        match=r"first exists \(version 1\); choose another name \(--name\), or add a version .* new_version=True",
    ):
        export_run(run, root=export.parents[1])
    planted = plant_modules(tmp_path)  # where the fresh process of the gate must not look
    monkeypatch.chdir(planted)
    monkeypatch.setenv("PYTHONPATH", str(planted))
    assert export_run(run, root=export.parents[1], new_version=True).name == "2"
    assert not (planted / "ran").exists()
    assert sorted(p.name for p in export.parent.iterdir()) == ["1", "2"]
    with pytest.raises(RunError, match="must be a plain folder name"):
        export_run(run, name="../outside", root=export.parents[1])


def test_changed_weights_and_changed_data_are_noticed(images, tmp_path):
    data = make_images(tmp_path / "data", count=6)
    made = train(recipe(data, training={"epochs": 1}, log=[]), root=tmp_path / "runs")
    extra = next((data / "circle").glob("*.png"))
    (data / "circle" / "new.png").write_bytes(extra.read_bytes())
    with pytest.raises(DataError, match="has changed since .* was trained"):
        evaluate(made)
    (data / "circle" / "new.png").unlink()
    weights = made.folder / "model.weights.h5"
    contents = bytearray(weights.read_bytes())
    contents[-1] ^= 1
    weights.write_bytes(contents)
    with pytest.raises(WeightsError, match="was changed"):
        evaluate(made)


def test_runs_are_never_overwritten_and_unfinished_ones_not_used(run, images):
    with pytest.raises(
        RunError, match="first exists and is finished: open it with kerazoo.open_run, .* in Python overwrite=True"
    ):
        train(recipe(images), name="first", root=run.folder.parent)
    with pytest.raises(RunError, match="there is no run nothing"):
        open_run("nothing")
    half = run.folder.parent / "half"
    half.mkdir()
    (half / "run.json").write_text('{"status": "running"}')
    with pytest.raises(RunError, match="half did not finish"):
        open_run(half)


def test_a_loss_that_is_not_a_number_is_said(images, tmp_path):
    wild = recipe(images, optimizer={"name": "sgd", "learning_rate": 1e30}, model="mlp", log=[])
    with pytest.raises(KerazooError, match=r"lower optimizer.learning_rate \(it was 1e\+30\)"):
        train(wild, root=tmp_path)


def test_answers_that_are_no_numbers_are_refused(images, run):
    spec, model = load_model(run.folder)
    kernel = model.get_layer("logits").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(KerazooError, match="is not a finite number; train with a lower learning rate"):
        answers_of(model, spec, load_examples(images).split("val"), "val")


def test_a_loss_that_does_not_go_with_the_task_leaves_nothing(images, tmp_path):
    for make, asked in (
        (train, recipe(images, training={"loss": "mse"})),
        (finetune, recipe(images, training={"loss": "mse"}, transfer={"weights": "none"})),
    ):
        with pytest.raises(ModelError, match="loss='mse' cannot be used for a multiclass task"):
            make(asked, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_bad_recipes_are_named(images):
    for name in ("num_classes", "input_shape", "weights"):
        with pytest.raises(RecipeError, match=f"model.arguments: .*{name} cannot be set here, because it comes from"):
            make_recipe({"model": {"name": "mlp", "arguments": {name: 5}}, "data": {"path": "x"}})
    with pytest.raises(RecipeError, match="recipe key data.path: 'data' must be a table of keys, got 'x'"):
        make_recipe({"model": {"name": "mlp"}, "data": "x"}, ["data.path=y"])
    with pytest.raises(RecipeError, match="optimizer.name must be .*'adam' or 'adamw', got 'adamm'"):
        recipe(images, optimizer={"name": "adamm"})
    with pytest.raises(RecipeError, match=r"no key 'training.epoch'; known here: epochs, batch_size"):
        recipe(images, training={"epoch": 3})
    with pytest.raises(RecipeError, match="a setting must be key=value, .*, got 'epochs'"):
        make_recipe({"model": {"name": "mlp"}}, ["epochs"])
    with pytest.raises(RecipeError, match="data"):
        make_recipe({"model": {"name": "mlp"}})
    with pytest.raises(RecipeError, match="model.name: no model is called 'resnet21'"):
        recipe(images, model="resnet21")
    assert not Path("runs").exists()


def test_the_schedule_warms_up_and_ends_at_zero(images):
    part = recipe(images, optimizer={"learning_rate": 0.5, "warmup": 0.1}).optimizer
    rate = make_optimizer(part, steps=100)._learning_rate
    values = [float(rate(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(values, [0, 0.25, 0.5, 0.25, 0], atol=1e-6)
    assert momentum_for(421) == pytest.approx(1 - 10 / 421)
    assert momentum_for(3) == 0.9


# -- fine-tuning --------------------------------------------------------------------------------------------------


def transfer_recipe(data, model, weights, epochs=0, **more):
    part = {"weights": str(weights), **more}
    return recipe(data, model=model, training={"epochs": epochs}, transfer=part, optimizer={"learning_rate": 1e-3})


def test_finetune_from_a_run_keeps_the_frozen_part(run, arrays, tmp_path):
    recipe = transfer_recipe(arrays, "bottleneck_cnn", run.folder).override("log", ["feature_maps"])
    made = finetune(recipe, root=tmp_path)
    old, new = (feature_extractor(load_model(r.folder)[1]) for r in (run, made))
    for a, b in zip(old.weights, new.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    state = read_json(made.folder / "run.json")
    # the probe's own validation, on features, is what the whole network gives
    probe = next(stage for stage in state["phases"] if stage["name"] == "probe")
    assert state["results"]["val_accuracy"] == pytest.approx(probe["score"])
    assert len(state["start_weights"]) == 64
    assert list((made.folder / "feature_maps").iterdir())


@pytest.mark.slow  # a whole fine-tuning; test_transfer.py has the policies of batch norm
def test_finetune_unfreezes_but_never_batch_norm(run, arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(
        transfer.Phases, "keep_if_better", lambda *_, **__: True
    )  # what was tuned is kept, whatever it gained
    made = finetune(transfer_recipe(arrays, "bottleneck_cnn", run.folder, epochs=2), root=tmp_path)
    old, new = (load_model(r.folder)[1] for r in (run, made))
    moved = set()
    for a, b in zip(feature_extractor(old).layers, feature_extractor(new).layers, strict=True):
        if any(not np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True)):
            moved.add(type(a).__name__)
    assert moved == {"Conv2D"}


def test_the_last_stages_are_unfrozen(monkeypatch):
    entry = registry.find("mobilenet_025")
    model = kerazoo.build("mobilenet_025", input_shape=(32, 32, 3), num_classes=2)
    chosen = layers_to_unfreeze(model, entry, 1)
    assert "conv_pw_12" in chosen
    assert "logits" in chosen
    assert not {name for name in chosen if "_11" in name}
    assert layers_to_unfreeze(model, entry, 0) == {layer.name for layer in model.layers}
    with pytest.raises(ModelError, match="transfer.unfreeze=5: mobilenet_025 has 4 stages"):
        layers_to_unfreeze(model, entry, 5)


@pytest.mark.slow  # a whole fine-tuning; test_transfer.py has the policies of batch norm
def test_random_weights_train_their_batch_norm(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer.Phases, "keep_if_better", lambda *_, **__: True)
    made = finetune(transfer_recipe(arrays, "bottleneck_cnn", "none", epochs=1), root=tmp_path)
    norms = [x for x in load_model(made.folder)[1].layers if isinstance(x, keras.layers.BatchNormalization)]
    assert norms
    assert all(np.any(np.array(norm.gamma) != 1) for norm in norms)


@pytest.mark.slow  # a fine-tuning of MobileNet and an export
def test_a_real_backbone_goes_the_whole_way(shared, images, tmp_path):
    """ImageNet's MobileNet at alpha 0.25: fine-tune, export through the gate, the same answers from both."""
    weights = shared / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    asked = transfer_recipe(images, "mobilenet_025", weights)
    made = finetune(make_recipe(asked.model_dump(), ["data.size=64"]), root=tmp_path)
    assert read_json(made.folder / "run.json")["results"]["val_accuracy"] >= 0.9
    folder = export_run(made, root=tmp_path / "saved_models")
    assert json.loads((folder / PASSPORT).read_text())["preprocessing"]["scaling"] == "tf"


def test_finetune_refuses_weights_that_do_not_fit(run, images, tmp_path):
    cases = {
        "resnet20": (run.folder, "must be for resnet20, but they are for bottleneck_cnn"),
        "vgg_small": (
            tmp_path / "missing.h5",
            "there is no file .*missing.h5; use the path of a weights file or a run, or none",
        ),
        "bottleneck_cnn": ("cifar", "there are no weights 'cifar' for bottleneck_cnn; use mnist, none"),
    }
    for model, (weights, message) in cases.items():
        with pytest.raises(WeightsError, match=message):
            finetune(transfer_recipe(images, model, weights), root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow  # two minutes: 3,670 photos through a backbone, and again through the export
def test_flowers_reach_085_and_the_export_agrees_on_every_photo(shared, tmp_path):
    with tarfile.open(shared / "flowers240.tar") as archive:
        archive.extractall(tmp_path / "flowers240", filter="data")
    weights = shared / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    values = {
        "model": {"name": "mobilenet_025"}, "data": {"path": str(tmp_path / "flowers240")},
        "training": {"epochs": 0, "batch_size": 32}, "transfer": {"weights": str(weights)},
    }  # fmt: skip
    made = finetune(make_recipe(values), root=tmp_path)
    assert read_json(made.folder / "run.json")["results"]["val_accuracy"] >= 0.85
    folder = export_run(made, root=tmp_path / "saved_models")
    assert json.loads((folder / PASSPORT).read_text())["gate"]["images"] == 736


@pytest.mark.slow  # a training and an export; test_channels.py has one from arrays
def test_npz_goes_the_whole_way(tmp_path):
    """Arrays have no files: the gate encodes them without loss."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 100, (60, 16, 16)).astype(np.uint8)
    y = np.arange(60) % 3
    for label in range(3):
        x[y == label, 4 * label : 4 * label + 6] += 120
    np.savez(tmp_path / "bars.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9], class_names=["top", "mid", "low"])
    plain = recipe(tmp_path / "bars.npz", model="cnn", optimizer={"learning_rate": 0.003}, training={"epochs": 6})
    values = plain.model_dump(exclude_none=True)
    values["data"] = {"path": str(tmp_path / "bars.npz")}
    values["augmentation"] = {}
    made = train(make_recipe(values), root=tmp_path / "runs")
    results = read_json(made.folder / "run.json")["results"]
    assert results["test_accuracy"] == 1.0
    assert results["test_examples"] == 9
    assert load_spec(made.folder).preprocessing.shape == (16, 16, 1)
    folder = export_run(made, root=tmp_path / "saved_models")
    assert json.loads((folder / PASSPORT).read_text())["gate"]["images"] == 6
    assert ExportedModel(folder).class_names == ("top", "mid", "low")
    assert len(load_examples(tmp_path / "bars.npz").split("test")) == 9
