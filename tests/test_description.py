"""model.json is read with suspicion: every field has a type and limits, and is refused before anything is allocated."""

import json
import random
import resource
from dataclasses import replace

import keras
import numpy as np
import pytest

import kerazoo.models.saved as stored_module
from kerazoo.errors import ModelError, RunError
from kerazoo.files import read_json, write_json
from kerazoo.models.description import Member, ModelSpec, check_arguments, check_size
from kerazoo.models.keras_applications import BACKBONES
from kerazoo.models.registry import NETWORKS, describe
from kerazoo.models.saved import DESCRIPTION, WEIGHTS, load_model, load_spec, save_model
from kerazoo.models.weights.sources import SHIPPED
from kerazoo.preprocessing.preprocessing import Preprocessing

ARGUMENTS = {"input_shape": (8, 8, 3), "num_classes": 2, "units": (16,)}
SPEC = ModelSpec("mlp", ARGUMENTS, Preprocessing(8, 8), ("no", "yes"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, SPEC, SPEC.build())
    return folder


def edit(folder, key, value):
    """Put `value` at the dotted `key` of model.json; None takes the key out."""
    values = read_json(folder / DESCRIPTION)
    place = values
    *above, last = key.split(".")
    for part in above:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    (folder / DESCRIPTION).write_text(json.dumps(values))


COUNT = "a whole number from 1 to 65,536"
BAD = [
    ("name", ["mlp"], "name must be the name of a model, got"),
    ("name", "os.system", "no model is called 'os.system'"),
    ("name", None, "it has no name"),
    ("arguments", [], "arguments must be an object"),
    ("arguments.weights", "/etc/passwd", "arguments.weights is not an argument of mlp, which has input_"),
    ("arguments.include_top", True, "arguments.include_top is not an argument of mlp"),
    ("arguments.units", [10**9], "arguments.units must be a list of at most 1,000 whole numbers from 1 to 65,536, got"),
    ("arguments.units", [65536] * 40, "arguments describe .* weights of 4 bytes each, but model.weights.h5 has"),
    ("arguments.units", [1] * 1001, "arguments.units must be a list of at most 1,000"),
    ("arguments.units", [[[[[[1]]]]]], "arguments.units must be a list"),
    ("arguments.units", ["x" * 10**6], "arguments.units must be a list"),
    ("arguments.units", 16, "arguments.units must be a list"),
    ("arguments.units", [True], "arguments.units must be a list"),
    ("arguments.dropout", float("nan"), "arguments.dropout must be a number from 0 to 1,000,000, got nan"),
    ("arguments.l1", float("inf"), "arguments.l1 must be a number from 0"),
    ("arguments.l2", 10**400, "arguments.l2 must be a number from 0 to 1,000,000, got 1000"),
    ("arguments.l2", -1, "arguments.l2 must be a number from 0"),
    ("arguments.l2", "1", "arguments.l2 must be a number from 0"),
    ("arguments.activation", ["relu"], "arguments.activation must be a word"),
    ("arguments.activation", "exec", "activation='exec' must be one of"),
    ("arguments.num_classes", 10**12, f"arguments.num_classes must be {COUNT}, got 1000000000000"),
    ("arguments.num_classes", 3, "arguments.num_classes must be 2, the number of class_names, got 3"),
    ("arguments.num_classes", "2", f"arguments.num_classes must be {COUNT}"),
    ("arguments.input_shape", [16, 8, 3], r"arguments.input_shape must be \(8, 8, 3\), .* got \(16, 8, 3\)"),
    ("arguments.input_shape", [[8], 8, 3], "arguments.input_shape must be"),
    ("preprocessing", [], "preprocessing must be an object"),
    ("preprocessing.height", 10**9, "height x width x channels must be at most 67,108,864 values, got 1,000,000,0"),
    ("preprocessing.height", 16, "arguments.input_shape must be .16, 8, 3., as in preprocessing"),
    ("arguments.num_classes", 10**400, f"arguments.num_classes must be {COUNT}, got 1000"),
    ("arguments.units", [10**400], "arguments.units must be a list"),
    ("preprocessing.width", "8", "preprocessing: width='8' must be a whole number of at least 1"),
    ("preprocessing.width", 8.0, "preprocessing: width=8.0 must be a whole number"),
    ("preprocessing.width", True, "preprocessing: width=True must be a whole number"),
    ("preprocessing.height", None, "preprocessing: there is no height"),
    ("preprocessing.channels", 0, "preprocessing: channels=0 must be a whole number"),
    ("preprocessing.channels", 10**12, "height x width x channels must be at most"),
    ("preprocessing.resize", "x" * 10**6, "preprocessing: resize='x+ must be one of stretch, crop, pad"),
    ("preprocessing.resize", ["crop"], "must be one of stretch, crop, pad"),
    ("preprocessing.scaling", {}, "must be one of none, unit"),
    ("preprocessing.interpolation", "gaussian", "must be one of bilinear"),
    ("preprocessing.path", "/", "preprocessing: unknown key 'path'"),
    ("class_names", "no", "class_names must be a list of names, got 'no'"),
    ("class_names", [], "class_names must be a list of names"),
    ("class_names", ["no", "no"], "class_names must be different, got 'no' 2 times"),
    ("class_names", ["no"], "arguments.num_classes must be 1, the number of class_names, got 2"),
    ("class_names", ["no", 1], "class_names must have names of 1 to 1,000 characters, got 1"),
    ("class_names", ["no", "y" * 1001], "class_names must have names of 1 to 1,000 characters"),
    ("class_names", ["no", ""], "class_names must have names"),
    ("task", "binary", "task must be one of multiclass, multilabel, regression, got 'binary'"),
    ("task", ["multiclass"], "task must be one of"),
    ("temperature", 0, "temperature must be a number from 0.001 to 1000, got 0"),
    ("temperature", float("nan"), "temperature must be a number"),
    ("temperature", 10**400, "temperature must be a number"),
    ("temperature", "1", "temperature must be a number"),
    ("temperature", [1], "temperature must be a number"),
    ("thresholds", [0.2, 0.3], "thresholds must be empty for a multiclass, got .0.2, 0.3."),
    ("thresholds", "0.5", "thresholds must be a list of numbers, got '0.5'"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "message"), BAD, ids=lambda value: str(value)[:30])
def test_a_bad_description_is_one_line_that_names_file_key_and_value(stored, key, value, message):
    kept = (stored / DESCRIPTION).read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        edit(stored, key, value)
        with pytest.raises(RunError, match=message) as error:
            load_model(stored)
    finally:
        (stored / DESCRIPTION).write_bytes(kept)
    line = str(error.value)
    assert line.startswith(str(stored / DESCRIPTION))
    assert "\n" not in line
    assert len(line) < 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_regression_has_no_temperature(stored):
    kept = (stored / DESCRIPTION).read_bytes()
    try:
        edit(stored, "task", "regression")
        assert load_spec(stored).task == "regression"
        edit(stored, "temperature", 2.0)
        with pytest.raises(RunError, match=r"temperature must be 1 for a regression, got 2.0"):
            load_spec(stored)
    finally:
        (stored / DESCRIPTION).write_bytes(kept)


def test_thresholds_of_labels_are_kept_and_bad_ones_are_refused(tmp_path):
    spec = replace(SPEC, task="multilabel", thresholds=(0.5, 0.1 + 0.2))
    write_json(tmp_path / DESCRIPTION, spec.to_json())
    assert load_spec(tmp_path) == spec
    assert "thresholds" not in SPEC.to_json()
    for value, message in (
        ([0.2], "thresholds must be 2 numbers, one for each of class_names, got 1"),
        ([0.2] * 10**5, "thresholds must be 2 numbers, one for each of class_names, got 100,000"),
        *(([0.2, bad], "thresholds must be numbers between 0 and 1, got ") for bad in (0, 1, -0.1, True, "x", 10**400)),
        ([0.2, float("nan")], "thresholds must be numbers between 0 and 1, got nan"),
        ({"a": 0.2}, "thresholds must be a list of numbers, got {'a': 0.2}"),
    ):
        edit(tmp_path, "thresholds", value)
        with pytest.raises(RunError, match=message):
            load_spec(tmp_path)
    ensemble = replace(spec, members=(Member(2.0), Member()))
    write_json(tmp_path / DESCRIPTION, ensemble.to_json())
    assert load_spec(tmp_path) == ensemble


@pytest.mark.parametrize("value", ["/etc/passwd", "imagenet", None])
def test_no_network_takes_weights_from_its_description(value):
    """A builder would read the file, or fetch it."""
    for entry in (*NETWORKS, *BACKBONES):
        with pytest.raises(ModelError, match=f"arguments.weights is not an argument of {entry.name}, which has "):
            check_arguments(entry.name, {"weights": value})


def test_what_is_whole_still_loads(stored):
    spec, model = load_model(stored)
    assert spec == SPEC
    assert model.count_params() == 8 * 8 * 3 * 16 + 16 + 16 * 2 + 2
    assert load_spec(SHIPPED / "bottleneck_cnn_mnist").name == "bottleneck_cnn"


@pytest.mark.parametrize("entry", NETWORKS, ids=lambda entry: entry.name)
def test_weights_are_counted_without_making_any_or_drawing_a_seed(entry, tmp_path):
    classes = tuple("0123456789")
    spec = ModelSpec(entry.name, describe(entry.name), Preprocessing(*entry.input_shape), classes)
    weights = tmp_path / WEIGHTS
    weights.write_bytes(bytes(4 * entry.parameters))
    with keras.StatelessScope():  # it leaves the list of variables that scopes make as they end
        pass
    state = random.getstate()
    check_size(spec, weights)
    assert random.getstate() == state
    weights.write_bytes(bytes(4 * entry.parameters - 1))
    with pytest.raises(ValueError, match=f"describe {entry.parameters:,} weights"):
        check_size(spec, weights)
    # the next scope would make whatever is in this list, gigabytes where model.json says so
    assert not keras.src.backend.common.global_state.get_global_attribute("uninitialized_variables")


def test_a_backbone_with_too_many_classes_is_refused(tmp_path):
    names = tuple(map(str, range(60_000)))
    arguments = {"input_shape": (64, 64, 3), "num_classes": 60_000}
    spec = ModelSpec("resnet50", arguments, Preprocessing(64, 64), names)
    (tmp_path / WEIGHTS).write_bytes(bytes(100_000))
    with pytest.raises(ValueError, match="describe 122,880,000 weights of 4 bytes"):
        check_size(spec, tmp_path / WEIGHTS)


def test_a_trained_network_loads_in_another_process_whatever_its_optimizer_keeps(tmp_path, monkeypatch):
    """AdamW's state is twice the weights, and is no part of what is loaded."""
    spec = ModelSpec(
        "mlp", {"input_shape": (28, 28, 1), "num_classes": 2, "units": (160,)}, Preprocessing(28, 28, 1), ("no", "yes")
    )
    model = spec.build()
    model.compile("adamw", "mse")
    model.optimizer.build(model.trainable_variables)
    save_model(tmp_path, spec, model)
    monkeypatch.setattr(stored_module, "_WRITTEN", set())  # what this process wrote is loaded without a look
    loaded = load_model(tmp_path)[1]
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
