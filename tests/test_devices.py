"""Several replicas give what one device gives; what would not is refused; a lost worker ends the others.

Two logical CPUs and two processes on this machine stand in for two GPUs and two machines. Devices are settled at the
first operation, so each case is a process of its own.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from conftest import free_ports

from kerazoo.errors import RecipeError
from kerazoo.models.build import build
from kerazoo.pipelines.data.examples import Examples
from kerazoo.pipelines.devices.cluster import JAX_VARIABLES
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.recipes.device_names import parse_devices
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.plan import resolve_batch_size

# 19 images in batches of 8, 8 and 3, validation in batches of 5, 4 and 2 or the like: replicas have unequal parts
TRAINING = """
import logging, sys
from kerazoo.pipelines.devices.opening import open_devices
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
devices = open_devices(sys.argv[1])
import keras, numpy as np, tensorflow as tf
from kerazoo.callbacks.gradients import GradientLogger
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.models.build import build
from kerazoo.pipelines.input.augmentation import Augmentation
from kerazoo.pipelines.input.batches import evaluation_batches, training_batches
from kerazoo.pipelines.data.load import load_examples

examples, small = load_examples(sys.argv[2]), Preprocessing(8, 8)
found, epochs = {}, int(sys.argv[4])
class Norms:
    def scalar(self, tag, value, step):
        found["_".join((tag, str(step))).replace("/", " ")] = np.array(value)
    def nothing(self, *_): pass
    config = histogram = image = text = finish = nothing
jax = keras.config.backend() == "jax"
for case in sys.argv[5].split(","):
    with devices.scope():
        keras.utils.set_random_seed(1)
        if case in ("plain", "clipped"):
            inputs = keras.Input((8, 8, 3))
            x = keras.layers.Conv2D(4, 3, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01))(inputs)
            model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
        else:
            model = build(
                "bottleneck_cnn", input_shape=(8, 8, 3), num_classes=2, stem=(4,), stages=(((2, 4),),), momentum=0.9,
                synchronized=True,
            )
        devices.check_batch_norm(model)
        loss = devices.weighted_loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        # each replica clips its own part, so that the weights must not move for their gradients to be the same
        rates = {"learning_rate": 0.0, "clipnorm": 1e-3} if case == "clipped" else {"learning_rate": 0.1}
        model.compile(
            keras.optimizers.SGD(momentum=0.9, **rates), loss, metrics=["accuracy"],
            **({} if jax else {"jit_compile": devices.jit_compile}),
        )
    train, val = examples.split("train"), examples.split("val")
    devices.check_batches(batch_size=8, count=len(train), drop_last=jax)
    batches = training_batches(
        train, small, batch_size=8, seed=0, augmentation=Augmentation(shift=0.2), balance="weights", drop_last=jax
    )
    val = val.take(range(devices.whole_count(len(val))))
    size = devices.evaluation_size(len(val), 5)
    with devices.training():
        validation = devices.distribute(evaluation_batches(val, small, batch_size=size))
        print("training", flush=True)
        history = model.fit(
            devices.distribute(batches.dataset), validation_data=validation, epochs=epochs, shuffle=False, verbose=0,
            callbacks=[batches.clock(), *([GradientLogger(Norms())] if devices.is_chief and case == "clipped" else [])],
        ).history
        if not (jax and devices.workers > 1):
            images = devices.distribute(evaluation_batches(val, small, batch_size=size))
            found[f"{case}_predictions"] = model.predict(images, verbose=0)
    for name, values in history.items():
        found[f"{case}_{name}"] = np.array(values)
    for number, variable in enumerate(model.variables):
        found[f"{case}_{number:02d}_{variable.path}"] = np.array(keras.ops.convert_to_numpy(variable))
        for replica, value in enumerate(getattr(variable.value, "values", ())):
            found[f"{case}-{replica}_{number:02d}_{variable.path}"] = value.numpy()
np.savez(sys.argv[3], **found)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """19 images to train on, 11 to validate on, two classes that can be told apart."""
    rng = np.random.default_rng(0)
    y = np.arange(30) % 2
    x = (rng.random((30, 8, 8, 3)) * 120 + 100 * y[:, None, None, None]).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, x_train=x[:19], y_train=y[:19], x_val=x[19:], y_val=y[19:])
    return path


def start(name, data, out, *, epochs=2, cases="plain,norm,clipped", **environment):
    """A training in a process of its own; its log is beside `out`."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", **environment}
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", TRAINING, name, str(data), str(out), str(epochs), cases],
            stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip


def start_workers(data, folder, **options):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    return [
        start(
            "multiworker", data, folder / f"worker{index}.npz", **options,
            TF_CONFIG=json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}),
        )
        for index in range(2)
    ]  # fmt: skip


def finished(running, folder):
    """What each training wrote; all end where one fails."""
    try:
        for name, process in running.items():
            assert process.wait(timeout=240) == 0, (folder / f"{name}.log").read_text()[-3000:]
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return {name: dict(np.load(folder / f"{name}.npz")) for name in running}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The same trainings on one device and on two logical CPUs."""
    folder = tmp_path_factory.mktemp("trained")
    running = {"one": start("cpu", data, folder / "one.npz"), "two": start("mirrored:2", data, folder / "two.npz")}
    return finished(running, folder)


@pytest.fixture(scope="module")
def workers(data, tmp_path_factory):
    """The same training in two processes."""
    folder = tmp_path_factory.mktemp("workers")
    running = dict(zip(("worker0", "worker1"), start_workers(data, folder, cases="plain"), strict=True))
    return finished(running, folder)


def differences(found, expected, case):
    return {
        name: float(np.abs(found[name] - value).max())
        for name, value in expected.items()
        if name.startswith(f"{case}_") and "seed_generator" not in name
    }


@pytest.mark.parametrize("case", ["plain", "norm"])
def test_replicas_give_what_one_device_gives(trained, case):
    """Weights, statistics, losses, metrics and predictions; batches uneven, examples weighted, an L2 term."""
    check_replicas(trained["two"], trained["one"], case)


def check_replicas(several, one, case):
    found = differences(several, one, case)
    assert {f"{case}_loss", f"{case}_val_accuracy", f"{case}_val_loss", f"{case}_predictions"} <= set(found)
    assert max(found.values()) < (1e-5 if case == "plain" else 1e-4), found
    assert one[f"{case}_predictions"].shape == (11, 2)


UNCLIPPED = re.compile(r"gradients .* (max_)?norm_\d$")


def test_gradient_norms_of_two_replicas_are_those_of_the_whole_batch(trained):
    """Before clipping; each replica clips its own part, in Keras, and the parts are then added."""
    one, two = ({n: v for n, v in trained[name].items() if UNCLIPPED.search(n)} for name in ("one", "two"))
    assert len(one) == 2 * 2 * 5  # mean and largest, of two epochs, of two layers' kernels and biases and of all
    for name, value in one.items():
        assert two[name] == pytest.approx(value, rel=1e-4), name
        assert value > 0 or "bias" in name
    assert trained["one"]["gradients global clipped_norm_3"] <= 2.1e-3


@pytest.mark.slow  # two processes that start TensorFlow and train
def test_workers_are_equal_to_the_bit_and_give_what_one_device_gives(trained, workers):
    check_replicas(workers["worker0"], trained["one"], "plain")
    assert workers["worker0"].keys() == workers["worker1"].keys()
    for name, value in workers["worker0"].items():
        np.testing.assert_array_equal(value, workers["worker1"][name], err_msg=name)


def test_synchronized_statistics_are_the_same_on_every_replica(trained):
    names = [name for name in trained["two"] if name.startswith("norm-0_") and "moving_" in name]
    assert len(names) == 4  # two batch norms
    for name in names:
        other = trained["two"][name.replace("norm-0", "norm-1")]
        np.testing.assert_array_equal(trained["two"][name], other)
        start = 0.0 if "mean" in name else 1.0
        assert np.abs(other - start).max() > 1e-3  # they have moved


# slow: two more processes; batch norm over processes takes the same path as over two logical CPUs
@pytest.mark.slow
def test_batch_norm_is_synchronized_over_processes(trained, data, tmp_path):
    running = dict(zip(("worker0", "worker1"), start_workers(data, tmp_path, cases="norm,clipped"), strict=True))
    found = finished(running, tmp_path)
    assert max(differences(found["worker0"], trained["one"], "norm").values()) < 1e-4
    for name, value in found["worker1"].items():
        np.testing.assert_array_equal(value, found["worker0"][name], err_msg=name)
    # the first worker alone watches, and does not wait for the other
    assert all(np.isnan(value) for name, value in found["worker0"].items() if UNCLIPPED.search(name))
    assert found["worker0"]["gradients global clipped_norm_3"] > 0


# -- what is refused ----------------------------------------------------------------------------------------------

TWO = Devices("logical CPUs of one machine", 2, strategy=object())
PROCESSES = Devices("machines by JAX", 2, 0, 2, distribution=object())


def test_unsynchronized_batch_norm_is_refused_where_it_would_be_trained():
    for name in ("bottleneck_cnn", "resnet20", "vgg_small", "inception_small"):
        model = build(name)
        with pytest.raises(RecipeError, match=r"trains batch norm \(.*set training.synchronized_batch_norm=true"):
            TWO.check_batch_norm(model)
        TWO.check_batch_norm(build(name, synchronized=True))
        assert model.count_params() == build(name, synchronized=True).count_params()
    Devices("CPU").check_batch_norm(model)
    PROCESSES.check_batch_norm(model)  # JAX's batch norm sees the whole batch
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    TWO.check_batch_norm(model)


@pytest.mark.parametrize(
    ("devices", "settings", "message"),
    [
        (TWO, {"batch_size": 1}, "training.batch_size=1 on 20 examples gives a batch of 1, fewer than the 2 replicas"),
        (
            TWO,
            {"batch_size": 19, "drop_last": False},
            "gives a batch of 1, fewer than the 2 replicas; set training.drop_last",
        ),
        (PROCESSES, {"batch_size": 5}, "every batch size must be a multiple of .*training.batch_size=5"),
        (PROCESSES, {"batch_size": 11, "drop_last": False}, "every batch size must be a multiple of"),
    ],
)
def test_settings_that_go_wrong(devices, settings, message):
    settings = {"batch_size": 8, "count": 20} | settings
    with pytest.raises(RecipeError, match=message):
        devices.check_batches(**settings)
    devices.check_batches(batch_size=8, count=20, drop_last=False)
    Devices("CPU").check_batches(**settings)


def test_every_replica_has_a_row_of_every_batch_of_an_evaluation():
    for replicas in (2, 3, 8):
        devices = Devices("GPUs", replicas, strategy=object())
        for count in range(replicas, 40):
            size = devices.evaluation_size(count, 7)
            assert count % size == 0 or count % size >= replicas
            assert size >= min(replicas, count)
    with pytest.raises(RecipeError, match=r"there are 1 examples to evaluate on 2 replicas; .*data.validation"):
        TWO.evaluation_size(1, 64)
    one = Examples("x", ("a",) * 9, np.zeros(9, np.int64), np.array(["train"] * 8 + ["val"]), ("a", "b"))
    recipe = make_recipe({"model": {"name": "mlp"}, "data": {"path": "x"}, "training": {"batch_size": 4}})
    with pytest.raises(RecipeError, match="there are 1 examples to evaluate on 2 replicas"):  # before a run is made
        resolve_batch_size(recipe, one, TWO)
    assert PROCESSES.evaluation_size(30, 7) == 6
    assert PROCESSES.whole_count(11) == 10


@pytest.mark.parametrize("name", ["", "gpus", "mirrored:0", "mirrored:x", "mirrored:N", "CPU"])
def test_unknown_names(name):
    with pytest.raises(RecipeError, match="must be one of auto, cpu, gpu, mirrored, mirrored:N, multiworker, tpu"):
        parse_devices(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tpu", "does not train on TPUs with TensorFlow; set KERAS_BACKEND=jax"),
        ("gpu", "TensorFlow finds no GPU here; use devices=cpu"),
        ("mirrored", "there are no GPUs here; devices=mirrored:2 uses 2 logical CPUs"),
        ("mirrored:2", "devices=mirrored:2 must be opened before anything is computed"),
        ("multiworker", "finds no cluster: set TF_CONFIG"),
    ],
)
def test_devices_that_are_not_there(name, message, monkeypatch):
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU here")
    tf.constant(0) + 1
    for variable in ("TF_CONFIG", "SLURM_JOB_ID", *JAX_VARIABLES):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(RecipeError, match=message):
        open_devices(name)
    assert open_devices("auto").describe() == open_devices("cpu").describe() == "CPU"


# -- a lost worker ------------------------------------------------------------------------------------------------


# slow: two processes train until one is gone; a stopped one takes up to a minute to be missed
@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_ends_the_other_within_a_minute(data, tmp_path, lost, blow):
    workers = start_workers(data, tmp_path, epochs=1_000_000, cases="plain")
    log = tmp_path / f"worker{1 - lost}.log"
    try:
        wait_for(log, "training")
        time.sleep(5)
        assert [worker.poll() for worker in workers] == [None, None]
        workers[lost].send_signal(blow)
        assert workers[1 - lost].wait(timeout=60) not in (0, None)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    said = log.read_text()
    assert f"worker {1 - lost} of 2 stops: another worker was lost (" in said
    assert "run the same command again on every worker" in said


def wait_for(log, text, seconds=120):
    end = time.monotonic() + seconds
    while text not in log.read_text():
        assert time.monotonic() < end, log.read_text()[-2000:]
        time.sleep(0.2)


# -- JAX ----------------------------------------------------------------------------------------------------------


# slow: two processes, in which JAX compiles
@pytest.mark.slow
def test_two_jax_processes_print_one_json_object(data, tmp_path):
    """Gloo, which connects them, says so on standard output."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    command = [sys.executable, "-m", "kerazoo.cli.app", "train", "mlp", "--data", str(data), "--epochs", "1", "--json"]
    command += ["--name", "run", "--devices", "multiworker", "--set", "training.batch_size=8", "--set", "log=[]"]
    workers = []
    for index in range(2):
        place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TF_CONFIG": json.dumps(place)}
        workers.append(
            subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    said = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert json.loads(said[0][0])["run"] == "runs/run"
    assert said[1][0] == b""
    assert b"Gloo" in said[0][1] + said[1][1]


# slow: JAX compiles in three processes at once
@pytest.mark.slow
def test_jax_in_one_process_and_in_two(data, tmp_path):
    """Two processes are equal to one within 1e-4, and to each other to the bit; validation there takes 10 of the 11."""
    options = {"KERAS_BACKEND": "jax"}
    running = {"one": start("cpu", data, tmp_path / "one.npz", **options)}
    running |= dict(zip(("worker0", "worker1"), start_workers(data, tmp_path, **options), strict=True))
    found = finished(running, tmp_path)
    for case in ("plain", "norm"):
        for name in found["worker0"]:
            if name.startswith(case) and "seed_generator" not in name and "val_" not in name:
                np.testing.assert_allclose(found["worker0"][name], found["one"][name], atol=1e-4, err_msg=name)
                np.testing.assert_array_equal(found["worker0"][name], found["worker1"][name], err_msg=name)
    for name in ("plain_val_loss", "norm_val_loss", "plain_predictions", "norm_predictions"):
        assert np.isfinite(found["one"][name]).all()
