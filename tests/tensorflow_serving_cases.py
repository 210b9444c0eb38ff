"""What TensorFlow Serving answers over HTTP and gRPC, case by case, each with its source. `test_conformance` runs them.

The sources are files of TensorFlow Serving at commit 9d981c5c, in tensorflow_serving/, with a function or a test.
`T:NAME` is a test in util/json_tensor_test.cc, `C:FUNCTION` a function in util/json_tensor.cc, `D:SECTION` a section
of g3doc/api_rest.md. A source that starts with "graph:" depends on what the exported graph refuses: TensorFlow Serving
does not compare shapes with the signature. It passes on the status of the first operation that fails.

The served model is `digits` with 10 classes. Version 3 is served; versions 1 and 2 were never loaded. There are no
labels. Where TensorFlow Serving leaves a header or a body to its HTTP library (libevent), it is not compared.
"""

import base64
import gzip
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HANDLER = "model_servers/http_rest_api_handler.cc"
HANDLER_TEST = "model_servers/http_rest_api_handler_test.cc"
PATHS = "model_servers/http_rest_api_util.cc"
PATHS_TEST = "model_servers/http_rest_api_util_test.cc"
SERVER = "model_servers/http_server.cc"
EVHTTP = "util/net_http/server/internal/evhttp_server.cc"
EVHTTP_REQUEST = "util/net_http/server/internal/evhttp_request.cc"
CORE = "model_servers/server_core.cc"
SERVER_TEST = "model_servers/tensorflow_model_server_test.py"
PREDICT = "servables/tensorflow/predict_util.cc"
PREDICT_IMPL_TEST = "servables/tensorflow/predict_impl_test.cc"
PREDICT_TEST = "servables/tensorflow/predict_util_test.cc"
CLASSIFIER = "servables/tensorflow/classifier.cc"
CLASSIFIER_TEST = "servables/tensorflow/classifier_test.cc"
REGRESSOR = "servables/tensorflow/regressor.cc"
MULTI = "servables/tensorflow/multi_inference.cc"
MULTI_TEST = "servables/tensorflow/multi_inference_test.cc"
STATUS = "model_servers/get_model_status_impl.cc"
STATUS_TEST = "model_servers/get_model_status_impl_test.cc"
METADATA = "servables/tensorflow/get_model_metadata_impl.cc"
METADATA_TEST = "servables/tensorflow/get_model_metadata_impl_test.cc"
JSON_TYPE = "application/json"
MODEL = "/v1/models/digits"


@dataclass(frozen=True)
class Like:
    """A JSON value with these values. A type stands for any value of it, a function for any value it is true of.

    Objects have exactly these keys, or with `more` at least these.
    """

    value: Any
    more: bool = False


@dataclass(frozen=True)
class Refused:
    """The JSON object {"error": ...}, or the details of a gRPC error; `words` is a pattern of the whole message."""

    words: str


@dataclass(frozen=True)
class Text:
    """A body that is no JSON; `pattern` is found in it."""

    pattern: str


@dataclass(frozen=True)
class NoBody:
    """A body of no bytes."""


@dataclass(frozen=True)
class AnyBody:
    """The body is that of the HTTP library, and is not compared."""


@dataclass(frozen=True)
class RestCase:
    """A request and its answer. `body` may be a function of the served model's `image` and `broken`.

    `content_type` is the answer's, whole; None where the HTTP library sets it.
    """

    name: str
    source: str
    path: str
    answer: Like | Refused | Text | NoBody | AnyBody
    method: str = "POST"
    body: bytes | Callable[[Any], bytes] = b""
    headers: tuple[tuple[str, str], ...] = ()
    code: int = 200
    content_type: str | None = JSON_TYPE


@dataclass(frozen=True)
class GrpcCase:
    """A call and its answer. `request` is the message as JSON, or a function of the model's `image` and `broken`.

    `answer` is compared with the message as JSON: with the fields' own names, without defaults, with int64 as strings.
    """

    name: str
    source: str
    call: str
    request: dict[str, Any] | Callable[[Any], dict[str, Any]]
    answer: Like | Refused
    code: str = "OK"


def says(words: str) -> Refused:
    """The error with exactly these words."""
    return Refused(re.escape(words))


def finite(value: Any) -> bool:
    """A number with a fraction: TensorFlow Serving writes 1.0, never 1 (C:WriteDecimal)."""
    return isinstance(value, float) and math.isfinite(value)


def not_a_number(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def finite_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(finite, value))


def some_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def not_ok(value: Any) -> bool:
    return some_text(value) and value != "ok"


def b64(content: bytes) -> dict[str, str]:
    """Bytes in a JSON body."""
    return {"b64": base64.b64encode(content).decode()}


def body(**values: Any) -> bytes:
    return json.dumps(values).encode()


def grid(value: Any, *shape: int) -> Any:
    """Nested lists of one value."""
    for size in reversed(shape):
        value = [value] * size
    return value


IMAGE = {
    "probabilities": [finite] * 10,
    "label": some_text,
    "top_labels": [some_text] * 5,
    "top_probabilities": [finite] * 5,
    "class_names": [some_text] * 10,
    "status": "ok",
}
NO_IMAGE = {
    "probabilities": [not_a_number] * 10,
    "label": "",
    "top_labels": [""] * 5,
    "top_probabilities": [not_a_number] * 5,
    "class_names": [some_text] * 10,
    "status": not_ok,
}


def rows(*each: Any) -> Like:
    return Like({"predictions": list(each)})


def columns(*each: dict[str, Any]) -> Like:
    return Like({"outputs": {name: [one[name] for one in each] for name in each[0]}})


def one_image(served: Any) -> bytes:
    return body(instances=[b64(served.image)])


def one_example(served: Any) -> bytes:
    return body(signature_name="classify", examples=[{"image_bytes": b64(served.image)}])


STATUS_OF_3 = Like(
    {
        "model_version_status": [
            {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
)


def info(dtype: str, *dims: Any) -> dict[str, Any]:
    """A TensorInfo as the metadata show it."""
    dim = [{"size": size if callable(size) else str(size), "name": ""} for size in dims]
    return {"dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": False}, "name": some_text}


def signature(inputs: dict[str, Any], outputs: dict[str, Any], method: str = "predict") -> dict[str, Any]:
    return {"inputs": inputs, "outputs": outputs, "method_name": f"tensorflow/serving/{method}", "defaults": {}}


OUTPUTS = {
    "probabilities": info("DT_FLOAT", -1, 10),
    "label": info("DT_STRING", -1),
    "top_labels": info("DT_STRING", -1, 5),
    "top_probabilities": info("DT_FLOAT", -1, 5),
    "class_names": info("DT_STRING", -1, 10),
    "status": info("DT_STRING", -1),
}
BYTES = {"image_bytes": info("DT_STRING", -1)}
FEATURE_COUNT = re.compile("[1-9][0-9]*").fullmatch
SIGNATURES = {
    "serving_default": signature(BYTES, OUTPUTS),
    "serve_images": signature({"images": info("DT_FLOAT", -1, -1, -1, 1)}, OUTPUTS),
    "serve_pixels": signature({"pixels": info("DT_UINT8", -1, -1, -1, 1)}, OUTPUTS),
    "serve_prepared": signature({"prepared": info("DT_FLOAT", -1, 28, 28, 1)}, OUTPUTS),
    "features": signature(BYTES, {"features": info("DT_FLOAT", -1, FEATURE_COUNT), "status": info("DT_STRING", -1)}),
    "prepare": signature(BYTES, {"prepared": info("DT_FLOAT", -1, 28, 28, 1)}),
    "classify": signature(
        {"inputs": info("DT_STRING", -1)},
        {"classes": info("DT_STRING", -1, 10), "scores": info("DT_FLOAT", -1, 10)},
        "classify",
    ),
    # every SavedModel of TensorFlow 2 has it, and it is listed, too
    "__saved_model_init_op": {
        "inputs": {},
        "outputs": {
            "__saved_model_init_op": {
                "dtype": "DT_INVALID",
                "tensor_shape": {"dim": [], "unknown_rank": True},
                "name": some_text,
            }
        },
        "method_name": "",
        "defaults": {},
    },
}
METADATA_OF_3 = Like(
    {
        "model_spec": {"name": "digits", "signature_name": "", "version": "3"},
        "metadata": {"signature_def": {"signature_def": SIGNATURES}},
    }
)
CLASSES = [[some_text, finite]] * 10


def malformed(name: str, source: str, method: str, path: str) -> RestCase:
    """A path that a method does not know."""
    return RestCase(
        name=name,
        source=source,
        method=method,
        path=path,
        code=400,
        answer=NoBody() if method == "HEAD" else says(f"Malformed request: {method} {path}"),
        content_type=None if method == "HEAD" else JSON_TYPE,
    )


def unknown(name: str, source: str, path: str, method: str = "GET") -> RestCase:
    """A path that goes to no handler: the HTTP library's own page."""
    return RestCase(name=name, source=source, method=method, path=path, code=404, answer=AnyBody(), content_type=None)


PREDICT_CASES = (
    RestCase(
        name="one unnamed instance",
        source="D:Specifying input tensors in row format; T:SingleUnnamedTensorBase64Scalars",
        path=f"{MODEL}:predict",
        body=one_image,
        answer=rows(IMAGE),
    ),
    RestCase(
        name="one named instance",
        source="T:SingleNamedTensorBase64; C:FillTensorMapFromInstancesList",
        path=f"{MODEL}:predict",
        body=lambda served: body(instances=[{"image_bytes": b64(served.image)}]),
        answer=rows(IMAGE),
    ),
    RestCase(
        name="several instances, one of them no image",
        source="D:Specifying input tensors in row format; C:MakeRowFormatJsonFromTensors; NaN: D:JSON conformance",
        path=f"{MODEL}:predict",
        body=lambda served: body(instances=[b64(served.image), b64(served.broken), b64(served.image)]),
        answer=rows(IMAGE, NO_IMAGE, IMAGE),
    ),
    RestCase(
        name="an unnamed column",
        source="T:SingleUnnamedTensorColumnarFormat; D:Specifying input tensors in column format",
        path=f"{MODEL}:predict",
        body=lambda served: body(inputs=[b64(served.image), b64(served.broken)]),
        answer=columns(IMAGE, NO_IMAGE),
    ),
    RestCase(
        name="a named column",
        source=f"T:MultipleNamedTensorColumnarFormat; {SERVER_TEST} testPredictColumnarREST",
        path=f"{MODEL}:predict",
        body=lambda served: body(inputs={"image_bytes": [b64(served.image)]}),
        answer=columns(IMAGE),
    ),
    RestCase(
        name="a column that the signature has not, beside one that it has",
        source="C:FillTensorMapFromInputsMap, which looks only for the signature's inputs",
        path=f"{MODEL}:predict",
        body=lambda served: body(inputs={"image_bytes": [b64(served.image)], "other": [1]}),
        answer=columns(IMAGE),
    ),
    RestCase(
        name="signature_name of the default",
        source="T:SingleUnnamedTensorWithSignature; D:Predict API, Request format",
        path=f"{MODEL}:predict",
        body=lambda served: body(signature_name="serving_default", instances=[b64(served.image)]),
        answer=rows(IMAGE),
    ),
    RestCase(
        name="an empty signature_name is the default",
        source=f"{HANDLER} GetInfoMap; {PREDICT} RunPredict",
        path=f"{MODEL}:predict",
        body=lambda served: body(signature_name="", instances=[b64(served.image)]),
        answer=rows(IMAGE),
    ),
    RestCase(
        name="another signature",
        source=f"{HANDLER_TEST} Predict, with explicit signature_name",
        path=f"{MODEL}:predict",
        body=lambda served: body(signature_name="features", instances=[b64(served.image)]),
        answer=rows({"features": finite_list, "status": "ok"}),
    ),
    RestCase(
        name="another signature, in columns, of an image that is none",
        source="C:MakeColumnarFormatJsonFromTensors",
        path=f"{MODEL}:predict",
        body=lambda served: body(signature_name="features", inputs=[b64(served.image), b64(served.broken)]),
        answer=Like({"outputs": {"features": [list, list], "status": ["ok", not_ok]}}),
    ),
    RestCase(
        name="an output of four dimensions",
        source="C:AddTensorValues",
        path=f"{MODEL}:predict",
        body=lambda served: body(signature_name="prepare", instances=[b64(served.image)]),
        answer=rows(grid(finite, 28, 28, 1)),
    ),
    RestCase(
        name="floats, given as whole numbers",
        source="T:MixedInputForFloatTensor; C:AddValueToTensor DT_FLOAT",
        path=f"{MODEL}:predict",
        body=body(signature_name="serve_images", instances=[[[[0], [255]], [[7.5], [128]]]]),
        answer=rows(IMAGE),
    ),
    RestCase(
        name="NaN in the request, NaN in the answer",
        source="D:JSON conformance; C:ParseJson kParseNanAndInfFlag; C:WriteDecimal",
        path=f"{MODEL}:predict",
        body=b'{"signature_name": "serve_images", "instances": [[[[NaN]]], [[[1.0]]]]}',
        answer=rows(NO_IMAGE, IMAGE),
    ),
    RestCase(
        name="uint8",
        source="C:AddValueToTensor DT_UINT8",
        path=f"{MODEL}:predict",
        body=body(signature_name="serve_pixels", instances=[{"pixels": [[[0], [255]], [[7], [128]]]}]),
        answer=rows(IMAGE),
    ),
    RestCase(
        name="prepared pixels in columns",
        source="T:SingleUnnamedTensorColumnarFormat",
        path=f"{MODEL}:predict",
        body=body(signature_name="serve_prepared", inputs={"prepared": grid(0.5, 2, 28, 28, 1)}),
        answer=columns(IMAGE, IMAGE),
    ),
    RestCase(
        name="text in place of base64 is the bytes of the text",
        source="C:AddValueToTensor DT_STRING",
        path=f"{MODEL}:predict",
        body=lambda served: body(instances=[b64(served.image), "no image"]),
        answer=rows(IMAGE, NO_IMAGE),
    ),
    RestCase(
        name="base64 without its padding",
        source="C:JsonDecodeBase64Object, absl::Base64Unescape: padding is optional",
        path=f"{MODEL}:predict",
        body=lambda served: body(instances=[b64(served.image), {"b64": "bm8gaW1hZ2U"}]),
        answer=rows(IMAGE, NO_IMAGE),
    ),
    RestCase(
        name="what follows the object is ignored",
        source="C:ParseJson kParseStopWhenDoneFlag",
        path=f"{MODEL}:predict",
        body=lambda served: one_image(served) + b" and more",
        answer=rows(IMAGE),
    ),
    RestCase(
        name="the classify signature takes predict, too",
        source=f"{PREDICT_IMPL_TEST} PredictionWithNamedClassificationSignature",
        path=f"{MODEL}:predict",
        body=lambda served: body(signature_name="classify", instances=[b64(example_of({"image_bytes": served.image}))]),
        answer=rows({"classes": [some_text] * 10, "scores": [finite] * 10}),
    ),
)

VERSION_CASES = (
    RestCase(
        name="predict by version",
        source=f"{HANDLER_TEST} Predict, specific versions",
        path=f"{MODEL}/versions/3:predict",
        body=one_image,
        answer=rows(IMAGE),
    ),
    RestCase(
        name="a version is a number, zeros before it or not",
        source=f"{PATHS} ParseModelInfo, absl::SimpleAtoi",
        path=f"{MODEL}/versions/003:predict",
        body=one_image,
        answer=rows(IMAGE),
    ),
    RestCase(
        name="predict by a version that is not loaded",
        source=f"{HANDLER_TEST} PredictModelNameVersionErrors; core/manager.h ServableRequest::DebugString",
        path=f"{MODEL}/versions/1:predict",
        body=one_image,
        code=404,
        answer=says("Servable not found for request: Specific(digits, 1)"),
    ),
    RestCase(
        name="predict by a model that is not there",
        source="D:Make REST API calls to ModelServer, the last example",
        path="/v1/models/half:predict",
        body=body(instances=[1.0, 5.0]),
        code=404,
        answer=says("Servable not found for request: Latest(half)"),
    ),
    RestCase(
        name="predict by a model and a version that are not there",
        source=f"{HANDLER_TEST} PredictModelNameVersionErrors",
        path="/v1/models/foo/versions/50:predict",
        body=body(instances=[1]),
        code=404,
        answer=says("Servable not found for request: Specific(foo, 50)"),
    ),
    RestCase(
        name="names of models have their case",
        source="core/basic_manager.cc GetUntypedServableHandle",
        path="/v1/models/Digits:predict",
        body=one_image,
        code=404,
        answer=says("Servable not found for request: Latest(Digits)"),
    ),
    RestCase(
        name="predict by an unknown label",
        source=f"{HANDLER_TEST} PredictRequestErrors; {CORE} GetModelVersionForLabel",
        path=f"{MODEL}/labels/stable:predict",
        body=one_image,
        code=400,
        answer=says("Unrecognized servable version label: stable"),
    ),
    RestCase(
        name="a label comes before the model",
        source=f"{CORE} ServableRequestFromModelSpec",
        path="/v1/models/foo/labels/stable:predict",
        body=one_image,
        code=400,
        answer=says("Unrecognized servable version label: stable"),
    ),
    RestCase(
        name="a label is decoded",
        source=f"{PATHS_TEST} TestParseModelInfoForPost",
        path=f"{MODEL}/labels/a%2Fb:predict",
        body=one_image,
        code=400,
        answer=says("Unrecognized servable version label: a/b"),
    ),
    RestCase(
        name="the name of a model is decoded",
        source=f"{PATHS_TEST} TestParseModelInfoForPost",
        path="/v1/models/%64igits:predict",
        body=one_image,
        answer=rows(IMAGE),
    ),
    RestCase(
        name="a version beyond 64 bits: the handler returns before it writes the error",
        source=f"{HANDLER} ProcessRequest, TF_RETURN_IF_ERROR(ParseModelInfo(...))",
        path=f"{MODEL}/versions/18446744073709551615:predict",
        body=one_image,
        code=400,
        answer=NoBody(),
    ),
)

PATH_CASES = (
    malformed(
        "a version that is no number", f"{HANDLER_TEST} UnsupportedApiCalls", "POST", f"{MODEL}/versions/abc:predict"
    ),
    malformed("an empty version", f"{PATHS} kPredictionApiGegex", "POST", f"{MODEL}/versions/:predict"),
    malformed("a version below zero", f"{PATHS} kPredictionApiGegex", "POST", f"{MODEL}/versions/-1:predict"),
    malformed("an empty label", f"{PATHS} kPredictionApiGegex", "POST", f"{MODEL}/labels/:predict"),
    malformed("version for versions", f"{HANDLER_TEST} UnsupportedApiCalls", "POST", f"{MODEL}/version/3:predict"),
    malformed(
        "a version and a label", f"{HANDLER_TEST} UnsupportedApiCalls", "POST", f"{MODEL}/versions/3/labels/a:predict"
    ),
    malformed("predict by GET", f"{HANDLER_TEST} UnsupportedApiCalls", "GET", f"{MODEL}:predict"),
    malformed("status by POST", f"{HANDLER_TEST} UnsupportedApiCalls", "POST", MODEL),
    malformed("metadata by POST", f"{HANDLER_TEST} UnsupportedApiCalls", "POST", f"{MODEL}/metadata"),
    malformed("all models by POST", f"{HANDLER_TEST} UnsupportedApiCalls", "POST", "/v1/models"),
    malformed("predict by PUT", f"{HANDLER} ProcessRequest", "PUT", f"{MODEL}:predict"),
    malformed("a model by DELETE", f"{HANDLER} ProcessRequest", "DELETE", MODEL),
    malformed("a model by PATCH", f"{HANDLER} ProcessRequest; {EVHTTP} Initialize", "PATCH", MODEL),
    malformed("status by HEAD", f"{HANDLER} ProcessRequest", "HEAD", MODEL),
    malformed("an unknown verb", f"{PATHS} kPredictionApiGegex", "POST", f"{MODEL}:explain"),
    malformed("no verb", f"{PATHS} kPredictionApiGegex", "POST", f"{MODEL}:"),
    malformed("a verb and a slash", f"{PATHS} kPredictionApiGegex", "POST", f"{MODEL}:predict/"),
    malformed("a verb in capitals", f'{HANDLER} ProcessRequest, *method == "predict"', "POST", f"{MODEL}:PREDICT"),
    malformed("an encoded colon", f"{PATHS} ParseModelInfo decodes after the match", "POST", f"{MODEL}%3Apredict"),
    malformed("predict with a query", f"{EVHTTP_REQUEST} uri_path has the query", "POST", f"{MODEL}:predict?x=1"),
    malformed("a version with a query", f"{EVHTTP_REQUEST} uri_path has the query", "GET", f"{MODEL}/versions/3?x=1"),
    malformed("metadata with a query", f"{EVHTTP_REQUEST} uri_path has the query", "GET", f"{MODEL}/metadata?x=1"),
    malformed("a slash at the end", f"{PATHS} kModelStatusApiRegex", "GET", f"{MODEL}/"),
    malformed("a slash after metadata", f"{PATHS} kModelStatusApiRegex", "GET", f"{MODEL}/metadata/"),
    malformed("a slash after models", f"{PATHS} kModelStatusApiRegex", "GET", "/v1/models/"),
    malformed("two slashes in the middle", f"{PATHS} kModelStatusApiRegex", "GET", "/v1/models//digits"),
    malformed("two slashes after v1", f"{SERVER} Dispatch; {PATHS} kModelStatusApiRegex", "GET", "/v1//models/digits"),
    malformed("something else of a model", f"{HANDLER_TEST} UnsupportedApiCalls", "GET", "/v1/models/debug/model_name"),
    malformed("something else below v1, by GET", f"{HANDLER_TEST} UnsupportedApiCalls", "GET", "/v1/foo"),
    malformed("something else below v1, by POST", f"{HANDLER_TEST} UnsupportedApiCalls", "POST", "/v1/foo"),
    malformed("status of a version that is no number", f"{PATHS} kModelStatusApiRegex", "GET", f"{MODEL}/versions/abc"),
    unknown("v1 without a slash", f"{PATHS} kHTTPRestApiHandlerPathRegex", "/v1"),
    unknown("another page", f"{HANDLER_TEST} kPathRegex", "/statuspage"),
    unknown("another page by POST", f"{EVHTTP} DispatchEvRequest", "/index", "POST"),
    unknown("another version of the API", f"{PATHS} kHTTPRestApiHandlerPathRegex", "/v2/models/digits"),
    unknown("two slashes first", f"{PATHS} kHTTPRestApiHandlerPathRegex", "//v1/models/digits"),
    RestCase(
        name="capitals in the path, apart from the verb",
        source=f"{PATHS} kPredictionApiGegex, (?i)",
        path="/V1/Models/digits/VERSIONS/3:predict",
        body=one_image,
        answer=rows(IMAGE),
    ),
    RestCase(
        name="METADATA is not metadata, and is answered as status",
        source=f'{HANDLER} ProcessRequest, model_subresource == "metadata"',
        method="GET",
        path=f"{MODEL}/METADATA",
        answer=STATUS_OF_3,
    ),
    RestCase(
        name="a status with a query is of a model with that name",
        source=f"{EVHTTP_REQUEST} uri_path has the query; {PATHS} kModelStatusApiRegex",
        method="GET",
        path=f"{MODEL}?x=1",
        code=404,
        answer=says("Could not find any versions of model digits?x=1"),
    ),
    RestCase(
        name="an encoded colon in a status is part of the name",
        source=f"{PATHS_TEST} TestParseModelInfoForGet",
        method="GET",
        path=f"{MODEL}%3Apredict",
        code=404,
        answer=says("Could not find any versions of model digits:predict"),
    ),
    RestCase(
        name="all models by GET",
        source=f"{HANDLER_TEST} UnsupportedApiCalls; {HANDLER} ProcessModelStatusRequest",
        method="GET",
        path="/v1/models",
        code=400,
        answer=says("Missing model name in request."),
    ),
    RestCase(
        name="a version without a model",
        source=f"{PATHS} kModelStatusApiRegex; {HANDLER} ProcessModelStatusRequest",
        method="GET",
        path="/v1/models/versions/3",
        code=400,
        answer=says("Missing model name in request."),
    ),
    RestCase(
        name="metadata without a model is the status of a model of that name",
        source=f"{PATHS} kModelStatusApiRegex, the name is matched first",
        method="GET",
        path="/v1/models/metadata",
        code=404,
        answer=says("Could not find any versions of model metadata"),
    ),
)

BODY_CASES = (
    RestCase(
        name="no body",
        source=f"{HANDLER_TEST} PredictRequestErrors; C:ParseJson",
        path=f"{MODEL}:predict",
        code=400,
        answer=says("JSON Parse error: The document is empty"),
    ),
    RestCase(
        name="spaces alone",
        source="C:ParseJson; rapidjson kParseErrorDocumentEmpty",
        path=f"{MODEL}:predict",
        body=b"  ",
        code=400,
        answer=Refused(r"JSON Parse error: The document is empty\. at offset: \d+"),
    ),
    RestCase(
        name="no JSON",
        source=f"{HANDLER_TEST} PredictRequestErrors; rapidjson kParseErrorValueInvalid",
        path=f"{MODEL}:predict",
        body=b"instances = [1, 2]",
        code=400,
        answer=Refused(r"JSON Parse error: Invalid value\. at offset: \d+"),
    ),
    RestCase(
        name="JSON that ends early",
        source="C:ParseJson",
        path=f"{MODEL}:predict",
        body=b'{"instances": [1, 2',
        code=400,
        answer=Refused(r"JSON Parse error: .+\. at offset: \d+"),
    ),
    RestCase(
        name="no object",
        source="C:ParseJson",
        path=f"{MODEL}:predict",
        body=b"[1]",
        code=400,
        answer=says("JSON Value: [1] Is not object"),
    ),
    RestCase(
        name="a body that cannot be read comes before an unknown model",
        source=f"{HANDLER} ProcessPredictRequest; C:FillPredictRequestFromJson",
        path="/v1/models/foo:predict",
        code=400,
        answer=says("JSON Parse error: The document is empty"),
    ),
    RestCase(
        name="an unknown model comes before missing instances",
        source=f"C:FillPredictRequestFromJson; {HANDLER} GetInfoMap",
        path="/v1/models/foo:predict",
        body=b"{}",
        code=404,
        answer=says("Servable not found for request: Latest(foo)"),
    ),
    RestCase(
        name="an unknown signature comes before missing instances",
        source=f"{HANDLER} GetInfoMap",
        path=f"{MODEL}:predict",
        body=body(signature_name="nothing"),
        code=400,
        answer=says('Serving signature name: "nothing" not found in signature def'),
    ),
    RestCase(
        name="a signature without inputs",
        source="C:FillPredictRequestFromJson",
        path=f"{MODEL}:predict",
        body=body(signature_name="__saved_model_init_op", instances=[1]),
        code=400,
        answer=says("Failed to get input map for signature: __saved_model_init_op"),
    ),
    RestCase(
        name="a signature_name that is no text",
        source=f"{HANDLER_TEST} PredictRequestErrors; C:FormatSignatureError",
        path=f"{MODEL}:predict",
        body=body(signature_name=100),
        code=400,
        answer=Refused(
            r"JSON Value: \{\s*\"signature_name\":\s*100\s*\} not formatted correctly\. "
            r"'signature_name' key must be a string value\."
        ),
    ),
    RestCase(
        name="neither instances nor inputs",
        source="C:FillPredictRequestFromJson",
        path=f"{MODEL}:predict",
        body=b"{}",
        code=400,
        answer=says("Missing 'inputs' or 'instances' key"),
    ),
    RestCase(
        name="instances and inputs",
        source="C:FillPredictRequestFromJson",
        path=f"{MODEL}:predict",
        body=body(instances=["a"], inputs=["a"]),
        code=400,
        answer=Refused(
            r"JSON Value: .+ Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        ),
    ),
    RestCase(
        name="no instance",
        source="C:FillPredictRequestFromJson",
        path=f"{MODEL}:predict",
        body=body(instances=[]),
        code=400,
        answer=Refused(r"JSON Value: .+ No values in 'instances' array"),
    ),
    RestCase(
        name="instances that are no list",
        source="C:FillPredictRequestFromJson",
        path=f"{MODEL}:predict",
        body=body(instances={"image_bytes": "a"}),
        code=400,
        answer=Refused(r"JSON Value: .+ Expecting 'instances' to be an list/array"),
    ),
    RestCase(
        name="a wrong type in a row",
        source=f"{HANDLER_TEST} PredictRequestErrors; C:TypeError; C:FillTensorMapFromInstancesList",
        path=f"{MODEL}:predict",
        body=body(signature_name="serve_images", instances=["x"]),
        code=400,
        answer=says(
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: "
            'JSON Value: "x" Type: String is not of expected type: float'
        ),
    ),
    RestCase(
        name="a wrong type in a column",
        source="C:TypeError; C:FillTensorMapFromInputsMap",
        path=f"{MODEL}:predict",
        body=body(inputs=[5]),
        code=400,
        answer=says("JSON Value: 5 Type: Number is not of expected type: string"),
    ),
    RestCase(
        name="a fraction for uint8",
        source="C:AddValueToTensor DT_UINT8",
        path=f"{MODEL}:predict",
        body=body(signature_name="serve_pixels", inputs=[[[[1.5]]]]),
        code=400,
        answer=says("JSON Value: 1.5 Type: Number is not of expected type: uint8"),
    ),
    RestCase(
        name="an unknown name in a row",
        source="C:AddInstanceItem",
        path=f"{MODEL}:predict",
        body=body(instances=[{"image": "a"}]),
        code=400,
        answer=says(
            "Failed to process element: 0 key: image of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON object: does not have named input: image"
        ),
    ),
    RestCase(
        name="an unknown name in a column",
        source="C:FillTensorMapFromInputsMap",
        path=f"{MODEL}:predict",
        body=body(inputs={"image": ["a"]}),
        code=400,
        answer=says("Missing named input: image_bytes in 'inputs' object."),
    ),
    RestCase(
        name="rows of different shapes",
        source="C:AddInstanceItem",
        path=f"{MODEL}:predict",
        body=body(signature_name="serve_images", instances=[[[[1.0]]], [[[1.0], [2.0]]]]),
        code=400,
        answer=says(
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting tensor size: 1 but got: 2"
        ),
    ),
    RestCase(
        name="letters that are not of base64",
        source="C:JsonDecodeBase64Object",
        path=f"{MODEL}:predict",
        body=body(inputs=[{"b64": "*"}]),
        code=400,
        answer=says("Unable to base64 decode"),
    ),
    RestCase(
        name="base64 with another key beside it",
        source="C:Base64FormatError",
        path=f"{MODEL}:predict",
        body=body(inputs=[{"b64": "cQ==", "x": 1}]),
        code=400,
        answer=Refused(r"JSON Value: \{.+\} not formatted correctly for base64 data"),
    ),
    RestCase(
        name="a scalar for a batch",
        source=f"graph: C:FillTensorMapFromInputsMap makes a tensor without dimensions; {PREDICT} RunPredict",
        path=f"{MODEL}:predict",
        body=lambda served: body(inputs=b64(served.image)),
        code=400,
        answer=Refused(".+"),
    ),
    RestCase(
        name="three dimensions for four",
        source=f"graph: {PREDICT} RunPredict",
        path=f"{MODEL}:predict",
        body=body(signature_name="serve_prepared", inputs=grid(0.5, 28, 28, 1)),
        code=400,
        answer=Refused(".+"),
    ),
)

HEADER_CASES = (
    RestCase(
        name="the type of a request is not read",
        source=f"{SERVER} ProcessRequest, which reads no Content-Type",
        path=f"{MODEL}:predict",
        body=one_image,
        headers=(("Content-Type", "text/plain"),),
        answer=rows(IMAGE),
    ),
    RestCase(
        name="the type of a form is not read, either",
        source=f"{SERVER} ProcessRequest; D:Make REST API calls to ModelServer uses curl -d",
        path=f"{MODEL}:predict",
        body=one_image,
        headers=(("Content-Type", "application/x-www-form-urlencoded"),),
        answer=rows(IMAGE),
    ),
    RestCase(
        name="what a client accepts is not read",
        source=f"{SERVER} ProcessRequest, which reads no Accept",
        method="GET",
        path=MODEL,
        headers=(("Accept", "text/html"), ("Accept-Encoding", "gzip")),
        answer=STATUS_OF_3,
    ),
    RestCase(
        name="a body in gzip",
        source=f"{EVHTTP_REQUEST} ReadRequestGzipBytes",
        path=f"{MODEL}:predict",
        body=lambda served: gzip.compress(one_image(served)),
        headers=(("Content-Encoding", "gzip"),),
        answer=rows(IMAGE),
    ),
    RestCase(
        name="a body that is not gzip is read as none",
        source=f"{EVHTTP_REQUEST} ReadRequestGzipBytes; C:ParseJson",
        path=f"{MODEL}:predict",
        body=one_image,
        headers=(("Content-Encoding", "gzip"),),
        code=400,
        answer=says("JSON Parse error: The document is empty"),
    ),
    RestCase(
        name="another encoding is not read",
        source=f"{EVHTTP_REQUEST} NeedUncompressGzipContent",
        path=f"{MODEL}:predict",
        body=one_image,
        headers=(("Content-Encoding", "br"),),
        answer=rows(IMAGE),
    ),
    RestCase(
        name="OPTIONS from a page",
        source=f"{SERVER} ProcessRequest",
        method="OPTIONS",
        path=f"{MODEL}:predict",
        headers=(("Origin", "http://example.com"),),
        answer=NoBody(),
        content_type=None,
    ),
    RestCase(
        name="OPTIONS without an origin",
        source=f"{SERVER} ProcessRequest",
        method="OPTIONS",
        path=f"{MODEL}:predict",
        code=400,
        answer=NoBody(),
        content_type=None,
    ),
    RestCase(
        name="OPTIONS of a path that there is not, below v1",
        source=f"{SERVER} ProcessRequest, before any path is read",
        method="OPTIONS",
        path="/v1/foo",
        headers=(("Origin", "https://example.com"),),
        answer=NoBody(),
        content_type=None,
    ),
    unknown("OPTIONS elsewhere", f"{EVHTTP} DispatchEvRequest", "/index", "OPTIONS"),
)

STATUS_CASES = (
    RestCase(
        name="status",
        source=f"{HANDLER_TEST} GetStatus; {SERVER_TEST} testGetStatusREST",
        method="GET",
        path=MODEL,
        answer=STATUS_OF_3,
    ),
    RestCase(
        name="status of a version",
        source=f"{HANDLER_TEST} GetStatus, specific version",
        method="GET",
        path=f"{MODEL}/versions/3",
        answer=STATUS_OF_3,
    ),
    RestCase(
        name="status of a version that was never loaded",
        source=f"{STATUS} GetModelStatusWithModelSpec; {STATUS_TEST} InvalidModelVersionFailure",
        method="GET",
        path=f"{MODEL}/versions/1",
        code=404,
        answer=says("Could not find version 1 of model digits"),
    ),
    RestCase(
        name="status of an unknown model",
        source=f"{STATUS} GetModelStatusWithModelSpec; {STATUS_TEST} InvalidModelNameFailure",
        method="GET",
        path="/v1/models/foo",
        code=404,
        answer=says("Could not find any versions of model foo"),
    ),
    RestCase(
        name="status does not read a label",
        source=f"{STATUS} GetModelStatusWithModelSpec, which asks only has_version()",
        method="GET",
        path=f"{MODEL}/labels/stable",
        answer=STATUS_OF_3,
    ),
    RestCase(
        name="metadata",
        source=f"{HANDLER_TEST} GetModelMetadata; {PATHS} ToJsonString",
        method="GET",
        path=f"{MODEL}/metadata",
        answer=METADATA_OF_3,
    ),
    RestCase(
        name="metadata of a version",
        source="D:Model Metadata API, URL",
        method="GET",
        path=f"{MODEL}/versions/3/metadata",
        answer=METADATA_OF_3,
    ),
    RestCase(
        name="metadata of a version that is not loaded",
        source=f"{METADATA} SavedModelGetSignatureDef",
        method="GET",
        path=f"{MODEL}/versions/2/metadata",
        code=404,
        answer=says("Servable not found for request: Specific(digits, 2)"),
    ),
    RestCase(
        name="metadata of an unknown model",
        source=f"{METADATA_TEST} MissingOrEmptyModelSpec",
        method="GET",
        path="/v1/models/foo/metadata",
        code=404,
        answer=says("Servable not found for request: Latest(foo)"),
    ),
    RestCase(
        name="metadata by an unknown label",
        source=f"{CORE} GetModelVersionForLabel",
        method="GET",
        path=f"{MODEL}/labels/stable/metadata",
        code=400,
        answer=says("Unrecognized servable version label: stable"),
    ),
    RestCase(
        name="metrics",
        source=f"{SERVER} ProcessPrometheusRequest; {SERVER_TEST} testPrometheusEndpoint",
        method="GET",
        path="/monitoring/prometheus/metrics",
        answer=Text(r"(?m)^# TYPE "),
        content_type="text/plain",
    ),
    RestCase(
        name="metrics with a query",
        source=f"{SERVER} ProcessPrometheusRequest",
        method="GET",
        path="/monitoring/prometheus/metrics?x=1",
        code=400,
        answer=Text(
            r"\AUnexpected path: /monitoring/prometheus/metrics\?x=1\. Should be /monitoring/prometheus/metrics\Z"
        ),
        content_type="text/plain",
    ),
    unknown("metrics with a slash", f"{EVHTTP} DispatchEvRequest", "/monitoring/prometheus/metrics/"),
)

CLASSIFY_CASES = (
    RestCase(
        name="classify",
        source=f"{HANDLER_TEST} Classify; D:Classify and Regress API",
        path=f"{MODEL}:classify",
        body=one_example,
        answer=Like({"results": [CLASSES]}),
    ),
    RestCase(
        name="classify by version, two examples",
        source=f"{HANDLER_TEST} Classify; C:MakeJsonFromClassificationResult",
        path=f"{MODEL}/versions/3:classify",
        body=lambda served: body(
            signature_name="classify",
            examples=[{"image_bytes": b64(served.image)}, {"image_bytes": [b64(served.image)]}],
        ),
        answer=Like({"results": [CLASSES, CLASSES]}),
    ),
    RestCase(
        name="features in the context",
        source="T:RequestWithContextAndSignature; servables/tensorflow/util.cc InputToSerializedExampleTensor",
        path=f"{MODEL}:classify",
        body=lambda served: body(
            signature_name="classify", context={"image_bytes": b64(served.image)}, examples=[{}, {"other": 1}]
        ),
        answer=Like({"results": [CLASSES, CLASSES]}),
    ),
    RestCase(
        name="classify by the default, which is no classifier",
        source=f"{CLASSIFIER} PreProcessClassification; names of methods are not checked by default",
        path=f"{MODEL}:classify",
        body=lambda served: body(examples=[{"image_bytes": b64(served.image)}]),
        code=400,
        answer=says("Expected one or two output Tensors, found 6"),
    ),
    RestCase(
        name="classify by a signature of two outputs, which is no classifier",
        source=f"{CLASSIFIER} PreProcessClassification",
        path=f"{MODEL}:classify",
        body=lambda served: body(signature_name="features", examples=[{"image_bytes": b64(served.image)}]),
        code=400,
        answer=Refused("No classification inputs found in SignatureDef: .+"),
    ),
    RestCase(
        name="classify by an unknown signature",
        source=f"{CLASSIFIER} GetClassificationSignatureDef; {CLASSIFIER_TEST} InvalidNamedSignature",
        path=f"{MODEL}:classify",
        body=body(signature_name="nothing", examples=[{"x": 1}]),
        code=400,
        answer=says("No signature was found with the name: nothing"),
    ),
    RestCase(
        name="classify by a version that is not loaded",
        source="servables/tensorflow/classification_service.cc ClassifyWithModelSpec",
        path=f"{MODEL}/versions/2:classify",
        body=one_example,
        code=404,
        answer=says("Servable not found for request: Specific(digits, 2)"),
    ),
    RestCase(
        name="examples that are missing come before an unknown model",
        source=f"{HANDLER} ProcessClassifyRequest; C:FillClassifyRegressRequestFromJson",
        path="/v1/models/foo:classify",
        body=b"{}",
        code=400,
        answer=says("JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
    ),
    RestCase(
        name="no example",
        source="C:FillClassifyRegressRequestFromJson",
        path=f"{MODEL}:classify",
        body=body(examples=[]),
        code=400,
        answer=Refused(r"JSON Value: .+ 'examples' value is an empty array"),
    ),
    RestCase(
        name="regress by the default",
        source=f"{REGRESSOR} PreProcessRegression",
        path=f"{MODEL}:regress",
        body=lambda served: body(examples=[{"image_bytes": b64(served.image)}]),
        code=400,
        answer=says("Expected one output Tensor."),
    ),
    RestCase(
        name="regress by the classifier",
        source=f"{REGRESSOR} PreProcessRegression",
        path=f"{MODEL}:regress",
        body=one_example,
        code=400,
        answer=says("Expected one output Tensor."),
    ),
    RestCase(
        name="regress by an unknown signature",
        source=f"{REGRESSOR} GetRegressionSignatureDef",
        path=f"{MODEL}:regress",
        body=body(signature_name="nothing", examples=[{"x": 1}]),
        code=400,
        answer=says("No signature was found with the name: nothing"),
    ),
    RestCase(
        name="regress by an unknown model",
        source="servables/tensorflow/regression_service.cc RegressWithModelSpec",
        path="/v1/models/foo:regress",
        body=body(examples=[{"x": 1}]),
        code=404,
        answer=says("Servable not found for request: Latest(foo)"),
    ),
)

REST_CASES = (
    *PREDICT_CASES,
    *VERSION_CASES,
    *PATH_CASES,
    *BODY_CASES,
    *HEADER_CASES,
    *STATUS_CASES,
    *CLASSIFY_CASES,
)


def example_of(features: dict[str, bytes]) -> bytes:
    """A serialized tf.Example with features of bytes, as its wire format has it."""

    def field(number: int, content: bytes) -> bytes:
        size = len(content)
        length = b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    entries = (
        field(1, field(1, name.encode()) + field(2, field(1, field(1, value)))) for name, value in features.items()
    )
    return field(1, b"".join(entries))


def encoded(content: bytes) -> str:
    """Bytes in a message that is given as JSON."""
    return base64.b64encode(content).decode()


def strings(*contents: bytes) -> dict[str, Any]:
    """A TensorProto of one dimension."""
    dim = [{"size": str(len(contents))}]
    return {"dtype": "DT_STRING", "tensor_shape": {"dim": dim}, "string_val": [encoded(one) for one in contents]}


def floats(values: list[Any], *shape: int) -> dict[str, Any]:
    """A TensorProto; fewer values than the shape has: the last is repeated."""
    return {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": str(size)} for size in shape]},
        "float_val": values,
    }


def texts(*expected: Any, columns: int = 0) -> dict[str, Any]:
    """A TensorProto of strings in an answer."""
    shape = [len(expected) // columns, columns] if columns else [len(expected)]
    dim = [{"size": str(size)} for size in shape]
    return {"dtype": "DT_STRING", "tensor_shape": {"dim": dim}, "string_val": list(expected)}


DIGITS = {"name": "digits"}
SPEC_OF_3 = {"name": "digits", "version": "3", "signature_name": "serving_default"}
# tensors of an answer have their values in `float_val` and `string_val`, where clients read them (kAsProtoField)
IMAGE_TENSORS = {
    "probabilities": floats([finite] * 10, 1, 10),
    "label": texts(some_text),
    "top_labels": texts(*[some_text] * 5, columns=5),
    "top_probabilities": floats([finite] * 5, 1, 5),
    "class_names": texts(*[some_text] * 10, columns=10),
    "status": texts(encoded(b"ok")),
}
CLASS_LIST = {"classes": [{"label": some_text, "score": finite}] * 10}
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"


def predict_request(served: Any) -> dict[str, Any]:
    return {"model_spec": DIGITS, "inputs": {"image_bytes": strings(served.image)}}


def filtered(*names: str) -> Callable[[Any], dict[str, Any]]:
    return lambda served: {**predict_request(served), "output_filter": list(names)}


def examples(served: Any) -> dict[str, Any]:
    feature = {"image_bytes": {"bytes_list": {"value": [encoded(served.image)]}}}
    return {"example_list": {"examples": [{"features": {"feature": feature}}]}}


def classify_request(served: Any) -> dict[str, Any]:
    return {"model_spec": {**DIGITS, "signature_name": "classify"}, "input": examples(served)}


def tasks(served: Any, *each: tuple[str, str, str]) -> dict[str, Any]:
    """A MultiInferenceRequest; each task is (model, signature, method)."""
    listed = [
        {"model_spec": {"name": model, "signature_name": signature}, "method_name": method}
        for model, signature, method in each
    ]
    return {"tasks": listed, "input": examples(served)}


PREDICT_CALLS = (
    GrpcCase(
        name="predict",
        source=f"{PREDICT_TEST} PredictionSuccess; {PREDICT} PostProcessPredictionResult kAsProtoField",
        call="PredictionService/Predict",
        request=predict_request,
        answer=Like({"model_spec": SPEC_OF_3, "outputs": IMAGE_TENSORS}),
    ),
    GrpcCase(
        name="predict by version and signature",
        source=f"{PREDICT_IMPL_TEST} PredictionWithNamedRegressionSignature",
        call="PredictionService/Predict",
        request=lambda served: {
            "model_spec": {"name": "digits", "version": "3", "signature_name": "features"},
            "inputs": {"image_bytes": strings(served.image, served.image)},
        },
        answer=Like(
            {
                "model_spec": {"name": "digits", "version": "3", "signature_name": "features"},
                "outputs": {"features": dict, "status": texts(encoded(b"ok"), encoded(b"ok"))},
            }
        ),
    ),
    GrpcCase(
        name="an image that is none",
        source=f"{PREDICT} PostProcessPredictionResult",
        call="PredictionService/Predict",
        request=lambda served: {
            "model_spec": DIGITS,
            "inputs": {"image_bytes": strings(served.broken)},
            "output_filter": ["label", "probabilities"],
        },
        answer=Like(
            {
                "model_spec": SPEC_OF_3,
                "outputs": {"label": texts(""), "probabilities": floats(["NaN"] * 10, 1, 10)},
            }
        ),
    ),
    GrpcCase(
        name="the classify signature takes predict, too",
        source=f"{PREDICT_IMPL_TEST} PredictionWithNamedClassificationSignature",
        call="PredictionService/Predict",
        request=lambda served: {
            "model_spec": {"name": "digits", "signature_name": "classify"},
            "inputs": {"inputs": strings(example_of({"image_bytes": served.image}))},
        },
        answer=Like(
            {
                "model_spec": {**SPEC_OF_3, "signature_name": "classify"},
                "outputs": {
                    "classes": texts(*[some_text] * 10, columns=10),
                    "scores": floats([finite] * 10, 1, 10),
                },
            }
        ),
    ),
    GrpcCase(
        name="a tensor that names its value once",
        source="tensorflow/core/framework/tensor.cc FromProtoField: the last value is repeated",
        call="PredictionService/Predict",
        request={
            "model_spec": {"name": "digits", "signature_name": "serve_prepared"},
            "inputs": {"prepared": floats([0.5], 1, 28, 28, 1)},
            "output_filter": ["status"],
        },
        answer=Like(
            {
                "model_spec": {**SPEC_OF_3, "signature_name": "serve_prepared"},
                "outputs": {"status": texts(encoded(b"ok"))},
            }
        ),
    ),
    GrpcCase(
        name="a tensor by its content",
        source="tensorflow/core/framework/tensor.cc FromProto, tensor_content",
        call="PredictionService/Predict",
        request={
            "model_spec": {"name": "digits", "signature_name": "serve_pixels"},
            "inputs": {
                "pixels": {
                    "dtype": "DT_UINT8",
                    "tensor_shape": {"dim": [{"size": "1"}, {"size": "2"}, {"size": "2"}, {"size": "1"}]},
                    "tensor_content": encoded(b"\x00\x07\x80\xff"),
                }
            },
            "output_filter": ["status"],
        },
        answer=Like(
            {
                "model_spec": {**SPEC_OF_3, "signature_name": "serve_pixels"},
                "outputs": {"status": texts(encoded(b"ok"))},
            }
        ),
    ),
    GrpcCase(
        name="one output",
        source=f"{PREDICT} PreProcessPrediction, output_filter",
        call="PredictionService/Predict",
        request=filtered("probabilities"),
        answer=Like({"model_spec": SPEC_OF_3, "outputs": {"probabilities": IMAGE_TENSORS["probabilities"]}}),
    ),
    GrpcCase(
        name="an output that there is not",
        source=f"{PREDICT_TEST} OutputFiltersDontMatchModelSpecOutputs; {PREDICT} PreProcessPrediction",
        call="PredictionService/Predict",
        request=filtered("nothing"),
        code="INVALID_ARGUMENT",
        answer=says(
            "output tensor alias not found in signature: nothing Outputs expected to be in the set "
            "{class_names,label,probabilities,status,top_labels,top_probabilities}."
        ),
    ),
    GrpcCase(
        name="an output twice",
        source=f"{PREDICT_TEST} OutputFiltersDontMatchModelSpecOutputs",
        call="PredictionService/Predict",
        request=filtered("label", "label"),
        code="INVALID_ARGUMENT",
        answer=says("duplicate output tensor alias: label"),
    ),
    GrpcCase(
        name="an unknown model",
        source=f"{PREDICT_IMPL_TEST} MissingOrEmptyModelSpec; core/basic_manager.cc",
        call="PredictionService/Predict",
        request=lambda served: {**predict_request(served), "model_spec": {"name": "foo"}},
        code="NOT_FOUND",
        answer=says("Servable not found for request: Latest(foo)"),
    ),
    GrpcCase(
        name="a version that is not loaded",
        source="core/basic_manager.cc GetUntypedServableHandle",
        call="PredictionService/Predict",
        request=lambda served: {**predict_request(served), "model_spec": {"name": "digits", "version": "1"}},
        code="NOT_FOUND",
        answer=says("Servable not found for request: Specific(digits, 1)"),
    ),
    GrpcCase(
        name="an unknown label",
        source=f"{CORE} GetModelVersionForLabel",
        call="PredictionService/Predict",
        request=lambda served: {**predict_request(served), "model_spec": {"name": "digits", "version_label": "a"}},
        code="INVALID_ARGUMENT",
        answer=says("Unrecognized servable version label: a"),
    ),
    GrpcCase(
        name="an unknown signature",
        source=f"{PREDICT} RunPredict",
        call="PredictionService/Predict",
        request=lambda served: {
            **predict_request(served),
            "model_spec": {"name": "digits", "signature_name": "nothing"},
        },
        code="FAILED_PRECONDITION",
        answer=says('Serving signature key "nothing" not found.'),
    ),
    GrpcCase(
        name="no model_spec",
        source="servables/tensorflow/predict_impl.cc Predict",
        call="PredictionService/Predict",
        request=lambda served: {"inputs": {"image_bytes": strings(served.image)}},
        code="INVALID_ARGUMENT",
        answer=says("Missing ModelSpec"),
    ),
    GrpcCase(
        name="a model_spec without a name",
        source=f"{PREDICT_IMPL_TEST} MissingOrEmptyModelSpec; {CORE} ServableRequestFromModelSpec",
        call="PredictionService/Predict",
        request=lambda served: {**predict_request(served), "model_spec": {}},
        code="INVALID_ARGUMENT",
        answer=says("ModelSpec has no name specified."),
    ),
    GrpcCase(
        name="no input",
        source=f"{PREDICT} VerifyRequestInputsSize; {PREDICT_TEST} EmptyInputList",
        call="PredictionService/Predict",
        request={"model_spec": DIGITS},
        code="INVALID_ARGUMENT",
        answer=says(
            "input size does not match signature: 0!=1 len({}) != len({image_bytes}). "
            "Sent extra: {}. Missing but required: {image_bytes}."
        ),
    ),
    GrpcCase(
        name="more inputs than there are",
        source=f"{PREDICT} VerifyRequestInputsSize; {PREDICT_TEST} InputTensorsDontMatchModelSpecInputs",
        call="PredictionService/Predict",
        request={"model_spec": DIGITS, "inputs": {"unknown_key2": strings(b"a"), "unknown_key1": strings(b"a")}},
        code="INVALID_ARGUMENT",
        answer=says(
            "input size does not match signature: 2!=1 len({unknown_key1,unknown_key2}) != len({image_bytes}). "
            "Sent extra: {unknown_key1,unknown_key2}. Missing but required: {image_bytes}."
        ),
    ),
    GrpcCase(
        name="an unknown input in place of the one",
        source="tensorflow/cc/saved_model/util.cc GetInputValues",
        call="PredictionService/Predict",
        request={"model_spec": DIGITS, "inputs": {"image": strings(b"a")}},
        code="INVALID_ARGUMENT",
        answer=Refused(
            r"Signature input alias: image_bytes\(feed name: \S+:0\) not found in request and no default value "
            r"provided\. Inputs expected to be in the request \{image\}, or default input alias set: "
        ),
    ),
    GrpcCase(
        name="a tensor that is none",
        source="tensorflow/cc/saved_model/util.cc GetInputValues; Tensor::FromProto refuses DT_INVALID",
        call="PredictionService/Predict",
        request={"model_spec": DIGITS, "inputs": {"image_bytes": {}}},
        code="INVALID_ARGUMENT",
        answer=says("tensor parsing error: image_bytes"),
    ),
    GrpcCase(
        name="a tensor whose content is not that of its shape",
        source="tensorflow/cc/saved_model/util.cc GetInputValues; Tensor::FromProto",
        call="PredictionService/Predict",
        request={
            "model_spec": {"name": "digits", "signature_name": "serve_prepared"},
            "inputs": {
                "prepared": {
                    "dtype": "DT_FLOAT",
                    "tensor_shape": {"dim": [{"size": "1"}, {"size": "28"}, {"size": "28"}, {"size": "1"}]},
                    "tensor_content": encoded(b"1234"),
                }
            },
        },
        code="INVALID_ARGUMENT",
        answer=says("tensor parsing error: prepared"),
    ),
    GrpcCase(
        name="numbers for strings",
        source=f"{PREDICT_TEST} PredictionInvalidTensor",
        call="PredictionService/Predict",
        request={"model_spec": DIGITS, "inputs": {"image_bytes": floats([1.0], 1)}},
        code="INVALID_ARGUMENT",
        answer=Refused(r"Expects arg\[0\] to be string but float is provided.*"),
    ),
    GrpcCase(
        name="strings for numbers",
        source=f"{PREDICT_TEST} InputTensorsHaveWrongType",
        call="PredictionService/Predict",
        request={
            "model_spec": {"name": "digits", "signature_name": "serve_images"},
            "inputs": {"images": strings(b"a")},
        },
        code="INVALID_ARGUMENT",
        answer=Refused(r"Expects arg\[0\] to be float but string is provided.*"),
    ),
    GrpcCase(
        name="an unknown output comes before a wrong type",
        source=f"{PREDICT} PreProcessPrediction, before the session runs",
        call="PredictionService/Predict",
        request={
            "model_spec": {"name": "digits", "signature_name": "features"},
            "inputs": {"image_bytes": floats([1.0], 1)},
            "output_filter": ["nothing"],
        },
        code="INVALID_ARGUMENT",
        answer=says(
            "output tensor alias not found in signature: nothing Outputs expected to be in the set {features,status}."
        ),
    ),
    GrpcCase(
        name="three dimensions for four",
        source=f"graph: {PREDICT} RunPredict",
        call="PredictionService/Predict",
        request={
            "model_spec": {"name": "digits", "signature_name": "serve_prepared"},
            "inputs": {"prepared": floats([0.5], 28, 28, 1)},
        },
        code="INVALID_ARGUMENT",
        answer=Refused(".+"),
    ),
)

CLASSIFY_CALLS = (
    GrpcCase(
        name="classify",
        source=f"{SERVER_TEST} testClassify; {CLASSIFIER_TEST} ValidNamedSignature",
        call="PredictionService/Classify",
        request=classify_request,
        answer=Like(
            {
                "result": {"classifications": [CLASS_LIST]},
                "model_spec": {"name": "digits", "version": "3", "signature_name": "classify"},
            }
        ),
    ),
    GrpcCase(
        name="classify with features in the context",
        source=f"{CLASSIFIER_TEST} ExampleListWithContext",
        call="PredictionService/Classify",
        request=lambda served: {
            "model_spec": {"name": "digits", "signature_name": "classify"},
            "input": {
                "example_list_with_context": {
                    "context": examples(served)["example_list"]["examples"][0],
                    "examples": [{}, {}],
                }
            },
        },
        answer=Like({"result": {"classifications": [CLASS_LIST, CLASS_LIST]}}, more=True),
    ),
    GrpcCase(
        name="classify by the default, which is no classifier",
        source=f"{CLASSIFIER} PreProcessClassification",
        call="PredictionService/Classify",
        request=lambda served: {"model_spec": DIGITS, "input": examples(served)},
        code="INVALID_ARGUMENT",
        answer=says("Expected one or two output Tensors, found 6"),
    ),
    GrpcCase(
        name="classify by an unknown signature",
        source=f"{CLASSIFIER} GetClassificationSignatureDef",
        call="PredictionService/Classify",
        request=lambda served: {
            "model_spec": {"name": "digits", "signature_name": "nothing"},
            "input": examples(served),
        },
        code="INVALID_ARGUMENT",
        answer=says("No signature was found with the name: nothing"),
    ),
    GrpcCase(
        name="classify without examples",
        source=f"{CLASSIFIER_TEST} EmptyInput",
        call="PredictionService/Classify",
        request={"model_spec": {"name": "digits", "signature_name": "classify"}},
        code="INVALID_ARGUMENT",
        answer=says("Input is empty."),
    ),
    GrpcCase(
        name="classify with an empty list of examples",
        source=f"{CLASSIFIER_TEST} EmptyExampleList",
        call="PredictionService/Classify",
        request={"model_spec": {"name": "digits", "signature_name": "classify"}, "input": {"example_list": {}}},
        code="INVALID_ARGUMENT",
        answer=says("Input is empty."),
    ),
    GrpcCase(
        name="classify without model_spec",
        source="servables/tensorflow/classification_service.cc Classify",
        call="PredictionService/Classify",
        request={},
        code="INVALID_ARGUMENT",
        answer=says("Missing ModelSpec"),
    ),
    GrpcCase(
        name="regress",
        source=f"{REGRESSOR} PreProcessRegression",
        call="PredictionService/Regress",
        request=classify_request,
        code="INVALID_ARGUMENT",
        answer=says("Expected one output Tensor."),
    ),
    GrpcCase(
        name="regress by an unknown model",
        source="servables/tensorflow/regression_service.cc RegressWithModelSpec",
        call="PredictionService/Regress",
        request={"model_spec": {"name": "foo"}},
        code="NOT_FOUND",
        answer=says("Servable not found for request: Latest(foo)"),
    ),
    GrpcCase(
        name="multi-inference",
        source=f"{MULTI_TEST} ValidSingleSignatureTest, by its classify method",
        call="PredictionService/MultiInference",
        request=lambda served: tasks(served, ("digits", "classify", CLASSIFY_METHOD)),
        answer=Like(
            {
                "results": [
                    {
                        "model_spec": {"name": "digits", "version": "3", "signature_name": "classify"},
                        "classification_result": {"classifications": [CLASS_LIST]},
                    }
                ]
            }
        ),
    ),
    GrpcCase(
        name="multi-inference without tasks",
        source="servables/tensorflow/multi_inference_helper.cc GetModelSpecFromRequest",
        call="PredictionService/MultiInference",
        request={},
        code="INVALID_ARGUMENT",
        answer=says("ModelSpec has no name specified."),
    ),
    GrpcCase(
        name="multi-inference without examples",
        source=f"{MULTI_TEST} MissingInputTest",
        call="PredictionService/MultiInference",
        request=lambda served: {"tasks": tasks(served, ("digits", "classify", CLASSIFY_METHOD))["tasks"]},
        code="INVALID_ARGUMENT",
        answer=says("Input is empty."),
    ),
    GrpcCase(
        name="multi-inference of a signature twice",
        source=f"{MULTI_TEST} EvaluateDuplicateSignaturesTest",
        call="PredictionService/MultiInference",
        request=lambda served: tasks(served, *[("digits", "classify", CLASSIFY_METHOD)] * 2),
        code="INVALID_ARGUMENT",
        answer=says("Duplicate evaluation of signature: classify"),
    ),
    GrpcCase(
        name="multi-inference of two models",
        source=f"{MULTI_TEST} InconsistentModelSpecsInRequestTest",
        call="PredictionService/MultiInference",
        request=lambda served: tasks(
            served, ("digits", "classify", CLASSIFY_METHOD), ("foo", "classify", CLASSIFY_METHOD)
        ),
        code="INVALID_ARGUMENT",
        answer=says("All ModelSpecs in a MultiInferenceRequest must access the same model name."),
    ),
    GrpcCase(
        name="multi-inference of an unknown signature",
        source=f"{MULTI_TEST} UndefinedSignatureTest",
        call="PredictionService/MultiInference",
        request=lambda served: tasks(served, ("digits", "nothing", REGRESS_METHOD)),
        code="INVALID_ARGUMENT",
        answer=says("Requested signature not found in model graph: nothing"),
    ),
    GrpcCase(
        name="multi-inference by predict",
        source=f"{MULTI_TEST} UsupportedSignatureTypeTest",
        call="PredictionService/MultiInference",
        request=lambda served: tasks(served, ("digits", "serving_default", "tensorflow/serving/predict")),
        code="UNIMPLEMENTED",
        answer=says("Unsupported signature method_name: tensorflow/serving/predict"),
    ),
    GrpcCase(
        name="multi-inference by regress",
        source=f"{MULTI} Infer; {REGRESSOR} PreProcessRegression",
        call="PredictionService/MultiInference",
        request=lambda served: tasks(served, ("digits", "classify", REGRESS_METHOD)),
        code="INVALID_ARGUMENT",
        answer=says("Expected one output Tensor."),
    ),
)

MODEL_CALLS = (
    GrpcCase(
        name="metadata",
        source=f"{SERVER_TEST} testGetModelMetadata; {METADATA_TEST} ReturnsSignaturesForValidModel",
        call="PredictionService/GetModelMetadata",
        request={"model_spec": DIGITS, "metadata_field": ["signature_def"]},
        answer=Like(
            {
                "model_spec": {"name": "digits", "version": "3"},
                "metadata": {
                    "signature_def": {
                        "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
                        "signature_def": dict.fromkeys(SIGNATURES, dict),
                    }
                },
            }
        ),
    ),
    GrpcCase(
        name="metadata without a field",
        source=f"{METADATA} ValidateGetModelMetadataRequest",
        call="PredictionService/GetModelMetadata",
        request={"model_spec": DIGITS},
        code="INVALID_ARGUMENT",
        answer=says("GetModelMetadataRequest must specify at least one metadata_field"),
    ),
    GrpcCase(
        name="metadata of an unknown field, before an unknown model",
        source=f"{METADATA} ValidateGetModelMetadataRequest",
        call="PredictionService/GetModelMetadata",
        request={"model_spec": {"name": "foo"}, "metadata_field": ["signature_def", "some_stuff"]},
        code="INVALID_ARGUMENT",
        answer=says("Metadata field some_stuff is not supported"),
    ),
    GrpcCase(
        name="metadata without model_spec",
        source=f"{METADATA} GetModelMetadata",
        call="PredictionService/GetModelMetadata",
        request={"metadata_field": ["signature_def"]},
        code="INVALID_ARGUMENT",
        answer=says("Missing ModelSpec"),
    ),
    GrpcCase(
        name="metadata of a version that is not loaded",
        source=f"{METADATA} SavedModelGetSignatureDef",
        call="PredictionService/GetModelMetadata",
        request={"model_spec": {"name": "digits", "version": "2"}, "metadata_field": ["signature_def"]},
        code="NOT_FOUND",
        answer=says("Servable not found for request: Specific(digits, 2)"),
    ),
    GrpcCase(
        name="status",
        source=f"{SERVER_TEST} testGetModelStatus; {STATUS} AddModelVersionStatusToResponse",
        call="ModelService/GetModelStatus",
        request={"model_spec": DIGITS},
        answer=Like({"model_version_status": [{"version": "3", "state": "AVAILABLE", "status": {}}]}),
    ),
    GrpcCase(
        name="status of a version",
        source=f"{STATUS_TEST} SingleVersionSuccess",
        call="ModelService/GetModelStatus",
        request={"model_spec": {"name": "digits", "version": "3"}},
        answer=Like({"model_version_status": [{"version": "3", "state": "AVAILABLE", "status": {}}]}),
    ),
    GrpcCase(
        name="status of a version that was never loaded",
        source=f"{STATUS_TEST} InvalidModelVersionFailure",
        call="ModelService/GetModelStatus",
        request={"model_spec": {"name": "digits", "version": "2"}},
        code="NOT_FOUND",
        answer=says("Could not find version 2 of model digits"),
    ),
    GrpcCase(
        name="status of an unknown model",
        source=f"{STATUS_TEST} InvalidModelNameFailure",
        call="ModelService/GetModelStatus",
        request={"model_spec": {"name": "foo"}},
        code="NOT_FOUND",
        answer=says("Could not find any versions of model foo"),
    ),
    GrpcCase(
        name="status without model_spec",
        source=f"{STATUS_TEST} MissingOrEmptyModelSpecFailure",
        call="ModelService/GetModelStatus",
        request={},
        code="INVALID_ARGUMENT",
        answer=says("Missing ModelSpec"),
    ),
    GrpcCase(
        name="a new configuration that is none",
        source="model_servers/model_service_impl.cc HandleReloadConfigRequest",
        call="ModelService/HandleReloadConfigRequest",
        request={},
        code="INVALID_ARGUMENT",
        answer=says(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported"
        ),
    ),
)

GRPC_CASES = (*PREDICT_CALLS, *CLASSIFY_CALLS, *MODEL_CALLS)
