"""Memory and devices that fail are named as what failed, wherever that is; each allocation here is a real one."""

import sys

import numpy as np
import pytest

from kerazoo import cli
from kerazoo.errors import KerazooError
from kerazoo.models.stored import ModelSpec
from kerazoo.pipelines.causes import true_causes
from kerazoo.pipelines.ranking import rank
from kerazoo.pipelines.recipe import make_recipe
from kerazoo.pipelines.training import train
from kerazoo.pipelines.transfer import finetune

LOWER = r"; lower training.batch_size \(now 8\) or data.size"


def quiet(_):
    pass


def by_train(recipe, root):
    train(recipe, root=root, say=quiet)


def by_finetune(recipe, root):
    finetune(recipe, root=root, say=quiet)


def by_rank(recipe, root):
    rank(recipe, [("mlp", "none")], say=quiet)


def recipe_for(pictures, size, **values):
    return make_recipe(
        {
            "model": {"name": "mlp", "arguments": {"units": [65_536]}}, "data": {"path": str(pictures), "size": size},
            "training": {"epochs": 1, "batch_size": 8}, **values,
        }, [],
    )  # fmt: skip


@pytest.mark.parametrize("command", [by_train, by_finetune, by_rank])
def test_a_network_that_no_memory_holds_is_said_so(pictures, tmp_path, monkeypatch, command):
    monkeypatch.setattr(ModelSpec, "build", lambda spec: np.ones(2**50))
    tuned = {} if command is by_train else {"transfer": {"weights": "none", "preset": None}}
    with pytest.raises(KerazooError, match=f"^out of memory: Unable to allocate 8.00 PiB.*{LOWER}") as caught:
        command(recipe_for(pictures, 32, **tuned), tmp_path / "runs")
    assert caught.value.exit_code == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow  # TensorFlow tries again for 10 s before it says that there is no memory
def test_memory_that_tensorflow_does_not_get_is_said_so(pictures, tmp_path):
    size = r"OOM when allocating tensor with shape\[16000000,65536\]"
    with pytest.raises(KerazooError, match=f"^out of memory: {size}.*{LOWER}") as caught:
        train(recipe_for(pictures, 4000), root=tmp_path / "runs", say=quiet)
    assert "[Op:" not in str(caught.value)
    assert not list(tmp_path.glob("runs/*"))


def test_errors_of_jax_are_named():
    jax = pytest.importorskip("jax")
    with pytest.raises(KerazooError, match="^out of memory: RESOURCE_EXHAUSTED: .*; lower data.size$"), true_causes():
        jax.numpy.zeros(2**44).block_until_ready()


def test_a_command_without_memory_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kerazoo", "models"])
    monkeypatch.setattr(cli.registry, "list_models", lambda text: np.ones(2**50))
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    said = capsys.readouterr().err
    assert said.splitlines() == ["kerazoo: out of memory; lower --batch-size or --size, or close other programs"]
