"""Observers observe: exact tags, right values, and training that is bit-equal with and without them."""

import csv
import json
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_pictures
from PIL import Image

import kerazoo
from kerazoo.callbacks import EpochMetrics, FeatureMaps, GradientNorms, RunWriter, WeightNorms
from kerazoo.callbacks.feature_maps import default_taps, draw
from kerazoo.callbacks.gradients import TAP
from kerazoo.pipelines import training as pipeline
from kerazoo.pipelines.recipe import make_recipe
from kerazoo.pipelines.training import reproducible


class Memory:
    """A writer that remembers."""

    def __init__(self):
        self.scalars, self.images = {}, {}

    def scalar(self, tag, value, step):
        self.scalars[tag, step] = value

    def image(self, tag, pixels, step):
        self.images[tag, step] = pixels

    def measured(self, run, values, step):
        self.scalars |= {(f"{run}/{name}", step): value for name, value in values.items()}

    def flush(self):
        pass


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
        EpochMetrics(writer),
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
    expected |= {"train/loss", "train/learning_rate"}
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


def scalars_in(folder):
    """tag -> [(step, value)], as TensorBoard reads one of its runs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    board.Reload()
    return {
        tag: [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in board.Tensors(tag)]
        for tag in board.Tags()["tensors"]
        if board.SummaryMetadata(tag).plugin_data.plugin_name == "scalars"
    }


def test_tensorboard_has_losses_and_metrics_as_of_keras_own_callback(tmp_path):
    """The same tags in the same runs; ours count finished epochs, Keras's own from 0."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    rate = keras.optimizers.schedules.CosineDecay(0.1, 12)
    model.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"])
    theirs = keras.callbacks.TensorBoard(tmp_path / "keras", write_graph=False)
    with RunWriter(tmp_path) as writer:
        fitted = model.fit(
            x, x[:, :1], validation_split=0.25, batch_size=8, epochs=3, verbose=0,
            callbacks=[EpochMetrics(writer), theirs],
        )  # fmt: skip
    for run in ("train", "validation"):
        ours, wanted = scalars_in(tmp_path / "tensorboard" / run), scalars_in(tmp_path / "keras" / run)
        assert ours == {tag: [(step + 1, pytest.approx(v)) for step, v in wanted[tag]] for tag in ours}
    assert set(scalars_in(tmp_path / "tensorboard" / "train")) == {"epoch_loss", "epoch_mae", "epoch_learning_rate"}
    assert set(scalars_in(tmp_path / "tensorboard" / "validation")) == {"epoch_loss", "epoch_mae"}
    read = scalars_in(tmp_path / "tensorboard" / "validation")["epoch_loss"]
    assert read == [(epoch + 1, pytest.approx(loss)) for epoch, loss in enumerate(fitted.history["val_loss"])]


def test_a_resumed_run_has_each_epoch_once_in_tensorboard(tmp_path, monkeypatch):
    """Cut off after an epoch was written there, and before any checkpoint of it; then as it is."""
    pictures = make_pictures(tmp_path / "data", count=8, size=16)
    values = {"model": {"name": "mlp"}, "data": {"path": str(pictures), "size": 8, "validation": 0.25}}
    values |= {"training": {"epochs": 3, "batch_size": 4}, "checkpoint": {"steps": 1}}
    write = EpochMetrics.on_epoch_end

    def cut(self, epoch, logs=None):
        write(self, epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EpochMetrics, "on_epoch_end", cut)
        with pytest.raises(KeyboardInterrupt):
            pipeline.train(make_recipe(values), name="run", root=tmp_path, say=lambda line: None)
    time.sleep(1.1)  # files of events are named, and read in the order, of seconds
    (newest,) = (tmp_path / "run" / "tensorboard" / "train").iterdir()
    with newest.open("ab") as file:
        file.write(b"torn")
    run = pipeline.train(make_recipe(values), name="run", root=tmp_path, say=lambda line: None)
    rows = list(csv.DictReader((run.folder / "history.csv").read_text().splitlines()))
    for part, prefix in (("train", ""), ("validation", "val_")):
        read = scalars_in(run.folder / "tensorboard" / part)
        for name in ("loss", "accuracy"):
            wanted = [(n, pytest.approx(float(row[f"{prefix}{name}"]))) for n, row in enumerate(rows, start=1)]
            assert read[f"epoch_{name}"] == wanted
    norms = scalars_in(run.folder / "tensorboard")
    assert norms
    assert all([step for step, _ in norms[tag]] == [1, 2, 3] for tag in norms if "/norm" in tag)


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
