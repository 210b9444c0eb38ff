"""A server that gets hostile requests: each answer is plain, nothing stays behind, and the next honest one is right."""

import asyncio
import ctypes
import gc
import json
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import hostile_requests
import pytest
from hostile_requests import GET, KNOWN, PREDICT, Call, Raw, b64, hostile, post, right_call
from servers import serving

from kerazoo.serving import pools
from kerazoo.serving.codes import RequestError
from kerazoo.serving.http.door import Body, Room, allowed
from kerazoo.serving.http.messages import Request
from kerazoo.serving.http.people import People
from kerazoo.serving.limits import Limits
from kerazoo.serving.metrics import LONGEST, Metrics
from kerazoo.serving.pools import Pool, Slots
from kerazoo.serving.rpc.services import answering
from kerazoo.serving.service import Service

SECONDS = 5.0  # for an answer, on two cores that others use too
BATCH = 50  # hostile requests between two honest ones
AT_ONCE = 4
GROWTH = 400_000_000  # bytes of memory beyond those after a warm-up, when all is over
PEAK = 1_500_000_000  # and at any time
THREADS = 12  # more than after a warm-up: those that wait for the network begin one by one
LEAKS = re.compile(r'Traceback|File "|/tmp/|/home/|/root/|/work|/src/|site-packages|\.py\b|<lambda>|0x[0-9a-f]{6}')
FAULTS = re.compile(LEAKS.pattern + "|failed|boundary|never retrieved")  # in what is no line of the access log
LOGGED = {"time", "client", "method", "path", "status", "received", "sent", "ms"}
ERRORS_WITHOUT_WORDS = {"a version of 9,000 digits"}  # TensorFlow Serving's answer there has no body


@pytest.fixture(scope="module")
def export(digits):
    return digits


@pytest.fixture(scope="module")
def served(export):
    """A server after a warm-up, with what it answers to honest requests."""
    with serving(export, "--grpc-port", "0") as found:
        found.image = next((export.parents[1] / "images").rglob("*.png")).read_bytes()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda _: honest(found), range(20)))
        # within 1e-5: in a batch with the images of others, the last bits differ
        found.right = {
            name: pytest.approx(value, abs=1e-5) if name.endswith("probabilities") else value
            for name, value in honest(found).items()
        }
        yield found
        assert found.process.poll() is None


def honest(served, seconds=SECONDS):
    """The answer to an honest request, over HTTP; gRPC and /healthz answer, too."""
    body = json.dumps({"instances": [b64(served.image)]}).encode()
    status, _, content = served.ask("POST", PREDICT, body, seconds=seconds)
    assert status == 200, content
    assert served.ask("GET", "/healthz", seconds=seconds)[0] == 200
    code, answer = called(served, Call("honest", hostile_requests.SERVICE + "Predict", right_call(served.image)))
    assert code == "OK", answer
    (row,) = json.loads(content)["predictions"]
    return row


def called(served, call):
    """(code, answer or words) of a call."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(served.grpc, options=options) as channel:
        method = channel.unary_unary(call.path, request_serializer=None, response_deserializer=None)
        if call.cancelled:
            method.future(call.data, timeout=SECONDS).cancel()
            return "CANCELLED", ""
        try:
            return "OK", method(call.data, timeout=SECONDS)
        except grpc.RpcError as error:
            return error.code().name, error.details()


@contextmanager
def connection(served, seconds=SECONDS):
    host, port = served.place.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=seconds) as plug:
        yield plug


def sent(served, raw):
    """All that a server answers to bytes; b"" if it closes the connection without a word."""
    with connection(served) as plug:
        found = b""
        try:
            plug.sendall(raw.data)
            if raw.cut:
                plug.shutdown(socket.SHUT_WR)
        except OSError:  # the server has refused what it read
            pass
        try:
            while part := plug.recv(1 << 16):
                found += part
                if len(answers(found)) >= raw.answers and b"Connection: close" not in raw.data:
                    break
        except ConnectionError:
            pass
    return found


def answers(content):
    """[(status, headers, body)] of whole answers."""
    found = []
    while b"\r\n\r\n" in content:
        first, _, rest = content.partition(b"\r\n\r\n")
        line, _, lines = first.decode("latin-1").partition("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines.split("\r\n"))
        length = int(headers["content-length"])
        if len(rest) < length:
            break
        match = re.fullmatch(r"HTTP/1\.1 ([1-5]\d\d) [\w .-]*", line)
        assert match, line
        found.append((int(match[1]), headers, rest[:length]))
        content = rest[length:]
    return found


def check(raw, content):
    """The first answer to hostile bytes is one of those that are right, and says nothing of the inside."""
    assert not LEAKS.search(content.decode("latin-1")), (raw.name, content[-500:])
    if raw.data.startswith(b"HEAD"):
        content += b" " * 100  # the body that its length announces
    found = answers(content)
    if not found:
        assert raw.cut, (raw.name, raw.data[-200:], content[:200])
        return 0
    for status, headers, body in found:
        assert raw.cut or status in raw.codes, (raw.name, raw.data[:300], status, body[:300])
        assert status != 500, (raw.name, raw.data, body)
        if status >= 400 and raw.name not in ERRORS_WITHOUT_WORDS and headers.get("content-type") == "application/json":
            assert body == b"" or set(json.loads(body)) == {"error"} or raw.data.startswith(b"HEAD"), (raw.name, body)
    return found[0][0]


def memory(served, name):
    lines = Path(f"/proc/{served.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1])


def descriptors(served):
    return sum(1 for _ in Path(f"/proc/{served.process.pid}/fd").iterdir())


def in_progress(served):
    _, _, page = served.ask("GET", "/metrics")
    return float(re.search(rb"^kerazoo_images_in_progress (\S+)$", page, re.MULTILINE)[1])


def becomes(call, expected, seconds=SECONDS):
    """Whether what `call` gives is at most `expected` before long."""
    end = time.monotonic() + seconds
    while (found := call()) > expected and time.monotonic() < end:
        time.sleep(0.05)
    return found <= expected, found


def attack(served, requests):
    """Send hostile requests; (counts of answers, seconds for the longest, bytes of growth and of the peak)."""
    before = descriptors(served), memory(served, "Threads")
    Path(f"/proc/{served.process.pid}/clear_refs").write_text("5")  # the peak begins anew
    start = memory(served, "VmRSS") * 1024
    counts = Counter()
    longest = 0.0
    lines = len(served.lines)

    def one(request):
        begin = time.perf_counter()
        if isinstance(request, Raw):
            found = check(request, sent(served, request))
        else:
            found, words = called(served, request)
            assert request.cancelled or found in request.codes, (request, found, words)
            assert found == "OK" or not LEAKS.search(words), (request, words)
        return found, time.perf_counter() - begin

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for first in range(0, len(requests), BATCH):
            for found, seconds in threads.map(one, requests[first : first + BATCH]):
                counts[found] += 1
                longest = max(longest, seconds)
            assert honest(served) == served.right
    assert becomes(lambda: in_progress(served), 0) == (True, 0)
    assert becomes(lambda: descriptors(served), before[0])[0], (before, descriptors(served))
    assert memory(served, "Threads") <= before[1] + THREADS
    for line in served.lines[lines:]:  # a decoder in C writes lines of its own, such as "Corrupt JPEG data: ..."
        assert set(json.loads(line)) == LOGGED if line.startswith("{") else not FAULTS.search(line), line
    return counts, longest, memory(served, "VmRSS") * 1024 - start, memory(served, "VmHWM") * 1024 - start


@pytest.mark.parametrize("raw", KNOWN, ids=lambda raw: raw.name)
def test_what_is_known(raw, served):
    content = sent(served, raw)
    assert check(raw, content) in raw.codes
    assert len(answers(content)) == raw.answers or raw.data.startswith(b"HEAD")
    assert served.ask("GET", "/readyz")[0] == 200


def test_hostile_requests(served):
    counts, longest, growth, peak = attack(served, list(hostile(300)))
    assert {200, 400, "INVALID_ARGUMENT", "CANCELLED"} <= set(counts)
    assert longest < SECONDS
    assert growth < GROWTH
    assert peak < PEAK


@pytest.mark.slow  # minutes
def test_ten_thousand_hostile_requests(served):
    start = time.perf_counter()
    counts, longest, growth, peak = attack(served, list(hostile(10_000, seed=1)))
    print(
        f"{time.perf_counter() - start:.0f} s, longest {longest:.2f} s, {growth / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB"
    )
    print(dict(counts))
    assert longest < SECONDS
    assert growth < GROWTH
    assert peak < PEAK


LARGE = 30_000_000  # bytes
LARGE_BODIES = {
    "lists": b'{"instances":[' + b"[]," * (LARGE // 3) + b"[]]}",
    "empty texts": b'{"instances":[' + b'"",' * (LARGE // 3) + b'""]}',
    "numbers": b'{"signature_name":"serve_prepared","inputs":[' + b"0.1," * (LARGE // 4) + b"0]}",
    "objects": b'{"examples":[' + b'{"a":1},' * 2_900_000 + b"{}]}",
    "a name": b'{"instances":["a"],"signature_name":"' + b"a" * LARGE + b'"}',
    "an unknown value": b'{"x":[' + b"1," * (LARGE // 2) + b"1]}",
}


@pytest.mark.parametrize("name", LARGE_BODIES)
def test_a_large_body_takes_little_memory_and_delays_nobody(name, served):
    verb = "regress" if name == "objects" else "predict"
    Path(f"/proc/{served.process.pid}/clear_refs").write_text("5")
    start = memory(served, "VmRSS")
    found = []
    asks = threading.Thread(
        target=lambda: found.append(served.ask("POST", f"/v1/models/digits:{verb}", LARGE_BODIES[name]))
    )
    asks.start()
    longest = 0.0
    while asks.is_alive():
        begin = time.perf_counter()
        assert honest(served) == served.right
        longest = max(longest, time.perf_counter() - begin)
    ((status, _, content),) = found
    assert status == (413 if name == "lists" else 400), content
    assert len(content) < 20_000
    assert longest < SECONDS
    assert (memory(served, "VmHWM") - start) * 1024 < PEAK


def test_more_images_than_the_queue_takes_are_no_reason_to_try_again(served):
    for body in ({"instances": [b64(b"x")] * 257}, {"inputs": [b64(b"x")] * 257}):
        status, answer = served.json("POST", PREDICT, json.dumps(body).encode())
        assert (status, answer) == (400, {"error": "a request may have at most 256 images, got 257 (--queue)"})
    data = hostile_requests.message("image_bytes", "", 7, [257], string_val=[b"x"])
    code, words = called(served, Call("many", hostile_requests.SERVICE + "Predict", data))
    assert (code, words) == ("INVALID_ARGUMENT", "a request may have at most 256 images, got 257 (--queue)")


@pytest.mark.parametrize(
    "method", ["PredictionService/Predict", "PredictionService/Classify", "ModelService/GetModelStatus"]
)
def test_a_malformed_message_is_an_invalid_argument(method, served):
    code, words = called(served, Call("malformed", f"/tensorflow.serving.{method}", b"\xff\xff"))
    assert (code, words) == ("INVALID_ARGUMENT", "the message cannot be read: it is malformed")
    code, words = called(served, Call("malformed", "/grpc.health.v1.Health/Check", b"\xff\xff"))
    assert (code, words) == ("INVALID_ARGUMENT", "the message cannot be read: it is malformed")


def test_a_message_that_is_too_large_is_refused(served):
    code, _ = called(served, Call("large", hostile_requests.SERVICE + "Predict", bytes(100_000_000)))
    assert code == "RESOURCE_EXHAUSTED"


def test_a_model_name_of_megabytes_is_no_name_of_a_metric(served):
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    request = PredictRequest()
    request.model_spec.name = "x" * 5_000_000
    call = Call("named", hostile_requests.SERVICE + "Predict", request.SerializeToString())
    assert called(served, call)[0] == "NOT_FOUND"
    assert len(served.ask("GET", "/metrics")[2]) < 1_000_000
    assert b"x" * (LONGEST + 1) not in served.ask("GET", "/metrics")[2]


def test_connections_that_hang_keep_nobody_waiting(served):
    before = descriptors(served)
    starts = (
        b"",
        b"G",
        GET[:30],
        post(PREDICT, b'{"instances": []}')[:-3],
        b"POST /classify HTTP/1.1\r\nHost: localhost\r\n",
    )
    plugs = []
    try:
        for number in range(200):
            host, port = served.place.rsplit(":", 1)
            plugs.append(socket.create_connection((host, int(port))))
            plugs[-1].sendall(starts[number % len(starts)])
        for _ in range(5):
            begin = time.perf_counter()
            assert honest(served) == served.right
            assert time.perf_counter() - begin < SECONDS
    finally:
        for plug in plugs:
            plug.close()
    assert becomes(lambda: descriptors(served), before)[0]


def test_a_client_sees_that_its_body_is_too_large_after_it_was_sent(served):
    status, headers, content = served.ask("POST", "/classify", bytes(40_000_000))
    assert status == 413
    assert headers["Connection"] == "close"
    assert json.loads(content)["error"].startswith("the body has more than 32,000,000 bytes")
    assert honest(served) == served.right


@pytest.mark.slow  # half a minute until the server's patience ends
def test_slow_connections_are_closed(served):
    """Heads and bodies without an end, empty lines between requests, and answers that nobody reads."""

    def waits(data, then=b""):
        with connection(served, 60) as plug:
            plug.sendall(data)
            if then:
                plug.recv(1 << 16)
                plug.sendall(then)
            begin = time.perf_counter()
            found = b""
            while part := plug.recv(1 << 16):
                found += part
            return found, time.perf_counter() - begin

    def never_reads():
        with socket.socket() as plug:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = served.place.rsplit(":", 1)
            plug.connect((host, int(port)))
            plug.settimeout(0.05)
            page = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
            end = time.monotonic() + 60
            while time.monotonic() < end:
                try:
                    plug.sendall(page * 20)
                    time.sleep(0.02)
                except TimeoutError:
                    time.sleep(0.5)
                except ConnectionError:
                    return True
            return False

    with ThreadPoolExecutor(6) as threads:
        silent = threads.submit(waits, b"")
        slow_head = threads.submit(waits, GET[:20])
        slow_body = threads.submit(waits, post("/classify", b"12345")[:-1])
        empty_lines = threads.submit(waits, GET, b"\r\n")
        unread = threads.submit(never_reads)
        found, seconds = silent.result()
        assert found == b""
        assert 15 < seconds < 30
        assert found == b""
        for waiting in (slow_head, empty_lines):
            found, seconds = waiting.result()
            assert b" 408 " in found
            assert 15 < seconds < 30
        found, seconds = slow_body.result()
        assert b" 408 " in found
        assert 25 < seconds < 45
        assert unread.result()
    assert honest(served) == served.right


@pytest.mark.slow  # a server of its own
def test_hanging_connections_do_not_stop_an_end(export):
    with serving(export) as found, connection(found) as idle, connection(found) as half:
        idle.sendall(GET)
        assert b" 200 " in idle.recv(1 << 16)
        half.sendall(GET[:20])
        begin = time.perf_counter()
        assert found.end() == 0
        assert time.perf_counter() - begin < 15


@pytest.mark.parametrize(
    "given", ["Bearer sécret", "Bearer \ud800"[:7] + "ÿ", "bearer", "", "Bearer", "Basic secret", "Bearer secret2"]
)
def test_a_wrong_token_of_any_letters_is_refused(given):
    assert not allowed(given, "secret")


class NoVersions:
    """What a service needs of versions that nobody asks."""

    name = "digits"

    def trouble(self):
        return ""

    def close(self):
        pass


@contextmanager
def service(**limits):
    found = Service(NoVersions(), Limits(**limits))
    try:
        yield found
    finally:
        found.close()


def health(found):
    """(status, words) of /healthz, in the process."""
    ask = People(found, Metrics(found))

    async def answer():
        try:
            return (await ask(Request("GET", "/healthz", [], b""))).status, ""
        except RequestError as error:
            return error.http, error.message

    return asyncio.run(answer())


def end_thread(ident):
    """Raise SystemExit in a thread as soon as it does something."""
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(SystemExit)) == 1


@pytest.mark.parametrize("name", ["decoders", "waiters"])
def test_a_thread_that_died_is_seen(name):
    with service() as found:
        assert health(found) == (200, "")
        pool = getattr(found, name)

        async def use():
            ident = await pool.run(threading.get_ident)
            end_thread(ident)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.run(int), 1)  # the thread takes the job, and dies

        asyncio.run(use())
        status, words = health(found)
        assert status == 503
        assert re.fullmatch(r"1 of \d+ threads of '\w+' ended", words)


@pytest.mark.parametrize("name", ["decoders", "waiters"])
def test_a_job_without_an_end_is_seen(name, monkeypatch):
    monkeypatch.setattr(pools, "STALLED", 0.1)
    with service() as found:
        go_on = threading.Event()

        async def use():
            job = asyncio.ensure_future(getattr(found, name).run(go_on.wait))
            await asyncio.sleep(0.3)
            words = found.trouble()
            go_on.set()
            await job
            return words

        assert re.fullmatch(r"'\w+' has 1 jobs and finished none for 0 s", asyncio.run(use()))
        assert found.trouble() == ""


def test_a_thread_that_cannot_begin_is_no_job_that_stalls(monkeypatch):
    pool = Pool("decode", 1)
    monkeypatch.setattr(pools, "STALLED", -1.0)
    monkeypatch.setattr(
        pool._executor, "submit", lambda *_: (_ for _ in ()).throw(RuntimeError("can't start new thread"))
    )

    async def use():
        with pytest.raises(RuntimeError):
            await pool.run(int)

    asyncio.run(use())
    assert pool.trouble() == ""


def test_slots_are_given_back_whatever_happens(monkeypatch, caplog):
    """After errors, cancelled callers and those whose patience ended, of whom nothing is in the log."""
    monkeypatch.setattr("kerazoo.serving.service.PATIENCE", 0.2)

    async def use(found):
        go_on = threading.Event()

        def fails():
            raise RequestError("no")

        def waits():
            go_on.wait()
            raise RequestError("no")

        with pytest.raises(RequestError, match="no"):
            await found.answer(fails, print)
        late = asyncio.ensure_future(found.answer(waits, print))
        cancelled = asyncio.ensure_future(found.answer(waits, print))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        with pytest.raises(RequestError, match="busy with 2 requests"):
            await found.answer(fails, print)
        with pytest.raises(RequestError, match="no answer within"):
            await late
        assert found.requests.used == 2
        go_on.set()
        while found.requests.used:
            await asyncio.sleep(0.01)

    with service(queue=2) as found:
        asyncio.run(asyncio.wait_for(use(found), 10))
    gc.collect()
    assert not caplog.records


def test_slots_are_not_taken_beyond_their_number():
    slots = Slots(2)
    slots.take(2)
    with pytest.raises(RequestError):
        slots.take(1)
    slots.give(2)
    slots.take(2)


@pytest.mark.parametrize("keep", [True, False])
def test_bodies_that_are_thrown_away_take_no_room(keep):
    """What is too large, and what is read only to its end."""
    parts = 6 if keep else 3
    seen = []

    async def use():
        room = Room(100_000_000)
        left = [{"type": "http.request", "body": bytes(1_000_000), "more_body": n > 0} for n in reversed(range(parts))]

        async def receive():
            seen.append(room._used)
            return left.pop(0)

        body = Body(receive, None, 4_000_000, room)
        if keep:
            with pytest.raises(RequestError, match="more than 4,000,000 bytes"):
                await body.read()
        else:
            assert await body.finish()

    asyncio.run(use())
    assert seen == ([0, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 0] if keep else [0, 0, 0])


def test_a_fault_in_a_call_says_nothing_of_itself():
    said = []

    class Context:
        async def abort(self, code, words):
            said.append((code, words))

    class Servicer:
        def __init__(self, metrics):
            self.metrics = metrics

        @answering("Predict")
        async def predict(self, request):
            raise KeyError("secret")

    with service() as found:
        asyncio.run(Servicer(Metrics(found)).predict(None, Context()))
    assert said == [(grpc.StatusCode.INTERNAL, "the server failed; its log says why")]
