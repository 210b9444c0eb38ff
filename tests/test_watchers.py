"""Observers observe: exact tags, right values, and training that is bit-equal with and without them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kerazoo
from kerazoo.callbacks import FeatureMaps, GradientNorms, RunWriter, WeightNorms
from kerazoo.callbacks.feature_maps import default_taps, draw
from kerazoo.callbacks.gradients import TAP
from kerazoo.pipelines.training import reproducible


class Memory:
    """A writer that remembers."""

    def __init__(self):
        self.scalars, self.images = {}, {}

    def scalar(self, tag, value, step):
        self.scalars[tag, step] = value

    def image(self, tag, pixels, step):
        self.images[tag, step] = pixels


def data(count=24):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 12, 12, 1)).astype(np.float32), rng.integers(0, 3, count)


def train(watch, *, epochs=2):
    """A small network with batch norm and dropout, trained; its weights, optimizer state and history."""
    reproducible(5)
    model = kerazoo.build("bottleneck_cnn", input_shape=(12, 12, 1), num_classes=3, dropout=0.3)
    model.compile(
        optimizer=keras.optimizers.AdamW(0.01, name="adamw"),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x, y = data()
    history = model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=watch(model)).history
    return model, history


def all_watchers(writer):
    return lambda model: [
        GradientNorms(writer),
        WeightNorms(writer),
        FeatureMaps(writer, data()[0][:1], default_taps(model)),
    ]


def test_training_is_bit_equal_with_and_without_watchers():
    watched, history = train(all_watchers(Memory()))
    plain, plain_history = train(lambda model: [])
    for a, b in zip(
        watched.variables + watched.optimizer.variables, plain.variables + plain.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert history == plain_history
    assert watched.optimizer.get_config() == plain.optimizer.get_config()


def test_exact_tags():
    writer = Memory()
    model, _ = train(all_watchers(writer))
    paths = [v.path for v in model.trainable_variables]
    taps = default_taps(model)
    assert len(taps) == 3
    expected = {f"weights/{p}/norm" for p in paths}
    expected |= {f"gradients/{p}/{kind}" for p in [*paths, "global"] for kind in ("mean_norm", "max_norm")}
    expected |= {f"feature_maps/{t}/{kind}" for t in taps for kind in ("mean", "std", "dead")}
    assert set(writer.scalars) == {(tag, step) for tag in expected for step in (1, 2)}
    assert set(writer.images) == {(f"feature_maps/{t}", step) for t in taps for step in (1, 2)}
    for path in paths:
        norm = np.linalg.norm(np.array(next(v for v in model.trainable_variables if v.path == path)))
        assert writer.scalars[f"weights/{path}/norm", 2] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_gradient_norms_are_the_gradients(scaled):
    """A linear layer under the mean squared error: dL/dw = 2 x (w x - t) / n in closed form, loss scaling or not."""
    writer = Memory()
    inputs = keras.Input((1,), name="inputs")
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, name="line")(inputs))
    model.layers[-1].set_weights([np.array([[2.0]], np.float32)])
    optimizer = keras.optimizers.SGD(0.1)
    model.compile(optimizer=keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, loss="mse")
    x, t = np.array([[3.0], [1.0]], np.float32), np.array([[1.0], [0.0]], np.float32)  # the larger gradient first
    w, norms = 2.0, []
    for step in range(2):
        gradient = 2 * x[step, 0] * (w * x[step, 0] - t[step, 0])
        norms.append(abs(gradient))
        w -= 0.1 * gradient
    model.fit(x, t, batch_size=1, shuffle=False, verbose=0, callbacks=[GradientNorms(writer)])
    assert writer.scalars["gradients/line/kernel/mean_norm", 1] == pytest.approx(np.mean(norms), rel=1e-5)
    assert writer.scalars["gradients/line/kernel/max_norm", 1] == pytest.approx(max(norms), rel=1e-5)
    assert writer.scalars["gradients/global/mean_norm", 1] == pytest.approx(np.mean(norms), rel=1e-5)


def test_the_tap_is_taken_out_and_can_be_put_in_again():
    writer = Memory()
    model, _ = train(all_watchers(writer), epochs=1)
    assert TAP not in vars(model.optimizer)
    x, y = data()
    model.fit(x, y, batch_size=8, verbose=0)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[GradientNorms(second := Memory())])
    assert second.scalars["gradients/global/mean_norm", 1] > 0


def test_feature_maps_are_what_the_layer_gives():
    writer = Memory()
    model, _ = train(all_watchers(writer), epochs=1)
    tap = default_taps(model)[-1]
    value = keras.Model(model.input, model.get_layer(tap).output)(data()[0][:1], training=False).numpy()
    assert writer.scalars[f"feature_maps/{tap}/mean", 1] == pytest.approx(value.mean(), rel=1e-5)
    np.testing.assert_array_equal(writer.images[f"feature_maps/{tap}", 1], draw(value[0]))


def test_draw_lays_channels_in_rows():
    maps = np.zeros((2, 3, 6), np.float32)
    maps[0, 0] = np.arange(1, 7)
    grid = draw(maps)
    assert grid.shape == (5, 15)
    assert grid[0, [0, 4, 8, 12]].tolist() == [255] * 4
    assert grid[3, [0, 4]].tolist() == [255] * 2
    assert grid.sum() == 6 * 255
    assert not draw(np.full((2, 2, 1), np.nan, np.float32)).any()


def test_the_writer_writes_lines_pictures_and_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunWriter(tmp_path) as writer:
        writer.scalar("a/b", 0.5, 1)
        writer.scalar("bad", float("nan"), 1)
        writer.image("feature_maps/x", np.arange(6, dtype=np.uint8).reshape(2, 3), 1)
    lines = [json.loads(line) for line in (tmp_path / "watch.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "tag": "a/b", "value": 0.5}, {"step": 1, "tag": "bad", "value": "nan"}]
    assert np.array(Image.open(tmp_path / "feature_maps" / "x.png")).tolist() == [[0, 1, 2], [3, 4, 5]]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert {"a/b", "feature_maps/x", "bad"} <= set(board.Tags()["tensors"])
    assert tf.make_ndarray(board.Tensors("a/b")[0].tensor_proto) == 0.5
