"""The format `web`: its page answers in a browser as the run did, and what it needs is named where it is missing."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from conftest import make_images

import kerazoo
from kerazoo.errors import GateError, InputError, KerazooError
from kerazoo.exports.export import export_run, verify_export
from kerazoo.exports.formats.table import find_formats
from kerazoo.exports.layout import PASSPORT
from kerazoo.exports.web import browser, chromium, runtime
from kerazoo.exports.web import write as web
from kerazoo.files import read_json
from kerazoo.models.saved import load_model
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.train import train


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"), count=16, size=40)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    values = {
        "model": {"name": "mlp"}, "data": {"path": str(images), "size": 16, "channels": 3, "validation": 0.25},
        "training": {"epochs": 2, "batch_size": 4}, "optimizer": {"learning_rate": 0.001},
    }  # fmt: skip
    return train(make_recipe(values), name="shapes", root=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def real_browser():
    """Skips where the page cannot be tried: the tests of it need Chromium, and npm with its registry."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    try:
        chromium.find_browser()
    except InputError:
        pytest.skip("no Chromium is installed")


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A function that puts a program `npm` with the given shell commands in the place of the real one."""

    def put(commands):
        program = tmp_path / "bin" / "npm"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{commands}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return put


def test_npm_that_fails_or_gives_another_package_is_one_line(tmp_path, npm):
    npm("echo 'npm error network request failed' >&2; exit 1")
    words = r"npm cannot get onnxruntime-web [0-9.]+: npm error network request failed; try again with a connection"
    with pytest.raises(KerazooError, match=words):
        runtime.write_runtime(tmp_path)
    npm("echo part > onnxruntime-web.tgz; echo 'npm error nospc' >&2; exit 1")
    with pytest.raises(KerazooError, match=r"npm cannot get onnxruntime-web .*: npm error nospc; try again"):
        runtime.write_runtime(tmp_path)
    npm("echo changed > onnxruntime-web.tgz")
    with pytest.raises(KerazooError, match=r"has the sha512 .*, and should have .*; look at the registry that npm is"):
        runtime.write_runtime(tmp_path)
    npm("exec sleep 60")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "SECONDS", 1)
        with pytest.raises(KerazooError, match="it did not end in 1 s"):
            runtime.write_runtime(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_without_npm_the_page_names_a_host(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    spec, model = load_model(run.folder)
    path = tmp_path / "web" / "model.onnx"
    path.parent.mkdir()
    web.write_web(path, spec, model)
    page = (path.parent / "index.html").read_text()
    host = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{runtime.VERSION}/dist/"
    assert f"script-src 'self' 'wasm-unsafe-eval' {host}; connect-src 'self' {host};" in page
    settings = read_json(path.parent / "model.json")
    assert settings["runtime"] == f"{host}ort.wasm.bundle.min.mjs"
    assert settings["class_names"] == ["circle", "square"]
    assert {p.name for p in path.parent.iterdir()} == {
        "index.html", "page.css", "page.js", "classify.js", "model.json", "model.onnx",
    }  # fmt: skip


def test_a_browser_that_is_missing_or_ends_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CHROME_BIN", "/nowhere/chromium")
    with pytest.raises(
        InputError, match=r"'web' needs Chromium or Chrome.*CHROME_BIN names '/nowhere/chromium', which"
    ):
        find_formats(["web"])
    monkeypatch.delenv("CHROME_BIN")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(chromium, "MAC", "nowhere")
    with pytest.raises(
        InputError, match=r"none is installed; install one \(on Debian: apt install chromium\), or name"
    ):
        find_formats(["web"])
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho 'FATAL: No usable sandbox!' >&2; echo '#0 0x55' >&2; exit 1\n")
    program.chmod(0o700)
    (tmp_path / "index.html").write_text("<body></body>")
    page = browser.Page(tmp_path, [], np.zeros((8, 4, 4, 3), np.uint8))
    with (
        chromium.chromium("http://127.0.0.1:9", tmp_path / "profile") as process,
        pytest.raises(GateError, match="format web: the browser ended by itself: FATAL: No usable sandbox!"),
    ):
        page.wait(process, tmp_path / "profile")
    program.write_text("no program")
    with pytest.raises(InputError, match=r"chromium cannot be started: Exec format error"):
        chromium.chromium("", tmp_path / "third").__enter__()
    program.write_text("#!/bin/sh\n/bin/sleep 61 & /bin/sleep 61\n")  # with a child of its own
    monkeypatch.setattr(browser, "SILENCE", 0.5)
    with (
        chromium.chromium("http://127.0.0.1:9", tmp_path / "other") as process,
        pytest.raises(GateError, match="format web: its page did nothing for 0.5 s"),
    ):
        page.wait(process, tmp_path / "other")
    assert process.poll() is not None
    assert b"sleep\x0061" not in b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline"))


DRIVE = """
const $ = (id) => document.getElementById(id);
const until = async (holds) => { while (!holds()) await new Promise((done) => setTimeout(done, 20)); };
const said = [];
try {
  await until(() => !$("file").disabled);
  for (const name of ["0", "1", "2"]) {
    const data = new DataTransfer();
    data.items.add(new File([await (await fetch(`gate/images/${name}`)).blob()], "photo"));
    if (name === "1") {
      const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
      $("drop").dispatchEvent(drop);
    } else {
      $("file").files = data.files;
      $("file").dispatchEvent(new Event("change"));
    }
    await until(() => !$("status").textContent.startsWith("Class"));
    said.push([$("classes").textContent, $("status").textContent, $("answers").innerText, $("image").naturalWidth]);
    $("status").textContent = "Class";
  }
  await fetch("gate/found", { method: "POST", body: JSON.stringify({ said }) });
} catch (error) {
  await fetch("gate/found", { method: "POST", body: JSON.stringify({ error: String(error) }) });
}
"""


@pytest.mark.slow  # an export; the package of 33 MB from npm's registry, and Chromium
def test_the_page_answers_as_the_run_did(run, images, tmp_path, real_browser):
    export = export_run(run, formats="web", root=tmp_path / "saved_models")
    _, row = read_json(export / PASSPORT)["formats"]
    assert (row["name"], row["agreement"]) == ("web", 1)
    assert row["largest_difference"] < 0.005
    assert row["bytes"] > 14e6  # with the runtime
    assert all(value > 0 for value in (row["memory"], *row["milliseconds"]))
    assert verify_export(export, run).images == row["images"]
    assert {f"web/{place}" for place in runtime.FILES.values()} < set(read_json(export / PASSPORT)["files"])
    with pytest.raises(InputError, match="'web' answers in a browser: run python -m http.server --directory .*/web"):
        kerazoo.predict(str(export), [__file__], format="web")

    files = sorted(images.rglob("*.png"))[:2]
    bad = tmp_path / "no image.png"
    bad.write_bytes(b"no image")
    page = browser.Page(export / "web", [*files, bad], np.zeros((8, 4, 4, 3), np.uint8))
    page.contents["/gate.js"] = DRIVE.encode()
    profile = tmp_path / "profile"
    with page.serving() as address, chromium.chromium(f"{address}/gate.html", profile) as process:
        found = page.wait(process, profile)["said"]
    for said, one in zip(found, kerazoo.predict(str(export), files), strict=False):
        assert said[0] == "2 classes: circle, square"
        (best, value), *_ = one.top
        assert said[1].startswith(f"{best}: {100 * value:.1f} % ("), (said, one.top)
        assert said[2].split("classes\n")[1].split()[:2] == [best, f"{100 * value:.1f}"], said
        assert said[3] == 40
    assert found[2][1] == "This image has no answer: it cannot be decoded"


PLANTED = {
    "BGR": ("classify.js", b"[red, green, blue] =", b"[blue, green, red] =",
            "format web does not give the same answers as"),
    "upside down": ("classify.js", b'"from-image"', b'"flipY"', "format web does not give the same answers as"),
    "a file is missing": ("classify.js", b"model.onnx", b"missing.onnx", "format web: its page fails in the browser: "),
    "an image fails": ("classify.js", b"bitmap.close();\n  return", b"throw new Error('no room');\n  return",
                       "format web does not answer .*: no room"),
    "other names": ("model.json", b'"circle"', b'"triangle"', "format web: the class names of its page are"),
    "a wrong order": ("page.js", b"other[1] - one[1]", b"one[1] - other[1]", "its page shows '.*' first for .*, and"),
}  # fmt: skip


@pytest.mark.slow  # as above
@pytest.mark.parametrize("fault", PLANTED)
def test_a_page_that_answers_otherwise_is_refused(run, tmp_path, monkeypatch, real_browser, fault):
    file, old, new, words = PLANTED[fault]
    write = web.write_web

    def planted(path, spec, model):
        write(path, spec, model)
        script = path.parent / file
        content = script.read_bytes()
        assert old in content
        script.write_bytes(content.replace(old, new))

    monkeypatch.setattr("kerazoo.exports.formats.write.write_web", planted)
    with pytest.raises(GateError, match=words):
        export_run(run, formats="web", root=tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_what_the_gate_asks_is_not_in_an_export():
    assert set(web.COPIED) | {"index.html", "gate.js"} == {path.name for path in web.PAGE.iterdir()}
