"""A client of TensorFlow Serving gets from `kerazoo serve` what it gets there: each case of the table, over the wire.

One thing differs on purpose: over HTTP, a request none of whose images can be decoded is an error, 400, that says why.
"""

import http.client
import json
import math
import re
from collections import Counter
from urllib.parse import urlsplit

import grpc
import pytest
from google.protobuf import json_format
from servers import serving
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)
from tensorflow_serving_cases import (
    GRPC_CASES,
    REST_CASES,
    AnyBody,
    Like,
    NoBody,
    Refused,
    Text,
)

SECONDS = 60
MESSAGES = {  # call: (request, answer)
    "PredictionService/Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    "PredictionService/Classify": (
        classification_pb2.ClassificationRequest,
        classification_pb2.ClassificationResponse,
    ),
    "PredictionService/Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
    "PredictionService/MultiInference": (inference_pb2.MultiInferenceRequest, inference_pb2.MultiInferenceResponse),
    "PredictionService/GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "ModelService/GetModelStatus": (
        get_model_status_pb2.GetModelStatusRequest,
        get_model_status_pb2.GetModelStatusResponse,
    ),
    "ModelService/HandleReloadConfigRequest": (
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
    ),
}


@pytest.fixture(scope="module")
def served(digits):
    """A live server of the model that tensorflow_serving_cases describes."""
    with serving(digits, "--grpc-port", "0") as found:
        found.image = next((digits.parents[1] / "images").rglob("*.png")).read_bytes()
        found.broken = b"no image"
        yield found
        assert found.process.poll() is None


def given(value, served):
    """What a case sends."""
    return value(served) if callable(value) else value


def difference(found, expected, more, where="answer"):
    """Where a JSON value is not as expected, or None."""
    shown = f"{where}: got {found!r:.200}"
    if isinstance(expected, type):
        return None if isinstance(found, expected) else f"{shown}, expected {expected.__name__}"
    if callable(expected):
        return None if expected(found) else f"{shown}, which is not {getattr(expected, '__name__', expected)}"
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return f"{shown}, expected an object"
        missing = expected.keys() - found.keys()
        extra = set() if more else found.keys() - expected.keys()
        if missing or extra:
            return f"{where}: missing keys {sorted(missing)}, unexpected keys {sorted(extra)}"
        parts = [(found[name], expected[name], f"{where}.{name}") for name in expected]
    elif isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"{shown}, expected a list of {len(expected)}"
        parts = [(one, other, f"{where}[{i}]") for i, (one, other) in enumerate(zip(found, expected, strict=True))]
    else:
        same = type(found) is type(expected) and found == expected
        return None if same else f"{shown}, expected {expected!r}"
    each = (difference(one, other, more, place) for one, other, place in parts)
    return next((one for one in each if one is not None), None)


def check_json(found, expected):
    reason = difference(found, expected.value, expected.more)
    assert reason is None, reason


def check_body(body, expected):
    match expected:
        case NoBody():
            assert body == b""
        case Text():
            assert re.search(expected.pattern, body.decode())
        case Refused():
            document = json.loads(body)
            assert set(document) == {"error"}
            assert re.fullmatch(expected.words, document["error"], re.DOTALL), document["error"]
        case Like():
            check_json(json.loads(body), expected)
        case AnyBody():
            pass


@pytest.mark.parametrize("case", REST_CASES, ids=lambda case: case.name)
def test_over_http(case, served):
    connection = http.client.HTTPConnection(urlsplit(served.rest).netloc, timeout=SECONDS)
    try:  # the path is sent as it is: no library may tidy it
        connection.request(case.method, case.path, given(case.body, served), dict(case.headers))
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    assert answer.status == case.code, content[:500]
    assert answer.getheader("Content-Encoding") is None
    if case.content_type is not None:
        assert answer.getheader("Content-Type") == case.content_type
    check_body(content, case.answer)


@pytest.mark.parametrize("case", GRPC_CASES, ids=lambda case: case.name)
def test_over_grpc(case, served):
    asked, answered = MESSAGES[case.call]
    message = json_format.ParseDict(given(case.request, served), asked())
    with grpc.insecure_channel(served.grpc, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(
            f"/tensorflow.serving.{case.call}",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        if case.code == "OK":
            answer = call(message, timeout=SECONDS)
            check_json(json_format.MessageToDict(answer, preserving_proto_field_name=True), case.answer)
            return
        with pytest.raises(grpc.RpcError) as error:
            call(message, timeout=SECONDS)
    assert error.value.code().name == case.code, error.value.details()
    assert re.fullmatch(case.answer.words, error.value.details(), re.DOTALL), error.value.details()


@pytest.mark.parametrize("cases", [REST_CASES, GRPC_CASES])
def test_every_case_has_a_name_of_its_own_and_a_source(cases):
    counts = Counter((getattr(case, "call", ""), case.name) for case in cases)
    assert [name for name, count in counts.items() if count > 1] == []
    assert all(case.source for case in cases)


@pytest.mark.parametrize(
    ("found", "expected", "more", "words"),
    [
        ({"a": 1}, {"a": 1}, False, None),
        ({"a": 1, "b": 2}, {"a": 1}, True, None),
        ({"a": 1, "b": 2}, {"a": 1}, False, r"unexpected keys \['b'\]"),
        ({}, {"a": 1}, True, r"missing keys \['a'\]"),
        ([1, 2], [1], True, "expected a list of 1"),
        (1, 1.0, False, "expected 1.0"),
        (1, True, False, "expected True"),
        (0.5, math.isfinite, False, None),
        (math.nan, math.isfinite, False, "which is not isfinite"),
        ({"a": ["x"]}, {"a": [int]}, False, r"answer\.a\[0\]: got 'x', expected int"),
    ],
)
def test_differences_are_seen(found, expected, more, words):
    reason = difference(found, expected, more)
    assert reason is None if words is None else re.search(words, reason)
