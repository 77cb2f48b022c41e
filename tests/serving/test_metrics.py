"""What Prometheus is told, under the names that dashboards for TensorFlow Serving ask for."""

import re
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import classification_pb2, predict_pb2

PATH = "/monitoring/prometheus/metrics"
HALF = "/v1/models/half_plus_two"


def read(client: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Samples by name and labels."""
    response = httpx.get(client.address + PATH)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    # A well-formed page for the client's own parser, which renames counters; so read the lines too.
    assert list(text_string_to_metric_families(response.text))
    return {
        (name, tuple(sorted(re.findall(r'(\w+)="(.*?)"', labels)))): float(value)
        for name, labels, value in re.findall(r"^([\w:]+)\{(.*)\} (\S+)$", response.text, re.M)
    }


def grown(before: dict[Any, float], after: dict[Any, float], name: str, **labels: str) -> float:
    key = (f":tensorflow:serving:{name}", tuple(sorted(labels.items())))
    return after.get(key, 0) - before.get(key, 0)


def test_requests_are_counted(half_plus_two: Any) -> None:
    before = read(half_plus_two)
    for _ in range(3):
        assert half_plus_two.post(f"{HALF}:predict", {"instances": [1.0]})[0] == 200
    assert half_plus_two.post(f"{HALF}:predict", {"instances": ["a"]})[0] == 400
    request = predict_pb2.PredictRequest(model_spec={"name": "half_plus_two"})
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.append(1)
    request.inputs["x"].tensor_shape.dim.add(size=1)
    half_plus_two.predictions.Predict(request)
    examples = [{"x": 1.0}, {"x": 2.0}]
    classify = {"signature_name": "classify_x_to_y", "examples": examples}
    assert half_plus_two.post(f"{HALF}:classify", classify)[0] == 200
    spec = {"name": "half_plus_two", "signature_name": "classify_x_to_y"}
    same = classification_pb2.ClassificationRequest(model_spec=spec)
    same.input.example_list.examples.add().features.feature["x"].float_list.value.append(1)
    half_plus_two.predictions.Classify(same)
    after = read(half_plus_two)
    model = {"model_name": "half_plus_two"}
    assert grown(before, after, "request_count", **model, status="OK") == 6
    assert grown(before, after, "request_count", **model, status="INVALID_ARGUMENT") == 1
    for entry, api, count in (
        ("REST", "predict", 3),
        ("GRPC", "Predict", 1),
        ("REST", "classify", 1),
        ("GRPC", "Classify", 1),
    ):
        labels = {**model, "API": api, "entrypoint": entry}
        assert grown(before, after, "request_latency_count", **labels) == count
        assert grown(before, after, "request_latency_bucket", **labels, le="+Inf") == count
        assert grown(before, after, "request_latency_sum", **labels) > 0
    assert grown(before, after, "request_example_count_total", model="half_plus_two") == 3
    assert (
        grown(before, after, "request_example_counts_bucket", model="half_plus_two", le="1.0") == 1
    )


def test_the_limits_are_tensorflow_servings(half_plus_two: Any) -> None:
    half_plus_two.post(f"{HALF}:predict", {"instances": [1.0]})
    limits = {
        float(dict(labels)["le"])
        for name, labels in read(half_plus_two)
        if name == ":tensorflow:serving:request_latency_bucket"
    }
    finite = sorted(limits)[:-1]
    assert len(finite) == 33
    assert finite[0] == 10
    np.testing.assert_allclose(np.divide(finite[1:], finite[:-1]), 1.8)


def test_the_text_names_what_each_is(half_plus_two: Any) -> None:
    half_plus_two.post(f"{HALF}:predict", {"instances": [1.0]})
    text = httpx.get(half_plus_two.address + PATH).text
    assert "# TYPE :tensorflow:serving:request_count counter\n" in text
    assert "# TYPE :tensorflow:serving:request_latency histogram\n" in text
    assert "# TYPE :tensorflow:cc:saved_model:load_attempt_count counter\n" in text
    assert '/half_plus_two/123",status="success"} 1.0\n' in text
    assert "_created" not in text
    assert "untyped" not in text


def test_made_up_names_take_no_memory(client: Any) -> None:
    before = read(client)
    for number in range(20):
        assert client.post(f"/v1/models/no{number}:predict", {"instances": [1]})[0] == 404
    after = read(client)
    assert grown(before, after, "request_count", model_name="", status="NOT_FOUND") == 20
    assert not any("no1" in str(labels) for _, labels in after)
