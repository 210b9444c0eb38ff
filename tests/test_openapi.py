"""What the server says about its HTTP interface is so: real answers fit it, and schemathesis finds nothing."""

import base64
import io
import json
import subprocess
import sys
import venv

import jsonschema
import pytest
from PIL import Image
from servers import serving

from kerazoo.serving.http.openapi import document
from kerazoo.serving.limits import Limits

EXAMPLES = 300  # of an operation
SECONDS = 900
# Excluded is one check, for TensorFlow Serving's paths: a method that they do not have gets 400 there, not 405.
CONFIG = """
[[operations]]
include-path-regex = "^/v1/"
checks.unsupported_method.enabled = false
"""
# A schema cannot say which bytes are an image, nor that 1 and 1.0 are of two kinds: TensorFlow Serving mixes none.
HOOKS = """
import base64, json, pathlib, schemathesis
from hypothesis import strategies

texts = strategies.sampled_from(json.loads(pathlib.Path("images.json").read_text()))
images = texts.map(base64.b64decode)
schemathesis.openapi.format("image", texts)
schemathesis.openapi.format("binary", images)
for kind in ("application/octet-stream", "image/*", "image/png"):
    schemathesis.openapi.media_type(kind, images)


@schemathesis.hook
def filter_body(context, body):
    examples = body.get("examples") if isinstance(body, dict) else None
    rows = [one for one in examples if isinstance(one, dict)] if isinstance(examples, list) else []
    lists = [value for row in rows for value in row.values() if isinstance(value, list)]
    floats = [{isinstance(value, float) for value in values} for values in lists]
    return {True, False} not in floats
"""
RUN = "from schemathesis.cli import schemathesis; schemathesis()"


@pytest.fixture(scope="module")
def served(digits):
    with serving(digits) as found:
        yield found
        assert found.process.poll() is None


def image(kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("get", "/healthz", None), ("get", "/readyz", None), ("get", "/passport", None), ("get", "/openapi.json", None),
        ("get", "/v1/models/digits", None), ("get", "/v1/models/digits/metadata", None),
        ("post", "/v1/models/digits:predict", "example"), ("post", "/v1/models/digits:classify", "example"),
        ("post", "/v1/models/digits:predict", {"inputs": {"image_bytes": []}}),
        ("post", "/classify", image()), ("post", "/classify", b"no image"), ("post", "/grad-cam", image()),
    ],
)  # fmt: skip
def test_answers_are_as_described(method, path, body, served):
    operation = document("digits", Limits())["paths"][path][method]
    if body == "example":
        body = operation["requestBody"]["content"]["application/json"]["example"]
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    status, headers, answer = served.ask(method.upper(), path, content)
    ((kind, described),) = operation["responses"][str(status)]["content"].items()
    assert headers["Content-Type"] == kind
    jsonschema.validate(json.loads(answer), described["schema"])


def test_examples_fit_their_schemas_and_are_answered(served):
    for path in ("/v1/models/digits:predict", "/v1/models/digits:classify"):
        content = document("digits", Limits())["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        jsonschema.validate(content["example"], content["schema"])
        assert served.ask("POST", path, json.dumps(content["example"]).encode())[0] == 200


@pytest.mark.slow  # makes an environment from the package index, then sends thousands of requests
def test_schemathesis_finds_nothing(served, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "schemathesis>=4.32,<5"], check=True)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "hooks.py").write_text(HOOKS)
    images = [base64.b64encode(image(kind)).decode() for kind in ("PNG", "JPEG", "GIF", "BMP")]
    (tmp_path / "images.json").write_text(json.dumps(images))
    command = [python, "-c", RUN, "run", f"{served.rest}/openapi.json", "--max-examples", str(EXAMPLES), "--seed", "1"]
    done = subprocess.run(
        [*command, "--generation-database", "none", "--continue-on-failure"], cwd=tmp_path, capture_output=True,
        text=True, timeout=SECONDS, check=False, env={"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "Traceback" not in "".join(served.lines)
