"""Published weights: the manifest is Keras's own, and a file comes here whole or not at all."""

import hashlib
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import free_ports, log_lines
from test_cli import call

import kerazoo
from kerazoo.errors import ModelError, WeightsError
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.keras_applications import BACKBONES
from kerazoo.models.weights import download
from kerazoo.models.weights import http as resumable
from kerazoo.models.weights.bundles import INDEX, unpack_bundle, write_bundle
from kerazoo.models.weights.connections import RedirectError, _Redirects
from kerazoo.models.weights.download import cache_paths, find_cached, published_path
from kerazoo.models.weights.published import Published, file_problem, manifest, published

DATA = np.random.default_rng(0).bytes(300_000)
ENTRY = Published("vgg16", "made.h5", "", 0, md5=hashlib.md5(DATA).hexdigest())
REAL = "mobilenet_2_5_224_tf_no_top.h5"


# -- the manifest -------------------------------------------------------------------------------------------------


class Stub:
    """Stands for every layer and tensor, so that a builder comes to its download without building a network."""

    shape = (None, 56, 56, 48)
    name = "stub"

    def __init__(self, *_, **__):
        pass

    def __call__(self, *_, **__):
        return self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub()

    def _same(self, *_):
        return self

    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __truediv__ = __getitem__ = _same


class Asked(Exception):
    pass


def what_keras_asks_for(backbone, monkeypatch):
    """(file name, address, hash) that the builder of keras.applications downloads for `backbone`."""

    def get_file(fname=None, origin=None, *, file_hash=None, cache_subdir=None):
        raise Asked(fname, origin, file_hash)

    module = importlib.import_module(f"keras.src.applications.{backbone.module}")
    with monkeypatch.context() as patch:
        patch.setattr("keras.src.utils.file_utils.get_file", get_file)
        for name in (module.__name__, "keras.src.applications.resnet"):  # ResNetV2 is built by the module of ResNet
            for part in (
                "layers",
                "Functional",
                "Sequential",
                "ops",
                "LayerScale",
                "StochasticDepth",
                "CustomScaleLayer",
            ):
                if hasattr(sys.modules[name], part):
                    patch.setattr(f"{name}.{part}", Stub())
        with pytest.raises(Asked) as asked:
            getattr(keras.applications, backbone.function)(
                weights="imagenet", include_top=False, pooling="avg", input_shape=backbone.input_shape,
                **backbone.arguments,
            )  # fmt: skip
    return asked.value.args


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_addresses_and_hashes_are_those_of_the_installed_keras(backbone, monkeypatch):
    entry = published(backbone.name)
    file, url, digest = what_keras_asks_for(backbone, monkeypatch)
    assert (entry.file, entry.url) == (file, url)
    if digest is None:
        assert not entry.md5
    else:
        assert digest == (entry.md5 if len(digest) == 32 else entry.sha256)


def test_the_stand_ins_ask_for_what_the_real_layers_do(monkeypatch):
    """One network of real layers, so that the stand-ins above are known to leave the address alone."""
    backbone = next(b for b in BACKBONES if b.name == "resnet50_v2")
    stood_in = what_keras_asks_for(backbone, monkeypatch)

    def get_file(fname=None, origin=None, *, file_hash=None, cache_subdir=None):
        raise Asked(fname, origin, file_hash)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    with pytest.raises(Asked) as asked:
        keras.applications.ResNet50V2(include_top=False, input_shape=(224, 224, 3), pooling="avg")
    assert asked.value.args == stood_in


def test_the_manifest_says_what_a_person_must_know():
    assert list(manifest()) == [backbone.name for backbone in BACKBONES]
    assert len({entry.file for entry in manifest().values()}) == len(BACKBONES)
    for entry in manifest().values():
        assert re.fullmatch("[0-9a-f]{32}|", entry.md5)
        assert re.fullmatch("[0-9a-f]{64}|", entry.sha256)
        assert entry.license_source
        assert entry.accuracy_source
        assert entry.training_data.startswith("ImageNet-")
        assert 40 < entry.top1 < (entry.top5 or 100) <= 100
    assert published("convnext_base").training_data.startswith("ImageNet-21k")
    assert published("resnet50_v2").license == ""
    with pytest.raises(WeightsError, match=r"no ImageNet weights are published for bottleneck_cnn; mnist ships with"):
        published("bottleneck_cnn")
    with pytest.raises(ModelError, match="did you mean"):
        published("vgg61")


# -- the network --------------------------------------------------------------------------------------------------


PIECES = 60  # of an endless or dripping answer, after which it breaks off: a test that fails ends, and fills no disk


class Server(ThreadingHTTPServer):
    """Serves bytes by path, and ill where it is told to. `asked` holds (path, Range or None, bytes sent)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/made.h5": DATA}
        self.asked = []
        self.etag = '"one"'
        self.ranges = True
        self.cut = []  # after how many bytes the next answers end
        self.announced = 0  # bytes more than there are
        self.redirect = {}
        self.stop = threading.Event()
        self.silent_after = None
        self.drip = None  # seconds between one byte and the next, of "headers", "bytes" or "chunks" (`dripped`)
        self.dripped = ""
        self.lengths = ""
        self.endless = False  # in chunks, of which there is no last
        self.wrong = 0  # how many of the next answers have other bytes
        self.codes = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        if len(server.asked) > 40:  # whoever asks without end is told so by a test that fails
            server.announced, server.codes = 0, []
        self.close_connection = True
        if self.path in server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.files.get(self.path)
        code = server.codes.pop(0) if server.codes else 200 if body is not None else 404
        if code != 200:
            server.asked.append((self.path, asked, 0))
            self.send_error(code)
            return
        if server.dripped in ("headers", "chunks") or server.endless:
            server.asked.append((self.path, asked, 0))
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            if server.dripped != "headers":
                self.wfile.write(b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(PIECES):
                if server.stop.is_set() or len(server.asked) > 40:
                    break
                if server.endless:
                    self.wfile.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
                else:
                    self.wfile.write(b"0" if server.dripped == "chunks" else b"A")
                    self.wfile.flush()
                    server.stop.wait(server.drip)
            return
        if server.wrong:
            server.wrong -= 1
            body = body[:-1] + b"x"
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(body) + server.announced:
                server.asked.append((self.path, asked, 0))
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            total = len(body) + server.announced
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", server.lengths or str(len(body) - start + server.announced))
        self.send_header("ETag", server.etag)
        self.end_headers()
        end = server.cut.pop(0) if server.cut else len(body)
        if server.dripped == "bytes":
            for byte in body:
                self.wfile.write(bytes([byte]))
                if server.stop.wait(server.drip):
                    break
        if server.silent_after is not None:
            self.wfile.write(body[start : server.silent_after])
            self.wfile.flush()
            server.stop.wait(30)
            end = start
        server.asked.append((self.path, asked, end - start))
        self.wfile.write(body[start:end])


@pytest.fixture
def server():
    with Server() as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield http
        http.stop.set()
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Caches of its own for every test, and no way out."""
    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("KERAZOO_WEIGHTS_MIRROR", raising=False)
    return tmp_path / "cache" / "weights"


def fetch(server, entry=ENTRY, **given):
    with log_lines() as said:
        path = published_path("vgg16", mirror=server.url, entry=entry, pause=0.01, **given)
    return path, said


def left(home):
    """What lies in the cache, without the locks that stay."""
    return sorted(path.name for path in home.iterdir() if path.suffix != ".lock")


def test_a_file_comes_once_and_is_then_taken_from_the_cache(server, home):
    path, said = fetch(server)
    assert path == home / "made.h5"
    assert path.read_bytes() == DATA
    assert left(home) == ["made.h5"]
    assert said[0].startswith("fetching vgg16 from 127.0.0.1")
    assert fetch(server)[0] == path
    assert server.asked == [("/made.h5", None, len(DATA))]
    path.write_bytes(DATA[:-1] + b"x")
    path, said = fetch(server)
    assert path.read_bytes() == DATA
    assert "made.h5 is not used: its md5 is" in said[0]
    assert len(server.asked) == 2


def test_the_cache_of_keras_is_used_where_its_file_is_right(server, home, tmp_path):
    theirs = tmp_path / "keras" / "models" / "made.h5"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(DATA)
    assert fetch(server)[0] == theirs
    assert not server.asked
    theirs.write_bytes(b"page")
    assert fetch(server)[0] == home / "made.h5"
    assert theirs.read_bytes() == b"page"


def test_a_wrong_hash_is_never_kept(server, home):
    server.files["/made.h5"] = DATA[:-1] + b"x"
    found = hashlib.md5(server.files["/made.h5"]).hexdigest()
    with pytest.raises(WeightsError, match=f"its md5 is {found}, not {ENTRY.md5}; it was removed"):
        fetch(server)
    assert left(home) == []
    assert server.asked == 2 * [("/made.h5", None, len(DATA))]


def test_bytes_that_were_wrong_once_are_fetched_once_more(server, home):
    server.wrong = 1
    assert fetch(server)[0].read_bytes() == DATA
    assert server.asked == 2 * [("/made.h5", None, len(DATA))]


@pytest.mark.parametrize("size", [len(DATA) - 1, None])
def test_what_is_longer_than_the_file_can_be_is_not_fetched(server, home, size, monkeypatch):
    monkeypatch.setattr(download, "TABLES", 200_000)
    entry = replace(ENTRY, size=size)
    most = size or 200_000
    with pytest.raises(WeightsError, match=f"made.h5 is not the published file: it is longer than {most:,} bytes"):
        fetch(server, entry)
    assert len(server.asked) == 1
    server.lengths = "9" * 15  # refused for that, not because the disk has no room for it
    with pytest.raises(WeightsError, match=f"made.h5 is not the published file: it is longer than {most:,} bytes"):
        fetch(server, entry)
    server.endless = True
    with pytest.raises(WeightsError, match=f"made.h5 is not the published file: it is longer than {most:,} bytes"):
        fetch(server, entry)
    assert left(home) == []


@pytest.mark.parametrize("dripped", ["headers", "bytes", "chunks"])
def test_a_server_that_drips_is_given_up(server, home, dripped):
    """Each byte comes within the time limit of a read; all of them would take hours."""
    server.dripped, server.drip = dripped, 0.1
    start = time.monotonic()
    with pytest.raises(
        WeightsError, match=r"made.h5 sent less than 1.0 kB a second for 0.8 s; the received part is kept"
    ):
        fetch(server, timeout=0.4)
    assert time.monotonic() - start < 5
    server.dripped = ""
    assert fetch(server)[0].read_bytes() == DATA


def test_a_slow_server_that_keeps_the_least_rate_is_waited_for(server):
    server.dripped, server.drip = "bytes", 0.0002
    server.files["/made.h5"] = DATA[:2500]
    entry = replace(ENTRY, md5=hashlib.md5(DATA[:2500]).hexdigest())
    assert fetch(server, entry, timeout=0.1)[0].read_bytes() == DATA[:2500]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/made.h5", "data:,a", "gopher://a"])
def test_a_redirect_goes_to_the_web_only(server, target):
    server.redirect["/made.h5"] = target
    with pytest.raises(WeightsError, match=f"made.h5 redirects to '{target}', which is not allowed"):
        fetch(server)
    assert not server.asked


def test_a_redirect_never_gives_up_encryption():
    request = urllib.request.Request("https://a.org/made.h5")
    follow = _Redirects().redirect_request
    assert follow(request, io.BytesIO(), 302, "", {}, "https://b.org/made.h5").full_url == "https://b.org/made.h5"
    with pytest.raises(RedirectError, match="https://a.org/made.h5 redirects to 'http://a.org/made.h5', which is not"):
        follow(request, io.BytesIO(), 302, "", {}, "http://a.org/made.h5")


def test_absurd_lengths_are_no_lengths(server):
    """4,301 digits are more than Python reads as a number."""
    server.lengths = "9" * 5000
    assert fetch(server)[0].read_bytes() == DATA


def test_a_cut_connection_goes_on_where_it_was(server, home):
    server.cut = [100_000, 250_000]
    assert fetch(server)[0].read_bytes() == DATA
    assert server.asked == [
        ("/made.h5", None, 100_000), ("/made.h5", "bytes=100000-", 150_000), ("/made.h5", "bytes=250000-", 50_000),
    ]  # fmt: skip
    assert left(home) == ["made.h5"]


def test_what_an_earlier_command_left_is_gone_on_with(server, home):
    server.silent_after = 120_000
    with pytest.raises(
        WeightsError, match=r"sent nothing for 0.2 s after 120,000 of 300,000 bytes; the received part is kept"
    ):
        fetch(server, timeout=0.2)
    assert left(home) == ["made.h5.part", "made.h5.part.json"]
    server.silent_after = None
    assert fetch(server)[0].read_bytes() == DATA
    assert server.asked[-1] == ("/made.h5", "bytes=120000-", 180_000)


@pytest.mark.parametrize("more", [b"", b"of another file"])
def test_a_part_that_is_whole_is_not_fetched_again(server, home, more):
    """A process that was killed before it gave the file its name; one that is too long is begun anew."""
    part = home / "made.h5.part"
    home.mkdir(parents=True)
    resumable.download(f"{server.url}/made.h5", part, progress=lambda *_: None)
    part.write_bytes(part.read_bytes() + more)
    assert fetch(server)[0].read_bytes() == DATA
    last = ("/made.h5", None, 300_000) if more else ("/made.h5", f"bytes={len(DATA)}-", 0)
    assert server.asked[-1] == last
    assert left(home) == ["made.h5"]


def test_a_file_that_changed_meanwhile_is_begun_anew(server, home):
    old, server.files["/made.h5"], server.etag = server.files["/made.h5"], DATA[::-1], '"old"'
    server.silent_after = 120_000
    with pytest.raises(WeightsError, match="sent nothing"):
        fetch(server, timeout=0.2)
    server.files["/made.h5"], server.etag, server.silent_after = old, '"one"', None
    assert fetch(server)[0].read_bytes() == DATA
    assert server.asked[-1] == ("/made.h5", "bytes=120000-", 300_000)
    assert len(server.asked) == 1  # a second would hide that the parts were mixed


def test_a_part_that_was_damaged_on_the_disk_costs_one_more_attempt(server, home):
    server.silent_after = 120_000
    with pytest.raises(WeightsError, match="sent nothing"):
        fetch(server, timeout=0.2)
    part = home / "made.h5.part"
    part.write_bytes(b"x" + part.read_bytes()[1:])
    server.silent_after = None
    assert fetch(server)[0].read_bytes() == DATA
    assert server.asked[-1] == ("/made.h5", None, 300_000)


def test_a_server_without_ranges_begins_anew(server, home):
    server.ranges, server.cut = False, [100_000]
    assert fetch(server)[0].read_bytes() == DATA
    assert server.asked == [("/made.h5", None, 100_000), ("/made.h5", "bytes=100000-", 300_000)]


def test_a_file_shorter_than_announced_is_refused(server, home):
    server.announced = 1000
    with pytest.raises(WeightsError, match=r"after 300,000 of 301,000 bytes; 4 attempts brought no more"):
        fetch(server)
    assert "made.h5" not in left(home)


def test_a_server_that_is_busy_is_asked_again_and_one_without_the_file_is_not(server, home):
    server.codes = [503, 429]
    assert fetch(server)[0].is_file()
    del server.files["/made.h5"]
    (home / "made.h5").unlink()
    server.asked.clear()
    with pytest.raises(WeightsError) as error:
        fetch(server)
    assert len(server.asked) == 1
    assert f"{server.url}/made.h5 answers 404" in str(error.value)


def test_a_redirect_is_followed(server):
    server.redirect["/made.h5"] = "/elsewhere/1"
    server.files["/elsewhere/1"] = server.files.pop("/made.h5")
    assert fetch(server)[0].read_bytes() == DATA


def test_a_server_that_says_nothing_ends(server):
    server.silent_after = 0
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"sent nothing for 0.2 s after 0 of 300,000 bytes"):
        fetch(server, timeout=0.2)
    assert time.monotonic() - start < 5


def test_a_closed_network_names_the_three_ways(monkeypatch, capsys):
    (port,) = free_ports(1)
    arguments = ("weights", "fetch", "vgg16", "--mirror", f"http://127.0.0.1:{port}")
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for part in (
        f"http://127.0.0.1:{port}/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5 cannot be reached",
        "Connection refused", "`kerazoo weights fetch vgg16`", "`kerazoo weights bundle vgg16 --output weights.tar`",
        "`kerazoo weights unbundle weights.tar`", "KERAZOO_WEIGHTS_MIRROR", "--weights PATH",
    ):  # fmt: skip
        assert part in err
    with pytest.raises(WeightsError, match="the mirror 'ftp://there' must be a folder or begin with"):
        published_path("vgg16", mirror="ftp://there", entry=ENTRY)


def test_a_folder_is_a_mirror(tmp_path, home, monkeypatch):
    folder = tmp_path / "mirror"
    folder.mkdir()
    with pytest.raises(WeightsError, match=r"mirror/made.h5 cannot be read \(No such file"):
        published_path("vgg16", mirror=str(folder), entry=ENTRY)
    (folder / "made.h5").write_bytes(DATA[:1000])
    with pytest.raises(WeightsError, match="is not the published file: its md5 is"):
        published_path("vgg16", mirror=str(folder), entry=ENTRY)
    assert left(home) == []
    with pytest.raises(WeightsError, match="made.h5 is not the published file: it is longer than 999 bytes, or not a"):
        published_path("vgg16", mirror=str(folder), entry=replace(ENTRY, size=999))
    (folder / "made.h5").unlink()
    (folder / "made.h5").symlink_to("/dev/zero")
    with pytest.raises(WeightsError, match="or not a regular file"):
        published_path("vgg16", mirror=str(folder), entry=ENTRY)
    (folder / "made.h5").unlink()
    (folder / "made.h5").write_bytes(DATA)
    assert published_path("vgg16", mirror=folder.as_uri(), entry=ENTRY).read_bytes() == DATA
    (home / "made.h5").unlink()
    monkeypatch.setenv("KERAZOO_WEIGHTS_MIRROR", str(folder))
    assert published_path("vgg16", entry=ENTRY) == home / "made.h5"


def test_room_is_looked_for_before_anything_is_fetched(server, home, monkeypatch):
    monkeypatch.setattr(resumable.shutil, "disk_usage", lambda _: SimpleNamespace(free=299_999))
    with pytest.raises(WeightsError, match=r"made.h5 needs 300.0 kB more, but .* has only 300.0 kB free; free some"):
        fetch(server)
    assert (home / "made.h5.part").stat().st_size == 0


# -- processes ----------------------------------------------------------------------------------------------------

CHILD = """
import logging, resource, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from kerazoo.errors import WeightsError
from kerazoo.models.weights.download import published_path
from kerazoo.models.weights.published import Published
entry = Published("vgg16", "made.h5", "", 0, md5=sys.argv[2])
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    print(published_path("vgg16", mirror=sys.argv[1], entry=entry))
except WeightsError as error:
    sys.exit(f"refused: {error}")
assert not {"keras", "tensorflow"} & set(sys.modules)
"""


def child(server, *arguments):
    command = [sys.executable, "-c", CHILD, server.url, ENTRY.md5, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_two_processes_at_once_fetch_it_once(server, home):
    server.silent_after = 100_000  # the first is held until the second waits
    first = child(server)
    wait_for(lambda: (home / "made.h5.part").is_file())
    second = child(server)
    line = second.stderr.readline()
    assert "another process is downloading made.h5; waiting for it" in line
    server.silent_after = None
    server.stop.set()
    for process in (first, second):
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, f"{home / 'made.h5'}\n"), err
    whole = [asked for asked in server.asked if asked[1] is None]
    assert len(whole) == 1
    assert (home / "made.h5").read_bytes() == DATA


def test_a_killed_download_goes_on(server, home):
    server.silent_after = 100_000
    process = child(server)
    part = home / "made.h5.part"
    wait_for(lambda: part.is_file() and part.stat().st_size == 100_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left(home) == ["made.h5.part", "made.h5.part.json"]
    server.silent_after = None
    assert fetch(server)[0].read_bytes() == DATA
    assert server.asked[-1] == ("/made.h5", "bytes=100000-", 200_000)
    assert left(home) == ["made.h5"]


def test_a_full_disk_is_one_line_and_leaves_nothing(server, home):
    process = child(server, "200000")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert re.search(r"refused: .*made.h5.part cannot be written: File too large; free some disk space", err)
    assert left(home) == []


# -- what a copy is checked by ------------------------------------------------------------------------------------


def test_a_file_without_a_hash_is_checked_by_its_structure(shared, tmp_path):
    real = (shared / "weights" / REAL).read_bytes()
    entry = replace(published("mobilenet_025"), sha256="")
    path = tmp_path / REAL
    cases = {
        real: "", real[:-1]: "it is not a complete HDF5", real[:1000]: "it is not a complete HDF5",
        b"<html>": "it is not a complete HDF5", b"": "it is not a complete HDF5",
    }  # fmt: skip
    for contents, expected in cases.items():
        path.write_bytes(contents)
        assert file_problem(path, entry).startswith(expected)
        assert bool(file_problem(path, entry)) == bool(expected)
    path.write_bytes(real)
    assert file_problem(path, published("mobilenet_050")) == "it has 218,544 numbers, not 829,536"


def test_damage_after_it_came_is_found_without_a_published_hash_too(shared, home, monkeypatch):
    entry = replace(published("mobilenet_025"), sha256="")
    path = published_path("mobilenet_025", mirror=str(shared / "weights"), entry=entry)
    assert find_cached(entry) == path
    contents = bytearray(path.read_bytes())
    contents[-1000] ^= 1  # one bit of a weight: the structure is still right
    path.write_bytes(contents)
    assert file_problem(path, entry) == ""
    assert re.match("its sha256 is .*, but .* was recorded after the download", download.cache_problem(path, entry))
    assert find_cached(entry) is None
    path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\n")  # no UTF-8
    assert "was recorded after the download" in download.cache_problem(path, entry)


# -- the real file, end to end ------------------------------------------------------------------------------------


def test_the_real_file_by_name_is_the_one_by_path(shared, server, monkeypatch, capsys, home):
    server.files[f"/{REAL}"] = (shared / "weights" / REAL).read_bytes()
    monkeypatch.setenv("KERAZOO_WEIGHTS_MIRROR", server.url)
    by_name = kerazoo.build("mobilenet_025", weights="imagenet", num_classes=4, input_shape=(97, 65, 3))
    by_path = kerazoo.build("mobilenet_025", weights=shared / "weights" / REAL, num_classes=4)
    for a, b in zip(feature_extractor(by_name).weights, feature_extractor(by_path).weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert cache_paths(published("mobilenet_025"))[0] == home / REAL
    assert not capsys.readouterr().out  # standard output is for results
    assert len(server.asked) == 1
    kerazoo.build("mobilenet_025", weights="imagenet")
    assert len(server.asked) == 1


def test_the_commands_carry_weights_to_another_machine(shared, home, tmp_path, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, "weights", "list", "--filter", "MobileNet_0", "--json")
    rows = {row["name"]: row for row in json.loads(out)["weights"]}
    assert list(rows) == ["mobilenet_025", "mobilenet_050", "mobilenet_075"]
    assert (rows["mobilenet_025"]["cached"], rows["mobilenet_025"]["bytes"]) == (None, 2108140)
    assert (rows["mobilenet_050"]["bytes_exact"], rows["mobilenet_050"]["checked_by"]) == (False, "structure")
    assert not home.exists()  # a list leaves nothing
    code, out, err = call(monkeypatch, capsys, "weights", "verify", "mobilenet_025")
    assert (code, err.count("\n")) == (2, 1)
    assert "kerazoo weights fetch mobilenet_025" in err

    fetch = ("weights", "fetch", "mobilenet_025", "--mirror", shared / "weights")
    code, out, err = call(monkeypatch, capsys, *fetch, "--json")
    assert code == 0, err
    path = home / REAL
    assert json.loads(out) == {"weights": [{"name": "mobilenet_025", "path": str(path), "checked_by": "sha256"}]}
    code, out, _ = call(monkeypatch, capsys, "weights", "list", "--filter", "025")
    assert re.fullmatch(r"mobilenet_025 +2.1 MB  in kerazoo's cache +sha256 +51.6 %  Apache-2.0\n", out)
    code, out, _ = call(monkeypatch, capsys, "weights", "verify", "--json")
    assert (code, json.loads(out)["ok"], len(json.loads(out)["weights"])) == (0, True, 1)

    for name in ("a.tar", "b.tar"):
        code, out, err = call(monkeypatch, capsys, "weights", "bundle", "mobilenet_025", "--output", tmp_path / name)
        assert code == 0, err
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    code, _, err = call(monkeypatch, capsys, "weights", "bundle", "mobilenet_025", "--output", tmp_path / "a.tar")
    assert (code, err.count("\n")) == (2, 1)

    monkeypatch.setenv("KERAZOO_CACHE", str(tmp_path / "other"))
    code, out, err = call(monkeypatch, capsys, "weights", "unbundle", tmp_path / "a.tar", "--json")
    assert code == 0, err
    there = tmp_path / "other" / "weights" / REAL
    assert json.loads(out)["weights"] == [{"name": "mobilenet_025", "path": str(there), "checked_by": "sha256"}]
    assert there.read_bytes() == path.read_bytes()

    contents = bytearray(there.read_bytes())
    contents[-1000] ^= 1
    there.write_bytes(contents)
    code, out, err = call(monkeypatch, capsys, "weights", "verify")
    assert (code, err.count("\n")) == (1, 1)
    assert "mobilenet_025  DAMAGED: its sha256 is" in out


def real_bundle(shared, output):
    entry = published("mobilenet_025")
    write_bundle(output, [(entry, shared / "weights" / REAL)])
    return output.read_bytes()


def test_a_damaged_bundle_puts_nothing_in_place(shared, tmp_path, home):
    whole = real_bundle(shared, tmp_path / "whole.tar")
    flipped = bytearray(whole)
    flipped[1_000_000] ^= 1
    index = whole.index(b'"sha256": "') + 11
    cases = {
        bytes(flipped): "the sha256 of", whole[:1_000_000]: "not a complete|not complete",
        b"": "not a complete weights bundle", b"<html>": "not a complete weights bundle",
        whole[:index] + b"0" + whole[index + 1 :]: "the sha256 of",
        whole.replace(b"mobilenet_025", b"mobilenet_026", 1): "not published for 'mobilenet_026'",
        whole.replace(b'"kerazoo_weights": 1', b'"kerazoo_weights": 2', 1): "has version 2",
    }  # fmt: skip
    for number, (contents, message) in enumerate(cases.items()):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(contents)
        with pytest.raises(WeightsError, match=message):
            unpack_bundle(path)
        assert left(home) == []
    with pytest.raises(WeightsError, match="there is no bundle"):
        unpack_bundle(tmp_path / "none.tar")
    with pytest.raises(
        WeightsError, match=r"cannot be read: Is a directory; give a file that `kerazoo weights bundle` made"
    ):
        unpack_bundle(tmp_path)
    deep = tmp_path / "deep.tar"
    with tarfile.open(deep, "w") as tar:
        (tmp_path / INDEX).write_bytes(b"[" * 200_000)
        tar.add(tmp_path / INDEX, INDEX)
    with pytest.raises(WeightsError, match="the index of .*deep.tar cannot be read"):
        unpack_bundle(deep)
    with pytest.raises(WeightsError, match=r"no/a.tar: there is no folder .*no;"):
        write_bundle(tmp_path / "no" / "a.tar", [])
    (tmp_path / "good.tar").write_bytes(whole)
    assert unpack_bundle(tmp_path / "good.tar")[0][1].is_file()


@pytest.mark.parametrize("trick", ["../out.h5", "/tmp/out.h5", "weights/../../out.h5", "link", "twice", "more", "less"])
def test_a_bundle_cannot_write_elsewhere(shared, tmp_path, home, trick):
    entry, real = published("mobilenet_025"), shared / "weights" / REAL
    real_bundle(shared, tmp_path / "good.tar")
    with tarfile.open(tmp_path / "good.tar") as good:
        index = good.extractfile(INDEX).read()
    name = trick if "/" in trick else f"weights/{REAL}"
    index = index.replace(REAL.encode(), name.removeprefix("weights/").encode()) if "/" in trick else index
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as tar:
        (tmp_path / INDEX).write_bytes(index)
        tar.add(tmp_path / INDEX, INDEX)
        if trick == "link":
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, str(real)
            tar.addfile(link)
        elif trick != "less":
            tar.add(real, name)
        if trick in ("twice", "more"):
            tar.add(real, name if trick == "twice" else "weights/../../out.h5")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError, match="contains|is not complete"):
        unpack_bundle(path)
    assert left(home) == []
    assert sorted(p for p in tmp_path.iterdir() if p.name != "cache") == [p for p in before if p.name != "cache"]
    assert entry.file == REAL
    assert not Path("/tmp/out.h5").exists()
    assert os.path.lexists(path)
