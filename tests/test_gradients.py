"""Gradients and update ratios: exact tags, values in closed form and by a tape, and a training that is bit-equal."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import Memory
from observed import MODES, check_observed, check_observed_apart, in_process, train

from kerazoo.callbacks.gradients import GradientLogger
from kerazoo.callbacks.histograms import BINS, EDGES, magnitude_counts
from kerazoo.callbacks.resume import Resume
from kerazoo.errors import InputError
from kerazoo.keras_private import CLIP_GRADIENTS, SUM_GRADIENTS

SGD = keras.optimizers.SGD


class Line(keras.Model):
    """y = 2 x, as a subclass."""

    def __init__(self):
        super().__init__()
        self.line = keras.layers.Dense(
            1, use_bias=False, kernel_initializer=keras.initializers.Constant(2.0), name="line"
        )

    def call(self, inputs):
        return self.line(inputs)


class OwnStep(Line):
    """With a training step and an optimizer of its own, as a GAN has two of them."""

    def compile(self, optimizer, loss):
        super().compile(loss=loss)
        self.own = optimizer

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x) - y) ** 2)
        self.own.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss}


def line(kind):
    """y = 2 x."""
    if kind in ("subclassed", "own step"):
        return Line() if kind == "subclassed" else OwnStep()
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(2.0), name="line")
    if kind == "functional":
        inputs = keras.Input((1,), name="inputs")
        return keras.Model(inputs, dense(inputs))
    if kind == "nested":
        inputs = keras.Input((1,), name="inputs")
        return keras.Model(inputs, keras.Sequential([keras.Input((1,)), dense])(inputs))
    return keras.Sequential([dense] if kind == "unbuilt" else [keras.Input((1,)), dense])


def several(known):
    """A MultiOptimizer, whose parts are known at once or by its build."""
    part, other = SGD(0.1, clipnorm=5.0), SGD(0.1)
    if known:
        return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(other, {".*line.*": part}))
    return keras.optimizers.MultiOptimizer(lambda variable: part if "line" in variable.path else other)


OPTIMIZERS = {
    "plain": lambda: SGD(0.1),
    "global": lambda: SGD(0.1, global_clipnorm=5.0),
    "value": lambda: SGD(0.1, clipvalue=5.0),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(SGD(0.1, clipnorm=5.0)),
    "factor": lambda: SGD(0.1, clipnorm=5.0, loss_scale_factor=8.0),
    "several": lambda: several(True),
    "several, unbuilt": lambda: several(False),
    "accumulated": lambda: SGD(0.1, clipnorm=5.0, gradient_accumulation_steps=2),
}


@pytest.fixture(autouse=True)
def _compiled_where_asked(monkeypatch):
    # Keras does not compile where another test has asked for deterministic operations; these are
    config = importlib.import_module("tensorflow.python.framework.config")
    monkeypatch.setattr(config, "is_op_determinism_enabled", lambda: False)


CASES = [
    *[(kind, "global", {}) for kind in ("functional", "sequential", "unbuilt", "subclassed", "nested", "own step")],
    *[("functional", name, {}) for name in OPTIMIZERS if name != "global"],
    ("unbuilt", "several, unbuilt", {}),
    ("unbuilt", "scaled", {}),
    ("unbuilt", "accumulated", {"jit_compile": True}),
    ("functional", "global", {"jit_compile": True}),
    ("functional", "global", {"run_eagerly": True}),
    ("subclassed", "global", {"steps_per_execution": 2}),
]
PERIODS = [("functional", "plain", {}), ("functional", "accumulated", {}), ("subclassed", "global", CASES[-1][2])]


@pytest.mark.parametrize(
    ("kind", "optimizer", "options", "every"),
    [*[(*case, 1) for case in CASES], *[(*case, every) for case in PERIODS for every in ("epoch", 2)]],
)
def test_values_are_the_closed_form(kind, optimizer, options, every):
    """A linear model under the mean squared error: dL/dw = 2 x (w x - t), also clipped, and how far it moves w."""
    writer, model = Memory(), line(kind)
    model.compile(OPTIMIZERS[optimizer](), "mse", **options)
    x = np.array([[3.0], [1.0]] * 2, np.float32)  # the larger gradient first
    t = np.array([[1.0], [0.0]] * 2, np.float32)
    w = 2.0
    before, ratios, pending = {}, {}, []
    for step in range(4):
        pending.append(2 * x[step, 0] * (w * x[step, 0] - t[step, 0]))
        if len(pending) == (2 if optimizer == "accumulated" else 1):
            before[step + 1] = float(np.mean(pending))
            moved = 0.1 * (before[step + 1] if optimizer == "plain" else np.clip(before[step + 1], -5, 5))
            ratios[step + 1] = abs(moved / w)
            w -= moved
            pending = []
    assert not np.allclose([*before.values()], np.clip([*before.values()], -5, 5))
    model.fit(x, t, batch_size=1, shuffle=False, verbose=0, callbacks=[GradientLogger(writer, every=every)])
    [variable] = model.trainable_variables
    assert float(variable.numpy().item()) == pytest.approx(w, rel=1e-5)
    length = 4 if every == "epoch" else max(every, options.get("steps_per_execution", 1))
    expected = {}
    for last in range(length, 5, length):
        steps = [step for step in range(last - length + 1, last + 1) if step in before]
        norms = np.abs([before[step] for step in steps])
        if not steps:
            continue
        clipped = np.minimum(norms, 5)
        sampled = [step for step in steps if (step == min(before) if every == "epoch" else step % every == 0)]
        values = {
            "gradients/{}/norm": norms.mean(),
            "gradients/{}/max_norm": norms.max(),
            "gradients/{}/mean_square": (norms**2).mean(),
        }
        if optimizer != "plain":
            values |= {"gradients/{}/clipped_norm": clipped.mean(), "gradients/{}/clipped": (clipped < norms).mean()}
        if sampled:
            values["updates/{}/ratio"] = np.mean([ratios[step] for step in sampled])
        for path in (variable.path, "global"):
            expected |= {(tag.format(path), last): pytest.approx(value, rel=1e-5) for tag, value in values.items()}
    assert writer.scalars == expected


def test_the_norm_of_a_gradient_by_rows_is_that_of_the_whole():
    """The same row of an embedding taken twice: its gradients add up."""
    writer = Memory()
    model = keras.Sequential([keras.Input((2,), dtype="int32"), keras.layers.Embedding(5, 3, name="rows")])
    model.compile(SGD(0.0), lambda y, z: keras.ops.sum(z, axis=(1, 2)))
    model.fit(np.array([[1, 1]]), np.zeros((1, 1)), verbose=0, callbacks=[GradientLogger(writer, histograms=True)])
    path = model.layers[0].embeddings.path
    assert writer.scalars[f"gradients/{path}/norm", 1] == pytest.approx(2 * np.sqrt(3))
    assert writer.scalars[f"gradients/{path}/zero", 1] == pytest.approx(12 / 15)
    counts, edges = writer.histograms[f"gradients/{path}/log10", 1]
    assert counts.sum() == 3
    assert edges[np.argmax(counts)] <= np.log10(2) < edges[np.argmax(counts) + 1]


def test_the_taps_are_taken_out_and_can_be_put_in_again():
    model, x = line("sequential"), np.ones((4, 1), np.float32)
    model.compile(OPTIMIZERS["several"](), "mse")
    first, second = Memory(), Memory()
    model.fit(x, x, verbose=0, callbacks=[GradientLogger(first), GradientLogger(second)])
    assert first.scalars == second.scalars != {}
    assert "train_step" not in vars(model)
    for optimizer in (model.optimizer, *model.optimizer.optimizers):
        assert not {CLIP_GRADIENTS, SUM_GRADIENTS, "build"} & set(vars(optimizer))
    model.fit(x, x, verbose=0)
    model.fit(x, x, verbose=0, callbacks=[GradientLogger(third := Memory())])
    assert [step for tag, step in third.scalars if tag == "gradients/global/norm"] == [3]  # steps go on


def test_counts_of_magnitudes_are_those_of_numpy():
    rng = np.random.default_rng(0)
    values = rng.normal(size=5000) * 10.0 ** rng.uniform(-14, 6, 5000)
    values[:7] = [0, -0.0, 1e-3, -1.0, 1e5, np.nan, np.inf]
    counts = np.array(magnitude_counts(values.astype(np.float32)))
    finite = np.abs(values[np.isfinite(values) & (values != 0)].astype(np.float32).astype(np.float64))
    expected = np.histogram(np.log10(finite).clip(EDGES[0], EDGES[-1] - 1e-9), EDGES)[0]
    assert np.abs(counts[:BINS] - expected).sum() <= 4  # values that are an edge but for the rounding of a logarithm
    assert (counts[BINS], counts.sum()) == (2, 4998)


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "0 epochs", "epochs", "two steps", None])
def test_a_period_is_refused_in_one_line(bad):
    with pytest.raises(InputError, match=r'^every must be a number of steps from 1, "epoch", or as "3 epochs", got'):
        GradientLogger(Memory(), every=bad)


@pytest.mark.parametrize("mode", in_process("several optimizers"))
def test_training_is_bit_equal_with_a_logger_at_every_step(mode):
    writer = Memory()
    check_observed(mode, lambda model, x: [GradientLogger(writer, every=1, histograms=True)])
    assert all(np.isfinite(value) for value in writer.scalars.values())
    assert {step for _, step in writer.histograms} >= ({3, 5, 8, 10} if mode == "several steps" else {2, 10})


LOGGER = """
from kerazoo.callbacks.gradients import GradientLogger
from conftest import Memory
from observed import MODES, check_observed, check_observed_apart, train

def callbacks(model, x):
    return [GradientLogger(Memory(), every=1, histograms=True)]
"""


@pytest.mark.slow  # test_all_loggers.py has the usual modes
def test_training_is_bit_equal_on_two_devices():
    check_observed_apart(["mirrored"], LOGGER)


@pytest.mark.slow  # a minute: each mode is compiled twice
def test_training_is_bit_equal_on_jax_in_every_mode():
    check_observed_apart([mode for mode in MODES if mode != "mirrored"], LOGGER, backend="jax")


def logged(mode, **options):
    writer = Memory()
    train(mode, lambda model, x: [GradientLogger(writer, **options)])
    return writer


SLOW = pytest.mark.slow  # a training with a gradient tape beside it, like "float16" and "clipped"


@pytest.mark.parametrize(
    "mode", [pytest.param("graph", marks=SLOW), pytest.param("XLA", marks=SLOW), "float16", "clipped"]
)
def test_gradients_are_those_of_a_tape_and_ratios_those_of_snapshots(mode):
    """Of the first step: the same batch, weights and dropout mask; the step is taken without a logger and compared."""
    writer = logged(mode, every=1, histograms=True)
    seen = {}

    class Snapshot(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if not seen:
                seen["before"] = [np.array(v) for v in self.model.trainable_variables]

        def on_train_batch_end(self, batch, logs=None):
            seen.setdefault("after", [np.array(v) for v in self.model.trainable_variables])

    gradients = []

    class Tape(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            x, y = self.x[:8], self.y[:8]
            state = [np.array(v) for v in self.model.variables]

            @tf.function(jit_compile=mode == "XLA")  # XLA draws other dropout masks
            def differentiate():
                with tf.GradientTape() as tape:
                    loss = self.model.compute_loss(x, y, self.model(x, training=True))
                return tape.gradient(loss, [v.value for v in self.model.trainable_variables])

            gradients.extend(map(np.array, differentiate()))
            for variable, value in zip(self.model.variables, state, strict=True):
                variable.assign(value)

    def watch(model, x):
        tape, rng = Tape(), np.random.default_rng(0)
        rng.normal(size=x.shape)
        tape.x, tape.y = x, rng.integers(0, 3, len(x))
        return [tape, Snapshot()]

    *_, model = train(mode, watch)
    exact = 1e-6 if mode in ("graph", "clipped") else 1e-4 if mode == "XLA" else 0.03
    for variable, gradient, before, after in zip(
        model.trainable_variables, gradients, seen["before"], seen["after"], strict=True
    ):
        path = variable.path
        tags = [tag for tag, step in writer.scalars if step == 1 and tag.startswith(f"gradients/{path}/norm")]
        assert len(tags) == 1
        norm = np.linalg.norm(gradient.astype(np.float64))
        if norm < 1e-5:  # of a bias in front of batch norm: rounding only
            assert writer.scalars[tags[0], 1] < 1e-5
            continue
        assert writer.scalars[tags[0], 1] == pytest.approx(norm, rel=exact)
        mean_square = writer.scalars[f"gradients/{path}/mean_square", 1]
        assert mean_square == pytest.approx(norm**2 / gradient.size, rel=2 * exact)
        if np.any(before):
            ratio = np.linalg.norm((after - before).astype(np.float64)) / np.linalg.norm(before.astype(np.float64))
            assert writer.scalars[f"updates/{path}/ratio", 1] == pytest.approx(ratio, rel=2e-6)
        counts, edges = writer.histograms[f"gradients/{path}/log10", 1]
        wanted = np.histogram(np.log10(np.abs(gradient[gradient != 0])), edges)[0]
        assert np.abs(counts - wanted).sum() <= (0.1 * gradient.size + 2 if mode == "float16" else 2)


@pytest.mark.slow  # three trainings; test_writers.py resumes after kills
@pytest.mark.parametrize("every", ["epoch", 3])
def test_a_resumed_training_logs_what_one_that_was_never_stopped_logs(every, tmp_path):
    """Cut off in the middle of an epoch and of a period, one step after its last checkpoint."""

    class Cut(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations >= 8:
                raise KeyboardInterrupt

    def watch(writer, *more):
        def callbacks(model, x):
            logger = GradientLogger(writer, every=every, histograms=True)
            return [*more, *Resume(tmp_path, steps=7).after([logger])]

        return callbacks

    whole = logged("graph", every=every, histograms=True)
    first, second = Memory(), Memory()
    with pytest.raises(KeyboardInterrupt):
        train("graph", watch(first, Cut()))
    train("graph", watch(second))
    assert second.rewound == [(7, 1)]
    kept = {key: value for key, value in first.scalars.items() if key[1] <= 7}
    assert kept.keys().isdisjoint(second.scalars)
    assert kept | second.scalars == whole.scalars
    for key, (counts, _) in second.histograms.items():
        np.testing.assert_array_equal(counts, whole.histograms[key][0])


def test_the_first_gradient_that_is_not_finite_is_named():
    """A NaN in the third image of four, one image a step: every gradient is NaN from there on."""
    x = np.ones((4, 1), np.float32)
    x[2] = np.nan
    model = line("functional")
    model.compile(SGD(0.01), "mse")
    writer = Memory()
    model.fit(x, x, batch_size=1, shuffle=False, verbose=0, callbacks=[GradientLogger(writer, every=1)])
    path = model.trainable_variables[0].path
    assert {key: value for key, value in writer.scalars.items() if "not_finite" in key[0]} == {
        (f"gradients/{name}/not_finite", step): 3.0 for name in (path, "global") for step in (3, 4)
    }


def test_a_layer_that_was_frozen_after_compile_is_trained_as_without_a_logger(said):
    """Keras goes on training it, by the step that it traced before; tracing anew would freeze it."""

    def trained(callbacks):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="first"), keras.layers.Dense(1)])
        model.compile(SGD(0.1), "mse")
        x = np.ones((4, 2), np.float32)
        model.fit(x, x[:, :1], verbose=0)
        model.get_layer("first").trainable = False
        model.fit(x, x[:, :1], verbose=0, callbacks=callbacks)
        return model.get_weights()

    writer = Memory()
    for one, other in zip(trained([GradientLogger(writer)]), trained([]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not writer.scalars
    assert "layers were frozen or unfrozen since `compile`" in said[-1]
