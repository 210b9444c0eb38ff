"""Model cards, and the upload of an export with its card."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import log_lines, make_images
from hub_uploads import serving
from huggingface_hub import ModelCard

import kerazoo
from kerazoo.errors import InputError, KerazooError, RunError
from kerazoo.files import read_json
from kerazoo.recipes.recipe import make_recipe
from kerazoo.reports.card import card_of, write_card_or_say
from kerazoo.training.train import train

NAMES = ("a|b", "`c` <script>alert(1)</script>", "d\u202e *e* [f](http://g)")


def trained(folder, path, **data):
    values = {
        "model": {"name": "mlp"}, "data": {"path": str(path), "size": 8, "channels": 3, "validation": 0.25, **data},
        "training": {"epochs": 1, "batch_size": 4},
    }  # fmt: skip
    return kerazoo.open_run(train(make_recipe(values), name="shapes", root=folder / "runs").folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    return trained(folder, make_images(folder / "secret" / "photos", classes=("circle", "square"), count=8, size=12))


@pytest.fixture(scope="module")
def export(run):
    return run.export(root=run.folder.parents[1] / "saved_models")


def test_the_header_is_what_the_hub_reads(run):
    card = ModelCard(card_of(run))
    (result,) = [one for one in card.data.eval_results if one.metric_type == "accuracy"]
    assert result.metric_value == run.results["val_accuracy"]
    assert (result.task_type, result.dataset_name, result.dataset_split) == ("image-classification", "photos", "val")
    assert card.data.to_dict()["library_name"] == "keras"
    assert card.data.to_dict()["pipeline_tag"] == "image-classification"
    assert card.data.model_name == "shapes"


def test_it_says_what_it_is_and_how_well_and_not_where_the_images_were(run):
    text = card_of(run)
    low, high = run.results["val_accuracy_interval"]
    value, count = run.results["val_accuracy"], run.results["val_examples"]
    assert f"| {count} of val | accuracy | {value:.4f} | {low:.4f} to {high:.4f} |" in text
    assert "by mlp, trained from random weights on photos" in text
    assert "2 classes: circle, square." in text
    assert "secret" not in text
    assert "the phases" not in text
    assert read_json(run.folder / "model.json")["weights_sha256"] in text
    assert "The license of these images was not stated (`data.license`)." in text
    recipe = run.folder / "recipe.toml"
    before = recipe.read_text()
    recipe.write_text(before.replace("[data]\n", '[data]\nlicense = "CC *BY* 4.0"\n'))
    try:
        assert r"License of these images: CC \*BY\* 4.0." in card_of(kerazoo.open_run(run.folder))
    finally:
        recipe.write_text(before)


def test_names_are_text_and_nothing_else(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(24) % 3, x_val=x[:6], y_val=np.arange(6) % 3, names=NAMES)
    run = trained(tmp_path, tmp_path / "a.npz")
    description = read_json(run.folder / "model.json") | {"class_names": list(NAMES)}
    (run.folder / "model.json").write_text(json.dumps(description))
    text = card_of(run)
    assert "<script>" not in text
    assert r"a\|b, \`c\` &lt;script&gt;alert\(1\)&lt;/script&gt;" in text
    assert r"\*e\* \[f\]\(http://g\)" in text
    (run.folder / "recipe.toml").write_text(
        (run.folder / "recipe.toml").read_text().replace("a.npz", r"x: [y]\n---\n\"z.npz")
    )
    result = ModelCard(card_of(kerazoo.open_run(run.folder))).data.eval_results[0]
    assert (result.dataset_name, result.dataset_split) == ('x: [y]\n---\n"z.npz', "val")


@pytest.mark.slow  # an export, and a process with TensorFlow
def test_an_export_has_its_card_and_a_run_too(run, export):
    assert (export.folder / "README.md").read_text() == card_of(export)
    assert ModelCard.load(export.folder / "README.md").data.model_name == "shapes"
    code = re.search(r"```python\n(.*?)```", card_of(export), re.DOTALL)[1]
    image = next(run.folder.parents[1].glob("secret/photos/circle/*.png"))
    shutil.copy(image, export.folder / "image.jpg")
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=export.folder, capture_output=True, text=True, check=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )  # fmt: skip
    finally:
        (export.folder / "image.jpg").unlink()
    (prediction,) = run.predict(image)
    assert done.stdout.strip() == f"[b'{prediction.top[0][0]}']"


def test_a_card_that_cannot_be_written_is_a_line(run, tmp_path):
    folder = tmp_path / "runs" / "copy"
    shutil.copytree(run.folder, folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "README.md").mkdir()
    with log_lines() as lines:
        write_card_or_say(kerazoo.open_run(folder))
    (line,) = lines
    assert re.fullmatch(r".*/copy has no README.md: .*Is a directory.*", line)


# -- upload ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """(what the server has and saw, a function that runs `kerazoo push` against it in a process of its own)"""
    with serving(**{"LICENSE": b"mine", "variables/old": b"old"}) as (kind, address):
        surroundings = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_secret"}

        def push(export, *words, **more):
            command = [sys.executable, "-m", "kerazoo", "push", export, *words]
            return subprocess.run(command, capture_output=True, text=True, env=surroundings | more, check=False)

        yield kind, push


def test_push_uploads_every_file_as_it_is(hub, export):
    kind, push = hub
    done = push(export.folder, "--to", "hf://ada/first", "--private", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["url"].endswith("/ada/first")
    here = {p.relative_to(export.folder).as_posix(): p.read_bytes() for p in export.folder.rglob("*") if p.is_file()}
    passports = [files.pop("assets.extra/passport.json") for files in (kind.files, here)]
    assert kind.files == here | {"LICENSE": b"mine"}  # and the file of an older export has gone
    public, own = map(json.loads, passports)
    assert b"secret" not in passports[0]
    assert (public["recipe"]["data"]["path"], public["metrics"]) == ("photos", own["metrics"])
    assert own["recipe"]["data"]["path"].endswith("/secret/photos")
    assert own["environment"].keys() - public["environment"].keys() == {"command", "variables"}
    created = dict(value for value in kind.seen if isinstance(value[1], dict))["create"]
    assert (created["name"], created["organization"], created["visibility"]) == ("first", "ada", "private")
    assert {token for where, token in kind.seen if where.startswith("POST /api/models")} == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "run `hf auth login`, or set HF_TOKEN"), (500, "500 Server Error|Internal Server Error")],
)
def test_a_refusal_is_one_line(hub, export, status, words):
    kind, push = hub
    kind.refuses = status
    done = push(export.folder, "--to", "hf://ada/first")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"kerazoo: hf://ada/first: .*({words}).*\n", done.stderr)
    assert kind.files == {"LICENSE": b"mine", "variables/old": b"old"}


def test_no_hub_is_one_line(hub, export):
    _, push = hub
    done = push(export.folder, "--to", "hf://ada/first", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert re.fullmatch(r"kerazoo: hf://ada/first: http://127.0.0.1:9 cannot be reached .*\n", done.stderr)


def test_what_is_pushed_is_what_was_exported(export, tmp_path):
    copy = tmp_path / "shapes" / "1"
    shutil.copytree(export.folder, copy)
    index = next(copy.glob("variables/*.index"))
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match=r"variables.index was changed after the export; export the run again"):
        kerazoo.push(copy, to="hf://ada/first")
    for to in ("ada/first", "hf://first", "hf://ada/", "hf://a/b/c"):
        with pytest.raises(InputError, match=r"--to must be hf://USER/NAME, got '"):
            kerazoo.push(export, to=to)
    with pytest.raises(InputError, match="--to hf://a--/b..c"):
        kerazoo.push(export, to="hf://a--/b..c")
    with pytest.raises(KerazooError, match="there is no export"):
        kerazoo.push(Path("nowhere"), to="hf://ada/first")
