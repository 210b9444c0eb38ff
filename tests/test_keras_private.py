"""One test for each private name of Keras and TensorFlow: that it is there, and does what kerazoo relies on."""

import ast
import io
import random

import h5py
import house
import keras
import numpy as np
import pytest
import tensorflow as tf

from kerazoo import keras_private as private
from kerazoo.errors import KerazooError

ROWS = np.ones((4, 2), np.float32)
OURS = {"_exit", "_replace"}  # of the standard library, and documented


def network(units: int = 1) -> keras.Model:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(units, name="dense")])


def names_of_others(tree: ast.Module) -> set[str]:
    """The private attributes that `tree` asks for and does not make itself, and the private modules that it imports."""
    made = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    asked: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            (made if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self" else asked).add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and str(name.value).startswith("_") and "__" not in str(name.value):
                asked.add(str(name.value))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            asked |= {name for name in modules if name.startswith(("keras.src", "tensorflow.python"))}
    return asked - made - OURS


@pytest.mark.parametrize("name", sorted(house.modules()))
def test_private_names_stand_in_one_module(name):
    found = names_of_others(ast.parse(house.modules()[name].read_text(encoding="utf-8")))
    assert bool(found) == (name == "kerazoo.keras_private"), f"{name} uses {found}; put it into keras_private.py"


def test_other_versions_are_refused_before_anything_is_touched(monkeypatch):
    private.check_versions()
    private.check_versions("3.15.2", "2.21.1")
    for version in ("3.99.0", "3.15.0", "4.15.1"):
        with pytest.raises(
            KerazooError, match=rf"keras must be 3.15.1 or .* got {version}; run pip install 'keras~=3.15.1'"
        ):
            private.check_versions(version)
    with pytest.raises(KerazooError, match=r"got 2\.20\.0; run pip install 'tensorflow~=2\.21\.0'"):
        private.check_versions(tensorflow_version="2.20.0")
    monkeypatch.setattr(keras, "__version__", "3.16.0")
    model = network()
    with pytest.raises(KerazooError, match=r"got 3\.16\.0"):
        private.set_first_epoch(model, 1)
    with pytest.raises(KerazooError, match=r"got 3\.16\.0"), private.patched_trainer(object(), 2):
        pass
    assert model._initial_epoch is None


def test_weights_made_in_memory_are_those_that_keras_writes(tmp_path):
    model = network()
    model.save_weights(tmp_path / "theirs.weights.h5")
    with (
        h5py.File(tmp_path / "theirs.weights.h5") as theirs,
        h5py.File(io.BytesIO(private.weights_file(model))) as ours,
    ):
        arrays = {}
        theirs.visititems(lambda name, found: arrays.update({name: found}) if isinstance(found, h5py.Dataset) else None)
        assert len(arrays) == 2
        for name, array in arrays.items():
            np.testing.assert_array_equal(array[()], ours[name][()])
        assert list(theirs) == list(ours)


def test_a_network_without_variables_leaves_nothing_behind():
    from keras.src.backend.common import global_state

    global_state.set_global_attribute("uninitialized_variables", [])  # as Keras leaves it once one was made
    random.seed(3)
    state = random.getstate()
    with private.without_variables():
        model = keras.Sequential([keras.Input((2_000_000,)), keras.layers.Dropout(0.5), keras.layers.Dense(500_000)])
        assert model.count_params() == 2_000_000 * 500_000 + 500_000  # 4 TB, were it made
    assert random.getstate() == state
    assert not global_state.get_global_attribute("uninitialized_variables")  # what waits is made as the next scope ends


def test_layers_of_inner_networks_are_found():
    inner = keras.Sequential([keras.layers.Dense(2, name="deep")], name="inner")
    model = keras.Sequential([keras.Input((2,)), inner])
    assert "deep" not in [layer.name for layer in model.layers]
    assert "deep" in [layer.name for layer in private.all_layers(model)]


def test_a_layer_knows_the_layers_that_it_holds_itself():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.parts = [
                keras.Sequential([keras.layers.ReLU(name="deep")], name="inner"),
                keras.layers.Flatten(name="flat"),
            ]

    assert [layer.name for layer in private.sublayers(Block())] == ["inner", "flat"]
    model = keras.Sequential([keras.Input((2,)), keras.layers.ReLU(name="relu")])
    assert model._functional is not None  # another model with the same layers, which is none of them
    assert [layer.name for layer in private.sublayers(model)][1:] == ["relu"]


def test_averages_come_with_their_variables():
    model = network()
    optimizer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.5)
    optimizer.build(model.trainable_variables)
    weights = [model.get_weights()]
    for _ in range(2):  # the first step's averages are the weights
        optimizer.apply([np.ones((2, 1), np.float32), np.ones(1, np.float32)])
        weights.append(model.get_weights())
    pairs = private.averages_of(optimizer)
    assert [variable.path for variable, _ in pairs] == [variable.path for variable in model.variables]
    for (_, average), one, two in zip(pairs, *weights[1:], strict=True):
        np.testing.assert_allclose(average.numpy(), (one + two) / 2, atol=1e-6)


def test_a_variable_has_its_place_in_the_optimizer():
    variables = network().trainable_variables
    optimizer = keras.optimizers.SGD()
    optimizer.build(variables)
    assert [private.index_of(optimizer, variable) for variable in variables] == [0, 1]


def test_the_variables_that_an_optimizer_was_built_for():
    model = network()
    optimizer = keras.optimizers.SGD()
    assert private.optimized(optimizer) == private.optimized(None) == []
    optimizer.build(model.trainable_variables)
    scaled = keras.optimizers.LossScaleOptimizer(optimizer)
    for one in (optimizer, scaled):
        assert [id(v) for v in private.optimized(one)] == [id(v) for v in model.trainable_variables]


def test_whether_operations_are_deterministic():
    from tensorflow.python.framework import config

    before = private.is_deterministic()
    try:
        tf.config.experimental.enable_op_determinism()
        assert private.is_deterministic()
    finally:
        if not before:
            config.disable_op_determinism()
    assert private.is_deterministic() == before


def test_what_does_not_decay_is_known_by_a_pattern_only():
    optimizer = keras.optimizers.AdamW()
    assert private.undecayed(optimizer) is None
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert private.undecayed(optimizer) == "bias"
    assert not [value for value in optimizer.get_config().values() if value == "bias"]


def test_gradients_are_clipped_then_summed():
    model = network()
    optimizer = keras.optimizers.SGD(clipvalue=0.5)
    optimizer.build(model.trainable_variables)
    calls = []
    for name in (private.CLIP_GRADIENTS, private.SUM_GRADIENTS):
        real = getattr(optimizer, name)
        object.__setattr__(
            optimizer, name, lambda given, real=real, name=name: calls.append((name, list(given))) or real(calls[-1][1])
        )
    optimizer.apply([np.ones((2, 1), np.float32), np.ones(1, np.float32)])
    (first, gradients), (second, pairs) = calls
    assert (first, second) == (private.CLIP_GRADIENTS, private.SUM_GRADIENTS)
    assert [float(np.max(gradient)) for gradient in gradients] == [1, 1]
    assert [float(np.max(gradient)) for gradient, _ in pairs] == [0.5, 0.5]


def test_a_function_of_no_inline_stays_one_operation():
    inner = tf.function(lambda x: x * 2 + 1, experimental_attributes=private.NO_INLINE)
    concrete = inner.get_concrete_function(tf.TensorSpec((), tf.float32))
    assert concrete.function_def.attr["_noinline"].b


def test_fit_begins_with_the_epoch_that_is_set():
    model = network()
    model.compile("sgd", "mse", metrics=["mae"])
    begun = []
    start = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: private.set_first_epoch(model, 2),
        on_epoch_begin=lambda epoch, logs: begun.append(epoch),
    )
    assert len(model.metrics_variables) == 2  # of the loss
    private.build_metrics(model, (tf.zeros((4, 2)), tf.zeros((4, 1))))
    assert len(model.metrics_variables) == 4
    model.fit(ROWS, ROWS[:, :1], epochs=4, callbacks=[start], verbose=0)
    assert begun == [2, 3]


def test_the_trainer_is_patched_only_inside_and_only_for_its_strategy():
    from keras.src.backend.tensorflow import trainer

    stock = trainer.TensorFlowTrainer._maybe_symbolic_build, trainer.reduce_per_replica
    with private.patched_trainer(object(), 2):
        assert trainer.TensorFlowTrainer._maybe_symbolic_build is not stock[0]
        model = network()
        model.compile("sgd", "mse")
        model.fit(ROWS, ROWS[:, :1], verbose=0)  # a model of no strategy takes the stock functions
    assert stock == (trainer.TensorFlowTrainer._maybe_symbolic_build, trainer.reduce_per_replica)


def test_fit_counts_the_steps_that_are_set():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    parts = tf.data.Dataset.from_tensors((ROWS, ROWS[:, :1])).repeat(6)
    distributed = strategy.distribute_datasets_from_function(lambda _: parts)
    private.set_steps(distributed, 3)
    with strategy.scope():
        model = network()
        model.compile("sgd", "mse")
    steps = []
    model.fit(
        distributed, shuffle=False, verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))],
    )  # fmt: skip
    assert steps == [0, 1, 2]


def test_peers_are_asked_and_shared_work_is_ended(monkeypatch):
    """In one process there is no peer: what is called, with what, and which errors it may raise."""
    from tensorflow.python.eager import context

    called = []
    monkeypatch.setattr(context.context(), "abort_collective_ops", lambda *given: called.append(given))
    assert not private.peer_answers("/job:worker/replica:0/task:1", 0.1)
    private.abort_shared_work("worker 1 does not answer")
    assert called == [(tf.errors.UNAVAILABLE, "worker 1 does not answer")]
    parameters = context.Context.abort_collective_ops.__code__.co_varnames[:3]
    assert parameters == ("self", "code", "message")


def test_calls_on_symbolic_tensors_are_listed_and_then_removed():
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="inner")])
    inputs = keras.Input((2,))
    add = keras.layers.Dense(3, name="dense")
    model = keras.Model(inputs, keras.ops.maximum(inner(inputs), add(inputs)))
    parts = [*private.all_layers(model), *model.operations]
    before = [(len(one._inbound_nodes), len(one._outbound_nodes)) for one in parts]
    fresh = keras.Input((2,))
    with private.forgotten_calls(model):
        calls = private.calls_between([fresh], [model.call(fresh)])
        assert before != [(len(one._inbound_nodes), len(one._outbound_nodes)) for one in parts]
    assert before == [(len(one._inbound_nodes), len(one._outbound_nodes)) for one in parts]
    assert {type(call[0]).__name__ for call in calls} == {"ConvertToTensor", "Sequential", "Dense", "Maximum"}
    operation, args, kwargs, outputs = calls[-1]
    assert type(operation).__name__ == "Maximum"
    assert {id(each) for each in args} <= {id(call[3][0]) for call in calls[:-1]}
    assert kwargs == {}
    assert outputs[0].shape == (None, 3)
