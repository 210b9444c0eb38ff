"""Feature maps are what the layers give, of any kind of model; the tags are exact; training is bit-equal with them."""

import importlib
from contextlib import nullcontext

import keras
import numpy as np
import observed
import pytest
import tensorflow as tf
from conftest import Memory

from kerazoo.callbacks.feature_maps import FeatureMapLogger
from kerazoo.callbacks.resume import Resume
from kerazoo.callbacks.weights import WeightLogger
from kerazoo.errors import InputError, ModelError
from kerazoo.insight.activations import EDGES, Activations, trimmed
from kerazoo.insight.grids import draw
from kerazoo.insight.layer_outputs import find_layers, layers_by_path, look_at_outputs

KINDS = ("functional", "sequential", "unbuilt", "subclassed", "nested", "shared")


def images(count=12, seed=0, *, channels=2, size=8):
    return np.random.default_rng(seed).normal(size=(count, size, size, channels)).astype(np.float32)


def network(kind):
    """conv (3x3, ReLU) -> norm -> act (tanh) -> flat -> drop -> logits; in "shared", act comes twice."""
    conv = keras.layers.Conv2D(3, 3, activation="relu", name="conv", bias_initializer="glorot_normal")
    norm = keras.layers.BatchNormalization(name="norm")
    act = keras.layers.Activation("tanh", name="act")
    rest = [
        keras.layers.Flatten(name="flat"),
        keras.layers.Dropout(0.3, name="drop"),
        keras.layers.Dense(3, name="logits"),
    ]
    if kind == "subclassed":
        return observed.Own([conv, norm, act, *rest])
    inputs = keras.Input((8, 8, 2))
    if kind == "nested":
        inner = keras.Sequential([keras.Input((8, 8, 2)), conv, norm], name="inner")
        return keras.Sequential([inputs, inner, act, *rest], name="outer")
    if kind == "within":
        inner = keras.Sequential([keras.Input((8, 8, 2)), conv, norm], name="inner")
        return keras.Sequential([inputs, inner, *rest], name="outer")
    if kind in ("functional", "shared"):
        x = act(act(norm(conv(inputs))) if kind == "shared" else norm(conv(inputs)))
        for layer in rest:
            x = layer(x)
        return keras.Model(inputs, x, name="flat_model")
    return keras.Sequential([*([inputs] if kind == "sequential" else []), conv, norm, act, *rest])


def compiled(kind):
    keras.utils.set_random_seed(1)
    model = network(kind)
    model.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model, *callbacks, epochs=2):
    x = images(seed=1)
    model.fit(x, np.arange(12) % 3, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


def forward(model, x):
    """conv, norm and act by hand."""
    layers = layers_by_path(model)
    by_name = {path.rpartition("/")[2]: layer for path, layer in layers.items()}
    kernel, bias = by_name["conv"].get_weights()
    gamma, beta, mean, variance = by_name["norm"].get_weights()
    conv = np.zeros((len(x), 6, 6, 3))
    for row in range(6):
        for column in range(6):
            conv[:, row, column] = np.tensordot(x[:, row : row + 3, column : column + 3], kernel, 3) + bias
    conv = np.maximum(conv, 0)
    norm = (conv - mean) / np.sqrt(variance + by_name["norm"].epsilon) * gamma + beta
    return conv, norm, np.tanh(norm)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_a_forward_pass_by_hand(kind):
    probe = images(40)  # two batches of the logger
    model = fit(compiled(kind), FeatureMapLogger(memory := Memory(), probe, ["conv", "norm", "act"], every="epoch"))
    conv, norm, act = forward(model, probe)
    outputs = {"conv": conv, "norm": norm, "act": act} | ({"act:1": np.tanh(act)} if kind == "shared" else {})
    expected = {f"{name}/mean": values.mean() for name, values in outputs.items()}
    expected |= {f"{name}/std": values.std() for name, values in outputs.items()}
    expected |= {"conv/dead": (conv.max((0, 1, 2)) <= 0).mean(), "conv/zero": (conv == 0).mean()}
    expected |= {f"{n}/saturated": (np.abs(outputs[n]) > 0.97).mean() for n in outputs if n.startswith("act")}
    assert 0.1 < expected["conv/zero"] < 0.9
    assert 0 < expected["act/saturated"] < 0.9
    found = {tag.removeprefix("feature_maps/"): value for (tag, step), value in memory.scalars.items() if step == 6}
    assert found == {tag: pytest.approx(value, abs=1e-5) for tag, value in expected.items()}
    assert {step for _, step in memory.scalars} == {3, 6}
    assert set(memory.images) == {(f"feature_maps/{name}", step) for name in outputs for step in (3, 6)}
    assert not memory.histograms
    for name, values in outputs.items():
        picture = memory.images[f"feature_maps/{name}", 6].astype(int)
        assert np.abs(picture - draw(values[0])).max() <= 1  # rounding


def test_the_exact_tags_with_histograms_and_without_images():
    logger = FeatureMapLogger(memory := Memory(), images(2), ["conv", "logits"], every=2, histograms=True, grids=False)
    model = fit(compiled("sequential"), logger)
    kinds = {"conv": ["mean", "std", "dead", "zero"], "logits": ["mean", "std"]}
    steps = (2, 4, 6)
    assert set(memory.scalars) == {
        (f"feature_maps/{n}/{kind}", step) for n in kinds for kind in kinds[n] for step in steps
    }
    names = ["values", "channel_mean", "channel_std"]
    assert set(memory.histograms) == {(f"feature_maps/{n}/{k}", step) for n in kinds for k in names for step in steps}
    assert not memory.images
    conv, _, _ = forward(model, images(2))
    for kind, values in (
        ("values", conv),
        ("channel_mean", conv.mean((0, 1, 2))),
        ("channel_std", conv.std((0, 1, 2))),
    ):
        counts, edges = memory.histograms[f"feature_maps/conv/{kind}", 6]
        assert counts.sum() == values.size
        assert set(edges) <= set(EDGES)
        assert counts.tolist() == np.histogram(values.astype(np.float32), edges)[0].tolist()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("functional", ["conv", "act"]),
        ("unbuilt", ["act"]),
        ("subclassed", ["act"]),
        ("nested", ["act"]),
        ("within", ["inner/norm"]),
    ],
)
def test_without_names_the_last_layer_of_each_size_is_taken(kind, expected):
    model = compiled(kind)
    if kind == "functional":
        inputs = keras.Input((8, 8, 2))
        x = keras.layers.Conv2D(2, 3, padding="same", name="first")(inputs)
        x = keras.layers.ReLU(name="conv")(x)
        x = keras.layers.MaxPooling2D(name="pool")(x)
        x = keras.layers.Activation("tanh", name="act")(x)
        model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model, FeatureMapLogger(memory := Memory(), images(1)))
    assert sorted({tag for tag, _ in memory.images}) == sorted(f"feature_maps/{name}" for name in expected)


def test_layers_within_models_have_paths():
    model = compiled("nested")
    assert list(layers_by_path(model)) == ["inner", "inner/conv", "inner/norm", "act", "flat", "drop", "logits"]
    fit(model, FeatureMapLogger(memory := Memory(), images(1), ["inner", "inner/conv"], every="2 epochs"))
    norm = forward(model, images(1))[1]
    assert {tag for tag, _ in memory.images} == {"feature_maps/inner", "feature_maps/inner/conv"}
    assert memory.scalars["feature_maps/inner/mean", 6] == pytest.approx(norm.mean(), abs=1e-5)


def test_mixed_precision_and_several_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        hidden = keras.layers.Dense(5, activation="sigmoid", name="hidden")(
            keras.layers.Concatenate(name="both")([a, b])
        )
    finally:
        keras.config.set_dtype_policy("float32")
    model = keras.Model({"a": a, "b": b}, hidden)
    probe = {"a": np.full((3, 4), 9.0), "b": np.full((3, 4), -9.0, np.float64)}
    model.compile("sgd", "mse")
    logger = FeatureMapLogger(memory := Memory(), probe, ["hidden", "both"])
    model.fit(probe, np.zeros((3, 5)), verbose=0, callbacks=[logger])
    assert memory.scalars["feature_maps/both/std", 1] == 9.0
    assert {tag for tag, _ in memory.scalars} == {
        "feature_maps/hidden/mean", "feature_maps/hidden/std", "feature_maps/hidden/saturated",
        "feature_maps/both/mean", "feature_maps/both/std",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("activation", "values", "expected"),
    [
        ("relu", [[0, 1, 0], [0, 0, 0]], {"dead": 2 / 3, "zero": 5 / 6}),
        ("", [[0, 1, 0], [0, 0, 0]], {"dead": 2 / 3, "zero": 5 / 6}),
        ("", [[0, 1, 0], [0, 0, -0.1]], {}),
        ("linear", [[0, 1, 0], [0, 0, 0]], {}),
        ("sigmoid", [[0.04, 0.5, 0.96], [0.06, 0.94, 0.5]], {"saturated": 1 / 3}),
        ("tanh", [[-0.98, 0.5, 0.98], [0.96, -0.96, 0]], {"saturated": 1 / 3}),
        ("softmax", [[0.9995, 0.0005, 0], [0.9, 0.1, 0]], {"saturated": 1 / 2}),
    ],
)
def test_statistics_in_closed_form(activation, values, expected):
    """The same at once and batch by batch."""
    array = np.float32(values)
    together, batches = Activations(activation), Activations(activation)
    together.add(array)
    for row in array:
        batches.add(row[None])
    wanted = {"mean": array.mean(), "std": array.std(), **expected}
    for one in (together, batches):
        assert one.scalars() == {name: pytest.approx(value, abs=1e-6) for name, value in wanted.items()}
        assert [counts.sum() for counts, _ in one.histograms().values()] == [6, 3, 3]


def test_values_that_are_not_finite_are_seen_and_not_counted():
    broken = Activations("relu")
    broken.add(np.float32([[np.nan, 1], [np.inf, 1e9]]))
    assert np.isnan(broken.scalars()["mean"])
    counts, edges = broken.histograms()["values"]
    assert (counts[0], counts[-1], edges[-1]) == (1, 1, EDGES[-1])  # 1e9 is in the outermost bin
    counts, edges = trimmed(np.zeros(len(EDGES) - 1, int))
    assert counts.tolist() == [0]
    assert edges.tolist() == [-1e-6, 1e-6]


def loggers(writer):
    return [
        FeatureMapLogger(writer, images(3, channels=1, size=10), every=1, histograms=True),
        WeightLogger(writer, every=1, histograms=True),
    ]


@pytest.mark.parametrize("mode", observed.in_process("nested"))
def test_training_is_bit_equal_with_loggers_at_every_step(mode, monkeypatch):
    """Feature maps and weights, on a network with batch norm and dropout; "draws" draws numbers in inference mode."""
    # Keras does not compile where another test has asked for deterministic operations
    config = importlib.import_module("tensorflow.python.framework.config")
    monkeypatch.setattr(config, "is_op_determinism_enabled", lambda: False)
    memory = Memory()
    observed.check_observed(mode, lambda model, x: loggers(memory))
    steps = {step for _, step in memory.scalars}
    assert steps == ({3, 5, 8, 10} if mode == "several steps" else set(range(1, 11)))
    assert all(np.isfinite(value) for value in memory.scalars.values())


@pytest.mark.slow  # test_all_loggers.py has the usual modes
def test_training_on_two_processors_is_bit_equal_with_loggers_at_every_step():
    observed.check_observed_apart(["mirrored"], LOGGERS)


@pytest.mark.slow
def test_training_with_jax_is_bit_equal_with_loggers_at_every_step():
    observed.check_observed_apart(["graph", "draws", "nested"], LOGGERS, backend="jax")


LOGGERS = """
from conftest import Memory
from test_feature_maps import loggers
callbacks = lambda model, x: loggers(Memory())
"""


class Cut(keras.callbacks.Callback):
    """Ends the training as a kill would, after four steps."""

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 4:
            raise KeyboardInterrupt


def test_a_resumed_training_logs_each_step_once(tmp_path):
    def logger():
        return FeatureMapLogger(Memory(), images(2), ["conv", "act"], every=1)

    fit(compiled("functional"), whole := logger())
    with pytest.raises(KeyboardInterrupt):
        fit(compiled("functional"), *Resume(tmp_path, steps=3).after([first := logger()]), Cut())
    fit(compiled("functional"), *Resume(tmp_path, steps=3).after([second := logger()]))
    [writer, before, after] = [each.writer.writers[0] for each in (whole, first, second)]
    [(step, epoch)] = after.rewound
    assert (step, epoch) == (3, 1)
    kept = {key: value for key, value in before.scalars.items() if key[1] <= step}
    assert not set(kept) & set(after.scalars)
    assert kept | after.scalars == writer.scalars


@pytest.mark.parametrize(
    ("kind", "layers", "message"),
    [
        ("functional", ["convv"], "flat_model has no layer 'convv'; the nearest names are conv"),
        ("unbuilt", ["convv"], "has no layer 'convv'; the nearest names are conv"),
        ("subclassed", ["convv"], "own has no layer 'convv'; the nearest names are conv"),
        ("nested", ["inner/con"], "outer has no layer 'inner/con'; the nearest names are inner/conv"),
        ("functional", [7], "flat_model has no layer 7; the nearest names are logits"),
        ("double", ["conv"], "double has 2 layers 'conv'; use a path: one/conv, two/conv"),
        ("unused", ["aside"], "layer aside has no output: unused does not call it in inference mode"),
        ("loop", ["inside"], "layer inside is called over 8 times; name the layer around it"),
        ("graph", ["inside"], "layer inside is called within a compiled function; name the layer around it"),
    ],
)
def test_a_layer_that_cannot_be_looked_at_is_one_line(kind, layers, message):
    model = special(kind) if kind in ("double", "unused", "loop", "graph") else compiled(kind)
    with pytest.raises(ModelError) as caught:
        fit(model, FeatureMapLogger(Memory(), images(1), layers))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert int(model.optimizer.iterations) == (1 if kind == "subclassed" else 0)


def special(kind):
    """Models whose layers cannot be looked at without more ado."""

    class Within(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="around")
            self.inside = keras.layers.Dense(2, name="inside")

        def build(self, shape):
            self.inside.build(shape)

        def call(self, x):
            if kind == "graph":
                return tf.function(self.inside)(x)
            for _ in range(9):
                x = self.inside(x)
            return x

    class Unused(keras.Model):
        def __init__(self):
            super().__init__(name="unused")
            self.logits, self.flat = keras.layers.Dense(3), keras.layers.Flatten()
            self.aside = keras.layers.ReLU(name="aside")

        def call(self, x):
            return self.logits(self.flat(x))

    if kind == "unused":
        model = Unused()
        model(images(1))
    elif kind == "double":
        parts = [
            keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(2, 1, name="conv")], name=n)
            for n in ("one", "two")
        ]
        model = keras.Sequential(
            [keras.Input((8, 8, 2)), *parts, keras.layers.Flatten(), keras.layers.Dense(3)], name=kind
        )
    else:
        model = keras.Sequential(
            [keras.Input((8, 8, 2)), Within(), keras.layers.Flatten(), keras.layers.Dense(3)], name=kind
        )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_layers_within_loops_and_functions_are_left_out_where_none_are_named():
    for kind in ("loop", "graph"):
        fit(special(kind), FeatureMapLogger(memory := Memory(), images(1)))
        assert {tag for tag, _ in memory.images} == {"feature_maps/around"}


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (images(2)[:, :7], "probe must be (N, 8, 8, 2) for flat_model, got (2, 7, 8, 2)"),
        (images(1)[0], "probe must be (N, 8, 8, 2) for flat_model, got (8, 8, 2); add an axis: probe[None]"),
        (images(1) * np.nan, "as the model takes them, got 128 values that are NaN or infinite"),
        (np.array([["a"]]), "as the model takes them, got <U1"),
        (images(0), "as the model takes them, got shape (0, 8, 8, 2)"),
        ([[1], [1, 2]], "as the model takes them, got rows of different shapes"),
        (3.0, "as the model takes them, got shape ()"),
        (None, "as the model takes them, got object"),
        ({"a": images(1), "b": images(2)}, "the parts of probe must have as many rows, got [1, 2]"),
    ],
)
def test_a_probe_that_does_not_fit_is_one_line(probe, message):
    model = compiled("functional")
    with pytest.raises(InputError) as caught:
        fit(model, FeatureMapLogger(Memory(), probe))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert int(model.optimizer.iterations) == 0


def test_a_probe_that_a_subclassed_model_cannot_take_is_one_line():
    with pytest.raises(ModelError, match=r"own cannot be run on inputs \(1, 5, 8, 2\) float32: ") as caught:
        fit(compiled("subclassed"), FeatureMapLogger(Memory(), images(1)[:, :5]))
    assert "\n" not in str(caught.value)


def test_layers_must_be_a_list():
    with pytest.raises(InputError, match=r"layers must be a list of names, got 'conv'; use \['conv'\]"):
        FeatureMapLogger(Memory(), images(1), "conv")


def test_layers_are_as_they_were_after_a_look():
    """Also where the look fails, and where a layer had a `call` of its own."""
    model = compiled("sequential")
    layers = find_layers(model, ["conv", "act"])
    own = layers["act"].call
    object.__setattr__(layers["act"], "call", own)
    for size, outcome in (
        (8, nullcontext()),
        (5, pytest.raises(ModelError, match=r"float32: Input 0 .*of layer 'logits'")),
    ):
        names = []
        with outcome:
            look_at_outputs(model, images(1)[:, :size], layers, lambda name, values: names.append(name))  # noqa: B023
        assert names == ["conv", "act"]
        assert "call" not in vars(layers["conv"])
        assert vars(layers["act"])["call"] is own


def test_channels_first_outputs_are_turned():
    layer = keras.layers.Permute((3, 1, 2), name="turn")
    layer.data_format = "channels_first"
    model = keras.Sequential([keras.Input((8, 8, 2)), layer])
    kept = {}
    look_at_outputs(model, images(1), {"turn": layer}, kept.__setitem__)
    np.testing.assert_array_equal(kept["turn"], images(1))


def test_draw_lays_channels_in_rows():
    maps = np.zeros((2, 3, 6), np.float32)
    maps[0, 0] = np.arange(1, 7)
    grid = draw(maps)
    assert grid.shape == (5, 15)
    assert grid[0, [0, 4, 8, 12]].tolist() == [255] * 4
    assert grid[3, [0, 4]].tolist() == [255] * 2
    assert grid.sum() == 6 * 255
    assert not draw(np.full((2, 2, 1), np.nan, np.float32)).any()
