"""Observers observe: exact tags, right values, and training that is bit-equal with and without them."""

import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import Memory, as_arrays, make_images
from PIL import Image

import kerazoo
from kerazoo.callbacks.epochs import EpochMetrics
from kerazoo.callbacks.feature_maps import FeatureMapLogger
from kerazoo.callbacks.gradients import GradientLogger
from kerazoo.callbacks.weights import WeightLogger
from kerazoo.callbacks.writers.folder import FolderWriter
from kerazoo.callbacks.writers.tensorboard import TensorBoardWriter
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training import train as pipeline
from kerazoo.training.plan import set_seed


def data(count=24):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 12, 12, 1)).astype(np.float32), rng.integers(0, 3, count)


def train(watch, *, epochs=2):
    """A small network with batch norm and dropout, trained; its weights, optimizer state and history."""
    set_seed(5)
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
        GradientLogger(writer),
        WeightLogger(writer),
        FeatureMapLogger(writer, data()[0][:1]),
        EpochMetrics(writer),
    ]


@pytest.fixture(scope="module")
def watched():
    """The model, its history and the writer of a training with all watchers."""
    writer = Memory()
    return *train(all_watchers(writer)), writer


def same_bits(one, other):
    for a, b in zip(one.variables + one.optimizer.variables, other.variables + other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow  # test_all_loggers.py has all loggers at once
def test_training_is_bit_equal_with_and_without_watchers(watched):
    model, history, _ = watched
    plain, plain_history = train(lambda model: [])
    same_bits(model, plain)
    assert history == plain_history
    assert model.optimizer.get_config() == plain.optimizer.get_config()


def test_exact_tags(watched):
    """Each logger's own are in its own test."""
    writer = watched[-1]
    rooms = {tag.partition("/")[0] for tag, _ in writer.scalars}
    assert rooms == {"gradients", "updates", "weights", "feature_maps", "epoch"}
    own = {(tag, step) for tag, step in writer.scalars if tag.startswith("epoch/")}
    assert own == {(f"epoch/train/{name}", step) for name in ("loss", "learning_rate") for step in (1, 2)}
    assert {step for tag, step in writer.scalars if not tag.startswith("epoch/")} == {3, 6}
    maps = [tag for tag, step in writer.images if tag.startswith("feature_maps/") and step == 6]
    assert len(maps) == 3  # sizes of the network's feature maps
    assert set(writer.images) - {(tag, step) for tag in maps for step in (3, 6)} == {
        ("weights/stem1_conv/kernel/filters", step) for step in (3, 6)
    }


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
    writer = TensorBoardWriter(tmp_path / "tensorboard")
    fitted = model.fit(
        x, x[:, :1], validation_split=0.25, batch_size=8, epochs=3, verbose=0,
        callbacks=[EpochMetrics(writer), theirs],
    )  # fmt: skip
    writer.finish()
    for run in ("train", "validation"):
        ours, wanted = scalars_in(tmp_path / "tensorboard" / run), scalars_in(tmp_path / "keras" / run)
        assert ours == {tag: [(step + 1, pytest.approx(v)) for step, v in wanted[tag]] for tag in ours}
    assert set(scalars_in(tmp_path / "tensorboard" / "train")) == {"epoch_loss", "epoch_mae", "epoch_learning_rate"}
    assert set(scalars_in(tmp_path / "tensorboard" / "validation")) == {"epoch_loss", "epoch_mae"}
    read = scalars_in(tmp_path / "tensorboard" / "validation")["epoch_loss"]
    assert read == [(epoch + 1, pytest.approx(loss)) for epoch, loss in enumerate(fitted.history["val_loss"])]


@pytest.mark.slow  # a minute: three runs with all loggers
def test_a_run_that_was_killed_and_resumed_logs_what_one_that_was_not_does(tmp_path):
    """Distances from the start among it: the network is built again as it was."""

    class Cut(keras.callbacks.Callback):
        def __init__(self, at):
            super().__init__()
            self.at = at

        def on_train_batch_begin(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == self.at:
                raise KeyboardInterrupt

        def state(self):
            return {}

        def restore(self, state):
            pass

    images = as_arrays(make_images(tmp_path / "data", count=8, size=16))
    values = {"model": {"name": "bottleneck_cnn"}, "data": {"path": str(images), "size": 12, "validation": 0.25}}
    values |= {"training": {"epochs": 3, "batch_size": 4}, "checkpoint": {"steps": 2}}
    recipe = make_recipe({**values, "log": ["gradients", "weights", "feature_maps"]})
    whole = pipeline.train(recipe, name="whole", root=tmp_path, callbacks=[Cut(-1)])
    with pytest.raises(KeyboardInterrupt):
        pipeline.train(recipe, name="run", root=tmp_path, callbacks=[Cut(7)])
    run = pipeline.train(recipe, name="run", root=tmp_path, callbacks=[Cut(-1)])
    wanted, found = (
        [json.loads(line) for line in (each.folder / "watch.jsonl").read_text().splitlines()] for each in (whole, run)
    )
    assert any(line["tag"].endswith("/distance") for line in wanted)

    def key(line):
        return (line["tag"], line["step"])

    assert sorted(found, key=key) == sorted(wanted, key=key)


@pytest.mark.slow  # three trainings; test_writers.py has the writer after a resume
def test_a_resumed_run_has_each_epoch_once_in_tensorboard(tmp_path, monkeypatch):
    """Cut off after an epoch was written there, and before any checkpoint of it; then as it is."""
    images = as_arrays(make_images(tmp_path / "data", count=8, size=16))
    values = {"model": {"name": "mlp"}, "data": {"path": str(images), "size": 8, "validation": 0.25}}
    values |= {"training": {"epochs": 3, "batch_size": 4}, "checkpoint": {"steps": 1}}
    values |= {"log": ["gradients", "weights", "feature_maps"], "log_to": ["tensorboard"]}
    write = EpochMetrics.on_epoch_end

    def cut(self, epoch, logs=None):
        write(self, epoch, logs)
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EpochMetrics, "on_epoch_end", cut)
        with pytest.raises(KeyboardInterrupt):
            pipeline.train(make_recipe(values), name="run", root=tmp_path)
    (newest,) = (tmp_path / "run" / "tensorboard" / "train").iterdir()
    with newest.open("ab") as file:
        file.write(b"torn")
    run = pipeline.train(make_recipe(values), name="run", root=tmp_path)
    rows = list(csv.DictReader((run.folder / "history.csv").read_text().splitlines()))
    for part, prefix in (("train", ""), ("validation", "val_")):
        read = scalars_in(run.folder / "tensorboard" / part)
        for name in ("loss", "accuracy"):
            wanted = [(n, pytest.approx(float(row[f"{prefix}{name}"]))) for n, row in enumerate(rows, start=1)]
            assert read[f"epoch_{name}"] == wanted
    read = scalars_in(run.folder / "tensorboard")
    norms = [[step for step, _ in read[tag]] for tag in read if tag.endswith("/norm")]
    assert norms
    assert all(steps == [steps[0] * epoch for epoch in (1, 2, 3)] for steps in norms)


def test_writers_write_lines_images_and_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for writer in (FolderWriter(tmp_path), TensorBoardWriter(tmp_path / "tensorboard")):
        writer.scalar("a/b", 0.5, 1)
        writer.scalar("bad", float("nan"), 1)
        writer.image("feature_maps/x", np.arange(6, dtype=np.uint8).reshape(2, 3), 1)
        writer.finish()
    lines = [json.loads(line) for line in (tmp_path / "watch.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "tag": "a/b", "value": 0.5}, {"step": 1, "tag": "bad", "value": "nan"}]
    assert np.array(Image.open(tmp_path / "feature_maps" / "x.png")).tolist() == [[0, 1, 2], [3, 4, 5]]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert {"a/b", "feature_maps/x", "bad"} <= set(board.Tags()["tensors"])
    assert tf.make_ndarray(board.Tensors("a/b")[0].tensor_proto) == 0.5
