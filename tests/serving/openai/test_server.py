"""Starting, health, the log, and ending without losing an answer."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gpt_cases import small_tokenizer
from openai_server import wait_until

import keras_gpt.serving.openai
from keras_gpt.serving.openai import serve

ROOT = Path(__file__).resolve().parents[3]
# A tiny model whose steps take long enough for something to happen meanwhile.
PROGRAM = """
import sys, time
sys.path.insert(0, "tests")
from gpt_cases import make_gpt, small_tokenizer
from keras_gpt.generation.batch import Batch
from keras_gpt.serving.openai import Limits, serve

step = Batch.step
def slow(self, live):
    time.sleep(0.05)
    step(self, live)
Batch.step = slow

def load():
    return make_gpt(vocab_size=320, num_layers=1, tokenizer=small_tokenizer(), context_length=64)

serve(load, "tiny", port=0, limits=Limits(max_batch=1), drain_seconds=30)
"""
# Every token is the letter "a": what random weights prefer, perhaps to end, is another on each machine.
ASK = {
    "model": "tiny",
    "prompt": "the cat",
    "max_tokens": 40,
    "temperature": 0,
    "logit_bias": {str(small_tokenizer().encode("a")[0]): 100},
}


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    ) as started:
        yield started
        started.kill()


def test_sigterm_ends_it_when_all_is_answered(process):
    head = process.stdout.readline()
    assert head.startswith("Serving tiny at http://127.0.0.1:")
    address = head.split(" at ")[1].split("/v1")[0]

    def status(path: str) -> int:
        return httpx.get(address + path, timeout=30).status_code

    assert status("/health/live") == 200
    early = httpx.post(f"{address}/v1/completions", json=ASK, timeout=30)
    if early.status_code == 503:  # it was compiled sooner than that on a fast machine
        assert early.json()["error"]["code"] == "not_ready"
        assert early.headers["retry-after"] == "1"
    wait_until(lambda: status("/health/ready") == 200, 60)

    with httpx.stream(
        "POST", f"{address}/v1/completions", json={**ASK, "stream": True}, timeout=30
    ) as response:
        lines = response.iter_lines()
        text = next(lines)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: status("/health/ready") == 503)
        assert status("/health/live") == 200
        late = httpx.post(f"{address}/v1/completions", json=ASK, timeout=30)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
        assert late.headers["connection"] == "close"
        text += "".join(lines)
    assert text.count('"finish_reason": null') >= 10
    assert text.endswith("data: [DONE]")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    log = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert [line["completion_tokens"] for line in log if line.get("status") == 200] == [40]


@pytest.mark.usefixtures("slowly")
def test_the_wait_for_answers_has_an_end(start):
    got = []
    with start(drain_seconds=0.2) as server:
        url = f"{server.address}/v1/completions"
        ask = threading.Thread(target=lambda: got.append(httpx.post(url, json=ASK, timeout=30)))
        ask.start()
        wait_until(lambda: server.service.engine.num_running == 1)
        server.server.handle_exit(signal.SIGINT, None)
        ask.join(30)
        assert (got[0].status_code, got[0].json()["error"]["code"]) == (503, "shutting_down")
        wait_until(lambda: server.server.should_exit)


@pytest.mark.usefixtures("slowly")
def test_a_second_signal_waits_for_nothing(start):
    with start() as server, server.http() as http:
        body = {**ASK, "stream": True}
        with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            server.server.handle_exit(signal.SIGINT, None)
            server.server.handle_exit(signal.SIGINT, None)
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)


def test_the_log_has_one_line_a_request_and_no_prompt(start):
    with start() as server, server.http() as http:
        http.post("/v1/completions", json={**ASK, "prompt": "a secret", "n": 2})
        http.post("/v1/completions", json={**ASK, "prompt": "a secret", "top_p": 7})
        http.get("/v1/a%0A%7B%22secret%22", headers={"authorization": "Bearer sk-secret"})
        http.get("/health/live")
        wait_until(lambda: server.service.in_flight == 0)
    ready, answered, refused, unknown = map(json.loads, server.log.getvalue().splitlines())
    assert (ready["event"], ready["model"]) == ("ready", "tiny")
    assert answered["event"] == "request"
    assert (answered["method"], answered["path"]) == ("POST", "/v1/completions")
    assert (answered["status"], answered["completion_tokens"]) == (200, 80)
    assert answered["finish_reasons"] == ["length", "length"]
    assert 0 < answered["seconds_to_first_token"] <= answered["seconds"]
    assert (refused["status"], refused["error_code"]) == (400, "invalid_value")
    assert unknown["status"] == 404
    assert "secret" not in json.dumps([answered, refused])
    assert "sk-" not in server.log.getvalue()


def test_prompts_are_logged_where_that_is_wanted(start):
    messages = [{"role": "user", "content": "the cat"}]
    with start(log_prompts=True) as server, server.http() as http:
        http.post("/v1/completions", json=ASK)
        http.post("/v1/chat/completions", json={"model": "tiny", "messages": messages, "seed": 1})
        wait_until(lambda: server.service.in_flight == 0)
    _, completion, chat = map(json.loads, server.log.getvalue().splitlines())
    assert completion["prompt"] == "the cat"
    assert chat["prompt"][0]["content"] == "the cat"


def test_a_model_that_cannot_be_compiled(gpt, monkeypatch):
    from openai_server import running

    def broken(*args: Any) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(gpt, "warmup", broken)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)  # it is raised in a thread
    with running(gpt, is_ready=False) as server, server.http() as http:
        wait_until(lambda: http.get("/health/live").status_code == 503)
        assert http.post("/v1/completions", json=ASK).status_code == 500
        assert "too large" in server.log.getvalue()


def test_a_bad_file_of_keys_is_said_before_the_model_is_loaded(tmp_path):
    with pytest.raises(FileNotFoundError):
        serve(pytest.fail, "tiny", port=0, api_keys=tmp_path / "nothing")


def test_unknown_names():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = keras_gpt.serving.openai.nothing
