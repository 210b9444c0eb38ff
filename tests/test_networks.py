"""The contract of every network of our own, and what the neurons can and cannot learn."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import kerazoo
from kerazoo.errors import ModelError
from kerazoo.models.registry import NETWORKS, describe, find
from kerazoo.recipes.parts import OptimizerPart
from kerazoo.tasks.losses import LOSSES, PerceptronCriterion, QuadraticCost
from kerazoo.tasks.task import TASKS, find_task
from kerazoo.training.optimizers import make_optimizer

NAMES = [network.name for network in NETWORKS]


def assert_contract(model: keras.Model, x: np.ndarray, num_classes: int) -> None:
    """Flat, named, uncompiled; finite logits; a gradient for every trainable weight."""
    import tensorflow as tf

    assert not model.compiled
    assert not any(isinstance(layer, keras.Model) and not isinstance(layer, keras.Sequential) for layer in model.layers)
    assert [layer.name for layer in model.layers][-1] == "logits"
    assert model.get_layer("features").output.shape[1:] == (model.get_layer("logits").kernel.shape[0],)
    weights, still = model.trainable_variables, {v.path for v in model.trainable_variables}
    for _ in range(8):  # stochastic depth leaves whole blocks out of a draw
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            factors = tf.constant(np.random.default_rng(0).normal(size=logits.shape), tf.float32)
            loss = tf.reduce_sum(logits * factors)
        assert logits.shape == (len(x), num_classes)
        assert np.isfinite(logits).all()
        gradients = dict(zip((v.path for v in weights), tape.gradient(loss, [v.value for v in weights]), strict=True))
        assert not [path for path, gradient in gradients.items() if gradient is None]
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())
        still -= {path for path, gradient in gradients.items() if np.any(gradient)}
        if not still:
            break
    assert not still, "no gradient but zero"


def assert_rebuilds(model: keras.Model, again: keras.Model, x: np.ndarray, path) -> None:
    """Saved weights give bit-equal weights and answers in a network built anew."""
    path = path / "model.weights.h5"
    model.save_weights(path)
    again.load_weights(path)
    for old, new in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(model(x, training=False), again(x, training=False))


@pytest.mark.parametrize("name", NAMES)
def test_contract(name, tmp_path):
    shape = (27, 31, 2)  # odd, not square, an unusual number of channels
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    model = kerazoo.build(name, input_shape=shape, num_classes=7)
    assert_contract(model, x, 7)
    assert_rebuilds(model, kerazoo.build(name, input_shape=shape, num_classes=7), x, tmp_path)
    assert all(layer.name and "_" not in layer.name[-2:] for layer in model.layers), "auto-numbered layer"
    keras.Model.from_config(model.get_config())  # every custom layer is registered


@pytest.mark.parametrize("name", NAMES)
def test_parameter_count_is_the_registered_one(name):
    assert kerazoo.build(name).count_params() == find(name).parameters


@pytest.mark.parametrize("depth", [20, 32, 56])
def test_resnet_counts_by_formula(depth):
    """He et al. 2015, table 6, gives 0.27 M, 0.46 M and 0.85 M."""
    n = (depth - 2) // 6
    kernels = 9 * 3 * 16 + sum(9 * f * f * 2 * n for f in (16, 32, 64)) - sum(9 * f * f // 2 for f in (32, 64))
    norms = 2 * (16 + sum(f * 2 * n for f in (16, 32, 64)))
    model = kerazoo.build(f"resnet{depth}")
    trainable = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert trainable == kernels + norms + 64 * 10 + 10
    assert trainable / 1e6 == pytest.approx({20: 0.27, 32: 0.46, 56: 0.85}[depth], abs=0.006)


def test_fast_cnn_counts_by_formula():
    """Filters of 2x2x3 = 12 components with both signs, then pairs of 3x3 convolutions, batch norms without scale."""
    widths = (64, 256, 256)
    pairs = sum(9 * (before + after) * after for before, after in zip((24, *widths), widths, strict=False))
    norms = sum(2 * 3 * width for width in widths)
    assert kerazoo.build("fast_cnn").count_params() == 12 * 24 + 24 + pairs + norms + 256 * 10 + 10


def test_bottleneck_default_is_small():
    assert kerazoo.build("bottleneck_cnn").count_params() <= 8_000


def test_flat_layers_match_closed_forms():
    assert kerazoo.build("mlp", units=(5, 3), input_shape=(4,)).count_params() == 4 * 5 + 5 + 5 * 3 + 3 + 3 * 10 + 10
    lstm = kerazoo.build("recurrent", cell="lstm", units=8, input_shape=(5, 6, 2))
    assert lstm.count_params() == 4 * 8 * (12 + 8 + 1) + 8 * 10 + 10


def test_build_is_seeded_and_unknown_things_are_named():
    a, b = [], []
    for weights in (a, b):
        keras.utils.set_random_seed(3)
        weights += kerazoo.build("mlp").get_weights()
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    with pytest.raises(ModelError, match="did you mean resnet50"):
        kerazoo.build("resnet_50")
    with pytest.raises(ModelError, match=r"mlp has no argument .width.; its arguments are .*units"):
        kerazoo.build("mlp", width=3)
    assert describe("resnet20")["num_classes"] == 10
    assert "depth" not in describe("resnet20")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mlp", {"dropout": 1.0}, "dropout=1.0"),
        ("mlp", {"units": (8, 0)}, "units=0"),
        ("mlp", {"activation": "swosh"}, "activation='swosh' must be one of threshold"),
        ("mlp", {"l2": -1}, "l2=-1"),
        ("mlp", {"num_classes": 0}, "num_classes=0"),
        ("cnn", {"pooling": "median"}, "pooling='median' must be one of max, mean, sum, min"),
        ("cnn", {"input_shape": (28, 28)}, "input_shape="),
        ("cnn", {"input_shape": (6, 6, 1), "padding": "valid"}, "gives a feature map of 2x2 before convolution 2"),
        ("recurrent", {"cell": "rnn"}, "cell='rnn' must be one of simple, gru, lstm"),
        ("bottleneck_cnn", {"stages": (((8,),),)}, "each block in stages must be"),
        ("bottleneck_cnn", {"stages": 5}, "stages=5 must have a list"),
        ("bottleneck_cnn", {"momentum": 5}, "momentum=5 must be a number in"),
        ("mlp", {"input_shape": 28}, "input_shape=28"),
        ("resnet20", {"input_shape": (4, 4, 3)}, "height and width must be at least 8 px"),
        ("fast_cnn", {"filters": ()}, "filters=.* must be a list of whole numbers"),
        ("fast_cnn", {"input_shape": (8, 32, 3)}, "height and width must be at least 9 px"),
        ("perceptron", {"output": "sigmoid"}, "output='sigmoid' must be one of logits, threshold"),
    ],
)
def test_misuse_is_one_clear_error(name, arguments, message):
    with pytest.raises(ModelError, match=message) as error:
        kerazoo.build(name, **arguments)
    assert str(error.value).startswith(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("activation", ["threshold", "sigmoid", "tanh", "softmax"])
@pytest.mark.parametrize("pooling", ["max", "mean", "sum", "min"])
def test_cnn_variants_run(activation, pooling):
    model = kerazoo.build(
        "cnn", activation=activation, pooling=pooling, filters=(4,), units=(5,), dropout=0.5, l1=0.01, l2=0.02
    )
    assert model(np.ones((2, 28, 28, 1), np.float32)).shape == (2, 10)
    kernel, dense = model.get_layer("conv1").kernel, model.get_layer("dense1").kernel
    head = model.get_layer("logits").kernel
    penalty = sum(0.01 * np.abs(w).sum() + 0.02 * np.square(w).sum() for w in map(np.array, (kernel, dense, head)))
    assert float(sum(model.losses)) == pytest.approx(penalty, rel=1e-5)


# -- learning -----------------------------------------------------------------------------------------------------

INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
GATES = {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "xor": [0, 1, 1, 0]}


def learn(model, loss, targets, *, epochs, optimizer, times=1):
    """`epochs` passes over the four examples, `times` at once: Keras takes longer for an epoch than for four steps."""
    model.compile(optimizer=optimizer, loss=loss)
    inputs = np.tile(INPUTS, (times, 1))
    model.fit(inputs, np.tile(targets, times)[:, None], batch_size=1, epochs=epochs // times, verbose=0)
    return (np.array(model(INPUTS))[:, 0] >= 0).astype(int).tolist()


@pytest.mark.parametrize("gate", ["and", "or"])
def test_the_perceptron_learns_what_a_line_can_part(gate):
    model = kerazoo.build("perceptron", input_shape=(2,), num_classes=1)
    answers = learn(model, PerceptronCriterion(), GATES[gate], epochs=20, optimizer=keras.optimizers.SGD(1.0))
    assert answers == GATES[gate]
    # a perceptron that has learned stays where it is: no unit answers wrong, so no weight moves
    before = [w.copy() for w in model.get_weights()]
    model.fit(INPUTS, np.array(GATES[gate])[:, None], batch_size=1, epochs=2, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_the_perceptron_cannot_learn_xor():
    """No line parts XOR: at every epoch it answers at least one of the four wrong."""
    model = kerazoo.build("perceptron", input_shape=(2,), num_classes=1)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss=PerceptronCriterion())
    for _ in range(30):
        model.fit(INPUTS, np.array(GATES["xor"])[:, None], batch_size=1, epochs=2, verbose=0)
        assert (np.array(model(INPUTS))[:, 0] >= 0).astype(int).tolist() != GATES["xor"]


def test_threshold_units_learn_by_rosenblatts_rule():
    """With the threshold output and the quadratic loss, one step is w += rate (t - y) x."""
    model = kerazoo.build("perceptron", input_shape=(2,), num_classes=1, output="threshold")
    model.layers[-2].set_weights([np.array([[0.5], [-1.0]], np.float32), np.array([0.25], np.float32)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=lambda t, y: 0.5 * ops.square(t - y))
    x, target = np.array([[1.0, 2.0]], np.float32), np.array([[1.0]], np.float32)
    assert float(model(x)[0, 0]) == 0.0
    model.train_on_batch(x, target)
    kernel, bias = model.layers[-2].get_weights()
    np.testing.assert_allclose(kernel, [[0.6], [-0.8]], atol=1e-6)
    np.testing.assert_allclose(bias, [0.35], atol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_the_mlp_learns_xor(activation):
    keras.utils.set_random_seed(1)
    model = kerazoo.build("mlp", input_shape=(2,), num_classes=1, units=(8,), activation=activation)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    answers = learn(model, loss, GATES["xor"], epochs=250, times=50, optimizer=keras.optimizers.Adam(0.05))
    assert answers == GATES["xor"]


def test_the_sigmoid_neuron_learns_by_the_quadratic_cost():
    """Closed form: dC/dw = (a - t) a (1 - a) x."""
    import tensorflow as tf

    model = kerazoo.build("sigmoid_neuron", input_shape=(2,), num_classes=1)
    model.layers[-1].set_weights([np.array([[0.3], [-0.7]], np.float32), np.array([0.1], np.float32)])
    x, t = np.array([[2.0, -1.0]], np.float32), np.array([1])
    with tf.GradientTape() as tape:
        cost = QuadraticCost()(t, model(x))
    gradient = tape.gradient(cost, model.layers[-1].kernel.value)
    a = 1 / (1 + math.exp(-(0.3 * 2 + 0.7 + 0.1)))
    np.testing.assert_allclose(cost, 0.5 * (1 - a) ** 2, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, 0], (a - 1) * a * (1 - a) * x[0], rtol=1e-5)


# -- tasks and losses ---------------------------------------------------------------------------------------------


def test_tasks_turn_logits_into_answers():
    logits = ops.convert_to_tensor([[0.0, math.log(3.0)]])
    np.testing.assert_allclose(TASKS["multiclass"].answers(logits), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(TASKS["multilabel"].answers(logits), [[0.5, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(TASKS["regression"].answers(logits), logits)


@pytest.mark.parametrize(
    ("task", "labels", "loss"),
    [
        ("multiclass", [1], -math.log(0.75)),
        ("multilabel", [[1, 0]], (math.log(2) - math.log(0.25)) / 2),
        ("regression", [[1.0, 0.0]], (1 + math.log(3.0) ** 2) / 2),
    ],
)
def test_each_task_has_its_loss(task, labels, loss):
    logits = np.array([[0.0, math.log(3.0)]], np.float32)
    assert float(find_task(task).make_loss()(np.array(labels, np.float32), logits)) == pytest.approx(loss, rel=1e-5)


def test_metrics_read_logits():
    accuracy = TASKS["multilabel"].make_metric()
    accuracy.update_state([[1], [0], [1]], [[0.1], [-0.1], [-3.0]])  # p = 0.52, 0.48, 0.05
    assert float(accuracy.result()) == pytest.approx(2 / 3)


def test_unknown_task_and_loss_are_named():
    with pytest.raises(ModelError, match="task must be one of multiclass, multilabel, regression, got 'softmax'"):
        find_task("softmax")
    with pytest.raises(ModelError, match="loss='mse' cannot be used for a multiclass task; use cross_entropy"):
        TASKS["multiclass"].make_loss("mse")
    for task in TASKS.values():
        assert {task.loss, *task.other_losses} <= set(LOSSES)
    for network in NETWORKS:
        TASKS["multiclass"].make_loss(network.loss)


def test_weight_decay_spares_biases_and_norms():
    optimizer = make_optimizer(OptimizerPart(learning_rate=0.1, weight_decay=0.5, warmup=0.0, name="sgd"), steps=10)
    model = kerazoo.build("bottleneck_cnn")
    before = {v.path: np.array(v) for v in model.trainable_variables}
    optimizer.apply([ops.zeros_like(v) for v in model.trainable_variables], model.trainable_variables)
    moved = {v.path for v in model.trainable_variables if not np.array_equal(before[v.path], v)}
    assert moved == {path for path in before if path.endswith("kernel")}


@pytest.mark.parametrize("name", ["mlp", "resnet20", "mobilenet_025", "vgg16", "efficientnet_v2_b0"])
def test_the_preprocessing_of_a_model_is_that_of_its_runs(name):
    """The size of the model, the scaling of training, and what fits what `build` makes."""
    from kerazoo.pipelines.data.examples import Examples
    from kerazoo.recipes.recipe import data_part
    from kerazoo.training.plan import make_preprocessing

    examples = Examples("x", ("a",), np.zeros(1, np.int64), np.array(["train"]), ("one",), paths=("a",))
    info = kerazoo.describe(name)
    assert info.preprocessing() == make_preprocessing(find(name), data_part({"path": "x"}), examples)
    assert info.preprocessing().shape == info.input_shape
    size = data_part({"path": "x", "size": 64, "resize": "pad", "channels": 1})
    assert info.preprocessing((64, 64, 1), resize="pad") == make_preprocessing(find(name), size, examples)


def test_the_preprocessing_of_a_model_refuses_what_build_refuses():
    assert kerazoo.describe("mobilenet_025").preprocessing().scaling == "tf"
    with pytest.raises(kerazoo.InputError, match=r"\(64, 64\) must be \(height, width, channels\)"):
        kerazoo.describe("mlp").preprocessing((64, 64))
    with pytest.raises(kerazoo.InputError, match="height and width must be at least 32 px"):
        kerazoo.describe("vgg16").preprocessing((16, 16, 3))
