"""/v1/attention, and what /v1/models says for the page."""

import base64
import threading

import numpy as np
import pytest
from gpt_cases import make_gpt, small_tokenizer
from openai_server import running

from keras_gpt.generation.chat import chat_prompt_ids
from keras_gpt.serving.openai import Limits
from keras_gpt.serving.openai.keys import Allowance, Key, Keys, _digest

MESSAGES = [{"role": "user", "content": "the cat"}]


def weights_of(answer):
    count = len(answer["tokens"])
    data = np.frombuffer(base64.b64decode(answer["weights"]), "uint8")
    return data.reshape(answer["num_heads"], count, count) / 255


def post(http, **fields):
    return http.post("/v1/attention", json={"model": "tiny", **fields})


@pytest.mark.parametrize("chat", [False, True])
def test_weights_are_those_of_the_model(gpt, server, chat):
    tokenizer = gpt.tokenizer
    if chat:
        asked = {"messages": MESSAGES}
        prompt = chat_prompt_ids(tokenizer, gpt.generation_settings, MESSAGES)
    else:
        asked, prompt = {"prompt": "the cat"}, tokenizer.encode("the cat")
    with server.http() as http:
        got = post(http, **asked, answer=" sat é", layer=0).json()
    ids = prompt + tokenizer.encode(" sat é")
    assert got["num_prompt_tokens"] == len(prompt)
    assert [bytes(each) for each in got["tokens"]] == [tokenizer.token_bytes(i) for i in ids]
    assert got["usage"] == {"prompt_tokens": len(ids), "total_tokens": len(ids)}
    want = gpt.attention_weights(ids, layer=0)
    np.testing.assert_allclose(weights_of(got), want, atol=0.5 / 255 + 1e-6)
    assert weights_of(got).std() > 0.05


def test_ids_and_an_empty_prompt(gpt, server):
    with server.http() as http:
        ids = gpt.tokenizer.encode("the mat")
        assert post(http, prompt=ids).json() == post(http, prompt="the mat").json()
        nothing = post(http, prompt="", answer="a").json()
    assert bytes(nothing["tokens"][0]) == b"<|endoftext|>"
    assert nothing["num_prompt_tokens"] == 1


def test_a_prompt_is_read_both_ways_where_the_engine_reads_it_so():
    gpt = make_gpt(
        vocab_size=320, num_layers=2, tokenizer=small_tokenizer(), bidirectional_prefix=True
    )
    with running(gpt, limits=Limits(max_batch=1, warmup=False)) as server, server.http() as http:
        got = weights_of(post(http, prompt=[65, 66, 67], answer="zz", layer=1).json())
    want = gpt.attention_weights([65, 66, 67, *gpt.tokenizer.encode("zz")], 1, prefix_length=3)
    np.testing.assert_allclose(got, want, atol=0.5 / 255 + 1e-6)
    assert got[:, 0, 1:3].max() > 0.1  # the first token sees the two behind it


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"layer": 1}, "layer", "invalid_value"),
        ({"layer": -1}, "layer", "invalid_value"),
        ({"layer": "0"}, "layer", "invalid_value"),
        ({"prompt": None}, None, "invalid_value"),
        ({"messages": MESSAGES}, None, "invalid_value"),
        ({"prompt": ["a", "b"]}, "prompt", "invalid_value"),
        ({"prompt": [999]}, "prompt", "invalid_value"),
        ({"prompt": "z" * 129}, "prompt", "context_length_exceeded"),
        ({"answer": "z" * 128}, "prompt", "context_length_exceeded"),
        ({"prompt": None, "messages": []}, "messages", "invalid_value"),
        ({"heads": 1}, "heads", "unknown_parameter"),
        ({"model": "other"}, "model", "model_not_found"),
    ],
)
def test_what_is_refused(server, change, param, code):
    with server.http() as http:
        got = post(http, **{"prompt": "a", **change})
    assert got.status_code == (404 if param == "model" else 400), got.text
    assert (got.json()["error"]["param"], got.json()["error"]["code"]) == (param, code)


def test_keys_and_their_tokens(start):
    allowance = Allowance(20, clock=lambda: 0.0)
    keys = Keys([Key("ada", _digest("sk-ada"), None, allowance)])
    with start(keys=keys) as server, server.http() as http:
        assert post(http, prompt="zzzz").status_code == 401
        http.headers["authorization"] = "Bearer sk-ada"
        assert post(http, prompt="z" * 15).headers["x-ratelimit-remaining-tokens"] == "5"
        assert post(http, prompt="z" * 15).json()["error"]["code"] == "rate_limit_exceeded"


def test_one_at_a_time_and_no_endless_queue(gpt, start, monkeypatch):
    going, begun = threading.Event(), threading.Event()
    weights = type(gpt).attention_weights

    def slow(self, *arguments):
        begun.set()
        going.wait(30)
        return weights(self, *arguments)

    monkeypatch.setattr(type(gpt), "attention_weights", slow)
    with start(limits=Limits(max_batch=1, max_waiting=1)) as server, server.http() as http:
        statuses = []
        threads = [
            threading.Thread(target=lambda: statuses.append(post(http, prompt="a").status_code))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        begun.wait(30)
        for thread in threads:
            thread.join(0.5)
        going.set()
        for thread in threads:
            thread.join(30)
        assert sorted(statuses) == [200, 200, 429]


def test_models_say_what_the_page_needs(gpt, server):
    with server.http() as http:
        (card,) = http.get("/v1/models").json()["data"]
        assert http.get("/v1/models/tiny").json() == card
    assert card["owned_by"] == "keras_gpt"
    assert card["keras_gpt"] == {
        "is_chat": True,
        "max_tokens": 128,
        "max_attention_tokens": 128,
        "num_layers": gpt.config.num_layers,
        "num_heads": gpt.config.num_heads,
        "temperature": None,
        "top_k": None,
        "top_p": None,
    }


def test_a_suggested_top_k_can_be_taken_back(gpt, server, monkeypatch):
    import dataclasses

    suggesting = dataclasses.replace(gpt.generation_settings, top_k=1)
    monkeypatch.setattr(gpt, "generation_settings", suggesting)
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "seed": 5}
    with server.http() as http:

        def text(**more):
            answer = http.post("/v1/chat/completions", json={**asked, **more}).json()
            return answer["choices"][0]["message"]["content"]

        assert text() == text(temperature=0)
        assert text(top_k=-1) == text(top_k=0) == text(top_k=320)
        assert text(top_k=-1) != text()
