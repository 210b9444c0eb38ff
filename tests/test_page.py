"""The page of a served model, in headless Chromium before a stub of the server."""

import base64
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import devtools
import house
import numpy as np
import pytest
from PIL import Image

from kerazoo.errors import InputError

PAGE = house.SOURCE / "serving" / "page"
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ODD = '<img src=x onerror="document.title=1">'
READY = "!document.getElementById('passport').hidden"
NAMES = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
TOP = [["daisy", 0.934], ["dandelion", 0.041], ["sunflowers", 0.0184], ["roses", 0.0046], ["tulips", 0.002]]
MODEL = {
    "name": "flowers", "version": 3, "task": "multiclass", "class_names": NAMES, "grad_cam": True,
    "metrics": {"val_accuracy": 0.8641, "val_loss": 0.394549},
    "passport": {
        "kerazoo": "0.1.0", "run": "flowers", "name": "mobilenet_025", "temperature": 1.04,
        "preprocessing": {
            "height": 224, "width": 224, "channels": 3, "resize": "crop", "interpolation": "bilinear", "scaling": "tf",
        },
        "recipe": {"data": {"path": "/data/flowers240"}},
        "started_from": {"weights": "imagenet", "license": "Apache-2.0", "license_source": "keras.io/applications"},
        "weights_sha256": "6a2f" * 16, "data_digest": "a6cc" * 16,
        "metrics": {"val_accuracy": 0.8641, "val_accuracy_interval": [0.8375, 0.887], "val_examples": 2736},
        "environment": {"started": "2026-11-30T18:56:40+00:00", "versions": {"keras": "3.15.1", "jax": "0.10.2"}},
        "gate": {"split": "val", "images": 2736, "synthetic": 12, "largest_difference": 7.15e-7},
    },
}  # fmt: skip


class Server(ThreadingHTTPServer):
    """A stub of the server. `posts` are (path, headers, body) of the questions; tests replace what it answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.model = MODEL
        self.posts = []
        self.token = ""
        self.classify = lambda body: (200, {"label": TOP[0][0], "probability": TOP[0][1], "top": TOP})
        self.grad_cam = lambda body: (200, png(colour=(250, 160, 10)))
        self.address = f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, *arguments):
        pass  # the page breaks off what it no longer waits for

    def bodies(self, path="/classify?top=5"):
        return [body for asked, _, body in self.posts if asked == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = PAGE / ("index.html" if self.path == "/" else self.path.lstrip("/"))
        if self.path == "/passport":
            self.give(*(self.refused() or (200, self.server.model)))
        elif path.is_file():
            self.give(200, path.read_bytes(), KINDS[path.suffix])
        else:
            self.give(404, {"error": "nothing is here"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, dict(self.headers), body))
        answers = {"/classify?top=5": self.server.classify, "/grad-cam": self.server.grad_cam}
        self.give(*(self.refused() or answers[self.path](body)))

    def refused(self):
        given = self.headers.get("Authorization")
        if not self.server.token or given == f"Bearer {self.server.token}":
            return None
        return 401, {"error": "this token is wrong" if given else "send a bearer token"}

    def give(self, status, content, kind="image/png", headers=()):
        if not isinstance(content, bytes):
            content, kind = json.dumps(content).encode(), "application/json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def png(colour=(200, 30, 60), size=(160, 120)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Skips where there is no Chromium."""
    with suppress(InputError), devtools.browser(tmp_path_factory.mktemp("browser") / "profile") as started:
        yield started
        return
    pytest.skip("no Chromium is installed")


@pytest.fixture
def server():
    stub = Server()
    thread = threading.Thread(target=stub.serve_forever, daemon=True)
    thread.start()
    yield stub
    stub.shutdown()
    stub.server_close()
    thread.join()


@pytest.fixture
def page(chromium, server):
    """The page, with the passport shown; at the end it had no error and broke no rule of its policy."""
    chromium.look(1280)
    chromium.open(server.address)
    chromium.wait(READY)
    yield chromium
    assert chromium.problems() == []


@pytest.fixture
def photos(tmp_path):
    """Two files, which differ, with bytes that are no text."""
    rng = np.random.default_rng(0)
    files = [tmp_path / "one photo.png", tmp_path / "other.png"]
    for number, file in enumerate(files):
        file.write_bytes(png((200, 30 + number, 60)) + rng.bytes(100_000))
    return files


def text(page, name):
    return page.evaluate(f"document.getElementById({name!r}).innerText")


def says(page, words):
    page.wait(f"document.getElementById('status').textContent === {json.dumps(words)}")


def shown(page):
    """The rows of the table of answers."""
    return page.evaluate(
        "[...document.querySelectorAll('#answers tr')].map((r) => [...r.cells].map((c) => c.innerText))"
    )


def test_the_page_is_three_files_and_nothing_of_it_is_inline_or_elsewhere():
    assert {path.name for path in PAGE.iterdir()} == {"index.html", "page.css", "page.js"}
    html, css, js = ((PAGE / name).read_text() for name in ("index.html", "page.css", "page.js"))
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', html)) == {"data:,", "page.css", "page.js"}
    assert not re.search(r"url\(|@import|@font-face", css)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Storage|cookie|https?:", js)
    ids = set(re.findall(r'\sid="([^"]+)"', html))
    assert set(re.findall(r'\$\("([^"]+)"\)', js)) <= ids
    assert set(re.findall(r'aria-labelledby="([^"]+)"|for="([^"]+)"', html)) <= {(i, "") for i in ids} | {
        ("", i) for i in ids
    }


@pytest.mark.slow  # Chromium
def test_an_image_is_sent_byte_for_byte_and_its_answers_are_shown(page, server, photos):
    one, other = photos
    assert page.evaluate("document.title") == "flowers: ask about an image"
    page.choose("#file", one)
    says(page, "daisy: 93.4 %")
    assert shown(page) == [[name, f"{100 * value:.1f} %"] for name, value in TOP]
    widths = page.evaluate("[...document.querySelectorAll('.bar span')].map((bar) => bar.style.width)")
    assert widths == [f"{100 * value:g}%" for _, value in TOP]
    page.wait("document.getElementById('heat').naturalWidth === 160")
    assert text(page, "about-heat").startswith("The brighter a part, the more it raised “daisy”")
    assert text(page, "about-image") == "one photo.png"
    assert page.evaluate("document.getElementById('image').naturalWidth") == 160
    assert server.bodies() == server.bodies("/grad-cam") == [one.read_bytes()]

    page.drop(other, 900, 600)  # beside the dashed field, too
    page.wait("document.getElementById('about-image').textContent === 'other.png'")
    page.wait("document.getElementById('about-heat').textContent.startsWith('The brighter')")
    assert server.bodies() == server.bodies("/grad-cam") == [one.read_bytes(), other.read_bytes()]

    pasted = base64.b64encode(png()).decode()
    page.evaluate(f"""(() => {{
        const bytes = Uint8Array.from(atob("{pasted}"), (letter) => letter.charCodeAt());
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([bytes], "pasted.png", {{ type: "image/png" }}));
        document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData }}));
    }})()""")
    page.wait("document.getElementById('about-heat').textContent.startsWith('The brighter')")
    assert server.bodies()[-1] == png()
    page.choose("#file", one)  # the same file once more
    page.wait("document.getElementById('about-image').textContent === 'one photo.png'")
    says(page, "daisy: 93.4 %")
    assert len(server.bodies()) == 4


@pytest.mark.slow  # Chromium
def test_the_passport_is_shown_for_people(page):
    assert text(page, "name") == "flowers"
    assert text(page, "summary") == "Version 3 · 5 classes · accuracy 86.4 %"
    facts = text(page, "facts")
    for words in (
        "Measured on 2,736 validation images", "accuracy 86.4 %, 95 % interval 83.8 % to 88.7 %",
        "loss 0.3945\n", "trained from the weights imagenet",
        "their license: Apache-2.0 (keras.io/applications)", "flowers240", f"digest {'a6cc' * 4}",
        "the largest central part of an image (bilinear)", "224 x 224 pixels in color", "values from -1 to 1",
        f"sha256 {'6a2f' * 4}", "2,736 validation images get the same answers", "largest difference 7.15e-7",
        "run flowers, 2026-11-30", "kerazoo 0.1.0, keras 3.15.1",
    ):  # fmt: skip
        assert words in facts
    assert "undefined" not in facts
    assert json.loads(page.evaluate("document.getElementById('whole').textContent")) == MODEL["passport"]


@pytest.mark.slow  # Chromium
def test_an_error_is_shown_in_the_words_of_the_server(page, server, photos):
    good = server.classify
    server.classify = lambda body: (400, {"error": "it cannot be decoded: Unknown image file format"})
    page.choose("#file", photos[0])
    says(page, "it cannot be decoded: Unknown image file format")
    assert page.evaluate("['answers', 'again', 'heat'].every((id) => document.getElementById(id).hidden)")
    assert not server.bodies("/grad-cam")
    server.classify = lambda body: (503, {"error": "busy"}, "", [("Retry-After", "2")])
    page.choose("#file", photos[0])
    says(page, "The server is busy; try again in 2 s.")
    server.classify, server.grad_cam = good, lambda body: (404, {"error": "the run is not at hand"})
    page.evaluate("document.getElementById('again').click()")
    says(page, "daisy: 93.4 %")
    page.wait("document.getElementById('about-heat').textContent === 'the run is not at hand'")
    assert page.evaluate("document.getElementById('again').hidden && document.getElementById('heat').hidden")
    server.classify = lambda body: (502, b"<html>no JSON")
    page.choose("#file", photos[0])
    says(page, "The server answered with status 502.")
    photos[1].write_bytes(b"no image")  # which the browser cannot show, either
    page.choose("#file", photos[1])
    page.wait("document.getElementById('image').hidden")
    server.classify = lambda body: 1 / 0  # the connection ends without an answer
    page.choose("#file", photos[0])
    says(page, "The server cannot be reached, or the file cannot be read.")
    assert page.evaluate("!document.getElementById('again').hidden")


@pytest.mark.slow  # Chromium
@pytest.mark.parametrize("late", ["classify", "grad_cam"])
def test_a_late_answer_for_an_older_image_is_dropped(page, server, photos, late):
    one, other = photos
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    names = {one.read_bytes(): "older", other.read_bytes(): "newer"}

    def classify(body):
        return 200, {"label": names[body], "probability": 0.5, "top": [[names[body], 0.5]]}

    def slowly(body):
        if body == one.read_bytes():
            begun.set()
            go_on.wait(20)
            ended.set()
        return classify(body) if late == "classify" else (200, png(size=(10 if body == one.read_bytes() else 20, 10)))

    server.classify = classify
    setattr(server, late, slowly)
    page.choose("#file", one)
    assert begun.wait(20)
    page.choose("#file", other)
    says(page, "newer: 50.0 %")
    page.wait("document.getElementById('heat').naturalWidth > 0")
    width = page.evaluate("document.getElementById('heat').naturalWidth")
    go_on.set()
    assert ended.wait(20)
    time.sleep(0.3)
    assert text(page, "status") == "newer: 50.0 %"
    assert shown(page) == [["newer", "50.0 %"]]
    assert page.evaluate("document.getElementById('heat').naturalWidth") == width
    assert text(page, "about-image") == "other.png"


@pytest.mark.slow  # Chromium
def test_a_token_is_asked_for_and_kept_in_memory_only(chromium, server, photos):
    server.token = "s3cret~!"
    chromium.look(1280)
    chromium.open(server.address)
    chromium.wait("document.activeElement.id === 'token'")
    assert "send a bearer token" in text(chromium, "summary")
    chromium.choose("#file", photos[0])
    says(chromium, "send a bearer token")
    for typed, words in (
        ("wrong", "this token is wrong"),
        ("two words", "this token is wrong"),
        ("s3cret~!", "daisy: 93.4 %"),
    ):
        chromium.wait("document.activeElement.id === 'token'")
        chromium.evaluate("document.getElementById('token').value = ''")
        chromium.type(typed)
        chromium.press("Enter")
        says(chromium, words)
    chromium.wait("document.getElementById('name').innerText === 'flowers'")
    chromium.wait("document.getElementById('access').hidden")
    chromium.wait("document.getElementById('heat').naturalWidth === 160")
    tokens = [headers.get("Authorization") for _, headers, _ in server.posts]
    assert tokens == [None, "Bearer wrong", "Bearer s3cret~!", "Bearer s3cret~!"]  # one with a space is not sent
    assert chromium.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert chromium.evaluate("location.href") == server.address
    assert "s3cret" not in chromium.evaluate("document.documentElement.outerHTML")
    assert chromium.problems() == []


@pytest.mark.slow  # Chromium
def test_names_stay_text_and_a_thousand_of_them_fit(chromium, server, photos):
    names = [ODD, "ורד", "long" * 250, "Ünï 🌼", *(f"class {number}" for number in range(996))]
    server.model = {**MODEL, "name": ODD, "class_names": names}
    server.classify = lambda body: (200, {"label": ODD, "probability": 0.5, "top": [[n, 0.2] for n in names[:5]]})
    server.grad_cam = lambda body: (500, {"error": ODD})
    chromium.look(360, phone=True)
    chromium.open(server.address)
    chromium.wait(READY)
    chromium.choose("#file", photos[0])
    chromium.wait(f"document.getElementById('about-heat').textContent === {json.dumps(ODD)}")
    assert text(chromium, "status") == f"{ODD}: 20.0 %"
    assert [row[0] for row in shown(chromium)] == names[:5]
    assert text(chromium, "name") == ODD
    chromium.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    assert chromium.evaluate("[...document.querySelectorAll('#names li')].map((each) => each.innerText)") == names
    assert chromium.evaluate("[...document.images].map((each) => each.id)") == ["image", "heat"]
    assert chromium.evaluate("document.title").startswith("<img")
    assert chromium.evaluate("document.scrollingElement.scrollWidth") <= 360  # innerWidth grows with what it shows
    assert chromium.problems() == []


@pytest.mark.slow  # Chromium
def test_labels_numbers_and_one_class_have_their_words(chromium, server, photos):
    passport = {**MODEL["passport"], "metrics": {"test_mae": 0.25, "test_r2": None, "test_examples": 9}}
    passport |= {"gate": None, "recipe": None, "started_from": {"weights": "none", "license": "", "license_source": ""}}
    server.model = {
        **MODEL, "task": "regression", "class_names": ["height", "width"], "grad_cam": False, "passport": passport,
        "metrics": passport["metrics"],
    }  # fmt: skip
    server.classify = lambda body: (200, {"values": {"height": 1234.56789, "width": -2e-05}})
    chromium.look(1280)
    chromium.open(server.address)
    chromium.wait(READY)
    chromium.choose("#file", photos[0])
    says(chromium, "height: 1234.57")
    assert shown(chromium) == [["height", "1234.57"], ["width", "-0.00002"]]
    assert text(chromium, "summary") == "Version 3 · 2 numbers · mae 0.25"
    assert "trained from random weights" in text(chromium, "facts")
    assert chromium.evaluate("document.getElementById('looked').hidden && !document.querySelector('.bar')")
    server.model = {**MODEL, "task": "multilabel", "class_names": ["red"], "metrics": {"val_exact_match": 1}}
    server.classify = lambda body: (200, {"label": "red", "probability": 0.25, "top": [["red", 0.25]]})
    chromium.open(server.address)
    chromium.wait(READY)
    chromium.choose("#file", photos[0])
    says(chromium, "red: 25.0 %")
    chromium.wait("document.getElementById('about-heat').textContent.startsWith('The brighter')")
    assert text(chromium, "summary").startswith("Version 3 · 1 label · accuracy 86.4 %")
    assert len(server.posts) == 3  # Grad-CAM was asked for once
    assert chromium.problems() == []


@pytest.mark.slow  # Chromium
def test_the_keyboard_reaches_all_and_the_focus_is_seen(page, server, photos):
    page.command("Page.setInterceptFileChooserDialog", enabled=True)
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.evaluate("getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    page.press("Enter")
    until = time.monotonic() + devtools.SECONDS
    while "Page.fileChooserOpened" not in {event.get("method") for event in page.events}:
        assert time.monotonic() < until
        page.evaluate("1")  # which reads the events, too
    page.command("Page.setInterceptFileChooserDialog", enabled=False)
    server.classify = lambda body: (503, {})
    page.choose("#file", photos[0])
    says(page, "The server is busy; try again in a moment.")
    reached = []
    for _ in range(3):
        page.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached == ["again", "classes", "The whole passport, as JSON"]
    assert len(server.bodies()) == 1


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core, which looks for what shuts people out; from npm's registry."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    command = ["npm", "pack", "--silent", "axe-core@4.14.1"]
    if subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("axe-core cannot be fetched from npm's registry")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        return packed.extractfile("package/axe.min.js").read().decode()


@pytest.mark.slow  # Chromium, and axe-core from npm's registry
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360, 320])
def test_no_one_is_shut_out_and_nothing_overflows(page, server, photos, axe, scheme, width):
    page.evaluate(axe)
    page.look(width, scheme=scheme, phone=width < 500)

    def check(state):
        rules = page.evaluate(
            "axe.run().then((found) => found.violations.map((each) => [each.id, each.nodes.map((n) => n.html)]))"
        )
        assert rules == [], state
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width, state

    check("start")
    page.choose("#file", photos[0])
    page.wait("document.getElementById('about-heat').textContent.startsWith('The brighter')")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    check("result")
    server.classify = lambda body: (503, {})
    page.choose("#file", photos[0])
    says(page, "The server is busy; try again in a moment.")
    check("error")
    server.token = "token"
    page.choose("#file", photos[0])
    says(page, "send a bearer token")
    check("token")
    page.evaluate("document.body.classList.add('over')")
    check("a file over the page")
