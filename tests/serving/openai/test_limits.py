"""What a server does not take on, and what it says then."""

import dataclasses
import json
import threading
from typing import Any

import openai
import pytest
from openai_server import wait_until

from keras_gpt.generation.batch import Batch
from keras_gpt.serving.openai import Limits, create_app

LONG = {"model": "tiny", "prompt": "the cat", "max_tokens": 100}


def test_a_full_queue_is_said_at_once(start, monkeypatch):
    going, step = threading.Event(), Batch.step

    def when_it_may(self: Batch, live: Any) -> None:
        going.wait(60)
        step(self, live)

    monkeypatch.setattr(Batch, "step", when_it_may)
    with start(limits=Limits(max_batch=1, max_waiting=1)) as server:
        engine = server.service.engine
        asking = [threading.Thread(target=_ask, args=(server.client(),)) for _ in range(2)]
        for thread in asking:
            thread.start()
        wait_until(lambda: engine.num_running == engine.num_waiting == 1)
        with pytest.raises(openai.RateLimitError) as caught:
            server.client().completions.create(**LONG)
        assert caught.value.code == "queue_full"
        assert caught.value.response.headers["retry-after"] == "1"
        assert engine.num_waiting == 1
        with server.http() as http:  # more than will ever fit
            got = http.post("/v1/completions", json={**LONG, "n": 2})
        assert (got.status_code, got.json()["error"]["param"]) == (400, "n")
        going.set()
        for thread in asking:
            thread.join(30)


def _ask(client: openai.OpenAI) -> None:
    client.completions.create(**{**LONG, "max_tokens": 10})


def test_long_bodies(start):
    with start(limits=Limits(max_batch=1, max_request_bytes=300)) as server, server.http() as http:
        for length in (301, 1000, 100_000):
            got = http.post("/v1/completions", json={**LONG, "prompt": "a" * length})
            assert got.status_code == 413
            assert got.json()["error"]["code"] == "request_too_large"
        assert http.post("/v1/completions", json={**LONG, "max_tokens": 1}).status_code == 200


def test_a_shorter_context(start):
    with start(limits=Limits(max_batch=1, max_length=40)) as server:
        client = server.client()
        with pytest.raises(openai.BadRequestError, match="40 tokens together") as caught:
            client.completions.create(**LONG)
        assert caught.value.code == "context_length_exceeded"
        got = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "a"}]
        )
        assert got.usage.total_tokens == 40
        # Where nobody says how long, a completion takes what there is.
        got = client.completions.create(model="tiny", prompt=[1] * 30)
        assert got.usage.completion_tokens == 10


@pytest.mark.usefixtures("slowly")
def test_deadlines(start):
    with start(limits=Limits(max_batch=1, deadline=1.5)) as server:
        got = server.client().completions.create(**LONG)
        assert got.choices[0].finish_reason == "length"
        assert 1 <= got.usage.completion_tokens < 100
        first = threading.Thread(target=_ask_in_vain, args=(server.client(),))
        first.start()
        wait_until(lambda: server.service.engine.num_running == 1)
        for stream in (False, True):
            with server.http() as http:
                got = http.post("/v1/completions", json={**LONG, "n": 5, "stream": stream})
            assert got.status_code == (200 if stream else 503)
            last = got.text.split("data: ")[-1]
            assert json.loads(last)["error"]["code"] == "deadline_exceeded"
        first.join(30)


def _ask_in_vain(client: openai.OpenAI) -> None:
    client.completions.create(**LONG)


def test_a_broken_engine(start, monkeypatch):
    def broken(self: Any, live: Any) -> None:
        raise FloatingPointError("a secret")

    with start() as server, server.http() as http:
        assert http.get("/health/live").status_code == 200
        monkeypatch.setattr(Batch, "step", broken)
        for expected in ("the engine has failed", "the server has failed"):
            got = http.post("/v1/completions", json=LONG)
            assert got.status_code == 500
            assert expected in got.json()["error"]["message"]
            assert "secret" not in got.text
        assert http.get("/health/live").status_code == 503
        assert http.get("/health/ready").status_code == 503
        assert "a secret" in server.log.getvalue()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_request_bytes": 0}, "max_request_bytes must be an integer"),
        ({"deadline": 0}, "deadline must be seconds above 0"),
        ({"client_timeout": None}, "client_timeout must be seconds above 0"),
    ],
)
def test_bad_limits(limits, message):
    with pytest.raises(ValueError, match=message):
        Limits(**limits)


@pytest.mark.parametrize("field", ["max_batch", "max_waiting", "max_length"])
def test_bad_limits_of_a_model(gpt, field):
    with pytest.raises(ValueError, match=f"{field} must be an integer"):
        create_app(gpt, "tiny", limits=dataclasses.replace(Limits(), **{field: 0}))


def test_a_model_without_a_tokenizer():
    from gpt_cases import shared_gpt

    with pytest.raises(ValueError, match="gpt must have a tokenizer"):
        create_app(shared_gpt("gpt3"), "tiny")
