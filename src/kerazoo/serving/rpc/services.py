"""TensorFlow Serving's gRPC services, PredictionService and ModelService.

Source: tensorflow_serving/servables/tensorflow/predict_util.cc, classifier.cc, multi_inference.cc,
get_model_metadata_impl.cc, model_servers/get_model_status_impl.cc; order of checks and words are theirs.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from kerazoo.exports.layout import DEFAULT
from kerazoo.serving import signatures
from kerazoo.serving.codes import RequestError, check_count
from kerazoo.serving.metrics import Metrics
from kerazoo.serving.model import ServedModel
from kerazoo.serving.rpc.messages import check_filter, check_spec, classes, input_of, spec, tensor, version_of
from kerazoo.serving.service import Asked, Outputs, Service

log = logging.getLogger("kerazoo")

MOST_WORDS = 1024  # characters of an error
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
Handler = Callable[..., Awaitable[Any]]


def answering(name: str) -> Callable[[Handler], Handler]:
    """A method of a servicer, whose RequestError becomes gRPC's, and which is counted as the API `name`."""

    def wrap(handler: Handler) -> Handler:
        async def call(self: "Prediction | Models", request: Any, context: Any) -> Any:
            start = time.perf_counter()
            code = "OK"
            try:
                return await handler(self, request)
            except RequestError as error:
                code = error.code
                words = (
                    error.message if len(error.message) <= MOST_WORDS else error.message[:MOST_WORDS] + "...TRUNCATED"
                )
                await context.abort(getattr(grpc.StatusCode, code), words)
            except Exception:
                code = "INTERNAL"
                log.exception("a call failed")
                await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says why")
            finally:
                model = getattr(getattr(request, "model_spec", None), "name", "")
                self.metrics.count(model, name, code, "GRPC", time.perf_counter() - start)

        return call

    return wrap


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """Answers to Predict, Classify, Regress, MultiInference and GetModelMetadata."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self.service = service
        self.metrics = metrics

    @answering("Predict")
    async def Predict(self, request: Any) -> Any:
        """The outputs of a signature."""

        def read() -> Asked:
            model = self._model(request)
            signature = request.model_spec.signature_name or DEFAULT
            if signature not in model.definitions:
                raise RequestError(f'Serving signature key "{signature}" not found.', "FAILED_PRECONDITION")
            found = model.definitions[signature]
            values = input_of(request.inputs, found, 4 * self.service.limits.max_body)
            check_filter(request.output_filter, found.outputs)
            return Asked(model, signature, values)

        def write(asked: Asked, outputs: Outputs) -> Any:
            answer = predict_pb2.PredictResponse(model_spec=spec(asked.model, asked.signature))
            for name in request.output_filter or outputs:
                answer.outputs[name].CopyFrom(tensor(outputs[name]))
            return answer

        return await self.service.answer(read, write)

    @answering("Classify")
    async def Classify(self, request: Any) -> Any:
        """The classes of examples."""

        def read() -> Asked:
            model = self._model(request)
            return _classify(model, request.model_spec.signature_name, request.input, self.service.limits.queue)

        def write(asked: Asked, outputs: Outputs) -> Any:
            answer = classification_pb2.ClassificationResponse(model_spec=spec(asked.model, asked.signature))
            answer.result.CopyFrom(classes(outputs))
            return answer

        return await self.service.answer(read, write)

    @answering("Regress")
    async def Regress(self, request: Any) -> Any:
        """An error: no signature of an export is for that."""
        raise signatures.no_regression(self._model(request), request.model_spec.signature_name)

    @answering("MultiInference")
    async def MultiInference(self, request: Any) -> Any:
        """The classes of examples by each task; only one signature can answer, and a task may not occur twice."""
        first = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        model = self._find(first)
        answer = inference_pb2.MultiInferenceResponse()
        seen: set[str] = set()
        for task in request.tasks:
            name = task.model_spec.signature_name or DEFAULT
            _check_task(task, model, name, seen)
            seen.add(name)
            if task.method_name == REGRESS:
                raise signatures.no_regression(model, name)
            asked = _classify(model, name, request.input, self.service.limits.queue)
            result = await self.service.answer(partial(_same, asked), lambda _, outputs: classes(outputs))
            one = answer.results.add(model_spec=spec(model, name))
            one.classification_result.CopyFrom(result)
        return answer

    @answering("GetModelMetadata")
    async def GetModelMetadata(self, request: Any) -> Any:
        """The signatures of the served version."""
        check_spec(request)
        if not request.metadata_field:
            raise RequestError("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise RequestError(f"Metadata field {field} is not supported")
        model = self._find(request.model_spec)
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.model_spec.name = model.name
        answer.model_spec.version.value = model.version
        answer.metadata["signature_def"].Pack(signatures.definitions_of(model))
        return answer

    def _model(self, request: Any) -> ServedModel:
        check_spec(request)
        return self._find(request.model_spec)

    def _find(self, wanted: Any) -> ServedModel:
        return self.service.versions.find(wanted.name, version_of(wanted), wanted.version_label)


class Models(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """Answers to GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self.service = service
        self.metrics = metrics

    @answering("GetModelStatus")
    async def GetModelStatus(self, request: Any) -> Any:
        """The state of each version."""
        check_spec(request)
        wanted = request.model_spec
        answer = get_model_status_pb2.GetModelStatusResponse()
        kind = get_model_status_pb2.ModelVersionStatus
        for state in self.service.versions.states(wanted.name, version_of(wanted)):
            row = answer.model_version_status.add(version=state.version, state=kind.State.Value(state.state))
            row.status.error_code = getattr(grpc.StatusCode, state.code).value[0]
            row.status.error_message = state.message
        return answer

    @answering("HandleReloadConfigRequest")
    async def HandleReloadConfigRequest(self, request: Any) -> Any:
        """An error: this server has one model, and finds its versions by itself."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise RequestError(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        raise RequestError("this server has one model and finds its versions by itself", "UNIMPLEMENTED")


def _same(asked: Asked) -> Asked:
    return asked


def _classify(model: ServedModel, signature: str, given: Any, most: int) -> Asked:
    """The examples of a request, at most `most`, each with the features of their context. Raises RequestError."""
    signatures.check_classify(model, signature)
    check_count(max(len(given.example_list.examples), len(given.example_list_with_context.examples)), most)
    if given.WhichOneof("kind") == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
        examples = [context + one.SerializeToString() for one in given.example_list_with_context.examples]
    else:
        examples = [one.SerializeToString() for one in given.example_list.examples]
    if not examples:
        raise RequestError("Input is empty.")
    return Asked(model, signature or DEFAULT, np.array(examples, object))


def _check_task(task: Any, model: ServedModel, name: str, seen: set[str]) -> None:
    if not task.model_spec.name:
        raise RequestError("Found ModelSpec with an empty model name.")
    if task.model_spec.name != model.name:
        raise RequestError("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    if name in seen:
        raise RequestError(f"Duplicate evaluation of signature: {name}")
    if name not in model.definitions:
        raise RequestError(f"Requested signature not found in model graph: {name}")
    if task.method_name not in (CLASSIFY, REGRESS):
        raise RequestError(f"Unsupported signature method_name: {task.method_name}", "UNIMPLEMENTED")
