"""README and docs: the links, files, commands, keys and functions that they name exist; README's Python runs."""

import ast
import inspect
import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import make_images

import kerazoo
from kerazoo.cli.app import app
from kerazoo.models.registry import list_models
from kerazoo.recipes import recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
PART = re.compile(r"^(data|training|optimizer|augmentation|checkpoint|transfer)\.(\w+)")
OF_OTHERS = {"--enable_batching", "--follow", "--kill-on-bad-exit", "--kills", "--schedule"}  # flags of other programs

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def inline(page: Path) -> list[str]:
    """The code within sentences and tables."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(code.split()).replace("\\|", "|") for code in INLINE.findall(text)]


def fenced(page: Path, *languages: str) -> list[str]:
    """The code blocks of these languages."""
    return [code for language, code in FENCED.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `kerazoo ...` in the blocks, after `kerazoo`."""
    for block in fenced(page, "", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(r"^(?:\$ |srun .*?)?kerazoo (?!needs)(.*)", line):
                yield shlex.split(found[1], comments=True)


def parse(words: list[str]) -> None:
    """Have the command line parse `words`, and run nothing; a command or flag that does not exist raises."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words[0]]
        words = words[1:]
    command.make_context(command.name, ["1" if word == "N" else word for word in words])


def known_keys() -> set[str]:
    """Every key of a recipe, dotted."""
    keys = set()
    for name, field in recipe.Recipe.model_fields.items():
        keys.add(name)
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            keys |= {f"{name}.{key}" for key in getattr(part, "model_fields", ())}
    return keys


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}: there is no such heading"


@each_page
def test_named_files_exist(page):
    for code in inline(page):
        for name in re.findall(
            r"(?<![\w/.])[\w./-]+\.py\b|(?<![\w/.])(?:docs|tests|recipes|benchmarks)/[\w./-]+\.\w+", code
        ):
            places = [ROOT / name, ROOT / "src" / "kerazoo" / name]
            assert any(place.exists() for place in places), f"{page.name} names {name}"


@each_page
def test_commands_and_flags_exist(page):
    for words in commands(page):
        try:
            parse(words)
        except Exception as error:
            pytest.fail(f"{page.name}: kerazoo {shlex.join(words)}: {error!r}")


@each_page
def test_commands_and_flags_within_sentences_exist(page):
    root = typer.main.get_command(app)
    found = [root, *root.commands.values()]
    found += [inner for command in found[1:] for inner in getattr(command, "commands", {}).values()]
    everywhere = {flag for command in found for option in command.params for flag in option.opts}
    for code in inline(page):
        words = code.split()
        flags = everywhere
        if words[0] == "kerazoo" and len(words) > 1 and not words[1].startswith("-"):
            command = root
            for word in words[1:3]:
                if hasattr(command, "commands"):
                    assert word in command.commands, f"{page.name}: `{code}`: there is no command {word}"
                    command = command.commands[word]
            flags = {flag for option in command.params for flag in option.opts} | {"--help"}
        elif not words[0].startswith("--"):
            continue
        for word in words:
            flag = word.partition("=")[0]
            assert not word.startswith("--") or flag in flags | OF_OTHERS | {"--help"}, (
                f"{page.name}: `{code}`: no {flag}"
            )


@each_page
def test_keys_of_recipes_exist(page):
    text = " ".join([*inline(page), *fenced(page, "", "sh", "yaml")])
    keys = {word.removeprefix("--set=") for word in text.split() if PART.match(word.removeprefix("--set="))}
    keys |= set(re.findall(r"--set ([\w.]+)=", text))
    for key in keys - {"key", "KEY"}:
        name = re.match(r"[\w.]+", key)[0]
        if not name.endswith(".json") and not name.startswith("model.arguments."):
            assert name in known_keys(), f"{page.name}: there is no {name}"


def dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written; "" where it is something else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}" if dotted(node.value) else ""
    return node.id if isinstance(node, ast.Name) else ""


def resolve(name: str) -> object:
    """What the dotted name of kerazoo stands for."""
    found: object = kerazoo
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return found


@each_page
def test_functions_exist_and_take_these_arguments(page):
    names = {"run": kerazoo.Run, "export": kerazoo.Export, "prediction": kerazoo.Prediction}  # what examples call them
    sentences = [code for code in inline(page) if re.match(r"kerazoo\.\w+\(.*\)$", code)]
    for code in [*fenced(page, "python"), *sentences]:
        for node in ast.walk(ast.parse(code.replace("callbacks=[...]", "callbacks=[]"))):
            name = dotted(node)
            first, _, rest = name.partition(".")
            if first in names and rest:
                fields = getattr(names[first], "__dataclass_fields__", {})
                assert rest.split(".")[0] in {*dir(names[first]), *fields}, f"{page.name}: there is no {name}"
            elif first == "kerazoo" and rest:
                resolve(name)
            if isinstance(node, ast.Call) and dotted(node.func).startswith("kerazoo."):
                keywords = {keyword.arg: None for keyword in node.keywords}
                inspect.signature(resolve(dotted(node.func))).bind_partial(*node.args, **keywords)
    for code in inline(page):
        if found := re.match(r"kerazoo(\.\w+)+$", code):
            resolve(found[0])


def test_the_python_of_readme_runs(tmp_path, monkeypatch, capsys):
    """On a folder of 36 images and the smallest probe; the export at its end starts a process, and is left out."""
    make_images(tmp_path / "flowers240" / "train", classes=("roses", "tulips"))
    make_images(tmp_path / "flowers240" / "val", classes=("roses", "tulips"), count=6, seed=5)
    more = make_images(tmp_path / "more", classes=("roses",), count=6, seed=6)
    (more / "roses" / "page.jpg").write_text("<html>")
    monkeypatch.chdir(tmp_path)
    block, served = fenced(ROOT / "README.md", "python")
    small = '"mlp", weights="none", preset="linear", size=8, settings={"log": [], "transfer.calibrate": False}'
    for old, new in {
        '"mobilenet_025", weights="mobilenet_2_5_224_tf_no_top.h5"': small,
        ", write=True": "",
        'run.predict("flowers240/val/roses")': 'run.predict("more")',
        "export = run.export()": "run.export",
    }.items():
        assert block.count(old) == 1
        block = block.replace(old, new)
    found: dict[str, object] = {}
    exec(block, found)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + 6 + 1
    assert re.search(r"/page.jpg +it cannot be decoded", "\n".join(printed))
    assert found["model"].output_shape == (None, 2)
    assert 'signatures["serving_default"]' in served


def own_fit(tmp_path, monkeypatch):
    """The names that "Your own fit" defines, run on 24 images by the smallest network."""
    make_images(tmp_path / "flowers240", classes=("roses", "tulips"), count=12, size=20)
    monkeypatch.chdir(tmp_path)
    block = python_of("training.md", "Your own `fit`")[0]
    assert block.count('"mobilenet_025"') == 2
    found: dict[str, object] = {}
    exec(block.replace("mobilenet_025", "mlp").replace("imagenet", "none"), found)
    return found


def python_of(guide, heading):
    """The Python blocks below a heading of a guide."""
    section = (ROOT / "docs" / "guides" / guide).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    return [code for language, code in FENCED.findall(section.split("\n## ")[0]) if language == "python"]


@pytest.mark.slow  # half a minute: processes that are stopped and run again
def test_the_own_fit_of_the_guide_runs(tmp_path, monkeypatch, capsys):
    found = own_fit(tmp_path, monkeypatch)
    assert "['roses', 'tulips']" in capsys.readouterr().out.replace("(", "[").replace(")", "]")
    images, _ = next(iter(found["batches"]("train")))
    assert images.shape[1:] == (28, 28, 1)
    assert 0 <= float(images.numpy().min()) < float(images.numpy().max()) <= 1
    assert len(found["model"].history.history["val_accuracy"]) == 5


def test_the_check_of_the_guide_runs(tmp_path, monkeypatch, capsys):
    """On a folder without a validation split, with a file that is not an image."""
    make_images(tmp_path / "flowers240", classes=("roses", "tulips"), count=12, size=20)
    (tmp_path / "flowers240" / "roses" / "page.jpg").write_text("<html>")
    monkeypatch.chdir(tmp_path)
    exec(python_of("data.md", "Check")[0], {})
    printed = capsys.readouterr().out
    assert "\nnot an image roses/page.jpg it is not" in f"\n{printed}"
    assert "['roses', 'tulips'] {'roses': 1" in printed.replace("(", "[").replace(")", "]")


def test_resume_as_the_guide_shows_it_survives_ctrl_c(tmp_path, monkeypatch):
    import keras

    monkeypatch.chdir(tmp_path)
    block = next(code for code in python_of("training.md", "Callbacks in your own `fit`") if "Resume(" in code)
    x = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")
    fit = keras.Model.fit

    class CtrlC(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.model.optimizer.iterations == 5:
                os.kill(os.getpid(), signal.SIGINT)

    def run(*before):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])
        model.compile("adam", "mse")
        model.fit = lambda *words, callbacks, **more: fit(
            model, *words, callbacks=[*before, *callbacks], verbose=0, **more
        )
        exec(block, {"model": model, "x": x, "y": x[:, :1]})
        return model

    with pytest.raises(kerazoo.Interrupted, match="saved at epoch 2, step 2"):
        run(CtrlC())
    model = run()
    assert int(model.optimizer.iterations) == 30
    (tmp_path / "states").rename(tmp_path / "old")
    np.testing.assert_array_equal(model.get_weights()[0], run().get_weights()[0])


def test_the_table_of_models_has_the_small_networks():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Models")[1].split("\n## ")[0]
    small = [name for name in list_models() if f"`{name}`" in section]
    assert small == list_models()[: len(small)]
    assert len(small) == 12
    assert f"all {len(list_models())} with" in section
