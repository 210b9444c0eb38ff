"""The history of a run on disk: whole after every epoch, right after a resume, and whatever is killed."""

import csv
import json
import math
import os
import random
import signal
import time

import keras
import numpy as np
import pytest

from kerazoo import files
from kerazoo.callbacks.metrics import MetricsWriter, history_table
from kerazoo.files import remove_temporary, write_whole
from kerazoo.training.plan import set_seed


def fit(*callbacks, epochs=3, initial_epoch=0):
    """A line through points, its rate halving each 4 steps."""
    set_seed(3)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5, staircase=True)
    model.compile(keras.optimizers.SGD(rate), "mse")
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    return model.fit(
        x, x[:, :1], batch_size=8, epochs=epochs, initial_epoch=initial_epoch, verbose=0,
        validation_data=(x, x[:, :1]), callbacks=list(callbacks),
    ).history  # fmt: skip


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def table(folder):
    with (folder / "history.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_each_epoch_is_on_disk_when_it_ends(tmp_path):
    """Seen by a callback after it, so that a process killed there leaves it."""
    seen = []
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(table(tmp_path)))
    writer = MetricsWriter(tmp_path, 32)
    assert not list(tmp_path.iterdir())
    history = fit(writer, look)
    rows = [{"epoch": n + 1.0, **{name: values[n] for name, values in history.items()}} for n in range(3)]
    assert writer.rows == rows
    assert seen == [rows[:1], rows[:2], rows]  # to the last bit
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "history.csv"}
    for number, (line, row) in enumerate(zip(lines(tmp_path), rows, strict=True), start=1):
        assert list(line) == ["epoch", "step", "seconds", "images_per_second", "learning_rate", "loss", "val_loss"]
        assert (line["epoch"], line["step"]) == (number, 4 * number)
        assert line["learning_rate"] == pytest.approx(0.1 * 0.5**number)
        assert {name: line[name] for name in ("loss", "val_loss")} == {n: row[n] for n in ("loss", "val_loss")}
        assert line["images_per_second"] == pytest.approx(32 / line["seconds"], rel=0.05)


def test_a_resumed_run_holds_its_own_epochs_and_no_others(tmp_path):
    """Three epochs on disk, the last line torn; the checkpoint is of the first one: the second is run again."""
    first = MetricsWriter(tmp_path, 32)
    fit(first)
    kept = lines(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')
    resumed = MetricsWriter(tmp_path, 32, history=first.rows[:1])
    resumed.settle()
    assert lines(tmp_path) == kept[:1]  # its seconds are still known
    assert table(tmp_path) == first.rows[:1]
    fit(resumed, epochs=2, initial_epoch=1)
    assert [line["epoch"] for line in lines(tmp_path)] == [1, 2]
    assert [row["epoch"] for row in table(tmp_path)] == [1.0, 2.0]
    assert resumed.rows[0] == first.rows[0]


def test_state_goes_through_json_and_back(tmp_path):
    head = [{"head_epoch": 1.0, "loss": math.nan}, {"head_epoch": 2.0, "loss": 0.1 + 0.2}]
    writer = MetricsWriter(tmp_path, 32, history=head)
    writer.settle()
    assert lines(tmp_path) == [{"head_epoch": 1, "loss": "nan"}, {"head_epoch": 2, "loss": 0.1 + 0.2}]
    fit(writer, epochs=2)
    before = lines(tmp_path)
    state = json.loads(json.dumps(writer.state(), allow_nan=False))
    other = MetricsWriter(tmp_path, 32)  # of a process that has not read its checkpoint yet
    assert lines(tmp_path) == before  # and may be killed before it does
    other.restore(state)
    assert repr(other.rows) == repr(writer.rows)
    assert lines(tmp_path) == before
    assert (tmp_path / "history.csv").read_text() == history_table(writer.rows)
    (tmp_path / "metrics.jsonl").unlink()
    MetricsWriter(tmp_path, 32).restore(state)
    assert [line["loss"] for line in lines(tmp_path)] == [line["loss"] for line in before]


def test_the_seconds_of_an_interrupted_epoch_are_counted_in(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("kerazoo.callbacks.metrics.time.perf_counter", lambda: clock[0])
    writer = MetricsWriter(tmp_path, 32)
    writer.set_model(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]))
    writer.model.compile("sgd", "mse")
    writer.on_epoch_begin(0)
    clock[0] = 107.0
    state = writer.state()
    assert state["seconds"] == 7.0
    resumed = MetricsWriter(tmp_path, 32)
    resumed.set_model(writer.model)
    clock[0] = 500.0
    resumed.on_epoch_begin(0)
    resumed.restore(state)
    clock[0] = 503.0
    resumed.on_epoch_end(0, {"loss": math.inf})
    assert lines(tmp_path)[0] == {
        "epoch": 1, "step": 0, "seconds": 10.0, "images_per_second": 3.2,
        "learning_rate": pytest.approx(0.01), "loss": "inf",
    }  # fmt: skip
    clock[0] = 505.0
    assert resumed.state()["seconds"] == 2.0


def test_a_table_of_two_phases_has_a_column_for_each_name():
    text = history_table([{"head_epoch": 1.0, "loss": 0.5}, {"epoch": 1.0, "loss": 1 / 3}])
    assert text == "head_epoch,loss,epoch\n1.0,0.5,\n,0.3333333333333333,1.0\n"


def killed(work):
    """Run `work` over and over in another process and kill it, at a moment of chance."""
    child = os.fork()
    if not child:
        try:
            while True:
                work()
        finally:
            os._exit(1)
    time.sleep(random.uniform(0.02, 0.1))
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_killed_process_leaves_the_old_table_or_the_new(tmp_path):
    path = tmp_path / "history.csv"
    texts = [letter * 3_000_000 for letter in "ab"]
    path.write_text(texts[0])

    def work():
        for text in texts:
            write_whole(path, text)

    for _ in range(12):
        killed(work)
        assert path.read_text() in texts
    write_whole(path, "new")
    remove_temporary(tmp_path)  # as a run does that goes on
    assert [p.name for p in tmp_path.iterdir()] == ["history.csv"]
    assert path.read_text() == "new"


def test_a_full_disk_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "history.csv"
    write_whole(path, "old")

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
