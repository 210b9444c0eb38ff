"""The gRPC server: its services, limits, token and health."""

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from kerazoo.serving.http.door import allowed
from kerazoo.serving.metrics import Metrics
from kerazoo.serving.rpc.services import Models, Prediction
from kerazoo.serving.service import Service

SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without the bearer token; the health service is open."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler of a call, or one that refuses it."""
        given = dict(details.invocation_metadata).get("authorization", "")
        if details.method.startswith("/grpc.health.") or allowed(str(given), self._token):
            return await continuation(details)

        async def refuse(_: Any, context: Any) -> None:
            words = "the metadata 'authorization: Bearer TOKEN' is missing or wrong"
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, words)

        return grpc.unary_unary_rpc_method_handler(refuse)


class MalformedInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses messages that cannot be read; gRPC would say so by UNKNOWN and the name of an exception."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler of a call, which gets only whole messages."""
        handler = await continuation(details)
        if handler is None:
            return None
        read = handler.request_deserializer

        def read_or_none(content: bytes) -> Any:
            try:
                return read(content)
            except DecodeError:
                return None

        def checked(call: Any) -> Any:
            async def answer(request: Any, context: Any) -> Any:
                if request is None:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message cannot be read: it is malformed")
                return await call(request, context)

            return answer

        kind = "unary_stream" if handler.response_streaming else "unary_unary"
        return handler._replace(request_deserializer=read_or_none, **{kind: checked(getattr(handler, kind))})


def grpc_server(service: Service, metrics: Metrics, token: str) -> tuple[Any, Any]:
    """A server without a port, and its health service, all of whose services are SERVING."""
    most = service.limits.max_body
    options = [
        ("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", service.limits.queue), ("grpc.so_reuseport", 0),
    ]  # fmt: skip
    interceptors = [*([TokenInterceptor(token)] if token else []), MalformedInterceptor()]
    server = grpc.aio.server(options=options, interceptors=interceptors)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(service, metrics), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(service, metrics), server)
    probes = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(probes, server)
    return server, probes


async def set_health(probes: Any, *, serving: bool) -> None:
    """Say whether requests are taken."""
    status = health_pb2.HealthCheckResponse
    for name in SERVICES:
        await probes.set(name, status.SERVING if serving else status.NOT_SERVING)
