"""Classify, Regress and MultiInference: lists of `tf.Example` in, classes or values out."""

from typing import Any

import numpy as np
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.rpc.predict import fill_model_spec
from keras_gpt.serving.servable import DEFAULT_SIGNATURE, METHODS, Servable


def classify(servable: Servable, request: Any) -> Any:
    """Answer a Classify request.

    Args:
        servable: the model that it is for.
        request: a ClassificationRequest.

    Returns:
        A ClassificationResponse.

    Raises:
        ServingError: the request has no examples, the signature is not for classification, or the
            graph fails.
    """
    response = classification_pb2.ClassificationResponse()
    key = request.model_spec.signature_name or DEFAULT_SIGNATURE
    _classify(servable, key, request.input, response.result)
    fill_model_spec(response.model_spec, servable, key)
    return response


def regress(servable: Servable, request: Any) -> Any:
    """Answer a Regress request.

    Args:
        servable: the model that it is for.
        request: a RegressionRequest.

    Returns:
        A RegressionResponse.

    Raises:
        ServingError: the request has no examples, the signature is not for regression, or the
            graph fails.
    """
    response = regression_pb2.RegressionResponse()
    key = request.model_spec.signature_name or DEFAULT_SIGNATURE
    _regress(servable, key, request.input, response.result)
    fill_model_spec(response.model_spec, servable, key)
    return response


def multi_inference(servable: Servable, request: Any) -> Any:
    """Answer a MultiInference request: several signatures for the same examples.

    Args:
        servable: the model that its first task names.
        request: a MultiInferenceRequest.

    Returns:
        A MultiInferenceResponse.

    Raises:
        ServingError: tasks name different models or a signature twice, or one of them cannot be
            answered.
    """
    runs = {METHODS["classification"]: _run_classification, METHODS["regression"]: _run_regression}
    keys: list[str] = []
    for task in request.tasks:
        if not task.model_spec.name:
            raise ServingError("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise ServingError(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        key = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if key in keys:
            raise ServingError(f"Duplicate evaluation of signature: {key}")
        if key not in servable.signatures:
            raise ServingError(f"Requested signature not found in model graph: {key}")
        if task.method_name not in runs:
            raise ServingError(
                f"Unsupported signature method_name: {task.method_name}", "UNIMPLEMENTED"
            )
        keys.append(key)
    response = inference_pb2.MultiInferenceResponse()
    for key, task in zip(keys, request.tasks, strict=True):
        result = response.results.add()
        runs[task.method_name](servable, key, request.input, result)
        fill_model_spec(result.model_spec, servable, key)
    return response


def _run_classification(servable: Servable, key: str, sent: Any, result: Any) -> None:
    _classify(servable, key, sent, result.classification_result)


def _run_regression(servable: Servable, key: str, sent: Any, result: Any) -> None:
    _regress(servable, key, sent, result.regression_result)


def _classify(servable: Servable, key: str, sent: Any, result: Any) -> None:
    for pairs in servable.classes(key, _serialized(sent)):
        found = result.classifications.add()
        for label, score in pairs:
            found.classes.add(label=label, score=score)


def _regress(servable: Servable, key: str, sent: Any, result: Any) -> None:
    for value in servable.values(key, _serialized(sent)):
        result.regressions.add(value=value)


def _serialized(sent: Any) -> np.ndarray:
    """The serialized examples of an Input, (examples,)."""
    kind = sent.WhichOneof("kind")
    part = getattr(sent, kind) if kind else None
    if part is None or not part.examples:
        raise ServingError("Input is empty.")
    # Serialized messages of one type, put end to end, are their merged message.
    context = part.context.SerializeToString() if kind == "example_list_with_context" else b""
    return np.array([context + e.SerializeToString() for e in part.examples], np.object_)


def num_examples(request: Any) -> int:
    """How many examples a request for classes or values has."""
    kind = request.input.WhichOneof("kind")
    return len(getattr(request.input, kind).examples) if kind else 0
