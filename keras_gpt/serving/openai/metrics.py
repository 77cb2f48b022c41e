"""What a server counts, for Prometheus."""

import prometheus_client as prometheus
from prometheus_client.registry import Collector

from keras_gpt.serving.openai.records import CLIENT_GONE, Record
from keras_gpt.serving.openai.service import Service

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST

# Seconds: from what a cache answers to what a deadline of minutes ends.
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts of one server; several may be in one process.

    No label is made of what a client sends, so their number is bounded.

    Args:
        service: is asked about its queue when somebody reads the metrics.
    """

    def __init__(self, service: Service) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "keras_gpt_requests", "Requests, by what became of them.", ["path", "status"],
            registry=registry,
        )  # fmt: skip
        self._seconds = prometheus.Histogram(
            "keras_gpt_request_seconds", "From a request's head to its response's end.", ["path"],
            buckets=_BUCKETS, registry=registry,
        )  # fmt: skip
        self._first = prometheus.Histogram(
            "keras_gpt_first_token_seconds", "From a request's head to its first token.",
            buckets=_BUCKETS, registry=registry,
        )  # fmt: skip
        self._prompt_tokens = prometheus.Counter(
            "keras_gpt_prompt_tokens", "Tokens of prompts.", registry=registry
        )
        self._completion_tokens = prometheus.Counter(
            "keras_gpt_completion_tokens", "Tokens written.", registry=registry
        )
        self._answers = prometheus.Counter(
            "keras_gpt_answers", "Answers, by what ended them.", ["finish_reason"],
            registry=registry,
        )  # fmt: skip
        engine = service.engine
        for name, text, value in (
            ("ready", "1 where requests are taken.", lambda: service.is_ready),
            ("requests_in_flight", "Requests that are being answered.", lambda: service.in_flight),
            ("answers_running", "Answers that are being written.", lambda: engine.num_running),
            ("answers_waiting", "Answers that wait.", lambda: engine.num_waiting),
        ):
            gauge = prometheus.Gauge(f"keras_gpt_{name}", text, registry=registry)
            gauge.set_function(value)
        collectors: list[Collector] = [
            prometheus.ProcessCollector(registry=None),
            prometheus.PlatformCollector(registry=None),
        ]
        for each in collectors:
            registry.register(each)

    def count(self, record: Record, path: str, status: int) -> None:
        """Count a request that has ended.

        Args:
            record: of the request.
            path: the route that took it.
            status: of the response.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(record.seconds())
        if record.first_token_seconds is not None:
            self._first.observe(record.first_token_seconds)
        if status not in (200, CLIENT_GONE):
            return  # nothing was read for it, or not all that was asked for
        prompt, completion = record.usage()
        self._prompt_tokens.inc(prompt)
        self._completion_tokens.inc(completion)
        for reason in record.finish_reasons():
            self._answers.labels(reason or "cancelled").inc()

    def text(self) -> bytes:
        """Give all of it in Prometheus' text format."""
        return prometheus.generate_latest(self._registry)
