"""What each logger costs: processor time of a training with it over that of the same training without, in one run.

    python benchmarks/callback_overhead.py [--rounds 5] [--networks resnet20 mobilenet_025] [--csv FILE]

Two trainings: resnet20 on 32 x 32 images at batch 128 (CIFAR-10's shapes) and MobileNet 0.25, all of it learning, on
224 x 224 images at batch 32. The images are random; the cost does not depend on them. In one process each case trains
in turn, and the rounds interleave the cases, so that what else the machine does falls on all of them. Counted is the
second epoch of each `fit`: the first one traces. A ratio is of one round; the table has its median, least and largest.

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
import time
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


class Clock(keras.callbacks.Callback):
    """Processor and wall time of the last epoch; `end` is a callback that stands behind those that are measured."""

    def __init__(self):
        super().__init__()
        self.end = keras.callbacks.LambdaCallback(on_epoch_end=self._stop)

    def on_epoch_begin(self, epoch, logs=None):
        """Start."""
        self.start = time.process_time(), time.perf_counter()

    def _stop(self, epoch, logs):
        self.cpu = time.process_time() - self.start[0]
        self.wall = time.perf_counter() - self.start[1]


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
        "nothing, short epochs": (SHORT, list),
        "gradients with histograms, every step": (SHORT, logger(GradientLogger, every=1, histograms=True)),
        "weights with histograms, every step": (SHORT, logger(WeightLogger, every=1, histograms=True)),
        "feature maps with histograms, every step": (SHORT, maps(every=1, histograms=True)),
        "a probe batch by a tape, every step": (SHORT, lambda: [ProbeBatch(x, y)]),
        "nothing, long epochs": (LONG, list),
        "gradients, every epoch": (LONG, logger(GradientLogger)),
        "weights, every epoch": (LONG, logger(WeightLogger)),
        "feature maps, every epoch": (LONG, maps()),
        "everything by default": (LONG, everything),
        "everything by default, and findings": (LONG, with_findings),
        "keras.callbacks.TensorBoard(histogram_freq=1)": (LONG, board),
    }


def trained(name, callbacks, shape, data):
    """Processor and wall seconds of the second epoch."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = kerazoo.build(name, input_shape=shape, num_classes=10)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    clock = Clock()
    model.fit(data, epochs=2, verbose=0, shuffle=False, callbacks=[clock, *callbacks(), clock.end])
    return clock.cpu, clock.wall


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    rows = {}
    for name in arguments.networks:
        shape, batch = NETWORKS[name]
        rng = np.random.default_rng(0)
        x = rng.normal(size=(batch * SHORT, *shape)).astype(np.float32)
        y = rng.integers(0, 10, len(x))
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True).cache()
        with tempfile.TemporaryDirectory() as folder:
            made = cases(x[:batch], y[:batch], folder)
            bare = {SHORT: "nothing, short epochs", LONG: "nothing, long epochs"}
            ratios = {case: [] for case in made}
            for number in range(1, arguments.rounds + 1):
                print(f"{name}, round {number} of {arguments.rounds}", flush=True)
                seconds = {}
                for case, (steps, callbacks) in made.items():
                    seconds[case] = trained(name, callbacks, shape, data.repeat(steps // SHORT))
                    alone = seconds[bare[steps]]
                    ratios[case].append(tuple(one / other for one, other in zip(seconds[case], alone, strict=True)))
                    rows[name, case] = row_of(name, case, ratios[case])
                    write(arguments.csv, rows.values())  # a run that is stopped has measured something


def row_of(name, case, ratios):
    """The row of a case, which is also printed."""
    cpu, wall = zip(*ratios, strict=True)
    row = {"network": name, "case": case, "rounds": len(ratios), "cpu": round(statistics.median(cpu), 3)}
    row |= {"cpu_min": round(min(cpu), 3), "cpu_max": round(max(cpu), 3), "wall": round(statistics.median(wall), 3)}
    spread = f"({row['cpu_min']:.3f}-{row['cpu_max']:.3f})"
    print(f"{name:14} {case:46} cpu {row['cpu']:.3f} {spread}  wall {row['wall']:.3f}", flush=True)
    versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
    return row | {"cores": os.cpu_count(), **versions, "machine": platform.machine()}


def write(path, rows):
    """All rows so far, as CSV."""
    with path.open("w", newline="") as file:
        rows = list(rows)
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
