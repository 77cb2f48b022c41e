"""The two services as gRPC has them: bytes in, bytes or a status out."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

try:
    import grpc
    from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2
except ImportError as error:
    raise ImportError(
        "serving needs grpcio and tensorflow-serving-api: pip install 'keras-gpt[serve]'"
    ) from error

from google.protobuf import message_factory

from keras_gpt.serving.admission import Admission
from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.metrics import Metrics
from keras_gpt.serving.rpc.examples import classify, multi_inference, num_examples, regress
from keras_gpt.serving.rpc.models import find, metadata, reload, status
from keras_gpt.serving.rpc.parsing import parse
from keras_gpt.serving.rpc.predict import predict
from keras_gpt.serving.store import ModelStore

_log = logging.getLogger("keras_gpt.serving")

# TensorFlow Serving's. A status travels in headers, which are small.
_MAX_MESSAGE = 1024  # characters

# Takes the request's class and its bytes.
Answer = Callable[..., Awaitable[bytes]]


class Services:
    """PredictionService and ModelService.

    Messages are parsed and written by the threads that answer, so that a large one keeps nobody
    waiting.

    Args:
        store: the models.
        admission: runs what may take long.
        metrics: counts.
    """

    def __init__(self, store: ModelStore, admission: Admission, metrics: Metrics) -> None:
        self._store = store
        self._admission = admission
        self._metrics = metrics
        # One at a time anyway; on a thread of its own, it does not keep quick requests waiting.
        self._reloads = ThreadPoolExecutor(1, thread_name_prefix="reload")

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """What a `grpc.aio.server` has to be given."""
        predictions: dict[str, Answer] = {
            "Predict": self._predicting("Predict", predict),
            "Classify": self._predicting("Classify", classify),
            "Regress": self._predicting("Regress", regress),
            "MultiInference": functools.partial(self._admission.run, self._infer),
            "GetModelMetadata": self._asking(metadata),
        }
        models: dict[str, Answer] = {
            "GetModelStatus": self._asking(status),
            "HandleReloadConfigRequest": self._reloading,
        }
        return [
            _handler(prediction_service_pb2.DESCRIPTOR, "PredictionService", predictions),
            _handler(model_service_pb2.DESCRIPTOR, "ModelService", models),
        ]

    def _predicting(self, api: str, answer: Callable[..., Any]) -> Answer:
        def work(kind: Any, sent: bytes) -> bytes:
            request = parse(kind, sent)
            with self._metrics.request(request.model_spec.name, api, "GRPC"):
                if not request.HasField("model_spec"):
                    raise ServingError("Missing ModelSpec")
                servable = find(self._store, request.model_spec)
                found = answer(servable, request).SerializeToString()
            if answer is not predict:
                self._metrics.examples(servable.name, num_examples(request))
            return bytes(found)

        return functools.partial(self._admission.run, work)

    def _infer(self, kind: Any, sent: bytes) -> bytes:
        request = parse(kind, sent)
        if not request.tasks:
            raise ServingError("ModelSpec has no name specified.")
        spec = request.tasks[0].model_spec
        with self._metrics.request(spec.name, "MultiInference", "GRPC"):
            servable = find(self._store, spec)
            found = multi_inference(servable, request).SerializeToString()
        self._metrics.examples(servable.name, num_examples(request))
        return bytes(found)

    def _asking(self, answer: Callable[..., Any]) -> Answer:
        async def ask(kind: Any, sent: bytes) -> bytes:
            self._admission.check()
            return await asyncio.to_thread(self._answered, answer, kind, sent)

        return ask

    async def _reloading(self, kind: Any, sent: bytes) -> bytes:
        work = functools.partial(self._answered, reload)
        return await self._admission.run(work, kind, sent, threads=self._reloads)

    def _answered(self, answer: Callable[..., Any], kind: Any, sent: bytes) -> bytes:
        return bytes(answer(self._store, parse(kind, sent)).SerializeToString())


def _handler(file: Any, service: str, answers: dict[str, Answer]) -> grpc.GenericRpcHandler:
    """The methods of a service, with the request classes that its description names."""
    described = file.services_by_name[service]
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            _guarded(
                f"{described.full_name}/{name}",
                functools.partial(
                    answer,
                    message_factory.GetMessageClass(described.methods_by_name[name].input_type),
                ),
            )
        )
        for name, answer in answers.items()
    }
    return grpc.method_handlers_generic_handler(described.full_name, methods)


def _guarded(name: str, answer: Answer) -> Answer:
    """Turn errors into statuses. The server must outlive whatever one request meets."""

    async def call(sent: bytes, context: Any) -> bytes:
        try:
            return await answer(sent)
        except ServingError as error:
            code, message = error.code, error.message
        except Exception as error:
            _log.exception("%s failed", name)
            code, message = "INTERNAL", f"{type(error).__name__}: {error}"
        if len(message) > _MAX_MESSAGE:
            message = message[:_MAX_MESSAGE] + "...TRUNCATED"
        await context.abort(grpc.StatusCode[code], message)
        raise AssertionError("abort raises")  # for the type checker

    return call
