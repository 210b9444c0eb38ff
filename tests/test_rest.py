"""TensorFlow Serving's REST dialect, case by case: what is read, what is refused in which words, what is written.

The source of each case is a test or a line of TensorFlow Serving 2.20: `T:NAME` is a test in
tensorflow_serving/util/json_tensor_test.cc, `C:FUNCTION` a function in json_tensor.cc, `D` the page api_rest.md.
"""

import json

import numpy as np
import pytest

from kerazoo.serving.codes import RequestError
from kerazoo.serving.rest.answers import write_classes, write_predictions
from kerazoo.serving.rest.requests import parsed, read_classify, read_predict

ONE = {"x": "float"}
BYTES = {"image_bytes": "string"}
PIXELS = {"pixels": "uint8"}
TWO = {"a": "float", "b": "string"}

READ = {  # source: (kinds, body, expected values by name, rows)
    "T:SingleUnnamedTensor": (ONE, '{"instances": [[1,2],[3,4],[5,6]]}', {"x": [[1, 2], [3, 4], [5, 6]]}, True),
    "T:MixedInputForFloatTensor": (ONE, '{"instances": [1, 2.0, 3, 5.003, 0.0]}', {"x": [1, 2, 3, 5.003, 0]}, True),
    "T:FloatTensorThatExceedsMaxReturnsInf": (ONE, '{"instances": [1e40]}', {"x": [np.inf]}, True),
    "T:FloatTensorThatExceedsMinReturnsZero": (ONE, '{"instances": [1e-60]}', {"x": [0]}, True),
    "T:SingleUnnamedTensorWithSignature": (ONE, '{"signature_name": "f", "instances": [[1]]}', {"x": [[1]]}, True),
    "T:SingleUnnamedTensorBase64Scalars": (
        BYTES, '{"instances": [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]}', {"image_bytes": [b"hello", b"world"]}, True,
    ),
    "T:SingleUnnamedTensorBase64Lists": (
        BYTES, '{"instances": [[{"b64": "aGVsbG8="}], [{"b64": "d29ybGQ="}]]}',
        {"image_bytes": [[b"hello"], [b"world"]]}, True,
    ),
    "T:SingleNamedTensorBase64": (
        BYTES, '{"instances": [{"image_bytes": {"b64": "aGVsbG8="}}]}', {"image_bytes": [b"hello"]}, True,
    ),
    "T:MultipleNamedTensor": (
        TWO, '{"instances": [{"a": [1], "b": "p"}, {"a": [2], "b": "q"}]}', {"a": [[1], [2]], "b": [b"p", b"q"]}, True,
    ),
    "T:SingleUnnamedTensorColumnarFormat": (ONE, '{"inputs": [[1,2],[3,4]]}', {"x": [[1, 2], [3, 4]]}, False),
    "T:SingleUnnamedTensorColumnarFormat, named": (ONE, '{"inputs": {"x": [1]}}', {"x": [1]}, False),
    "T:MultipleNamedTensorColumnarFormat": (
        TWO, '{"inputs": {"a": [1, 2], "b": ["p", {"b64": "cQ=="}]}}', {"a": [1, 2], "b": [b"p", b"q"]}, False,
    ),
    "C:FillTensorMapFromInputsMap, base64": (BYTES, '{"inputs": {"b64": "cQ=="}}', {"image_bytes": b"q"}, False),
    "C:FillTensorMapFromInputsMap, more keys": (ONE, '{"inputs": {"x": [1], "y": 2}}', {"x": [1]}, False),
    "C:ParseJson, stops when done": (ONE, '{"instances": [1]} and more', {"x": [1]}, True),
    "C:ParseJson, NaN and Infinity": (ONE, '{"instances": [NaN, -Infinity]}', {"x": [np.nan, -np.inf]}, True),
    "C:FillPredictRequestFromJson, other keys": (ONE, '{"instances": [1], "nested": {}}', {"x": [1]}, True),
    "C:AddValueToTensor, uint8": (PIXELS, '{"instances": [[[0, 255]]]}', {"pixels": [[[0, 255]]]}, True),
    "C:AddValueToTensor, text": (BYTES, '{"instances": ["\u00fc"]}', {"image_bytes": ["\u00fc".encode()]}, True),
    "C:ParseJson, bytes that are no text": (BYTES, b'{"instances": ["\xff"]}', {"image_bytes": [b"\xff"]}, True),
    "C:JsonDecodeBase64Object, padding": (BYTES, '{"instances": [{"b64": "cQ"}]}', {"image_bytes": [b"q"]}, True),
    "C:GetDenseTensorShape, empty": (ONE, '{"inputs": [[], []]}', {"x": [[], []]}, False),
}  # fmt: skip

REFUSED = {  # source: (kinds, body, words)
    "T:SingleUnnamedTensorErrors, empty": (ONE, "", "JSON Parse error: The document is empty"),
    "T:SingleUnnamedTensorErrors, signature": (ONE, '{"signature_name": 5, "instances": [1]}', "must be a string"),
    "T:SingleUnnamedTensorErrors, both": (ONE, '{"instances": [1], "inputs": [1]}', "Not formatted correctly"),
    "T:SingleUnnamedTensorErrors, size": (ONE, '{"instances": [[1, 2], [3]]}', "Expecting tensor size: 2 but got: 1"),
    "T:SingleUnnamedTensorErrors, shape": (
        ONE, '{"instances": [[[1, 2]], [[3], [4]]]}', r"element: 1 of .*Expecting shape \[1,2\] but got: \[2,1\]",
    ),
    "T:SingleUnnamedTensorErrors, rank": (ONE, '{"instances": [[1], 2]}', r"Expecting shape \[1\] but got: \[\]"),
    "T:SingleUnnamedTensorErrors, type": (
        ONE, '{"instances": ["1"]}', 'JSON Value: "1" Type: String is not of expected type: float',
    ),
    "T:MultipleNamedTensorErrors, shape": (
        TWO, '{"instances": [{"a": [1], "b": "p"}, {"a": 2, "b": "p"}]}', "element: 1 key: a of .*Expecting shape",
    ),
    "T:MultipleNamedTensorErrors, list": (
        TWO, '{"instances": [{"a": 1, "b": "p"}, [1]]}', "Expecting object but got list at item 1 of input list",
    ),
    "T:MultipleNamedTensorErrors, object": (
        ONE, '{"instances": [1, {"x": 1}]}', "Expecting value/list but got object at item 1 of input list",
    ),
    "T:MultipleNamedTensorErrors, keys": (
        TWO, '{"instances": [{"a": 1}]}', r"JSON object: .* keys must be equal to: a,b",
    ),
    "C:AddInstanceItem, name": (
        ONE, '{"instances": [{"y": 1}]}',
        "element: 0 key: y of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have named input: y",
    ),
    "C:FillTensorMapFromInstancesList, plain": (TWO, '{"instances": [1]}', "instances is a plain list, but expecting"),
    "C:FillTensorMapFromInputsMap, plain": (TWO, '{"inputs": [1]}', "inputs is a plain value/list, but expecting an"),
    "C:FillTensorMapFromInputsMap, missing": (TWO, '{"inputs": {"a": 1}}', "Missing named input: b in 'inputs' object"),
    "C:FillPredictRequestFromJson, no list": (ONE, '{"instances": 5}', "Expecting 'instances' to be an list/array"),
    "C:FillPredictRequestFromJson, no values": (ONE, '{"instances": []}', "No values in 'instances' array"),
    "C:FillPredictRequestFromJson, missing": (ONE, '{"signature_name": ""}', "Missing 'inputs' or 'instances' key"),
    "C:ParseJson, no object": (ONE, "[1]", r"JSON Value: \[1\] Is not object"),
    "C:ParseJson, no JSON": (ONE, '{"instances": [1,}', "JSON Parse error: Invalid value. at offset: 17"),
    "C:FillTensorProto, level": (
        ONE, '{"inputs": [[1], 2]}', "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    ),
    "C:FillTensorProto, deeper": (ONE, '{"inputs": [1, [2]]}', "Encountered list at unexpected level: 1 expected < 1"),
    "C:FillTensorProto, size": (
        ONE, '{"inputs": [[1, 2], [3]]}', "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    "C:FillTensorProto, object": (ONE, '{"instances": [[{"b64": "cQ=="}]]}', "Type: Object is not of expected type"),
    "C:AddValueToTensor, bool": (ONE, '{"instances": [true]}', "Type: True is not of expected type: float"),
    "C:AddValueToTensor, null": (ONE, '{"instances": [null]}', "Type: Null is not of expected type: float"),
    "C:AddValueToTensor, no integer": (PIXELS, '{"instances": [1.5]}', "Type: Number is not of expected type: uint"),
    "C:AddValueToTensor, number for text": (BYTES, '{"instances": [5]}', "Type: Number is not of expected type: str"),
    "C:JsonDecodeBase64Object, object": (
        BYTES, '{"inputs": [{"b64": "cQ==", "x": 1}]}', "not formatted correctly for base64 data",
    ),
    "C:JsonDecodeBase64Object, letters": (BYTES, '{"instances": [{"b64": "*"}]}', "Unable to base64 decode"),
    "rapidjson, kParseErrorNumberTooBig": (ONE, '{"instances": [1' + "0" * 400 + "]}", "Number too big to be stored"),
    "ours: nested without end": (ONE, '{"instances": ' + "[" * 200_000, "JSON Parse error: Terminate parsing"),
    "ours: out of range": (PIXELS, '{"instances": [256]}', "JSON Value: 256 Type: Number is not of expected"),
}  # fmt: skip


def body_of(text):
    return text if isinstance(text, bytes) else text.encode()


@pytest.mark.parametrize("source", READ)
def test_requests_are_read_as_there(source):
    kinds, body, expected, rows = READ[source]
    asked = []
    found = read_predict(body_of(body), lambda name: asked.append(name) or kinds)
    assert asked == [found.signature]
    assert found.signature == ("f" if b"signature_name" in body_of(body) else "serving_default")
    assert found.rows is rows
    assert set(found.inputs) == set(expected)
    for name, values in expected.items():
        kind = {"float": np.float32, "uint8": np.uint8, "string": object}[kinds[name]]
        assert found.inputs[name].dtype == kind
        np.testing.assert_array_equal(found.inputs[name], np.array(values, kind))


@pytest.mark.parametrize("source", REFUSED)
def test_what_is_refused_there_is_refused_in_the_same_words(source):
    kinds, body, words = REFUSED[source]
    with pytest.raises(RequestError, match=words) as error:
        read_predict(body_of(body), lambda name: kinds)
    assert error.value.code == "INVALID_ARGUMENT"
    assert len(error.value.message) < 1000


def test_a_value_is_not_repeated_at_length():
    """C:JsonValueToDebugString."""
    with pytest.raises(RequestError) as error:
        read_predict(json.dumps({"instances": ["x" * 10_000]}).encode(), lambda name: ONE)
    assert len(error.value.message) < 500


CLASSIFY_REFUSED = {
    "T:JsonErrors, signature": ('{"signature_name": [], "examples": [{}]}', "'signature_name' key must be a string"),
    "T:JsonErrors, context": ('{"context": [], "examples": [{}]}', "Example must be JSON object but got JSON Array"),
    "T:JsonErrors, examples": ('{"examples": {}}', "Expecting 'examples' value to be an list/array"),
    "T:JsonErrors, example": ('{"examples": [[]]}', "Example must be JSON object"),
    "T:JsonErrors, null": ('{"examples": [{"names": [null]}]}', "names has element with unexpected JSON type: Null"),
    "T:JsonErrors, mixed": ('{"examples": [{"names": [10, 1.0]}]}', "feature: names expecting type: int64"),
    "T:JsonErrors, object": ('{"examples": [{"names": [{}]}]}', "names has element with unexpected JSON type: Object"),
    "T:JsonErrors, array": ('{"examples": [{"names": [[10]]}]}', "names has element with unexpected JSON type: Array"),
    "C:FillClassifyRegressRequestFromJson, missing": ("{}", "When method is classify, key 'examples' is expected"),
    "C:FillClassifyRegressRequestFromJson, empty": ('{"examples": []}', "'examples' value is an empty array"),
}


@pytest.mark.parametrize("source", CLASSIFY_REFUSED)
def test_examples_that_are_refused_there(source):
    body, words = CLASSIFY_REFUSED[source]
    with pytest.raises(RequestError, match=words):
        read_classify(body.encode())


def test_examples_are_read_with_their_context():
    """T:RequestWithContextAndSignature."""
    body = '{"signature_name": "c", "context": {"k": "v"}, "examples": [{"x": 1, "y": {"b64": "cQ=="}}, {"x": [2, 3]}]}'
    assert read_classify(body.encode()) == (
        "c", [{"k": [b"v"], "x": [1], "y": [b"q"]}, {"k": [b"v"], "x": [2, 3]}],
    )  # fmt: skip


A = np.array([[1, 0.2], [3, 4e-5]], np.float32)
LABELS = np.array([b"p", b"\xc3\xbc"], object)
WRITTEN = {
    "T:FromJsonSingleTensor": ({"x": A}, True, {"predictions": [[1.0, 0.2], [3.0, 4e-5]]}),
    "T:FromJsonSingleScalarTensor": ({"x": A[:, 1]}, True, {"predictions": [0.2, 4e-5]}),
    "T:FromJsonSingleBytesTensor": (
        {"x_bytes": LABELS}, True, {"predictions": [{"b64": "cA=="}, {"b64": "w7w="}]},
    ),
    "T:FromJsonMultipleNamedTensors": (
        {"x": A, "l": LABELS}, True, {"predictions": [{"l": "p", "x": [1, 0.2]}, {"l": "\u00fc", "x": [3, 4e-5]}]},
    ),
    "T:FromJsonMultipleNamedTensors, columns": (
        {"x": A, "l": LABELS}, False, {"outputs": {"l": ["p", "\u00fc"], "x": [[1, 0.2], [3, 4e-5]]}},
    ),
    "T:FromJsonSingleZeroBatchTensor": ({"x": A[:0]}, True, {"predictions": []}),
    "C:MakeColumnarFormatJsonFromTensors": ({"x": A[0]}, False, {"outputs": [1.0, 0.2]}),
    "C:AddSingleValueAndAdvance, whole numbers": ({"x": np.array([3, 4])}, True, {"predictions": [3, 4]}),
}  # fmt: skip


@pytest.mark.parametrize("source", WRITTEN)
def test_answers_are_written_as_there(source):
    outputs, rows, expected = WRITTEN[source]
    found = write_predictions(outputs, rows=rows)
    assert found == expected
    assert json.loads(json.dumps(found)) == expected


def test_numbers_that_are_not_finite_are_words():
    """T:FromJsonSingleFloatTensorNonFinite; Python reads these words."""
    found = write_predictions({"x": np.array([np.nan, np.inf, -np.inf], np.float32)}, rows=True)
    assert json.dumps(found) == '{"predictions": [NaN, Infinity, -Infinity]}'


def test_answers_that_cannot_be_written():
    with pytest.raises(RequestError, match="Cannot convert empty tensor map to JSON"):  # T:FromJsonSingleTensorErrors
        write_predictions({}, rows=True)
    with pytest.raises(RequestError, match="Tensor name: x has no shape information"):  # the same
        write_predictions({"x": np.float32(1) * np.ones(())}, rows=True)
    with pytest.raises(RequestError, match="x has inconsistent batch size: 2 expecting: 1"):  # T:...NamedTensorsErrors
        write_predictions({"a": A[:1], "x": A}, rows=True)
    with pytest.raises(RequestError, match="Cannot convert empty ClassificationResults"):  # T:JsonFromResultErrors
        write_classes([], np.zeros((0, 2)))


def test_classes_are_pairs():
    """T:JsonFromClassificationResult."""
    assert write_classes([["a", "b"], ["b", "a"]], A) == {
        "results": [[["a", 1.0], ["b", 0.2]], [["b", 3.0], ["a", 4e-5]]]
    }


def test_pixels_by_the_million_take_no_minutes():
    """A photo of 300 x 300 in JSON is read in about a second."""
    pixels = np.arange(3 * 300 * 300).reshape(300, 300, 3) % 256
    found = read_predict(json.dumps({"instances": [pixels.tolist()]}).encode(), lambda name: PIXELS)
    np.testing.assert_array_equal(found.inputs["pixels"][0], pixels)


def test_duplicate_keys_and_odd_documents():
    assert parsed(b' \n{"a": 1, "a": 2}')["a"] == 2
    for body in (b"{", b"nul", b'{"a": 1' + b"0" * 5000 + b"}", b"\xef\xbb\xbf{}"):
        with pytest.raises(RequestError, match="JSON Parse error"):
            parsed(body)
