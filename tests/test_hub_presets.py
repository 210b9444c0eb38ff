"""The files of presets: named, fetched, checked, bundled; and what is refused before anything is built."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras_hub")
from hub_presets import FAMILIES, save_preset
from hub_server import serving

import kerazoo
from kerazoo.errors import ModelError, WeightsError
from kerazoo.models.hub.bundles import unpack_presets
from kerazoo.models.hub.families import problem_of
from kerazoo.models.hub.licenses import license_note, license_of
from kerazoo.models.hub.loading import load_preset
from kerazoo.models.hub.presets import check_preset, find_preset, source_of
from kerazoo.models.registry import find

KAGGLE = "vit_base_patch16_224_imagenet"
BOTH = pytest.mark.parametrize(
    "name",
    ["hub:hf://u/tiny", pytest.param(f"hub:{KAGGLE}", marks=pytest.mark.slow(reason="as the other, with Kaggle"))],
)
CLOSED = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    save_preset(folder, "ViTBackbone")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n")
    return folder


@pytest.fixture
def call(tmp_path):
    """Run a command in a process of its own, with caches of its own and a server in place of both hubs."""

    def run(*words, url=CLOSED):
        own = {
            "KERAZOO_CACHE": tmp_path / "cache", "HF_HOME": tmp_path / "hf", "KAGGLEHUB_CACHE": tmp_path / "kaggle",
            "HF_ENDPOINT": url, "KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HTTP_PROXY": url, "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        environment = {**os.environ, **{key: str(value) for key, value in own.items()}}
        done = subprocess.run(
            [sys.executable, "-m", "kerazoo", *map(str, words)], capture_output=True, env=environment, timeout=120,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")

    return run


@BOTH
def test_a_preset_is_fetched_once_and_checked(name, tiny, call, tmp_path):
    with serving(tiny) as (url, server):
        code, out, err = call("weights", "fetch", name, "--json", url=url)
        assert code == 0, err
        folder = json.loads(out)["weights"][0]["path"]
        asked = len(server.seen)
        assert asked
        code, out, err = call("weights", "verify", name, url=url)
        assert (code, out) == (0, f"{name}  correct sha256  {folder}\n"), err
        assert len(server.seen) == asked, "it was on this machine"
    code, out, _ = call("weights", "bundle", name, "--output", tmp_path / "one.tar", "--json")
    assert code == 0
    assert json.loads(out)["weights"][0]["license"] == "apache-2.0"
    path = Path(folder) / "image_converter.json"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b" ")
    code, _, err = call("weights", "verify", name)
    assert code == 2
    assert "image_converter.json was changed after it was fetched: its sha256 must be" in err


@pytest.mark.slow(reason="processes that fetch twice; a connection that ends is tried again, with pauses")
@pytest.mark.parametrize("name", ["hub:hf://u/tiny", f"hub:{KAGGLE}"])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("hash", "the sha256 of model.weights.h5 is not|checksum"),
        ("cut", "62864|IncompleteRead|without sending complete"),
    ],
)
def test_what_is_damaged_on_the_way_is_not_used(name, fault, reason, tiny, call):
    with serving(tiny) as (url, server):
        server.faults.add(fault)
        code, out, err = call("weights", "fetch", name, url=url)
        assert (code, out) == (2, "")
        assert re.search(reason, err.splitlines()[-1])
        server.faults.clear()
        assert call("weights", "fetch", name, url=url)[0] == 0


@BOTH
def test_without_a_network_one_line_names_the_ways(name, call):
    code, out, err = call("weights", "fetch", name)
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert re.search("refused|Unable to connect", line)
    preset = name.removeprefix("hub:")
    for text in (
        f"{preset} cannot be fetched from https://", "(1) use a network, or set H", "hub:./FOLDER",
        f"`kerazoo weights bundle {name} --output weights.tar`", "`kerazoo weights unbundle weights.tar`",
    ):  # fmt: skip
        assert text in line, text


def test_a_bundle_brings_a_preset_to_a_machine_without_a_network(tiny, call, tmp_path, monkeypatch):
    name = "hub:hf://u/tiny"
    bundle = tmp_path / "presets.tar"
    with serving(tiny) as (url, _):
        code, _, err = call("weights", "bundle", name, "--output", bundle, url=url)
    assert code == 0, err
    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "other"))
    ((preset, folder),) = unpack_presets(bundle)
    assert preset == "hf://u/tiny"
    assert find_preset(preset) == folder
    assert (folder / "model.weights.h5").read_bytes() == (tiny / "model.weights.h5").read_bytes()
    content = bundle.read_bytes()
    with tarfile.open(bundle) as tar:
        middle = tar.getmember("presets/0/model.weights.h5").offset_data + 9
    damages = {
        "the sha256 of presets/0/model.weights.h5": content[:middle] + b"x" + content[middle + 1 :],
        "not a complete bundle|is missing": content[: middle + 600],
        "which is not the name of a preset": content.replace(b'"hf://u/tiny"', b'"../u/a/tiny"'),
        "which is not a file of a preset": content.replace(b"metadata.json", b"metadata.pkl_"),
    }
    for reason, damaged in damages.items():
        monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / f"cache-{len(reason)}"))
        assert damaged != content
        bundle.write_bytes(damaged)
        with pytest.raises(WeightsError, match=reason):
            unpack_presets(bundle)
        assert find_preset(preset) is None


@pytest.mark.parametrize(
    ("preset", "reason"),
    [
        ("dinov2_bsae", "did you mean hub:dinov2_base"), ("./nosuch", "has no config.json"),
        ("hf://one", "must be as hub:hf://USER/NAME"), ("kaggle://a/b", "hub:kaggle://USER/MODEL/keras"),
        ("hf://../..", "must be as hub:hf"), ("gs://a/b", "no image preset"), ("bert_base_en", "no image preset"),
    ],
)  # fmt: skip
def test_a_preset_that_cannot_be_is_refused_at_once(preset, reason):
    with pytest.raises(ModelError, match=reason):
        check_preset(preset)


def test_the_models_are_listed_without_tensorflow(call):
    code, out, err = call("models", "--filter", "hub:dinov2")
    assert code == 0
    assert "hub:dinov2_base" in out
    assert "DINOv2 of keras-hub, https://www.kaggle.com/models/keras/dinov2" in out
    assert err == ""
    code, out, err = call("models")
    assert "hub:PRESET is one of 139 presets of keras-hub" in out.splitlines()[-1]
    program = (
        "import sys, kerazoo; kerazoo.list_models('hub:'); kerazoo.describe('hub:dinov2_base'); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "keras", "keras_hub"} & set(loaded)


def test_licenses(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- a\n---\ntext\nlicense: other\n")
    assert license_of("hf://u/tiny", tmp_path, "ViTBackbone") == ("apache-2.0", "https://huggingface.co/u/tiny")
    assert license_note("apache-2.0", "x") == ""
    (tmp_path / "README.md").unlink()
    license, source = license_of("dinov3_vit_base_lvd1689m", tmp_path, "DINOV3Backbone")
    assert license_note(license, source).startswith("license DINOv3 License: see https://ai.meta.com/")
    assert license_of(KAGGLE, tmp_path, "ViTBackbone") == ("unknown", source_of(KAGGLE))
    assert source_of(KAGGLE) == "https://www.kaggle.com/models/keras/vit"


GOOD = {"class": "ViTBackbone", "config": {**FAMILIES["ViTBackbone"], "dropout_rate": 0.0}}


@pytest.mark.parametrize(
    "change",
    [
        {"class": "Lambda"}, {"class": "GemmaBackbone"}, {"more": 1}, {"config": {"dtype": {"class_name": "x"}}},
        {"config": {"hidden_dim": 10**9}}, {"config": {"num_layers": 5_000}}, {"config": {"mlp_dim": "x" * 200}},
        {"config": {"patch_size": [[[[[[8]]]]]]}}, {"config": {"patch_size": [8] * 2_000}}, {"config": {"a b": 1}},
        {"config": {"image_shape": [9, 9, 3]}}, {"config": {"name": "x"}}, {"config": {"hidden_dim": float("nan")}},
        {"config": [1]},
    ],
)  # fmt: skip
def test_an_architecture_of_an_unknown_source_is_checked(change, tiny, tmp_path):
    bad = {**GOOD, **change}
    if isinstance(change.get("config"), dict):
        bad["config"] = {**GOOD["config"], **change["config"]}
    assert problem_of(GOOD) == ""
    assert problem_of(bad)
    assert problem_of(None)


def test_configs_that_name_other_classes_are_refused(tiny, tmp_path):
    """Keras would import the module that a config names."""
    for number, (old, new) in enumerate(
        [('"class_name": "ViTBackbone"', '"class_name": "system"'), ("DTypePolicy", "Lambda")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        for path in tiny.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace(old, new))
        with pytest.raises(ModelError, match="not a class of an image backbone"):
            _ = find(f"hub:{folder}").facts
    (tmp_path / "0" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="config.json"):
        _ = find(f"hub:{tmp_path / '0'}").facts


def test_weights_that_do_not_fit_are_refused(tiny, tmp_path):
    """Of arrays that are missing, Keras only warns, and leaves them random."""
    from kerazoo.models.heads.classifier import feature_extractor

    other = tmp_path / "other"
    save_preset(other, "ViTBackbone", hidden_dim=24)
    model = feature_extractor(kerazoo.build(f"hub:{tiny}", num_classes=2))
    before = model.get_weights()
    with pytest.raises(WeightsError, match="other"):
        load_preset(model, other)
    (other / "model.weights.h5").write_bytes((tiny / "model.weights.h5").read_bytes())
    with pytest.raises(WeightsError, match="arrays have other shapes"):
        load_preset(model, other)
    (other / "model.weights.h5").write_bytes((tiny / "model.weights.h5").read_bytes()[:9_000])
    with pytest.raises(WeightsError, match="damaged"):
        load_preset(model, other)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    (other / "image_converter.json").unlink()
    with pytest.raises(ModelError, match="does not say how pixels are scaled.*save_to_preset"):
        _ = find(f"hub:{other}").facts
