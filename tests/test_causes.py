"""Memory and devices that fail are named as what failed, wherever that is; each allocation here is a real one."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from kerazoo.callbacks.stopping import StopOnNaN
from kerazoo.cli import app as cli
from kerazoo.errors import DataError, KerazooError
from kerazoo.evaluation.evaluate import answers_of
from kerazoo.models import registry
from kerazoo.models.description import ModelSpec
from kerazoo.pipelines.data.load import load_examples
from kerazoo.pipelines.input.causes import true_causes
from kerazoo.preprocessing.preprocessing import Preprocessing
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.train import train
from kerazoo.transfer.finetune import finetune
from kerazoo.transfer.ranking import rank

LOWER = r"; lower training.batch_size \(now 8\) or data.size"


def by_train(recipe, root):
    train(recipe, root=root)


def by_finetune(recipe, root):
    finetune(recipe, root=root)


def by_rank(recipe, root):
    rank(recipe, [("mlp", "none")])


def recipe_for(images, size, **values):
    return make_recipe(
        {
            "model": {"name": "mlp", "arguments": {"units": [65_536]}}, "data": {"path": str(images), "size": size},
            "training": {"epochs": 1, "batch_size": 8}, **values,
        }, [],
    )  # fmt: skip


@pytest.mark.parametrize("command", [by_train, by_finetune, by_rank])
def test_a_network_that_no_memory_holds_is_said_so(images, tmp_path, monkeypatch, command):
    monkeypatch.setattr(ModelSpec, "build", lambda spec: np.ones(2**50))
    tuned = {} if command is by_train else {"transfer": {"weights": "none", "preset": None}}
    with pytest.raises(KerazooError, match=f"^out of memory: Unable to allocate 8.00 PiB.*{LOWER}") as caught:
        command(recipe_for(images, 32, **tuned), tmp_path / "runs")
    assert caught.value.exit_code == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow  # TensorFlow tries again for 10 s before it says that there is no memory
def test_memory_that_tensorflow_does_not_get_is_said_so(images, tmp_path):
    size = r"OOM when allocating tensor with shape\[16000000,65536\]"
    with pytest.raises(KerazooError, match=f"^out of memory: {size}.*{LOWER}") as caught:
        train(recipe_for(images, 4000), root=tmp_path / "runs")
    assert "[Op:" not in str(caught.value)
    assert not list(tmp_path.glob("runs/*"))


FITTED = Preprocessing(16, 16)


def failing_op():
    """An error of the kind that a damaged image gives."""
    tf.io.decode_png(b"\x89PNG\r\n\x1a\n no more")


def test_a_full_disk_is_no_memory(images):
    """TensorFlow has one error for both."""
    examples = load_examples(images)
    said = "^the disk failed: .*No space left on device; free some space"
    with pytest.raises(KerazooError, match=said) as caught, true_causes(None, examples, FITTED):
        tf.io.write_file("/dev/full", b"x" * 1_000_000)
    assert isinstance(caught.value.__cause__, tf.errors.ResourceExhaustedError)
    assert caught.value.exit_code == 1


def test_a_device_that_fails_is_no_image(images):
    examples = load_examples(images)
    said = r"^TensorFlow failed: InvalidArgumentError: .*device.*; the images have not changed since they were checked$"
    nowhere = tf.device("/job:localhost/task:7/device:GPU:9")
    with pytest.raises(KerazooError, match=said) as caught, true_causes(None, examples, FITTED), nowhere:
        tf.raw_ops.Placeholder(dtype=tf.float32)
    assert not isinstance(caught.value, DataError)


@pytest.mark.parametrize("hashed", [True, False])
def test_an_image_that_changed_is_named_with_what_is_wrong(images, hashed):
    examples = load_examples(images)
    assert not hashed or examples.hashes
    (images / "square" / "03.png").write_bytes(b"no image")
    said = (
        "has changed since its hash was computed"
        if hashed
        else "cannot be read or decoded: .*; check the data: kerazoo check"
    )
    with pytest.raises(DataError, match=f"^square/03.png in .*{said}"), true_causes(None, examples, FITTED):
        failing_op()


def damage(images):
    for path in images.glob("square/*.png"):
        path.write_bytes(b"no image")


@pytest.mark.slow  # a training
def test_an_image_that_is_damaged_while_it_is_trained_on_is_named(images, tmp_path, monkeypatch):
    recipe = make_recipe(
        {
            "model": {"name": "perceptron"}, "data": {"path": str(images), "size": 16, "cache": "never"},
            "training": {"epochs": 2, "batch_size": 8}, "log": [],
        }, [],
    )  # fmt: skip
    monkeypatch.setattr(StopOnNaN, "on_epoch_begin", lambda self, epoch, logs=None: epoch and damage(images))
    with pytest.raises(DataError, match=r"^square/\d\d.png in .* has changed since its hash was computed"):
        train(recipe, root=tmp_path / "runs")


def test_an_image_that_is_damaged_before_an_evaluation_is_named(images):
    spec = ModelSpec("perceptron", {"input_shape": (16, 16, 3), "num_classes": 2}, FITTED, ("circle", "square"))
    examples = load_examples(images).take([15])
    damage(images)
    with pytest.raises(DataError, match=r"^square/03.png in .* cannot be read or decoded"):
        answers_of(spec.build(), spec, examples, "train")


def test_other_errors_of_tensorflow_blame_no_image(images):
    """Even where one is damaged, which may have nothing to do with it."""
    examples = load_examples(images)
    (images / "square" / "03.png").write_bytes(b"no image")
    said = "^TensorFlow failed: AbortedError: the connection is gone$"
    with pytest.raises(KerazooError, match=said) as caught, true_causes(None, examples, FITTED):
        raise tf.errors.AbortedError(None, None, "the connection is gone")
    assert not isinstance(caught.value, DataError)


def test_errors_of_jax_are_named():
    jax = pytest.importorskip("jax")
    with pytest.raises(KerazooError, match="^out of memory: RESOURCE_EXHAUSTED: .*; lower data.size$"), true_causes():
        jax.numpy.zeros(2**44).block_until_ready()


def test_a_command_without_memory_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kerazoo", "models"])
    monkeypatch.setattr(registry, "list_models", lambda text: np.ones(2**50))
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    said = capsys.readouterr().err
    assert said.splitlines() == ["kerazoo: out of memory; lower --batch-size or --size, or close other programs"]
