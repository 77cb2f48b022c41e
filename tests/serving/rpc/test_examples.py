"""Classify, Regress and MultiInference, on TensorFlow Serving's own model."""

from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from tensorflow_serving.apis import classification_pb2, inference_pb2, regression_pb2

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def refused(call: Any, request: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=60)
    return caught.value.code().name, caught.value.details()


def add_examples(request: Any, values: Sequence[float]) -> Any:
    for value in values:
        example = request.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.append(value)
    return request


def classification(signature: str, values: Sequence[float] = (2.0, 5.0)) -> Any:
    spec = {"name": "half_plus_two", "signature_name": signature}
    return add_examples(classification_pb2.ClassificationRequest(model_spec=spec), values)


def regression(signature: str, values: Sequence[float] = (2.0, 5.0)) -> Any:
    spec = {"name": "half_plus_two", "signature_name": signature}
    return add_examples(regression_pb2.RegressionRequest(model_spec=spec), values)


def test_classify(half_plus_two: Any) -> None:
    response = half_plus_two.predictions.Classify(classification("classify_x_to_y"))
    found = [[(c.label, c.score) for c in each.classes] for each in response.result.classifications]
    assert found == [[("", 3.0)], [("", 4.5)]]
    assert response.model_spec.signature_name == "classify_x_to_y"
    assert response.model_spec.version.value == 123


def test_regress(half_plus_two: Any) -> None:
    response = half_plus_two.predictions.Regress(regression("regress_x_to_y"))
    assert [each.value for each in response.result.regressions] == [3.0, 4.5]
    response = half_plus_two.predictions.Regress(regression("regress_x_to_y2"))
    assert [each.value for each in response.result.regressions] == [4.0, 5.5]


def test_a_context_is_put_into_every_example(half_plus_two: Any) -> None:
    request = regression_pb2.RegressionRequest()
    request.model_spec.name = "half_plus_two"
    request.model_spec.signature_name = "regress_x_to_y"
    sent = request.input.example_list_with_context
    sent.context.features.feature["x"].float_list.value.append(8.0)
    sent.examples.add()
    own = sent.examples.add()
    own.features.feature["x"].float_list.value.append(2.0)
    response = half_plus_two.predictions.Regress(request)
    assert [each.value for each in response.result.regressions] == [6.0, 3.0]


def test_multi_inference(half_plus_two: Any) -> None:
    request = add_examples(inference_pb2.MultiInferenceRequest(), [2.0, 5.0])
    for signature, method in (("regress_x_to_y", REGRESS), ("classify_x_to_y", CLASSIFY)):
        spec = {"name": "half_plus_two", "signature_name": signature}
        request.tasks.add(model_spec=spec, method_name=method)
    regressed, classified = half_plus_two.predictions.MultiInference(request).results
    assert [each.value for each in regressed.regression_result.regressions] == [3.0, 4.5]
    assert classified.model_spec.signature_name == "classify_x_to_y"
    scores = [each.classes[0].score for each in classified.classification_result.classifications]
    assert scores == [3.0, 4.5]
    call = half_plus_two.predictions.MultiInference
    request.tasks[1].model_spec.signature_name = "regress_x_to_y"
    assert refused(call, request) == (
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: regress_x_to_y",
    )
    request.tasks[1].model_spec.name = "another"
    assert refused(call, request) == (
        "INVALID_ARGUMENT",
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    )
    del request.tasks[1]
    request.tasks[0].method_name = "tensorflow/serving/predict"
    assert refused(call, request)[0] == "UNIMPLEMENTED"
    request.tasks[0].model_spec.signature_name = "nothing"
    assert refused(call, request) == (
        "INVALID_ARGUMENT",
        "Requested signature not found in model graph: nothing",
    )
    assert refused(call, inference_pb2.MultiInferenceRequest())[0] == "INVALID_ARGUMENT"


def test_requests_that_do_not_fit(half_plus_two: Any) -> None:
    predictions = half_plus_two.predictions
    assert refused(predictions.Classify, classification("classify_x_to_y", ())) == (
        "INVALID_ARGUMENT",
        "Input is empty.",
    )
    assert refused(predictions.Classify, classification("nothing")) == (
        "INVALID_ARGUMENT",
        "No signature was found with the name: nothing",
    )
    assert refused(predictions.Classify, classification("regress_x_to_y")) == (
        "INVALID_ARGUMENT",
        f"Expected classification signature method_name to be {CLASSIFY}. Was: {REGRESS}",
    )
    assert refused(predictions.Regress, regression("")) == (
        "INVALID_ARGUMENT",
        f"Expected regression signature method_name to be {REGRESS}. "
        "Was: tensorflow/serving/predict",
    )
    assert refused(predictions.Regress, regression_pb2.RegressionRequest()) == (
        "INVALID_ARGUMENT",
        "Missing ModelSpec",
    )
    request = regression("regress_x_to_y")
    request.input.example_list.examples[0].features.feature["x"].bytes_list.value.append(b"a")
    code, message = refused(predictions.Regress, request)
    assert code == "INVALID_ARGUMENT"
    assert "Data types don't match" in message
