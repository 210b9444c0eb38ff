"""What a person sees: the bar on a real terminal, lines elsewhere, and training that knows nothing of either."""

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import keras
import numpy as np
import pytest

from kerazoo.callbacks import progress
from kerazoo.callbacks.metrics import MetricsWriter
from kerazoo.callbacks.progress import Progress
from kerazoo.cli.output import log_to_stderr
from kerazoo.training.plan import set_seed

REDRAW, HIDE_CURSOR = b"\x1b[2K", b"\x1b[?25l"
LINE = r"epoch \d/2  accuracy \d\.\d{4}  loss \d+\.\d{4}  val_accuracy \d\.\d{4}  val_loss \d+\.\d{4}  [\d.]+ s  "
LINE += r"[\d,]+ images/s"


def data(count=96):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 12, 12, 1)).astype(np.float32), rng.integers(0, 3, count)


def network():
    """With batch norm and dropout."""
    set_seed(5)
    layers = keras.layers
    parts = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dropout(0.3), layers.Dense(3)]
    model = keras.Sequential([keras.Input((12, 12, 1)), *parts])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.AdamW(0.01, name="adamw"), loss=loss, metrics=["accuracy"])
    return model


def train(*callbacks, epochs=2, model=None):
    model = model or network()
    x, y = data()
    history = model.fit(
        x, y, batch_size=8, epochs=epochs, verbose=0, validation_data=(x[:24], y[:24]), callbacks=list(callbacks)
    ).history
    return model, history


class Terminal:
    """A pseudo-terminal: the end that a program writes to, and what was written."""

    def __init__(self, columns=120):
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                part = os.read(self.master, 65536)
            except OSError:  # the last writer has gone
                return
            self.written += part

    def close(self):
        os.close(self.slave)
        self._reader.join(10)
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 120 columns, which is standard error once `show` is called (pytest has its own until then)."""
    shown = Terminal()
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(progress, "REDRAWN", 50)  # the small network is done in a second
    with os.fdopen(os.dup(shown.slave), "w") as stream:
        shown.show = lambda: monkeypatch.setattr(sys, "stderr", stream)
        yield shown
        monkeypatch.undo()
    shown.close()


def say(line):
    print(line, file=sys.stderr, flush=True)


def test_without_a_terminal_there_are_lines_and_nothing_else(capfd, monkeypatch, said):
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich takes it for a terminal
    said.clear()
    train(Progress(96))
    assert [bool(re.fullmatch(LINE, line)) for line in said] == [True, True]
    said.clear()
    train(Progress(96, title="head epoch", every=2), epochs=3)
    assert [line[:14] for line in said] == ["head epoch 2/3", "head epoch 3/3"]
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar_and_the_same_lines(terminal):
    terminal.show()
    stderr = sys.stderr
    slow = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.05))  # for it to be drawn
    with log_to_stderr(), Progress(96) as bar:
        train(bar, slow)
    assert sys.stderr is stderr
    say("after")
    time.sleep(0.2)
    text = terminal.written
    assert text.count(REDRAW) > 5
    assert HIDE_CURSOR not in text
    assert "━".encode() in text
    assert b"\x1b[32m" in text
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text.decode()).replace("\r", "\n")
    assert len(re.findall(rf"^{LINE}$", plain, re.MULTILINE)) == 2
    assert re.search(r"epoch [12]/2  ━*─*  \d+/12  \d:\d\d left, run \d:\d\d  [\d,]+ images/s", plain)
    assert re.search(r"/12 .* accuracy \d\.\d{4}  loss ", plain)
    assert all(len(line) < 120 for line in plain.splitlines())
    assert text.endswith(b"\x1b[2Kafter\r\n")  # the bar is gone


def test_a_dumb_terminal_gets_lines_and_no_color_is_heeded(terminal, monkeypatch):
    terminal.show()
    monkeypatch.setenv("TERM", "dumb")
    with monkeypatch.context() as talkative:
        talkative.setattr(progress, "QUIET", 0.0)
        with log_to_stderr():
            train(Progress(96))
    time.sleep(0.2)
    assert b"\x1b" not in terminal.written
    assert terminal.written.count(b"  step ") == 22  # each step but the first of both epochs, for there is no bar
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    with log_to_stderr(), Progress(96) as bar:
        train(bar)
    time.sleep(0.2)
    assert REDRAW in terminal.written
    assert not re.search(rb"\x1b\[[\d;]*3\d", terminal.written)


def test_an_error_takes_the_bar_away(terminal):
    terminal.show()
    stderr = sys.stderr
    fail = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1 / 0)
    with pytest.raises(ZeroDivisionError), log_to_stderr(), Progress(96) as bar:
        train(bar, fail)
    assert sys.stderr is stderr
    assert threading.active_count() == len([t for t in threading.enumerate() if "Refresh" not in type(t).__name__])


CTRL_C = """
import json, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
from kerazoo.startup import start_tensorflow
start_tensorflow()
import keras, numpy as np
from kerazoo.callbacks.progress import Progress
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
asynchronous = keras.callbacks.CallbackList([Progress(1)])._async_train

def slow(batch, logs):
    time.sleep(0.05)
    if batch == 1:  # while the bar is there
        print(json.dumps({"backend": keras.config.backend(), "asynchronous": asynchronous}), flush=True)

slow = keras.callbacks.LambdaCallback(on_train_batch_begin=slow)
x = np.ones((4000, 4), "float32")
model.fit(x, x[:, :1], epochs=9, verbose=0, callbacks=[Progress(4000), slow])
"""


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)])  # one more start
def test_ctrl_c_leaves_the_terminal_as_it_was(backend):
    """Without a context even; losses come in while the epoch runs on both backends; standard output stays clean."""
    shown = Terminal()
    environment = {**os.environ, "TERM": "xterm", "KERAS_BACKEND": backend}
    before = termios.tcgetattr(shown.slave)
    process = subprocess.Popen(
        [sys.executable, "-c", CTRL_C], stdin=shown.slave, stdout=subprocess.PIPE, stderr=shown.slave, env=environment,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not re.search(rb"\d+/125 .*images/s  loss ", shown.written) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert termios.tcgetattr(shown.slave) == before
    shown.close()
    # on TensorFlow Keras always waits; elsewhere it does not for us
    assert json.loads(out) == {"backend": backend, "asynchronous": backend == "jax"}
    assert re.search(rb"\d+/125 .*images/s  loss ", shown.written)
    assert b"KeyboardInterrupt" in shown.written
    assert HIDE_CURSOR not in shown.written
    assert shown.written.rstrip().endswith(b"\x1b[2K")  # atexit took the bar away


def test_training_is_bit_equal_with_bar_with_lines_and_without(terminal, monkeypatch, tmp_path):
    plain, history = train()
    terminal.show()
    monkeypatch.setattr(progress, "QUIET", 0.0)
    with log_to_stderr(), Progress(96) as bar:
        seen = [train(bar, MetricsWriter(tmp_path, 96)), train(Progress(96, bar=False))]
    assert REDRAW in terminal.written
    for model, watched_history in seen:
        assert watched_history == history
        for a, b in zip(
            plain.variables + plain.optimizer.variables, model.variables + model.optimizer.variables, strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_keras_converts_the_logs_of_each_step_whoever_listens():
    """Why a hook at a batch's end costs nothing on this backend; test_ctrl_c looks at the other way of Keras's."""

    class Value:
        asked = 0

        def __float__(self):
            Value.asked += 1
            return 0.5

    keras.callbacks.CallbackList([]).on_train_batch_end(0, {"loss": Value()})
    assert Value.asked == 1
    watch = Progress(96, bar=False)
    keras.callbacks.CallbackList([watch]).on_train_batch_end(0, {"loss": Value()})
    assert Value.asked == 2
    assert watch._logs == {"loss": 0.5}


def test_a_long_epoch_says_how_far_it_is(monkeypatch, said):
    monkeypatch.setattr(progress, "QUIET", 0.0)
    said.clear()
    slow = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: time.sleep(0.02))
    train(Progress(96), slow, epochs=1)
    assert len(said) > 4
    for line in said[:-1]:
        assert re.fullmatch(
            r"epoch 1/1  step \d+/12  accuracy \d\.\d{4}  loss \d+\.\d{4}  [\d.]+ s  [\d,]+ images/s", line
        )
    monkeypatch.setattr(progress, "QUIET", 30.0)
    said.clear()
    train(Progress(96), slow, epochs=1)
    assert len(said) == 1


def ended(monkeypatch, watch, steps, seconds_a_step):
    """Let steps end, one after another, and draw after each."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    watch.on_epoch_begin(0)
    for step in steps:
        clock[0] += seconds_a_step
        watch.on_train_batch_end(step, {"loss": 0.5})
        text = watch._draw(200, ascii_only=True).plain
    return clock, text


def test_rates_and_times_left(monkeypatch, said):
    """100 steps of 0.5 s in 3 epochs; 10 images a step. After step 41 of the first epoch: 29.5 s, and 100 s more."""
    watch = Progress(1000, bar=False)
    watch.set_params({"epochs": 3, "steps": 100})
    watch.on_train_begin()
    clock, text = ended(monkeypatch, watch, range(41), 0.5)
    assert "epoch 1/3  ################------------------------  41/100  0:30 left, run 2:10  20 images/s" in text
    assert text.endswith("  loss 0.5000")
    said.clear()
    clock[0] = 60.0
    watch.on_epoch_end(0, {"loss": 0.25})
    assert said == ["epoch 1/3  loss 0.2500  60.0 s  17 images/s"]


def test_an_epoch_that_is_resumed_counts_from_where_it_begins(monkeypatch, said):
    """The first 60 of 100 steps are passed over in no time; those after take 0.5 s."""
    said.clear()
    watch = Progress(1000, start_step=60, bar=False)
    watch.set_params({"epochs": 1, "steps": 100})
    watch.on_train_begin()
    clock, text = ended(monkeypatch, watch, range(60), 0.0)
    assert "60/100  starting" in text
    clock, text = ended(monkeypatch, watch, range(60), 0.0)
    watch.on_train_begin()
    clock, text = ended(monkeypatch, watch, range(60, 80), 0.5)
    assert "80/100  0:10 left, run 0:10  20 images/s" in text
    clock[0] = 20.0
    watch.on_epoch_end(0, {})
    assert said == ["epoch 1/1    20.0 s  20 images/s"]


def test_the_line_fits_the_terminal(monkeypatch):
    watch = Progress(1000, bar=False)
    watch.set_params({"epochs": 3, "steps": None})  # a dataset of unknown length
    watch.on_train_begin()
    ended(monkeypatch, watch, range(5), 0.5)
    for width in (1, 10, 60, 300):
        assert len(watch._draw(width, ascii_only=False).plain) <= width
    assert "2.0 steps/s" in watch._draw(300, ascii_only=False).plain


def test_an_epoch_whose_steps_were_all_taken_before_a_restart_says_no_rate(said):
    for first, ends in ((8, " s"), (4, " images/s")):
        watch = Progress(96, start_step=first, bar=False)
        watch.set_params({"epochs": 2, "steps": 8})
        watch.on_train_begin()
        watch.on_epoch_begin(0)
        watch.on_epoch_end(0, {"loss": 1.0})
        assert said[-1].endswith(ends)
        assert " 0 images/s" not in said[-1]
