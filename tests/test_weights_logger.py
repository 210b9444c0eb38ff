"""Norms, distances and filters are those of the weights, from where training began, also after a resume."""

import keras
import numpy as np
import observed
import pytest
from conftest import Memory

from kerazoo.callbacks.resume import Resume
from kerazoo.callbacks.weights import WeightLogger
from kerazoo.errors import InputError
from kerazoo.insight.activations import EDGES
from kerazoo.insight.grids import draw_filters

SHAPE = (6, 6, 3)


def network(kind="functional", *, channels=3, seed=2):
    keras.utils.set_random_seed(seed)
    parts = [
        keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(3, name="logits"),
    ]
    if kind == "subclassed":
        model = observed.Own(parts)
    elif kind == "nested":
        inner = keras.Sequential([keras.Input((6, 6, channels)), *parts[:2]], name="inner")
        model = keras.Sequential([keras.Input((6, 6, channels)), inner, *parts[2:]])
    else:
        x = inputs = keras.Input((6, 6, channels))
        for part in parts:
            x = part(x)
        model = keras.Model(inputs, x)
    model.compile(keras.optimizers.SGD(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model, *callbacks, epochs=2, channels=3):
    x = np.random.default_rng(0).normal(size=(12, 6, 6, channels)).astype(np.float32)
    model.fit(x, np.arange(12) % 3, batch_size=4, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
    return model


def weights_of(model):
    return {variable.path: np.array(variable.numpy()) for variable in model.trainable_variables}


@pytest.mark.parametrize("kind", ["functional", "nested"])
def test_norms_and_distances_are_those_of_the_weights(kind):
    model = network(kind)
    start = weights_of(model)
    assert len(start) == 6
    fit(model, WeightLogger(memory := Memory()))
    now = weights_of(model)
    expected = {f"weights/{path}/norm": np.linalg.norm(now[path]) for path in now}
    moved = [path for path in now if np.any(start[path])]
    assert sorted(path.rpartition("/")[2] for path in moved) == ["gamma", "kernel", "kernel"]
    expected |= {
        f"weights/{path}/distance": np.linalg.norm(now[path] - start[path]) / np.linalg.norm(start[path])
        for path in moved
    }
    found = {tag: value for (tag, step), value in memory.scalars.items() if step == 6}
    assert found == {tag: pytest.approx(value, rel=1e-5) for tag, value in expected.items()}
    assert {step for _, step in memory.scalars} == {3, 6}
    assert not memory.histograms
    [kernel] = [path for path in now if path.endswith("conv/kernel")]
    assert set(memory.images) == {(f"weights/{kernel}/filters", step) for step in (3, 6)}
    np.testing.assert_array_equal(memory.images[f"weights/{kernel}/filters", 6], draw_filters(now[kernel]))


def test_histograms_count_every_weight():
    model = fit(network(), WeightLogger(memory := Memory(), every=6, histograms=True, filters=False))
    assert not memory.images
    now = weights_of(model)
    assert set(memory.histograms) == {(f"weights/{path}/values", 6) for path in now}
    for path, values in now.items():
        counts, edges = memory.histograms[f"weights/{path}/values", 6]
        assert counts.sum() == values.size
        assert set(edges) <= set(EDGES)
        assert counts.tolist() == np.histogram(values, edges)[0].tolist()


def test_frozen_variables_are_left_out():
    model = network()
    model.get_layer("conv").trainable = False
    model.compile("sgd", model.loss)
    fit(model, WeightLogger(memory := Memory()))
    assert {tag for tag, _ in memory.scalars} == {
        "weights/norm/gamma/norm", "weights/norm/gamma/distance", "weights/norm/beta/norm",
        "weights/logits/kernel/norm", "weights/logits/kernel/distance", "weights/logits/bias/norm",
    }  # fmt: skip
    assert not memory.images


def test_the_start_of_a_model_that_fit_builds_is_after_its_first_step():
    states = []

    class Keep(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            states.append(weights_of(self.model))

    model = fit(network("subclassed"), Keep(), WeightLogger(memory := Memory(), every=3), epochs=1)
    now = weights_of(model)
    [path] = [path for path in now if path.endswith("logits/kernel")]
    distance = np.linalg.norm(now[path] - states[1][path]) / np.linalg.norm(states[1][path])
    assert memory.scalars[f"weights/{path}/distance", 3] == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_reference_takes_the_place_of_the_start(lazy):
    model = network()
    start = weights_of(model)
    reference = {"conv/kernel": np.full((3, 3, 3, 4), 2.0), "norm/moving_mean": np.zeros(4)}
    fit(model, WeightLogger(memory := Memory(), reference=(lambda: reference) if lazy else reference))
    now = weights_of(model)
    for path, first in (("conv/kernel", reference["conv/kernel"]), ("logits/kernel", start["logits/kernel"])):
        distance = np.linalg.norm(now[path] - first) / np.linalg.norm(first)
        assert memory.scalars[f"weights/{path}/distance", 6] == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            {"conv/kernell": np.zeros(1)},
            "reference has 'conv/kernell', and .* has no such variable; the nearest is conv/kernel",
        ),
        (
            {"conv/kernel": np.zeros((3, 3, 1, 4))},
            r"reference conv/kernel must have the shape \(3, 3, 3, 4\), got \(3, 3, 1, 4\)",
        ),
        ([1], r"reference must be a dict of path -> array, or a function, got \[1\]"),
    ],
)
def test_a_reference_that_does_not_fit_is_one_line(reference, message):
    model = network()
    with pytest.raises(InputError, match=message) as caught:
        fit(model, WeightLogger(Memory(), reference=reference))
    assert "\n" not in str(caught.value)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize("same_start", [True, False])
def test_a_resumed_training_goes_on_from_the_same_start(tmp_path, said, same_start):
    """Killed between two checkpoints: nothing is missing and nothing comes twice; another start has no distances."""

    class Cut(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 5:
                raise KeyboardInterrupt

    fit(network(), WeightLogger(whole := Memory(), every=1))
    with pytest.raises(KeyboardInterrupt):
        fit(network(), *Resume(tmp_path, steps=2).after([WeightLogger(before := Memory(), every=1)]), Cut())
    model = network(seed=2 if same_start else 3)
    fit(model, *Resume(tmp_path, steps=2).after([WeightLogger(after := Memory(), every=1)]))
    [(step, epoch)] = after.rewound
    assert (step, epoch) == (4, 1)
    kept = {key: value for key, value in before.scalars.items() if key[1] <= step}
    assert not set(kept) & set(after.scalars)
    warning = [
        line for line in said if "the model did not start with the weights that this training began with" in line
    ]
    if same_start:
        assert kept | after.scalars == whole.scalars
        assert not warning
    else:
        assert kept | after.scalars == {
            key: value for key, value in whole.scalars.items() if key[1] <= step or key[0].endswith("norm")
        }
        assert len(warning) == 1


def test_filters_of_three_channels_are_in_colour():
    kernel = np.zeros((2, 2, 3, 9), np.float32)
    kernel[0, 0, 0] = 1  # red
    kernel[1, 1, :, 8] = -2
    image = draw_filters(kernel)
    assert image.shape == (2 * 17 - 1, 8 * 17 - 1, 3)  # pixels of 8, in rows of 8 with a gap
    assert image[0, 0].tolist() == [255, 128, 128]
    assert image[0, 8].tolist() == [128] * 3
    assert image[0, 16].tolist() == [0] * 3  # the gap
    assert image[17, 0].tolist() == [191, 128, 128]  # 1 of 2
    assert image[25, 8].tolist() == [0] * 3
    assert draw_filters(kernel[:, :, :1]).shape == (33, 135)
    assert (draw_filters(np.full((20, 20, 4, 1), np.nan)) == 128).all()
    assert draw_filters(np.ones((20, 20, 4, 100))).shape == (8 * 21 - 1, 8 * 21 - 1)


def test_a_grey_network_and_one_without_convolutions():
    fit(network(channels=2), WeightLogger(memory := Memory()), channels=2)
    [(_, first), _] = memory.images.items()
    assert first.ndim == 2
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model, WeightLogger(memory := Memory()))
    assert not memory.images
