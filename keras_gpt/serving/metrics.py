"""What the server counts, under TensorFlow Serving's names, for Prometheus."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from prometheus_client.core import Metric
except ImportError as error:
    raise ImportError("serving needs prometheus-client: pip install 'keras-gpt[serve]'") from error

from keras_gpt.serving.errors import ServingError

_PREFIX = ":tensorflow:serving:"
# TensorFlow Serving's own limits: 10 microseconds to about 20 minutes, and 1 to 16384 examples.
_MICROSECONDS = [10 * 1.8**power for power in range(33)]
_EXAMPLES = [2**power for power in range(15)]


class Metrics:
    """Counters and distributions.

    Args:
        is_model: says whether a name is one of a model. Requests for other names are counted
            under the name "": else clients could make up names until the memory is full.

    Example:
        >>> metrics = Metrics(store.has)
        >>> with metrics.request("demo", "Predict", "GRPC"):
        ...     answer = predict(servable, request)
        >>> metrics.page()
        b'# HELP :tensorflow:serving:request_count ...'
    """

    def __init__(self, is_model: Callable[[str], bool]) -> None:
        self._is_model = is_model
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            f"{_PREFIX}request_count",
            "Requests by model and status code.",
            ["model_name", "status"],
            registry=registry,
        )
        self._latency = Histogram(
            f"{_PREFIX}request_latency",
            "Microseconds from a request to its answer, of those that were answered.",
            ["model_name", "API", "entrypoint"],
            buckets=_MICROSECONDS,
            registry=registry,
        )
        self._examples = Histogram(
            f"{_PREFIX}request_example_counts",
            "Examples in a request to classify or regress.",
            ["model"],
            buckets=_EXAMPLES,
            registry=registry,
        )
        self._all_examples = Counter(
            f"{_PREFIX}request_example_count",  # "_total" is added
            "Examples in all requests to classify or regress.",
            ["model"],
            registry=registry,
        )
        self._loads = Counter(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "Tries to load a version.",
            ["model_path", "status"],
            registry=registry,
        )
        self._load_latency = Counter(
            ":tensorflow:cc:saved_model:load_latency",
            "Microseconds spent on loading and warming up a version.",
            ["model_path"],
            registry=registry,
        )
        self._in_flight = Gauge(
            ":keras_gpt:serving:requests_in_flight",
            "Requests that are answered at this moment or wait for it.",
            registry=registry,
        )

    @contextlib.contextmanager
    def request(self, model: str, api: str, entrypoint: str) -> Iterator[None]:
        """Count what happens inside as one request.

        Args:
            model: the name that the request has.
            api: what it asks for, such as "Predict".
            entrypoint: "GRPC" or "REST".
        """
        name = model if self._is_model(model) else ""
        began = time.perf_counter()
        status = "INTERNAL"
        try:
            yield
            status = "OK"
        except ServingError as error:
            status = error.code
            raise
        finally:
            self._requests.labels(name, status).inc()
            if status == "OK":
                taken = (time.perf_counter() - began) * 1e6
                self._latency.labels(name, api, entrypoint).observe(taken)

    def refused(self, status: str) -> None:
        """Count a request that was refused before it was read."""
        self._requests.labels("", status).inc()

    def examples(self, model: str, count: int) -> None:
        """Count the examples of an answered request to classify or regress."""
        self._examples.labels(model).observe(count)
        self._all_examples.labels(model).inc(count)

    def loaded(self, path: Path, seconds: float, succeeded: bool) -> None:
        """Count a try to load a version."""
        self._loads.labels(str(path), "success" if succeeded else "fail").inc()
        self._load_latency.labels(str(path)).inc(seconds * 1e6)

    def in_flight(self, count: Callable[[], int]) -> None:
        """Say where the number of requests in flight is to be read."""
        self._in_flight.set_function(count)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        renamed = _Renamed(self._registry)
        text = generate_latest(renamed)
        for name in renamed.counters():
            text = text.replace(
                f"# TYPE {name} untyped".encode(), f"# TYPE {name} counter".encode()
            )
        return text


class _Renamed:
    """The metrics of a registry by the names that TensorFlow Serving has for them.

    The Prometheus client puts `_total` after a counter's name and adds the time of its creation.
    TensorFlow Serving does neither, and dashboards ask for its names.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._metrics = list(registry.collect())

    def counters(self) -> list[str]:
        return [_name(metric) for metric in self._metrics if metric.type == "counter"]

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            is_counter = metric.type == "counter"
            shown = Metric(
                _name(metric), metric.documentation, "unknown" if is_counter else metric.type
            )
            for sample in metric.samples:
                if sample.name.endswith("_created"):
                    continue
                name = _name(metric) if is_counter else sample.name
                shown.add_sample(name, sample.labels, sample.value)
            yield shown


def _name(metric: Metric) -> str:
    # The one counter whose name ends in "_total" in TensorFlow Serving too.
    return f"{metric.name}_total" if metric.name.endswith("example_count") else str(metric.name)
