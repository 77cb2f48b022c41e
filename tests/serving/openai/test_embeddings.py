"""/v1/embeddings, by the official client."""

import base64
import threading

import numpy as np
import openai
import pytest
from openai_server import wait_until

from keras_gpt.serving.openai import Limits

TEXTS = ["the cat", "sat on the mat", ""]


def test_embeddings_are_those_of_the_model(gpt, client):
    ids = [gpt.tokenizer.encode(text) or [gpt.tokenizer.end_of_text_id] for text in TEXTS]
    want = gpt.embed(ids)
    for given in (TEXTS, ids):
        for form in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            got = client.embeddings.create(model="tiny", input=given, **form)
            assert [each.index for each in got.data] == [0, 1, 2]
            vectors = [
                np.frombuffer(base64.b64decode(each.embedding), "<f4")
                if isinstance(each.embedding, str)
                else each.embedding
                for each in got.data
            ]
            np.testing.assert_allclose(vectors, want, atol=1e-5)
            assert got.usage.prompt_tokens == got.usage.total_tokens == sum(map(len, ids))
    for one in (TEXTS[0], ids[0]):
        (got,) = client.embeddings.create(model="tiny", input=one).data
        np.testing.assert_allclose(got.embedding, want[0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"dimensions": 8}, "dimensions", "unsupported_parameter"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": [999]}, "input", "invalid_value"),
        ({"input": [1] * 129}, "input", "context_length_exceeded"),
        ({"input": None}, "input", "missing_parameter"),
        ({"model": "other"}, "model", "model_not_found"),
    ],
)
def test_embeddings_that_are_refused(server, change, param, code):
    with server.http() as http:
        got = http.post("/v1/embeddings", json={"model": "tiny", "input": "a", **change})
    assert got.status_code == (404 if param == "model" else 400), got.text
    error = got.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_one_at_a_time_and_no_endless_queue(gpt, start, monkeypatch):
    going, embed = threading.Event(), type(gpt).embed
    running = []

    def slow(self, texts):
        running.append(1)
        assert len(running) == 1
        going.wait(30)
        running.pop()
        return embed(self, texts)

    monkeypatch.setattr(type(gpt), "embed", slow)
    with start(limits=Limits(max_batch=1, max_waiting=2)) as server:
        ask = {"model": "tiny", "input": "the cat"}
        threads = [
            threading.Thread(target=server.client().embeddings.create, kwargs=ask) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.service.in_flight == 3 and running == [1])
        with pytest.raises(openai.RateLimitError) as caught:
            server.client().embeddings.create(**ask)
        assert caught.value.code == "queue_full"
        going.set()
        for thread in threads:
            thread.join(30)
        assert server.client().embeddings.create(**ask).data
