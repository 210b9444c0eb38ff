"""Hostile requests to a server, made from a seed: bytes for a socket and messages for gRPC, and what may answer."""

import base64
import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from bombs import bmp, gif, jpeg, mutated, png, samples, texts, webp

PREDICT = "/v1/models/digits:predict"
CLASSIFY = "/v1/models/digits:classify"
REFUSED = frozenset({400})
JUDGED = frozenset({200, 400})  # images that may be whole, and values that may be right
SERVICE = "/tensorflow.serving.PredictionService/"
TOO_LARGE = 33_000_000  # bytes of a body, beyond the default --max-body
BROKEN = b"\xff\xfe\xc0\x80"  # no UTF-8
CODES = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED")


@dataclass(frozen=True)
class Raw:
    """Bytes for a connection, and the statuses that may answer them. With `cut`, it is closed after the last byte."""

    name: str
    data: bytes
    codes: frozenset[int] = REFUSED
    cut: bool = False
    answers: int = 1


@dataclass(frozen=True)
class Call:
    """A message for gRPC, and the codes that may answer it."""

    name: str
    path: str
    data: bytes
    codes: tuple[str, ...] = CODES
    cancelled: bool = False


def head(method, path, *lines, host=b"localhost"):
    """A request line and headers, of which the last closes the connection."""
    path = path if isinstance(path, bytes) else path.encode()
    first = [method.encode() + b" " + path + b" HTTP/1.1"]
    return b"\r\n".join([*first, b"Host: " + host, *lines, b"Connection: close", b"", b""])


def post(path, body, *lines):
    """A request with a body of an announced length."""
    return head("POST", path, b"Content-Length: %d" % len(body), *lines) + body


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


GET = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LENGTH, CHUNKS = b"Content-Length: 5", b"Transfer-Encoding: chunked"
CHUNKED = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
SMUGGLED = b"\r\n0\r\n\r\n" + GET
LARGE = frozenset({431})
KNOWN = (
    Raw("a path up", head("GET", "/../../etc/passwd"), frozenset({404})),
    Raw("a path up, encoded", head("GET", "/%2e%2e/%2e%2e/etc/passwd"), frozenset({404})),
    Raw("a path up in a model", head("GET", "/v1/models/../../etc/passwd")),
    Raw("a path up in a name", head("GET", "/v1/models/..%2f..%2fetc"), frozenset({404})),
    Raw("a path with an encoded NUL", head("GET", "/page.js%00.html"), frozenset({404})),
    Raw("a path with a NUL", head("GET", "/\0")),
    Raw("a path with two slashes", head("GET", "//healthz"), frozenset({404})),
    Raw("a path with backslashes", head("GET", "/..\\..\\windows"), frozenset({404})),
    Raw("a path that is not ASCII", head("GET", "/é")),
    Raw("a path with a tab", head("GET", "/a\tb")),
    Raw("a long path", head("GET", "/" + "a" * 60_000), frozenset({404})),
    Raw("a name of 60,000 letters", head("GET", "/v1/models/" + "a" * 60_000), frozenset({404})),
    Raw("a version of 9,000 digits", head("GET", "/v1/models/digits/versions/" + "9" * 9_000)),
    Raw("a request line of 1 MB", head("GET", "/" + "a" * 1_000_000), LARGE),
    Raw("a request line of 100 kB", head("GET", "/" + "a" * 100_000), LARGE),
    Raw("a header of 1 MB", head("GET", "/readyz", b"X: " + b"a" * 1_000_000), LARGE),
    Raw("a header of 1 MB without an end", b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000, LARGE),
    Raw("10,000 headers", head("GET", "/readyz", *(b"X-%d: y" % number for number in range(10_000))), LARGE),
    Raw("a megabyte after a chunked body", CHUNKED + b"\r\n1\r\na\r\n0\r\n" + b"a: b\r\n" * 200_000, LARGE),
    Raw("a line of 1 MB after a chunked body", CHUNKED + b"\r\n1\r\na\r\n0\r\na: " + b"a" * 1_000_000, LARGE),
    Raw("an extension of 1 MB of a chunk", CHUNKED + b"\r\n1;" + b"a" * 1_000_000, LARGE),
    Raw("an absolute address", head("GET", "http://evil/readyz"), frozenset({200})),
    Raw("another host", head("GET", "/readyz", host=b"evil.example"), frozenset({403})),
    Raw("another host with a user", head("GET", "/readyz", host=b"localhost@evil.example"), frozenset({403})),
    Raw("an empty host", head("GET", "/readyz", host=b""), frozenset({403})),
    Raw("two hosts", head("GET", "/readyz", b"Host: localhost")),
    Raw("two hosts, one evil", head("GET", "/readyz", b"host: evil.example")),
    Raw("no host", b"GET /readyz HTTP/1.1\r\nConnection: close\r\n\r\n"),
    Raw("no host in HTTP/1.0", b"GET /readyz HTTP/1.0\r\n\r\n", frozenset({200})),
    Raw("an IPv6 host", head("GET", "/readyz", host=b"[::1]:80"), frozenset({200})),
    Raw("an IPv6 host without a port", head("GET", "/readyz", host=b"[::1]"), frozenset({200})),
    Raw("a broken IPv6 host", head("GET", "/readyz", host=b"[::1"), frozenset({403})),
    Raw("HTTP/0.9", b"GET /readyz\r\n\r\n", frozenset({200, 400})),
    Raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Raw("TLS", bytes.fromhex("16030100a5010000a10303") + bytes(160)),
    Raw("no HTTP", b"\0\1\2\3\r\n\r\n"),
    Raw("no method", b" / HTTP/1.1\r\n\r\n"),
    Raw("an unknown method", head("BREW", "/classify")),
    Raw("CONNECT", head("CONNECT", "localhost:80")),
    Raw("DELETE", head("DELETE", "/classify"), frozenset({405})),
    Raw("GET of a path for POST", head("GET", "/classify"), frozenset({405})),
    Raw("TRACE of a model", head("TRACE", "/v1/models/digits")),
    Raw("OPTIONS of all", head("OPTIONS", "*"), frozenset({404})),
    Raw("HEAD", head("HEAD", "/healthz"), frozenset({200})),
    Raw("an upgrade", head("GET", "/readyz", b"Upgrade: h2c"), frozenset({200})),
    Raw("a length and chunks", head("POST", "/classify", LENGTH, CHUNKS) + SMUGGLED),
    Raw("chunks and a length", head("POST", "/classify", CHUNKS, LENGTH) + SMUGGLED),
    Raw("two lengths", head("POST", "/classify", b"Content-Length: 5", b"Content-Length: 6") + b"123456"),
    Raw("a length with a sign", head("POST", "/classify", b"Content-Length: +5") + b"12345"),
    Raw("a length below zero", head("POST", "/classify", b"Content-Length: -5") + b"12345"),
    Raw("a length of 30 digits", head("POST", "/classify", b"Content-Length: " + b"9" * 30) + b"12345"),
    Raw("a length in words", head("POST", "/classify", b"Content-Length: five") + b"12345"),
    Raw("another coding", head("POST", "/classify", b"Transfer-Encoding: gzip") + b"12345"),
    Raw("chunked twice", head("POST", "/classify", b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n", JUDGED),
    Raw("chunks of no length", CHUNKED + b"\r\nzz\r\n\r\n"),
    Raw("a chunk of 2 ** 64", CHUNKED + b"\r\nfffffffffffffffff\r\n"),
    Raw("a folded header", head("GET", "/readyz", b"X: a", b" b")),
    Raw("a header with a NUL", head("GET", "/readyz", b"X: a\0b")),
    Raw("a name with a space", head("GET", "/readyz", b"X : a")),
    Raw("a header without a colon", head("GET", "/readyz", b"nothing")),
    Raw("a line feed alone", head("GET", "/readyz", b"X: a\nEvil: b"), JUDGED),
    Raw("a gzip bomb", post(PREDICT, gzip.compress(bytes(TOO_LARGE)), b"Content-Encoding: gzip"), frozenset({413})),
    Raw("a broken gzip", post(PREDICT, b"\x1f\x8b\x08" + bytes(20), b"Content-Encoding: gzip")),
    Raw("half a gzip", post(PREDICT, gzip.compress(b'{"instances": []}')[:-5], b"Content-Encoding: gzip")),
    Raw("a large body", post(PREDICT, bytes(TOO_LARGE)), frozenset({413})),
    Raw("a large body in chunks", head("POST", PREDICT, b"Transfer-Encoding: chunked")
        + (b"%x\r\n" % 1_000_000 + bytes(1_000_000) + b"\r\n") * 33 + b"0\r\n\r\n", frozenset({413})),
    Raw("70 lists around a value", post(PREDICT, b'{"instances":' + b"[" * 70 + b'"x"' + b"]" * 70 + b"}")),
    Raw("900 lists around a value", post(PREDICT, b'{"inputs":' + b"[" * 900 + b'"x"' + b"]" * 900 + b"}")),
    Raw("?top= of 5,000 digits", post("/classify?top=0000000001" + "0" * 5_000, b"x")),
    Raw("?top= of nothing", post("/classify?top=", png(9, 9))),
    Raw("no body", post("/classify", b"")),
    Raw("a form without a boundary", post("/classify", b"x", b"Content-Type: multipart/form-data")),
    Raw("50 requests at once", GET * 50 + head("GET", "/readyz"), frozenset({200}), answers=51),
    Raw("10,000 requests at once", GET * 10_000, frozenset({503})),
    Raw("a request and junk", GET + b"\0\0junk\r\n\r\n", JUDGED),
)  # fmt: skip


def whole_body(draw, image):
    """A right request in one of its forms: (path, JSON value)."""
    one = b64(image)
    return draw.choice(
        (
            (PREDICT, {"instances": [one]}),
            (PREDICT, {"signature_name": "serving_default", "instances": [{"image_bytes": one}] * draw.randint(1, 3)}),
            (PREDICT, {"inputs": {"image_bytes": [one]}}),
            (PREDICT, {"signature_name": "serve_prepared", "instances": [[[[0.5]] * 28] * 28]}),
            (CLASSIFY, {"signature_name": "classify", "examples": [{"image_bytes": one, "other": [1, 2]}]}),
            (CLASSIFY.replace("classify", "regress"), {"examples": [{"image_bytes": one}]}),
        )
    )


def an_image(draw):
    """A mutated image by itself, in JSON or in a form."""
    content = mutated(draw.choice(images()), draw)
    way = draw.randrange(4)
    if way == 0:
        return Raw("a mutated image", post("/classify", content), JUDGED)
    if way == 1:
        part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n' + content + b"\r\n--x--"
        return Raw(
            "a mutated image in a form",
            post("/classify", part, b"Content-Type: multipart/form-data; boundary=x"),
            JUDGED,
        )
    path, value = whole_body(draw, content)
    return Raw("a mutated image in JSON", post(path, json.dumps(value).encode()), JUDGED)


def a_bomb(draw):
    return Raw("a bomb", post("/classify", draw.choice(bombs())))


def mutated_json(draw):
    """JSON with a byte changed, cut, or with other bytes in it."""
    path, value = whole_body(draw, b"no image")
    text = json.dumps(value).encode()
    way = draw.randrange(3)
    if way == 0:
        text = text[: draw.randrange(len(text))]
    elif way == 1:
        text = mutated(text, draw)
    else:
        at = draw.randrange(len(text))
        text = text[:at] + BROKEN + text[at:]
    return Raw("mutated JSON", post(path, text), JUDGED)


def junk(draw, depth=0):
    """Any JSON value."""
    simple = (
        None,
        True,
        -1,
        0,
        2**70,
        1e300,
        float("nan"),
        "",
        "a",
        "\ud800",
        "é" * 300,
        {},
        [],
        {"b64": 1},
        {"b64": "a"},
    )
    way = draw.random()
    if depth > 3 or way < 0.5:
        return draw.choice(simple)
    if way < 0.75:
        return [junk(draw, depth + 1) for _ in range(draw.randrange(4))]
    names = ("b64", "image_bytes", "instances", "inputs", "", "x")
    return {draw.choice(names): junk(draw, depth + 1) for _ in range(draw.randrange(4))}


def replaced(value, draw):
    """A JSON value, one place of which has junk."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        name = draw.choice(list(value))
        return value | {name: replaced(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], replaced(value[at], draw), *value[at + 1 :]]
    return junk(draw)


def other_types(draw):
    path, value = whole_body(draw, b"no image")
    return Raw("other types", post(path, json.dumps(replaced(value, draw)).encode()), JUDGED)


def nested(draw):
    """Values in many lists or objects, or very many of them side by side."""
    count = draw.choice((30, 70, 300, 990, 5_000, 200_000))
    opened, closed = draw.choice((("[", "]"), ('{"a":', "}"), ('[{"b64":', "}]")))
    key = draw.choice(("instances", "inputs", "examples", "signature_name"))
    inner = draw.choice(("1", '"x"', "", "null"))
    sides = (
        opened * count + inner + closed * count,
        "[" + "[]," * count + "[]]",
        "[" + "{}," * count + "{}]",
        "[" + '"",' * count + '""]',
    )
    value = draw.choice((*sides, "9" * count, "1e" + "9" * count))
    sorts = draw.choice(("serving_default", "serve_prepared", "classify"))
    return Raw(
        "nested",
        post(draw.choice((PREDICT, CLASSIFY)), f'{{"signature_name":"{sorts}","{key}":{value}}}'.encode()),
        REFUSED | {413},
    )


def a_form(draw):
    """A form with changed bytes."""
    lines = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\nContent-Type: image/png\r\n\r\n'
    data = mutated(lines + draw.randbytes(draw.randrange(200)) + b"\r\n--x--\r\n", draw)
    kind = draw.choice(
        (b"multipart/form-data; boundary=x", b"multipart/form-data; boundary=", b"multipart/x; boundary=\xff")
    )
    return Raw("a form", post("/classify", data, b"Content-Type: " + kind))


def cut(draw):
    """A right request of which the connection is closed at any byte."""
    path, value = whole_body(draw, draw.choice(images()))
    data = post(path, json.dumps(value).encode())
    return Raw("cut", data[: draw.randrange(len(data))], frozenset(), cut=True)


def mutated_head(draw):
    """A request whose line or headers have changed bytes."""
    first = head(
        "GET", draw.choice(("/readyz", "/v1/models/digits", "/metrics")), b"Accept: */*", b"X-Forwarded-For: 1.1.1.1"
    )
    return Raw(
        "a mutated head", mutated(first[:-2], draw) + b"\r\n\r\n", frozenset({200, 400, 403, 404, 405, 501}), cut=True
    )


def known(draw):
    small = [one for one in KNOWN if len(one.data) < 200_000]
    return draw.choice(small)


def a_call(draw):
    """Random bytes, or a mutated request, to a method of gRPC that may not exist."""
    names = (
        "Predict",
        "Predict",
        "Predict",
        "Classify",
        "Regress",
        "MultiInference",
        "GetModelMetadata",
        "SessionRun",
        "Nothing",
    )
    image = draw.choice(images())
    whole = right_call(mutated(image, draw))
    data = draw.choice((draw.randbytes(draw.randrange(300)), mutated(right_call(image), draw), whole, whole, b""))
    return Call("a call", SERVICE + draw.choice(names), data, ("OK", *CODES))


def a_tensor(draw):
    """A tensor whose shape, type and values do not fit."""
    shape = [draw.choice((-1, 0, 1, 2, 28, 300, 10**6, 2**40, 2**62)) for _ in range(draw.choice((0, 1, 1, 4, 70)))]
    name, signature = draw.choice((("image_bytes", ""), ("prepared", "serve_prepared"), ("nothing", "nothing")))
    content = {"tensor_content": draw.randbytes(draw.randrange(64))} if draw.random() < 0.3 else {}
    content |= {"string_val": [b"a"] * draw.randrange(3)} if draw.random() < 0.5 else {"float_val": [1.0]}
    data = message(name, signature, draw.choice((1, 4, 7, 7, draw.randrange(40), 107)), shape, **content)
    return Call("a tensor", SERVICE + "Predict", data, ("OK", *CODES))


def a_cancelled_call(draw):
    return Call("a cancelled call", SERVICE + "Predict", right_call(draw.choice(images())), cancelled=True)


KINDS: tuple[tuple[int, Callable], ...] = (
    (30, an_image), (2, a_bomb), (12, mutated_json), (15, other_types), (3, nested), (4, a_form), (8, cut),
    (6, mutated_head), (10, known), (5, a_call), (7, a_tensor), (3, a_cancelled_call),
)  # fmt: skip


def hostile(count, seed=0) -> Iterator[Raw | Call]:
    """`count` hostile requests, the same each time."""
    draw = random.Random(seed)
    weights = [weight for weight, _ in KINDS]
    for _ in range(count):
        ((_, kind),) = draw.choices(KINDS, weights)
        yield kind(draw)


@cache
def images():
    return samples()


@cache
def bombs():
    """Small files that announce, or unpack to, too much."""
    return (
        gif(13_000, 13_000, (10, 10)), gif(10, 10, (20_000, 20_000)), jpeg(7000, 5000, scans=13), jpeg(64, 0),
        png(12_000, 12_000), png(70_000, 1), png(9, 9, middle=b"\x7f\xff\xff\xfftEXtkey\0"),
        png(9, 9, middle=texts(9)), webp(10_000, 10_000), bmp(9, 9)[:40],
    )  # fmt: skip


def message(name, signature, dtype, shape, **values):
    """A request to Predict."""
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    request = PredictRequest()
    request.model_spec.name = "digits"
    request.model_spec.signature_name = signature
    tensor = request.inputs[name]
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    for field, value in values.items():
        if isinstance(value, bytes):
            setattr(tensor, field, value)
        else:
            getattr(tensor, field).extend(value)
    return request.SerializeToString()


def right_call(image):
    return message("image_bytes", "", 7, [1], string_val=[image])
