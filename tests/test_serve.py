"""The server: its answers are those that the gate compared; limits, token, versions, signals. Real processes."""

import asyncio
import base64
import gzip
import http.client
import io
import json
import queue
import shutil
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from servers import DIGITS, Served, close, serving, start
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_service_pb2_grpc

import kerazoo
from kerazoo.errors import InputError, RunError
from kerazoo.exports.layout import PASSPORT
from kerazoo.serving.limits import Limits
from kerazoo.serving.model import request_error
from kerazoo.serving.pools import Pool
from kerazoo.serving.serve import read_token, versions_of

PREDICT = "/v1/models/digits:predict"
UNTIL = 120  # seconds; a busy machine takes its time


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def body(*contents, **more):
    return json.dumps({"instances": [b64(one) for one in contents], **more}).encode()


def until(condition, seconds=UNTIL):
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def one_of(folder):
    return next(folder.rglob("*.png")).read_bytes()


@pytest.fixture(scope="module")
def images(digits):
    return digits.parents[1] / "images"


@pytest.fixture(scope="module")
def recorded(digits):
    """{file: recorded probabilities} of the validation images."""
    run = digits.parents[1] / "runs/digits"
    keys = [line.split(",")[0] for line in (run / "evaluation/val.csv").read_text().splitlines()[1:]]
    return dict(zip(keys, np.load(run / "evaluation/val.npy"), strict=True))


@pytest.fixture(scope="module")
def served(digits):
    with serving(digits, "--grpc-port", "0") as found:
        yield found
        assert found.process.poll() is None


def test_every_validation_image_is_answered_as_recorded(served, images, recorded):
    """Over REST, gRPC and the plain way, from many clients at once."""
    assert len(recorded) > 20
    channel = grpc.insecure_channel(served.grpc)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def ask(key):
        content = (images / key).read_bytes()
        _, rest = served.json("POST", PREDICT, body(content))
        _, plain = served.json("POST", "/classify?top=10", content)
        request = predict_pb2.PredictRequest(model_spec=model_pb2.ModelSpec(name="digits"))
        request.inputs["image_bytes"].dtype = 7
        request.inputs["image_bytes"].tensor_shape.dim.add(size=1)
        request.inputs["image_bytes"].string_val.append(content)
        outputs = stub.Predict(request, timeout=60).outputs
        (row,) = rest["predictions"]
        by_name = dict(plain["top"])
        return (
            row["probabilities"], list(outputs["probabilities"].float_val), [by_name[name] for name in DIGITS],
            {row["label"], outputs["label"].string_val[0].decode(), plain["label"]}, row["status"],
        )  # fmt: skip

    with ThreadPoolExecutor(32) as pool:
        found = dict(zip(recorded, pool.map(ask, recorded), strict=True))
    channel.close()
    for key, (*answers, labels, status) in found.items():
        for answer in answers:
            np.testing.assert_allclose(answer, recorded[key], atol=1e-4)
        assert labels == {DIGITS[int(recorded[key].argmax())]}
        assert status == "ok"


def test_a_bad_image_is_a_400_and_its_neighbors_keep_their_bits(served, images):
    good = [path.read_bytes() for path in sorted(images.rglob("*.png"))[:3]]
    large = io.BytesIO()
    Image.new("L", (9000, 9000)).save(large, "PNG")
    alone = [served.ask("POST", PREDICT, body(one))[2] for one in good]
    for bad, words in ((b"", "not decoded"), (good[0][:-30], "not decoded"), (large.getvalue(), "not decoded")):
        status, answer = served.json("POST", PREDICT, body(bad))
        assert status == 400
        assert answer["error"].startswith(words)
        status, answer = served.json("POST", PREDICT, body(bad, bad))
        assert (status, answer["error"].split(";")[0]) == (400, "none of 2 images has an answer")
        if bad:
            assert served.json("POST", "/classify", bad)[0] == 400
        assert [served.ask("POST", PREDICT, body(one))[2] for one in good] == alone
        whole = served.json("POST", PREDICT, body(*good))[1]["predictions"]
        mixed = served.json("POST", PREDICT, body(good[0], bad, good[2]))[1]["predictions"]
        assert [mixed[0], mixed[2]] == [whole[0], whole[2]]
        assert mixed[1]["status"].startswith("not decoded")
        assert mixed[1]["label"] == ""
        assert np.isnan(mixed[1]["probabilities"]).all()


def test_people_get_classes_of_an_image_or_a_form(served, images):
    image = one_of(images)
    status, answer = served.json("POST", "/classify", image)
    assert status == 200
    assert (answer["model"], answer["version"], len(answer["top"])) == ("digits", 3, 5)
    assert answer["top"][0] == [answer["label"], answer["probability"]]
    start = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    form = [("Content-Type", "multipart/form-data; boundary=x")]
    assert served.json("POST", "/classify", start + image + b"\r\n--x--\r\n", form) == (200, answer)
    for path, content, headers, words in (
        ("/classify", b"", (), "the body must be an image"),
        ("/classify", b"--x--\r\n", form, "the form must have one file, got 0"),
        ("/classify", b"", [("Content-Type", "multipart/form-data")], "the form cannot be read: "),
        ("/classify?top=0", image, (), "top='0' must be a whole number from 1 to 10,000"),
    ):
        status, answer = served.json("POST", path, content, headers)
        assert status == 400
        assert answer["error"].startswith(words)
    status, headers, content = served.ask("GET", "/classify")
    assert (status, headers["Allow"], json.loads(content)["error"]) == (405, "POST", "/classify takes POST, not GET")
    assert served.json("POST", "/grad-cam", image)[0] == 404


def test_the_page_and_what_it_shows(served, digits):
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        status, headers, content = served.ask("GET", path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert content
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff"
    _, about = served.json("GET", "/passport")
    assert about["passport"] == json.loads((digits / "3" / PASSPORT).read_text())
    assert (about["name"], about["version"], about["class_names"]) == ("digits", 3, list(DIGITS))
    assert served.json("GET", "/openapi.json")[1]["openapi"] == "3.1.0"
    assert served.json("GET", "/favicon.ico")[0] == 404


def test_numbers_for_prometheus(served, images):
    from prometheus_client.parser import text_string_to_metric_families

    for _ in range(3):
        served.ask("POST", PREDICT, body(one_of(images)))
    served.ask("POST", "/v1/models/other:predict", body(b""))
    for path in ("/metrics", "/monitoring/prometheus/metrics"):
        found = {}
        for family in text_string_to_metric_families(served.ask("GET", path)[2].decode()):
            for sample in family.samples:
                found[sample.name, *sorted(sample.labels.items())] = sample.value
        count = ":tensorflow:serving:request_count"
        assert found[count, ("model_name", "digits"), ("status", "OK")] >= 3
        assert found[count, ("model_name", "other"), ("status", "NOT_FOUND")] >= 1
        assert found["kerazoo_images_in_progress",] == 0
        assert found["kerazoo_served_version", ("model_name", "digits")] == 3
        assert found["kerazoo_http_requests_total", ("code", "200")] >= 3


def test_the_access_log_is_one_json_object_a_line_without_images(served, images):
    def logged(what):
        return [json.loads(line) for line in served.lines if what in line]

    image = one_of(images)
    served.ask("POST", PREDICT, body(image))
    served.ask("POST", "/x%0d%0a%22" + "y" * 5000)
    until(lambda: logged("yyy"))
    (second,) = logged("yyy")
    first = logged(PREDICT)[-1]
    keys = {"time", "client", "method", "path", "status", "received", "sent", "ms"}
    assert set(first) == set(second) == keys
    assert (first["method"], first["path"], first["status"]) == ("POST", PREDICT, 200)
    assert first["received"] == len(body(image))
    assert len(second["path"]) == 200
    assert all(base64.b64encode(image).decode()[:40] not in line for line in served.lines)


def test_health(served):
    assert served.json("GET", "/healthz") == (200, {"status": "ok"})
    assert served.json("GET", "/readyz") == (200, {"status": "ok"})
    with grpc.insecure_channel(served.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "tensorflow.serving.PredictionService"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == 1


def test_only_local_names_are_answered_without_a_token(served):
    """A web page whose name was made to mean 127.0.0.1 sends its own name."""
    assert served.ask("GET", "/passport", headers=[("Host", "evil.example")])[0] == 403
    for host in ("localhost", "localhost:8501", "127.0.0.1:1", "[::1]:80"):
        assert served.ask("GET", "/passport", headers=[("Host", host)])[0] == 200


@pytest.fixture(scope="module")
def strict(digits, tmp_path_factory):
    """A server with a token and small limits."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("secret-of-16-or-more\n")
    limits = ["--max-body", "20000", "--max-pixels", "10000", "--queue", "4", "--max-batch", "2", "--grpc-port", "0"]
    with serving(digits, "--token-file", str(token), *limits) as found:
        yield found


def test_a_token_is_needed(strict, images):
    token = [("Authorization", "Bearer secret-of-16-or-more")]
    small = io.BytesIO()
    Image.open(io.BytesIO(one_of(images))).save(small, "PNG")
    content = body(small.getvalue())
    for headers in ((), [("Authorization", "Bearer wrong")], [("Authorization", "Basic secret-of-16-or-more")]):
        for method, path in (
            ("POST", PREDICT),
            ("GET", "/passport"),
            ("GET", "/metrics"),
            ("GET", "/v1/models/digits"),
        ):
            status, answer_headers, answer = strict.ask(method, path, content if method == "POST" else None, headers)
            assert (status, answer_headers["WWW-Authenticate"]) == (401, "Bearer")
            assert "Authorization" in json.loads(answer)["error"]
    assert strict.ask("POST", PREDICT, content, token)[0] == 200
    for path in ("/", "/page.js", "/page.css", "/healthz", "/readyz"):
        assert strict.ask("GET", path)[0] == 200
    request = predict_pb2.PredictRequest(model_spec=model_pb2.ModelSpec(name="none"))
    with grpc.insecure_channel(strict.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for metadata, code in (((), "UNAUTHENTICATED"), ((("authorization", token[0][1]),), "NOT_FOUND")):
            with pytest.raises(grpc.RpcError) as error:
                stub.Predict(request, metadata=metadata, timeout=10)
            assert error.value.code().name == code


def test_limits(strict):
    token = [("Authorization", "Bearer secret-of-16-or-more")]
    status, _, answer = strict.ask("POST", PREDICT, b"x" * 20_001, token)
    assert (status, json.loads(answer)["error"].split(",")[0]) == (413, "the body has more than 20")
    large = io.BytesIO()
    Image.new("L", (101, 100)).save(large, "PNG")
    status, answer = strict.json("POST", PREDICT, body(large.getvalue()), token)
    assert status == 400
    assert answer["error"].endswith("announces 0.0101 megapixels, and this server takes 0.01 (--max-pixels)")
    small = io.BytesIO()
    Image.new("L", (28, 28)).save(small, "PNG")
    assert len(strict.json("POST", PREDICT, body(*[small.getvalue()] * 4), token)[1]["predictions"]) == 4
    status, answer = strict.json("POST", PREDICT, body(*[small.getvalue()] * 5), token)
    assert (status, answer["error"]) == (400, "a request may have at most 4 images, got 5 (--queue)")
    with ThreadPoolExecutor(24) as pool:
        work = [pool.submit(strict.ask, "POST", PREDICT, body(*[small.getvalue()] * 4), token) for _ in range(24)]
        answers = [one.result() for one in work]
    assert {status for status, _, _ in answers} == {200, 503}
    assert all(headers["Retry-After"] == "1" for status, headers, _ in answers if status == 503)
    until(lambda: b"kerazoo_images_in_progress 0.0" in strict.ask("GET", "/metrics", headers=token)[2])


def copy_of(digits, folder, *versions):
    """saved_models/digits in `folder` with these versions, whose answers are the same."""
    for version in versions:
        shutil.copytree(digits / "3", folder / "digits" / str(version))
    return folder / "digits"


def add(digits, export, version, changes=()):
    """Add a version whose class names begin with its number, so that its answers tell it; files can be damaged."""
    part = export.parent / f"part{version}"
    shutil.copytree(digits / "3", part)
    for name, content in changes:
        (part / name).write_bytes(content)
    part.rename(export / str(version))


def test_versions_are_taken_up_swapped_and_taken_back(digits, images, tmp_path):
    export = copy_of(digits, tmp_path, 3)
    image = one_of(images)
    with serving(export, "--grpc-port", "0") as found:
        answers, stop = [], threading.Event()

        def ask():
            while not stop.wait(0.02):  # versions are loaded beside it
                answers.append(found.json("POST", "/classify", image))

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        until(lambda: len(answers) > 10)
        add(digits, export, 5, [("saved_model.pb", b"no graph")])
        until(lambda: found.json("GET", "/v1/models/digits/versions/5")[0] == 200)
        until(lambda: found.json("GET", "/v1/models/digits/versions/5")[1]["model_version_status"][0]["state"] == "END")
        (state,) = found.json("GET", "/v1/models/digits/versions/5")[1]["model_version_status"]
        assert state["status"]["error_code"] == "FAILED_PRECONDITION"
        assert state["status"]["error_message"].startswith(
            "version 5: saved_model.pb is not the file that was exported"
        )
        foreign = tmp_path / "foreign"
        shutil.copytree(digits / "3", foreign)
        (foreign / PASSPORT).unlink()
        foreign.rename(export / "6")
        until(
            lambda: any("version 6 is refused" in line and "not an export of kerazoo" in line for line in found.lines)
        )
        assert {answer["version"] for _, answer in answers} == {3}
        add(digits, export, 4)
        until(lambda: answers[-1][1]["version"] == 4)
        assert found.json("GET", "/v1/models/digits/versions/3")[1]["model_version_status"][0]["state"] == "END"
        assert found.json("POST", "/v1/models/digits/versions/3:predict", body(image))[0] == 404
        shutil.copyfile(digits / "3/saved_model.pb", export / "5/saved_model.pb")  # it is whole now
        until(lambda: answers[-1][1]["version"] == 5)
        shutil.rmtree(export / "5")
        until(lambda: answers[-1][1]["version"] == 4)
        stop.set()
        for client in clients:
            client.join(UNTIL)
    assert {status for status, _ in answers} == {200}
    first = dict(answers[0][1]["top"])  # each from a whole version; last bits depend on the batch
    assert all(dict(answer["top"]) == pytest.approx(first, abs=1e-5) for _, answer in answers)
    assert {answer["version"] for _, answer in answers} == {3, 4, 5}


def test_sigterm_answers_what_has_come_and_exits_with_0(digits, images):
    """Every request whose connection was opened before is answered; then there is no more server."""
    content = body(*[one_of(images)] * 40)
    with serving(digits, "--grpc-port", "0") as found:
        with ThreadPoolExecutor(30) as pool:
            work = [pool.submit(found.ask, "POST", PREDICT, content) for _ in range(60)]
            time.sleep(0.3)
            found.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            status, headers, _ = found.ask("GET", "/readyz")
            answers, refused = [], 0
            for one in work:
                try:
                    answers.append(one.result())
                except ConnectionRefusedError:
                    refused += 1
        assert (status, headers["Connection"]) == (503, "close")
        assert found.process.wait(60) == 0
        assert {status for status, _, _ in answers} <= {200, 503}
        assert len(answers) >= 30
        for status, _, answer in answers:
            if status == 200:
                assert len(json.loads(answer)["predictions"]) == 40
        with pytest.raises(ConnectionRefusedError):
            found.ask("GET", "/")
    assert "Traceback" not in "".join(found.lines)


@pytest.mark.slow  # two servers, of which one takes a while to be killed
def test_ctrl_c_exits_with_0_and_a_killed_server_starts_again(digits, images):
    with serving(digits) as found:
        port = found.place.split(":")[1]
        assert found.end(signal.SIGKILL) == -signal.SIGKILL
    with serving(digits, "--port", port) as found:
        assert found.ask("POST", "/classify", one_of(images))[0] == 200
        assert found.end(signal.SIGINT) == 0


@pytest.mark.slow  # an export and a server of its own
def test_another_format_answers(digits, images, tmp_path):
    run = kerazoo.open_run(digits.parents[1] / "runs/digits")
    export = run.export(root=tmp_path / "saved_models", formats="onnx").folder
    files = sorted(images.rglob("*.png"))[:8]
    expected = kerazoo.open_export(export).probabilities(files)
    with serving(export, "--format", "onnx") as found:
        contents = [path.read_bytes() for path in files]
        _, answer = found.json("POST", PREDICT, body(*contents))
        rows = answer["predictions"]
        np.testing.assert_allclose([row["probabilities"] for row in rows], expected, atol=0.005)
        assert [row["label"] for row in rows] == [DIGITS[i] for i in expected.argmax(axis=1)]
        assert found.json("POST", PREDICT, body(b"no image"))[0] == 400
        status, answer = found.json(
            "POST", PREDICT, json.dumps({"signature_name": "features", "instances": [1]}).encode()
        )
        assert (status, answer["error"]) == (400, 'Serving signature name: "features" not found in signature def')
        assert found.json("GET", "/passport")[1]["format"] == "onnx"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": 0}, "queue=0 must be 1 to 100,000 images, by default 256"),
        ({"max_batch": True}, "max_batch=True must be 1 to 1,024 images"),
        ({"batch_timeout_ms": -1}, "batch_timeout_ms=-1 must be 0 to 10,000 milliseconds"),
        ({"max_pixels": 10**9}, "max_pixels=1000000000 must be 10,000 to 120,000,000 pixels"),
        ({"port": 70_000}, "port=70000 must be 0 to 65,535"),
    ],
)
def test_values_out_of_range_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        kerazoo.serve("saved_models/none", **options)


@pytest.mark.slow  # several processes
def test_what_cannot_be_served_is_refused_with_the_reason(digits, tmp_path):
    with pytest.raises(RunError, match="there is no export .*nothing"):
        versions_of(tmp_path / "nothing", Limits())
    export = copy_of(digits, tmp_path, 1, 2)
    with pytest.raises(InputError, match="format='x'|'x'"):
        versions_of(export, Limits(), "x")
    (export / "2/variables/variables.index").write_bytes(b"x")
    versions = versions_of(export, Limits())
    versions.load()
    assert versions.current.version == 1  # the highest that is whole
    pinned = versions_of(export / "2", Limits())
    with pytest.raises(RunError, match=r"cannot be served: .*2: variables/variables.index is not the file that was"):
        pinned.load()
    with pytest.raises(RunError, match="1 has no format 'onnx'; export the run with --format onnx"):
        versions_of(export / "1", Limits(), "onnx").load()
    words = "cannot listen on 127.0.0.1:.*in use.*--port"
    with serving(export / "1") as found, pytest.raises(RuntimeError, match=words):
        Served(start(export, "--port", found.place.split(":")[1]))


def test_a_token_file_must_have_a_token(tmp_path):
    file = tmp_path / "token"
    with pytest.raises(InputError, match="cannot be read"):
        read_token(file)
    for text in ("", "short", "with spaces in the token"):
        file.write_text(text)
        with pytest.raises(InputError, match="must have 16 or more letters"):
            read_token(file)
    file.write_text("a" * 16 + "\n")
    assert read_token(file) == "a" * 16


@pytest.mark.slow  # a server of its own
def test_a_warning_where_anyone_can_ask(digits):
    with serving(digits, "--host", "0.0.0.0") as found:
        until(lambda: any("there is no token: anyone can ask" in line for line in found.lines))
        assert found.ask("GET", "/passport", headers=[("Host", "model.example")])[0] == 200


@pytest.mark.slow  # three servers, of which two have a child
def test_where_the_network_looked_if_the_run_is_at_hand(digits, images, tmp_path):
    image = one_of(images)
    with serving(digits, cwd=digits.parents[1]) as found:  # which has runs/digits
        assert found.json("GET", "/passport")[1]["grad_cam"] is True
        status, headers, content = found.ask("POST", "/grad-cam", image)
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert Image.open(io.BytesIO(content)).size == (224, 224)
        status, answer = found.json("POST", "/grad-cam", b"no image")
        assert status == 400
        assert answer["error"].startswith("not decoded: ")
        assert found.end() == 0
    other = tmp_path / "run"
    shutil.copytree(digits.parents[1] / "runs/digits", other)
    description = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps({**description, "weights_sha256": "0" * 64}))
    with pytest.raises(RuntimeError, match="is not the run of this export: it has other weights"):
        Served(start(digits, "--run", str(other)))


@pytest.mark.slow  # a server of its own
def test_sigterm_ends_a_server_that_loads_a_version_and_has_an_open_stream(digits, tmp_path):
    export = copy_of(digits, tmp_path, 3)
    with serving(export, "--grpc-port", "0") as found, grpc.insecure_channel(found.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watch).status == 1
        add(digits, export, 4)
        until(lambda: found.json("GET", "/v1/models/digits/versions/4")[0] == 200)  # it is being loaded
        start_of_end = time.monotonic()
        assert found.end() == 0
        assert time.monotonic() - start_of_end < 45  # not the minute that answers may take
        assert next(watch).status == 2  # NOT_SERVING


@pytest.mark.slow  # a server of its own
def test_a_log_that_nobody_reads_holds_up_nobody(digits):
    process = start(digits)
    place = json.loads(process.stdout.readline())["http"].removeprefix("http://")
    connection = http.client.HTTPConnection(place, timeout=UNTIL)
    for _ in range(1500):  # a pipe has room for some 450 lines
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b'{"status": "ok"}'
    connection.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(UNTIL) == 0
    close(process)


def test_packed_bodies_are_unpacked_in_threads(served, images):
    """Or each of them would stop everything else."""
    packed = gzip.compress(b'{"instances": [' + b" " * 30_000_000 + b"1]}")
    headers = [("Content-Encoding", "gzip")]
    with ThreadPoolExecutor(12) as pool:
        work = [pool.submit(served.ask, "POST", PREDICT, packed, headers) for _ in range(12)]
        longest = 0.0
        while not all(one.done() for one in work):
            begin = time.monotonic()
            assert served.ask("GET", "/healthz")[0] == 200
            longest = max(longest, time.monotonic() - begin)
    assert {one.result()[0] for one in work} == {400}
    assert longest < 2


def test_a_web_page_of_others_cannot_ask(served, images):
    image = one_of(images)
    own = f"http://{served.place}"
    for origin, status in (("http://evil.example", 403), ("null", 403), (own, 200), ("http://localhost:3000", 200)):
        assert served.ask("POST", "/classify", image, [("Origin", origin)])[0] == status


@pytest.mark.slow  # a server of its own, in a thread
def test_a_server_in_a_thread_ends_by_an_event_and_leaves_signals_alone(digits, tmp_path):
    (tmp_path / "alias").symlink_to(digits)
    before = signal.getsignal(signal.SIGTERM)
    stop, addresses, results = threading.Event(), queue.Queue(), []

    def run():
        results.append(kerazoo.serve(tmp_path / "alias", port=0, stop=stop, ready=lambda http, _: addresses.put(http)))

    thread = threading.Thread(target=run)
    thread.start()
    address = addresses.get(timeout=UNTIL)
    with urllib.request.urlopen(f"{address}/v1/models/alias") as answer:  # the name that was given
        assert json.load(answer)["model_version_status"][0]["version"] == "3"
    stop.set()
    thread.join(UNTIL)
    assert results == [True]
    assert signal.getsignal(signal.SIGTERM) is before

    async def inside():
        kerazoo.serve(digits, port=0)

    with pytest.raises(InputError, match="cannot run inside an event loop"):
        asyncio.run(inside())


def test_a_job_without_an_end_does_not_keep_the_process():
    """`kerazoo serve` ends it with 1; here is what it asks for."""
    pool = Pool("x", 1)
    end = threading.Event()

    async def use():
        job = asyncio.ensure_future(pool.run(end.wait))
        await asyncio.sleep(0.05)
        assert pool.is_busy
        end.set()
        await job
        await asyncio.sleep(0)
        assert not pool.is_busy

    asyncio.run(use())
    pool.close()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (tf.errors.InvalidArgumentError(None, None, "no {{node x}} image\nmore"), "INVALID_ARGUMENT", "no image"),
        (tf.errors.InternalError(None, None, "CUDA"), "INTERNAL", "the server failed; its log says why"),
        (tf.errors.ResourceExhaustedError(None, None, "OOM"), "RESOURCE_EXHAUSTED", "there is not enough memory"),
        (tf.errors.UnavailableError(None, None, "queue"), "UNAVAILABLE", "the server has too many requests"),
    ],
)
def test_a_fault_of_the_server_is_not_the_clients(error, code, words):
    found = request_error(error)
    assert (found.code, found.message[: len(words)]) == (code, words)
