"""The command line as a person meets it: one clear line for bad input, exit codes, quiet start, quick help."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import make_images
from PIL import Image

from kerazoo.cli import app as cli
from kerazoo.cli.output import print_json, print_text
from kerazoo.errors import Interrupted
from kerazoo.serving.predict import Prediction


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, to see that nothing is left in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def call(monkeypatch, capsys, *arguments):
    """The command in this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr(sys, "argv", ["kerazoo", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def one_class(folder):
    return make_images(folder, classes=("alone",))


def lonely_image(folder):
    make_images(folder)
    (folder / "third").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "third" / "only.png")
    return folder


def corrupt_image(folder):
    make_images(folder)
    path = folder / "circle" / "03.png"
    path.write_bytes(path.read_bytes()[:90])
    return folder


def empty_folder(folder):
    folder.mkdir()
    return folder


SMALL = ["--set", "data.size=24"]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda f: f, [], r"there is no folder or file .*data"),
        (empty_folder, [], r"data is empty; use one"),
        (one_class, [], r"data has only one class \('alone'\)"),
        (lonely_image, [], r"class 'third' in .*data has one image to train on"),
        (corrupt_image, ["--set", "data.size=32"], r"1 image cannot be decoded: .*circle/03.png"),
        (make_images, ["--set", "data.size=31"], r"vgg16: input_shape=\(31, 31, 3\) is too small; .* at least 32 px"),
        (
            make_images,
            ["--weights", "missing.h5"],
            r"there is no file missing.h5; use the path of a weights file or a run, or imagenet, none",
        ),
        (make_images, ["--backbone", "resnet5"], r"no model is called 'resnet5': did you mean resnet"),
        (make_images, ["--set", "optimizer.rate=1"], r"no key 'optimizer.rate'; known here: name, learning_rate"),
        (make_images, ["--set", "training.batch_size=0"], r"training.batch_size must be .* got 0"),
        (make_images, ["--name", "../up"], r"run name '../up' must be a plain folder name"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(here, tmp_path, monkeypatch, capsys, make, options, message):
    data = make(tmp_path / "data")
    base = ["--backbone", "vgg16", "--weights", "none"]
    code, out, err = call(monkeypatch, capsys, "finetune", data, *base, *options)
    assert code == 2
    assert not out
    assert re.search(message, err)
    assert err.startswith("kerazoo: ")
    assert err.count("\n") == 1
    assert not list(here.iterdir())


def test_a_weights_file_of_another_architecture(here, tmp_path, monkeypatch, capsys, shared):
    data, weights = make_images(tmp_path / "data"), shared / "weights" / "mobilenet_2_5_224_tf_no_top.h5"
    arguments = [
        "finetune",
        data,
        "--backbone",
        "mobilenet_v2_035",
        "--weights",
        weights,
        *SMALL,
        "--set",
        "data.size=32",
    ]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert re.fullmatch(
        r"kerazoo: the weights in .*no_top.h5 do not fit mobilenet_v2_035: they are for another network \(.*\)\n", err
    )
    assert not list(here.iterdir())


@pytest.mark.slow  # a ranking and a fine-tuning; test_api.py has both by the command and by the call
def test_probe_ranks_and_finetune_says_its_stages(here, tmp_path, monkeypatch, capsys):
    data = make_images(tmp_path / "data")
    small = ["--set", "data.size=28", "--set", "data.channels=1", "--set", "training.batch_size=4", "--json"]
    names = ["--backbone", "mlp=none", "--backbone", "bottleneck_cnn=mnist"]
    code, out, err = call(monkeypatch, capsys, "rank", data, *names, *small)
    assert code == 0, err
    ranked = json.loads(out)["ranked"]
    assert {row["backbone"]: row["weights"] for row in ranked} == {"mlp": "none", "bottleneck_cnn": "mnist"}
    assert not list(here.iterdir())
    start = [
        "finetune",
        data,
        "--backbone",
        "bottleneck_cnn",
        "--weights",
        "mnist",
        "--preset",
        "linear",
        "--name",
        "run",
    ]
    code, out, err = call(monkeypatch, capsys, *start, *small)
    assert code == 0, err
    phases = {stage["name"]: stage for stage in json.loads(out)["phases"]}
    assert phases["probe"]["score"] == next(row["score"] for row in ranked if row["backbone"] == "bottleneck_cnn")
    assert phases["features"]["computed"] == 0  # the ranking left them
    kept = here / "linear.toml"
    kept.write_text(f'model.name = "mlp"\ndata.path = "{data}"\ntransfer.preset = "linear"\n')
    for command in (["finetune", data, "--preset", "linear"], ["train", kept]):
        for epochs in (["--epochs", "2"], ["--set", "training.epochs=2"]):
            code, out, err = call(monkeypatch, capsys, *command, *epochs)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert err.startswith("kerazoo: training.epochs=2 contradicts transfer.preset='linear'")
    code, _, err = call(monkeypatch, capsys, "finetune", data, "--devices", "multiworker", *small)
    assert (code, err.count("\n")) == (2, 1)  # at once, without waiting for any worker
    assert "devices='multiworker' works only with `kerazoo train`" in err
    code, _, err = call(monkeypatch, capsys, "finetune", data, "--preset", "heavy", *small)
    assert code == 2
    assert re.search(r"transfer.preset must be 'linear', 'light', 'full' or 'bit', got 'heavy'", err)


def test_ctrl_c_outside_of_training_is_one_line(here, tmp_path, monkeypatch, capsys):
    def asked(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kerazoo.transfer.finetune.learn_head", asked)
    data = make_images(tmp_path / "data")
    given = ["--backbone", "bottleneck_cnn", "--weights", "mnist", *SMALL, "--name", "run"]
    code, out, err = call(monkeypatch, capsys, "finetune", data, *given)
    assert (code, out) == (130, "")
    last = "kerazoo: `kerazoo finetune` was stopped; run the same command again to resume an unfinished run"
    assert err.splitlines()[-1] == last
    assert json.loads((here / "runs" / "run" / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_saved_its_state_has_its_line_and_its_exit_code(here, monkeypatch, capsys, number):
    def stop(*_, **__):
        raise Interrupted("stopped: saved at epoch 2, step 1", number)

    monkeypatch.setattr("kerazoo.api.training._train", stop)
    for words in (["train", "mlp", "--data", "x"], ["finetune", "x", "--backbone", "mlp"]):
        code, out, err = call(monkeypatch, capsys, *words)
        assert (code, out, err) == (128 + number, "", "kerazoo: stopped: saved at epoch 2, step 1\n")


def test_odd_names_are_printed_harmlessly(here, monkeypatch, capsys):
    """In lines of answers and in messages; escape codes, line breaks, bytes that are no UTF-8."""
    name = "odd \x1b[31m\n\udcff.jpg"
    written = r"odd \x1b[31m\n\udcff.jpg"
    assert call(monkeypatch, capsys, "predict", "one", name) == (
        2, "", f"kerazoo: there is no file or folder {written}\n",
    )  # fmt: skip
    answer = Prediction(Path(name), (("a\x1bclass", 0.5),)).line()
    assert answer == rf"'{written}'  'a\x1bclass' 0.5000"
    print_text(f"{name} 0.5")
    print_json({"file": name})
    text, values = capsys.readouterr().out.splitlines()
    assert text == f"{written} 0.5"
    assert values.isprintable()
    assert json.loads(values) == {"file": name}


def test_what_is_stopped_without_a_run_promises_none(here, tmp_path, monkeypatch, capsys):
    """The last line names the command, which stands behind the flags of `kerazoo` itself."""

    number = signal.SIGTERM

    def asked(*_, **__):
        signal.raise_signal(number)

    monkeypatch.setattr("kerazoo.pipelines.checks.check.inspect_all", asked)
    monkeypatch.setattr("kerazoo.pipelines.checks.once.inspect_all", asked)
    data = make_images(tmp_path / "data")
    trial = ["try", "mlp", "--data", data, "--size", "16", "--learning-rate", "rates.svg"]
    for command, number in (
        (trial, signal.SIGINT),  # first: the command leaves Ctrl-C ignored, since its process ends with it
        (["check", data], signal.SIGTERM),
        (["--traceback", *trial], signal.SIGTERM),
    ):
        code, out, err = call(monkeypatch, capsys, *command)
        assert (code, out) == (128 + number, "")
        name = next(word for word in command if word in ("check", "try"))
        assert err.splitlines()[-1] == f"kerazoo: `kerazoo {name}` was stopped"
    assert not (here / "rates.svg").exists()


@pytest.mark.slow  # a minute: a training and all that follows; test_api.py has each command
def test_the_commands_in_turn(here, tmp_path, monkeypatch, capsys):
    """train, evaluate, export, predict, with --json on standard output alone; then names that are taken."""
    data = make_images(tmp_path / "data")
    train = ["train", "mlp", "--data", data, "--name", "one", "--epochs", "1", "--set", "data.channels=3"]
    train += ["--size", "24", "--lr", "0.003", "--batch-size", "all"]
    code, out, err = call(monkeypatch, capsys, *train, "--json")
    assert code == 0, err
    trained = json.loads(out)
    assert trained["run"] == "runs/one"
    assert "epoch 1/1" in err
    recipe = tomllib.loads((here / "runs" / "one" / "recipe.toml").read_text())
    assert (recipe["data"]["size"], recipe["optimizer"]["learning_rate"]) == (24, 0.003)
    assert recipe["training"]["batch_size"] == 22  # all
    code, out, _ = call(monkeypatch, capsys, "evaluate", "one", "--json")
    assert code == 0
    assert json.loads(out)["val_accuracy"] == trained["val_accuracy"]
    code, out, _ = call(monkeypatch, capsys, "export", "one", "--name", "shapes", "--json")
    assert code == 0
    assert json.loads(out)["export"] == "saved_models/shapes/1"
    (tmp_path / "half.png").write_bytes((data / "circle" / "00.png").read_bytes()[:90])
    (tmp_path / "odd \x1b[31m\n\udcff\x9b.png").write_bytes((data / "circle" / "00.png").read_bytes())
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for model in ("one", "saved_models/shapes"):  # the newest version
        # a bad file among others is a row with its reason, and names are printed harmlessly
        files = [data / "circle" / "00.png", *sorted(tmp_path.glob("*.png")), __file__]
        code, out, err = call(monkeypatch, capsys, "predict", model, *files, "--top", "1")
        good, half, odd, script = out.splitlines()
        assert (code, out.isprintable()) == (1, False)
        assert re.fullmatch(r".*/circle/00.png  (circle|square) [01]\.\d{4}", good)
        assert re.fullmatch(r".*/half.png  it cannot be decoded: .+", half)
        assert odd.endswith(good.split("png")[-1])
        assert r"odd \x1b[31m\n\udcff\x9b.png" in odd
        assert script.endswith("test_cli.py  it cannot be decoded: it is not a JPEG, PNG, GIF, BMP or WebP image")
        assert err == "kerazoo: 2 of 4 files have no prediction; their lines say why\n"
        code, out, _ = call(monkeypatch, capsys, "predict", model, *files, "--top", "1", "--json")
        rows = json.loads(out)["predictions"]
        assert code == 1
        assert out.rstrip("\n").isprintable()
        assert [set(row) for row in rows] == [
            {"file", "label", "probability", "top"}, {"file", "error"}, {"file", "label", "probability", "top"},
            {"file", "error"},
        ]  # fmt: skip
        assert rows[2]["probability"] == pytest.approx(rows[0]["probability"], abs=1e-6)
        assert [row["file"] for row in rows] == [str(file) for file in files]
        code, out, _ = call(monkeypatch, capsys, "predict", model, data / "circle", "--json", "--top", "1")
        assert code == 0
        assert [len(p["top"]) for p in json.loads(out)["predictions"]] == [1] * 12
        code, out, _ = call(monkeypatch, capsys, "predict", model, data / "circle" / "00.png", pipe)
        assert code == 1
        assert out.splitlines()[1].endswith(
            "pipe.jpg  it cannot be read: it is a named pipe; only regular files are read"
        )

    code, out, _ = call(monkeypatch, capsys, "try", "mlp", "--data", data, "--learning-rate", "rates.svg", "--json")
    assert (here / "rates.svg").read_text().startswith("<")
    assert (json.loads(out)["suggestion"] is None) == bool(code)
    code, out, _ = call(monkeypatch, capsys, "try", "mlp", "--data", data, "--one-batch", "--json")
    assert (code, json.loads(out)["passed"]) == (0, True)

    broken = tmp_path / "broken.toml"
    broken.write_text('data = "images"\n[model]\nname = "mlp"\n')
    before = sorted(str(p) for p in here.rglob("*"))
    for arguments, message in (
        (
            train,
            "run runs/one exists and is finished: open it with kerazoo.open_run, choose another name .--name., or",
        ),
        (["resume", "one"], "run .*runs/one is finished"),
        (["resume", "three"], "there is no run .*runs/three to resume"),
        (["try", "mlp", "--data", data, "--learning-rate", "no/rates.svg"], "there is no folder .*no; make it"),
        (["try", "mlp", "--data", data], "needs either --learning-rate CHART.svg or --one-batch"),
        (["verify", "saved_models/none", "--run", "one"], "there is no export saved_models/none; give a folder"),
        (["train", "mlp", "--data", data, "--name", "n" * 201], "must be a plain folder name of at most 200 bytes"),
        (["train", "mlp", "--data", data, "--devices", "both"], "devices must be one of auto, cpu"),
        (["export", "one", "--name", "shapes"], r"export saved_models/shapes exists \(version 1\)"),
        (["export", "two"], "there is no run two"),
        (["predict", "one", tmp_path / "none.jpg"], "there is no file or folder .*none.jpg"),
        (["predict", "saved_models/none", data], "there is no run saved_models/none"),
        (["train", "mlpp", "--data", data], "no model is called 'mlpp': did you mean mlp"),
        (["train", "mlp"], "recipe key data is missing; name the data .--data"),
        (["train", "absent.toml"], "there is no recipe absent.toml"),
        (["train", broken, "--data", data], "recipe key data.path: 'data' must be a table of keys"),
    ):
        code, out, err = call(monkeypatch, capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert re.search(message, err)
    assert sorted(str(p) for p in here.rglob("*")) == before

    code, _, err = call(monkeypatch, capsys, "train", "runs/one/recipe.toml", "--name", "again", "--set", "seed=0")
    assert code == 0, err
    np.testing.assert_array_equal(*(np.load(f"runs/{name}/evaluation/val.npy") for name in ("one", "again")))


def test_models_lists_the_registry(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "models", "--json")
    rows = {row["name"]: row for row in json.loads(out)["models"]}
    assert code == 0
    assert len(rows) == 62
    assert rows["vgg16"]["parameters"] == 14_714_688
    code, out, _ = call(monkeypatch, capsys, "models", "--filter", "ResNet50")
    assert [line.split()[0] for line in out.splitlines()] == ["resnet50", "resnet50_v2"]


def test_traceback_is_shown_on_request(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["kerazoo", "--traceback", "export", str(tmp_path / "nothing")])
    with pytest.raises(ValueError, match="there is no run"):
        cli.main()


NO_TENSORFLOW = """
import contextlib, io, json, sys

class TooEarly:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "jax", "sklearn"):
            raise ImportError(f"{name} is imported too early")

sys.meta_path.insert(0, TooEarly())
from kerazoo.cli import app as cli

found = []
for arguments in json.load(sys.stdin):
    sys.argv, error, code = ["kerazoo", *arguments], io.StringIO(), None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        except ImportError as early:
            code = str(early)
    found.append([code, error.getvalue()])
print(json.dumps(found))
"""
WRONG = [
    (["train", "nosuch", "--data", "data"], "no model is called 'nosuch'"),
    (["train", "mlp", "--data", "nosuch"], "there is no folder or file nosuch"),
    (["train", "mlp", "--data", "typo.toml"], "typo.toml must be an image folder, an .npz file or a table"),
    (["try", "mlp", "--data", "nosuch", "--one-batch"], "there is no folder or file nosuch"),
    (["try", "mlp", "--data", "data", "--learning-rate", "no/a.svg"], "the chart no/a.svg cannot be written"),
    (["train", "mlp", "--data", "data", "--name", "../up"], "run name '../up' must be a plain folder name"),
    (["train", "mlp", "--data", "data", "--set", "bad=1"], "the recipe has no key 'bad'"),
    (["train", "mlp", "--data", "data", "--devices", "bad"], "devices must be one of auto, cpu"),
    (["train", "typo.toml", "--data", "data"], "the recipe has no key 'trainin'"),
    (["train", "nosuch.toml"], "there is no recipe nosuch.toml"),
    (["resume", "nosuch"], "nosuch to resume"),
    (["train", "mlp", "--data", "data", "--batch-size", "many"], "training.batch_size"),
    (
        ["train", "mlp", "--data", "data", "--lr", "0.1", "--set", "optimizer.learning_rate=0.2"],
        "optimizer.learning_rate is set twice, to 0.1 and to 0.2; remove one of them",
    ),
    (
        ["train", "mlp", "--data", "nosuch", "--batch-size", "8", "--set", "training.batch_size=8"],
        "there is no folder or file nosuch",
    ),
    (["finetune", "nosuch"], "there is no folder or file nosuch"),
    (["finetune", "data", "--backbone", "nosuch"], "no model is called 'nosuch'"),
    (["finetune", "data", "--weights", "nosuch.h5"], "there is no file nosuch.h5; use the path"),
    (["finetune", "data", "--name", "../up"], "run name '../up' must be a plain folder name"),
    (["finetune", "data", "--size", "64", "--set", "data.size=65"], "data.size is set twice, to 64 and to 65"),
    (["rank", "nosuch"], "there is no folder or file nosuch"),
    (["rank", "data", "--backbone", "vgg16=nosuch"], "there are no weights 'nosuch' for vgg16"),
    (["evaluate", "nosuch"], "there is no run nosuch"),
    (["evaluate", "run", "--data", "nosuch"], "there is no folder or file nosuch"),
    (["predict", "nosuch", "data"], "there is no run nosuch"),
    (["predict", "run", "nosuch.jpg"], "there is no file or folder nosuch.jpg"),
    (["export", "nosuch"], "there is no run nosuch"),
    (["export", "run", "--name", "../up"], "export name '../up' must be a plain folder name"),
    (["verify", "nosuch", "--run", "run"], "there is no export nosuch"),
    (["train", "--resume", "run"], "`train --resume` was renamed; use: kerazoo resume RUN"),
    (["train", "mlp", "--lr-find=a.svg"], "kerazoo try MODEL --data DATA --learning-rate CHART.svg"),
    (["train", "mlp", "--overfit-one-batch"], "kerazoo try MODEL --data DATA --one-batch"),
    (["finetune", "data", "--probe-only"], "kerazoo finetune DATA --preset linear"),
    (["probe", "data"], "`probe` was renamed; use: kerazoo rank DATA"),
    (["check", "nosuch"], "there is no folder or file nosuch"),
    (["check", "empty"], "the folder empty is empty; use one that contains a folder of images for each class"),
    (["check", "data", "--policy", "wild"], "recipe key augmentation.policy"),
    (["train", "mlp", "--data", "data", "--set", "augmentation.policy=wild"], "recipe key augmentation.policy"),
    (["finetune", "empty"], "the folder empty is empty"),
    (["weights", "fetch", "nosuch"], "no model is called 'nosuch'"),
    (["weights", "unbundle", "nosuch.tar"], "there is no bundle nosuch.tar"),
]


def test_wrong_names_and_paths_are_told_before_tensorflow_starts(here):
    """Which takes seconds; a module that may not be imported says so better than a clock."""
    make_images(here / "data", count=2)
    (here / "typo.toml").write_text("[model]\nname = 'mlp'\n[trainin]\nepochs = 1\n")
    (here / "empty").mkdir()
    (here / "runs" / "run").mkdir(parents=True)
    (here / "runs" / "run" / "run.json").write_text('{"status": "finished"}')
    (here / "runs" / "run" / "model.json").write_text("{}")
    command = [sys.executable, "-c", NO_TENSORFLOW]
    given = json.dumps([arguments for arguments, _ in WRONG])
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=60)
    for (arguments, message), (code, error) in zip(WRONG, json.loads(done.stdout), strict=True):
        assert code == 2, (arguments, code, error)
        assert message in error, (arguments, error)
        assert error.startswith("kerazoo: "), arguments
        assert error.count("\n") == 1, error


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["models"], ["train", "--help"], ["--version"], ["weights", "list"], ["weights", "fetch", "--help"]],
)
def test_quick_commands_import_no_tensorflow(arguments):
    script = (
        "import sys; sys.argv = ['kerazoo', *sys.argv[1:]]\n"
        "from kerazoo.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'jax', 'sklearn', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not done.stderr
    # the promise is 0.3 s of CPU on an idle machine; a shared one may take three times as long
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.9


IN_TURN = """
import json, sys
from kerazoo.cli.app import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["kerazoo", *arguments]
    try: main()
    except SystemExit as stop: assert not stop.code, stop.code
"""


@pytest.mark.slow  # a training, an export and a prediction by default; test_fresh.py has the start of each process
def test_no_noise_reaches_the_terminal(here, tmp_path):
    """In a process of its own: standard error holds our lines and nothing of TensorFlow's."""
    data = make_images(tmp_path / "data", count=4)
    train = ["train", "bottleneck_cnn", "--data", str(data), "--name", "r", "--epochs", "1", *SMALL]
    # one start of TensorFlow shows it for all three
    commands = json.dumps([train, ["export", "r"], ["predict", "saved_models/r/1", str(data)]])
    done = subprocess.run([sys.executable, "-c", IN_TURN, commands], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = re.compile(r"bottleneck_cnn: |epoch 1/1 |val: |no findings$|not looked at: ")
    assert all(ours.match(line) for line in done.stderr.splitlines()), done.stderr
    assert done.stdout


# -- check --------------------------------------------------------------------------------------------------------


def test_check_says_what_would_spoil_a_result_and_leaves_it_out(here, monkeypatch, capsys):
    good = make_images(here / "good", size=40)
    code, out, _ = call(monkeypatch, capsys, "check", good)
    assert code == 0
    assert "24 images, nothing that would spoil a result" in out
    bad = make_images(here / "bad", size=40)
    (bad / "circle" / "page [1].jpg").write_text("<html>")
    (bad / "circle" / "12.webp").write_bytes((bad / "circle" / "00.png").read_bytes())
    code, out, _ = call(monkeypatch, capsys, "check", bad)
    assert code == 1
    assert re.search(r"not an image +1 +circle/page \[1\].jpg: it is not a JPEG, PNG, GIF, BMP or WebP", out)
    assert re.search(r"wrong ending +1 +circle/12.webp: the format is PNG, but the extension is .webp", out)
    assert re.search(r"copy +1 +circle/12.webp: the same pixels as circle/00.png", out)
    assert "1 finding in 26 images would spoil a result" in out
    code, out, _ = call(monkeypatch, capsys, "check", bad, "--json")
    report = json.loads(out)
    assert code == 1
    assert (report["ok"], report["images"], list(report["excluded"])) == (False, 26, ["circle/page [1].jpg"])
    code, out, _ = call(monkeypatch, capsys, "check", bad, "--write")
    assert code == 0
    assert "kerazoo-manifest.json: training leaves out 1 of 26 images" in out
    assert call(monkeypatch, capsys, "check", bad)[0] == 0
    settings = ["--set", "data.size=16", "--set", "data.channels=3", "--epochs", "1", "--name", "run"]
    code, out, err = call(monkeypatch, capsys, "train", "mlp", "--data", bad, *settings)
    assert code == 0
    assert "1 left out: circle/page [1].jpg (not an image: it is not a JPEG" in err


def test_check_draws_what_training_sees(here, monkeypatch, capsys):
    data = make_images(here / "data", size=40)
    code, _, err = call(monkeypatch, capsys, "check", data, "--show-augmented", "grid.png", "--policy", "strong")
    assert code == 0
    assert "drawn: grid.png" in err
    image = Image.open(here / "grid.png")
    assert image.size[0] == 8 * 160
    assert len(np.unique(np.array(image).reshape(-1, 3), axis=0)) > 100
    assert sorted(p.name for p in here.iterdir()) == ["data", "grid.png"]
    code, _, err = call(monkeypatch, capsys, "check", data, "--show-augmented", "grid.png", "--policy", "wild")
    assert (code, err.count("\n")) == (2, 1)
    assert "augmentation.policy must be 'none', 'light', 'standard' or 'strong', got 'wild'" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder or file nowhere"),
        (["tfds:mnist", "--set", "data.data_dir=.", "--set", "data.download=false"], "tfds:mnist is not in"),
        (["data", "--group", "subject"], "data.group='subject' matches no name"),
        (["data", "--validation", "1.5"], "recipe key data.validation must be a number in (0, 1), got 1.5"),
        (["data", "--write", "--manifest", "no/such/place.json"], "no/such/place.json cannot be written"),
    ],
)
def test_check_names_what_it_cannot_do(here, monkeypatch, capsys, arguments, message):
    make_images(here / "data")
    code, out, err = call(monkeypatch, capsys, "check", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
