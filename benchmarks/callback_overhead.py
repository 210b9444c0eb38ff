"""What each logger costs: processor time of a training with it over that of the same training without, side by side.

    python benchmarks/callback_overhead.py [--pairs 6] [--networks resnet20 mobilenet_025] [--only WORD] [--csv FILE]

Two trainings: resnet20 on 32 x 32 images at batch 128 (CIFAR-10's shapes) and MobileNet 0.25, all of it learning, on
224 x 224 images at batch 32. The images are random; the cost does not depend on them. For each case, two trainings in
one process take turns, an epoch each: one with the logger, one with nothing. A ratio is of two epochs in succession, so
that what else the machine does, which can double every time within minutes, falls on both. The first epoch of each,
which traces, is not counted. The table has the median of the ratios, and the least and the largest.

Cases: each logger at every step, and for comparison a callback of the usual kind, which runs a probe batch through a
tape at every step, in epochs of 12 steps. What is written once an epoch costs the less the longer an epoch is: each
logger at its default period, all of them by default, and `keras.callbacks.TensorBoard` with `histogram_freq=1` train in
epochs of 48 steps (an epoch of CIFAR-10 at batch 128 has 390).
"""

import argparse
import csv
import os
import platform
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kerazoo.startup import start_tensorflow

start_tensorflow()
import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import kerazoo  # noqa: E402
from kerazoo.callbacks import Diagnostics, FeatureMapLogger, FolderWriter, GradientLogger, WeightLogger  # noqa: E402

NETWORKS = {"resnet20": ((32, 32, 3), 128), "mobilenet_025": ((224, 224, 3), 32)}  # input, batch
SHORT, LONG = 12, 48  # steps of an epoch


class ProbeBatch(keras.callbacks.Callback):
    """The usual kind: gradients of a fixed batch by a tape, after every step."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def on_train_batch_end(self, batch, logs=None):
        """Take the gradients of the probe batch."""
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(self.x, self.y, self.model(self.x, training=True))
        for gradient in tape.gradient(loss, [v.value for v in self.model.trainable_variables]):
            float(tf.norm(gradient))


class Turns:
    """Lets two trainings in threads take turns, an epoch each; `seconds` are processor and wall time of each epoch."""

    def __init__(self):
        self.condition = threading.Condition()
        self.current = 0
        self.seconds = ([], [])

    def around(self, me, callbacks):
        """The callbacks of training `me`, 0 or 1, between those that wait for its turn and that pass it on."""
        start = []

        def begin(epoch, logs):
            with self.condition:
                self.condition.wait_for(lambda: self.current == me)
            start[:] = [time.process_time(), time.perf_counter()]

        def end(epoch, logs):
            ends = time.process_time(), time.perf_counter()
            self.seconds[me].append([one - other for one, other in zip(ends, start, strict=True)])
            self.give(1 - me)

        make = keras.callbacks.LambdaCallback
        return [make(on_epoch_begin=begin), *callbacks, make(on_epoch_end=end)]

    def give(self, other):
        """Let training `other` go on."""
        with self.condition:
            self.current = other
            self.condition.notify_all()


def cases(x, y, folder):
    """name -> steps of an epoch, and a function that gives the callbacks."""

    def logger(kind, **options):
        return lambda: [kind(FolderWriter(Path(tempfile.mkdtemp(dir=folder))), **options)]

    def maps(**options):
        return lambda: [FeatureMapLogger(FolderWriter(Path(tempfile.mkdtemp(dir=folder))), x[:1], **options)]

    def everything():
        writer = FolderWriter(Path(tempfile.mkdtemp(dir=folder)))
        return [GradientLogger(writer), WeightLogger(writer), FeatureMapLogger(writer, x[:1])]

    def with_findings():
        findings = Diagnostics(data=(x, y), own_gradients=False)
        writer = [FolderWriter(Path(tempfile.mkdtemp(dir=folder))), findings]
        return [GradientLogger(writer), WeightLogger(writer), FeatureMapLogger(writer, x[:1]), findings]

    def board():
        return [keras.callbacks.TensorBoard(tempfile.mkdtemp(dir=folder), histogram_freq=1, write_graph=False)]

    return {
        "nothing": (SHORT, list),
        "gradients with histograms, every step": (SHORT, logger(GradientLogger, every=1, histograms=True)),
        "weights with histograms, every step": (SHORT, logger(WeightLogger, every=1, histograms=True)),
        "feature maps with histograms, every step": (SHORT, maps(every=1, histograms=True)),
        "a probe batch by a tape, every step": (SHORT, lambda: [ProbeBatch(x, y)]),
        "gradients, every epoch": (LONG, logger(GradientLogger)),
        "weights, every epoch": (LONG, logger(WeightLogger)),
        "feature maps, every epoch": (LONG, maps()),
        "everything by default": (LONG, everything),
        "everything by default, and findings": (LONG, with_findings),
        "keras.callbacks.TensorBoard(histogram_freq=1)": (LONG, board),
    }


def compared(name, callbacks, shape, data, pairs):
    """(processor, wall) ratios of `pairs` epochs with `callbacks` to epochs without, each after the other."""
    turns = Turns()

    def train(me, callbacks):
        keras.utils.set_random_seed(0)
        model = kerazoo.build(name, input_shape=shape, num_classes=10)
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        try:
            model.fit(data, epochs=1 + pairs, verbose=0, shuffle=False, callbacks=turns.around(me, callbacks))
        finally:
            turns.give(1 - me)

    keras.backend.clear_session()
    with ThreadPoolExecutor(2) as pool:
        bare = pool.submit(train, 0, [])
        with turns.condition:  # only one of them traces at a time
            turns.condition.wait_for(lambda: turns.current == 1)
        other = pool.submit(train, 1, callbacks())
        bare.result()
        other.result()
    without, having = (seconds[1:] for seconds in turns.seconds)
    return [(a[0] / b[0], a[1] / b[1]) for a, b in zip(having, without, strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=6, help="epochs that are compared")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--only", default="", help="only the cases with this word")
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        shape, batch = NETWORKS[name]
        rng = np.random.default_rng(0)
        x = rng.normal(size=(batch * SHORT, *shape)).astype(np.float32)
        y = rng.integers(0, 10, len(x))
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True).cache()
        with tempfile.TemporaryDirectory() as folder:
            for case, (steps, callbacks) in cases(x[:batch], y[:batch], folder).items():
                if arguments.only in case:
                    ratios = compared(name, callbacks, shape, data.repeat(steps // SHORT), arguments.pairs)
                    rows.append(row_of(name, case, steps, ratios))
                    write(arguments.csv, rows)  # a run that is stopped has measured something


def row_of(name, case, steps, ratios):
    """The row of a case, which is also printed."""
    cpu, wall = zip(*ratios, strict=True)
    row = {"network": name, "case": case, "steps": steps, "pairs": len(ratios), "cpu": round(statistics.median(cpu), 3)}
    row |= {"cpu_min": round(min(cpu), 3), "cpu_max": round(max(cpu), 3), "wall": round(statistics.median(wall), 3)}
    spread = f"({row['cpu_min']:.3f}-{row['cpu_max']:.3f})"
    print(f"{name:14} {case:46} cpu {row['cpu']:.3f} {spread}  wall {row['wall']:.3f}", flush=True)
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
    return row | {"cores": os.cpu_count(), **versions, "machine": platform.machine()}


def write(path, rows):
    """All rows so far, as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
