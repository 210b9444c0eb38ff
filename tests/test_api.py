"""The library and the command line do the same thing from the same words; the examples of the public names run."""

import inspect
import json
import os
import re
import shlex
import signal
import sys
import textwrap

import numpy as np
import pytest
from conftest import make_images

import kerazoo
from kerazoo.cli import app as cli
from kerazoo.errors import Interrupted

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A working folder with images; the runs and exports of this module are made in it, in the tests' order."""
    folder = tmp_path_factory.mktemp("here")
    make_images(folder / "photos", count=8, size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def command(words, code=0):
    """What `kerazoo WORDS --json` prints, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kerazoo", *shlex.split(words), "--json"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert (stop.value.code or 0) == code


def answers_of(run):
    return {path.name: np.load(path) for path in sorted((run.folder / "evaluation").glob("*.npy"))}


def same_run(one, other):
    """Recipe, weights, history and answers are equal."""
    assert one.recipe == other.recipe
    assert one.results == other.results
    assert one.history == other.history
    weights = [run.model().get_weights() for run in (one, other)]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    answers = [answers_of(run) for run in (one, other)]
    assert answers[0].keys() == answers[1].keys()
    assert all(np.array_equal(answers[0][name], answers[1][name]) for name in answers[0])


def test_train(here, capsys):
    words = "--epochs 2 --lr 0.01 --batch-size 4 --size 12 --seed 3 --devices cpu --set augmentation.flip=true"
    command(f"train mlp --data photos {words} --name c")
    run = kerazoo.train(
        "mlp", "photos", epochs=2, learning_rate=0.01, batch_size=4, size=12, seed=3, devices="cpu",
        settings={"augmentation.flip": True}, name="first",
    )  # fmt: skip
    same_run(kerazoo.open_run("c"), run)
    assert json.loads(capsys.readouterr().out)["val_accuracy"] == run.results["val_accuracy"]


def test_finetune(here):
    command("finetune photos --backbone bottleneck_cnn --weights mnist --preset light --epochs 1 --name ct")
    run = kerazoo.finetune("photos", "bottleneck_cnn", weights="mnist", preset="light", epochs=1, name="pt")
    same_run(kerazoo.open_run("ct"), run)


def test_resume(here, said):
    """Both go on from where the run was stopped, to what a run that was never stopped gives."""
    words = {
        "epochs": 3, "size": 12, "batch_size": 4, "seed": 3, "devices": "cpu",
        "settings": {"model.arguments.dropout": 0.2, "augmentation.flip": True},
    }  # fmt: skip
    for name in ("cr", "pr"):
        stop_a_run(name, **words)
    command("resume cr")
    run = kerazoo.resume("pr")
    same_run(kerazoo.open_run("cr"), run)
    whole = kerazoo.train("mlp", "photos", **words, name="wr")
    assert sum(bool(re.search("goes on from epoch 2, step [12]$", line)) for line in said) == 2
    same_run(run, whole)


@pytest.mark.slow  # four rankings; test_transfer.py ranks, and test_cli.py checks
def test_rank_and_check(here, capsys):
    command("rank photos --backbone bottleneck_cnn=mnist --backbone mlp=none --size 16")
    printed = json.loads(capsys.readouterr().out)["ranked"]
    ranked = kerazoo.rank("photos", ["bottleneck_cnn=mnist", "mlp=none"], size=16)
    assert [(row["backbone"], row["score"]) for row in printed] == [(row.backbone, row.score) for row in ranked]
    report = kerazoo.check("photos").to_json()
    command("check photos", code=0 if report["ok"] else 1)
    assert json.loads(capsys.readouterr().out) == report


@pytest.fixture(scope="module")
def first(here):
    """The run of `test_train`, or one of its name if this is alone."""
    if not (here / "runs/first").exists():
        kerazoo.train("mlp", "photos", epochs=1, size=12, name="first")


def test_evaluate_and_predict(first, capsys):
    command("evaluate first")
    printed = json.loads(capsys.readouterr().out)
    assert printed["val_loss"] == kerazoo.evaluate("first")["val"].loss
    command("predict first photos/circle --top 2")
    printed = json.loads(capsys.readouterr().out)["predictions"]
    assert printed == [one.to_json() for one in kerazoo.predict("first", "photos/circle", top=2)]


@pytest.mark.slow  # four gates in processes of their own; test_pipeline.py exports and verifies
def test_export_and_verify(first, capsys):
    command("export first --name by_command")
    printed = json.loads(capsys.readouterr().out)
    export = kerazoo.export("first", name="by_call")
    assert printed["gate"] == export.gate.to_json()
    one, other = (kerazoo.open_export(f"saved_models/{name}").probabilities(["photos/circle/00.png"])
                  for name in ("by_command", "by_call"))  # fmt: skip
    np.testing.assert_array_equal(one, other)
    command("verify saved_models/by_command --run first")
    assert json.loads(capsys.readouterr().out) == {
        "export": "saved_models/by_command",
        "gate": kerazoo.verify(export, "first").to_json(),
    }


def public():
    """The public names that have a docstring of their own."""
    found = {name: getattr(kerazoo, name) for name in kerazoo.__all__ if name not in ("__version__", "callbacks")}
    return {name: value for name, value in found.items() if inspect.isfunction(value)}


def test_every_public_function_says_what_it_takes_gives_and_raises_with_an_example():
    for name, function in public().items():
        text = inspect.getdoc(function)
        assert CODE.search(text), f"{name} has no example"
        assert "Returns:" in text, name
        takes = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        for parameter in takes:
            assert re.search(rf"^ +{parameter.name}: ", text, re.MULTILINE), f"{name} does not explain {parameter.name}"


# a story: what an example needs comes before it
STORY = (
    "list_models", "describe", "build", "anatomy", "grad_cam", "load_examples", "check", "diagnose", "train", "resume",
    "finetune", "rank",
    "evaluate", "predict", "report", "export", "verify", "open_run", "open_export", "serve", "deploy",
)  # fmt: skip


@pytest.mark.slow  # every command once: a minute; the other tests of this file make the same calls
def test_the_examples_of_docstrings_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "photos", count=8, size=16, seed=1)
    assert {*STORY, "push"} == set(public())  # test_card.py pushes, to a server of its own
    for name in STORY:
        if name == "resume":
            stop_a_run("stopped", epochs=2, size=16, batch_size=4)
        for code in CODE.findall(inspect.getdoc(getattr(kerazoo, name))):
            exec(compile(textwrap.dedent(code), name, "exec"), {"kerazoo": kerazoo})


def stop_a_run(name, **words):
    """A run of that name in the working folder, asked to stop within its second epoch."""
    import keras

    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        kerazoo.train("mlp", "photos", **words, name=name, callbacks=[Stop()])
