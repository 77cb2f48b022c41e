"""What /metrics says, read by Prometheus' own parser."""

import time

import httpx
import pytest
from openai_server import wait_until
from prometheus_client.parser import text_string_to_metric_families

ASK = {"model": "tiny", "prompt": "the cat", "max_tokens": 6, "temperature": 0}


def metrics(http: httpx.Client) -> dict[str, float]:
    got = http.get("/metrics")
    assert got.headers["content-type"].startswith("text/plain")
    return {
        sample.name + "".join(f",{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(got.text)
        for sample in family.samples
    }


def test_what_is_counted(start):
    with start() as server, server.http() as http:
        http.post("/v1/completions", json={**ASK, "n": 2})
        http.post("/v1/completions", json={**ASK, "max_tokens": 0})
        http.post("/v1/completions", json={**ASK, "max_tokens": 9999})
        http.get("/v1/models/a/b")
        for path in ("/a", "/b"):
            http.get(path)
        wait_until(lambda: server.service.in_flight == 0)
        found = metrics(http)
        prompt = len(server.service.gpt.tokenizer.encode("the cat"))
    assert found["keras_gpt_requests_total,/v1/completions,200"] == 1
    assert found["keras_gpt_requests_total,/v1/completions,400"] == 2
    assert found["keras_gpt_requests_total,/v1/models/{model:path},404"] == 1
    assert found["keras_gpt_requests_total,other,404"] == 2
    assert found["keras_gpt_prompt_tokens_total"] == prompt
    assert found["keras_gpt_completion_tokens_total"] == 12
    assert found["keras_gpt_answers_total,length"] == 2
    assert found["keras_gpt_first_token_seconds_count"] == 1
    assert found["keras_gpt_request_seconds_count,/v1/completions"] == 3
    assert found["keras_gpt_first_token_seconds_sum"] > 0
    assert found["keras_gpt_ready"] == 1
    assert found["process_resident_memory_bytes"] > 2**20


@pytest.mark.usefixtures("slowly")
def test_what_is_going_on(start):
    with start() as server, server.http() as http, server.http() as other:
        body = {**ASK, "n": 3, "max_tokens": 120, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()  # once nobody holds it, httpx ends the connection
            next(lines)
            wait_until(lambda: metrics(other)["keras_gpt_answers_running"] == 2, 60)
            found = metrics(other)
            assert found["keras_gpt_answers_waiting"] == 1
            assert found["keras_gpt_requests_in_flight"] == 2  # this one too
        wait_until(lambda: metrics(other)["keras_gpt_answers_running"] == 0)
        wait_until(lambda: metrics(other)["keras_gpt_requests_in_flight"] == 1)
        found = metrics(other)
    assert found["keras_gpt_answers_total,cancelled"] == 3
    # A stream's status is sent before it ends, and its client has left.
    assert found["keras_gpt_requests_total,/v1/completions,200"] == 1


def test_the_log_has_no_line_of_it(start):
    with start() as server, server.http() as http:
        http.get("/metrics")
        time.sleep(0.1)
        assert "/metrics" not in server.log.getvalue()
