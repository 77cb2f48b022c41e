"""Streams, what ends them, log-probabilities and forms of answers, by the official client."""

import json
from typing import Any

import httpx
import openai
import pytest
from openai_server import wait_until

MESSAGES: Any = [{"role": "user", "content": "the cat"}]
GREEDY = {"max_tokens": 6, "temperature": 0}


def offline(gpt: Any, prompt: Any, **settings: Any) -> Any:
    return gpt.generate(prompt, echo=False, details=True, **settings)


def test_a_stream_of_a_completion(client):
    settings = {"model": "tiny", "prompt": ["the cat", "the mat"], "n": 2, "echo": True}
    settings |= {"max_tokens": 12, "seed": 2, "temperature": 1.4}
    whole = client.completions.create(**settings)
    chunks = list(client.completions.create(stream=True, **settings))
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in whole.choices:
        pieces = [c.choices[0] for c in chunks if c.choices[0].index == choice.index]
        assert "".join(piece.text for piece in pieces) == choice.text
        assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1].finish_reason == choice.finish_reason == "length"
        assert len(pieces) > 3
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stream_of_a_chat_comes_in_the_real_order(client):
    settings = {"model": "tiny", "messages": MESSAGES, **GREEDY}
    whole = client.chat.completions.create(**settings)
    *chunks, end, usage = client.chat.completions.create(
        stream=True, stream_options={"include_usage": True}, **settings
    )
    first, *middle = [chunk.choices[0] for chunk in chunks]
    assert (first.delta.role, first.delta.content, first.finish_reason) == ("assistant", "", None)
    assert all(each.delta.role is None and each.finish_reason is None for each in middle)
    text = "".join(each.delta.content for each in middle)
    assert text == whole.choices[0].message.content
    assert (end.choices[0].delta.content, end.choices[0].finish_reason) == (None, "length")
    assert usage.choices == []
    assert usage.usage == whole.usage
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_the_bytes_of_a_stream(server):
    body = {"model": "tiny", "messages": MESSAGES, "stream": True, **GREEDY}
    body["stream_options"] = {"include_usage": True}
    with server.http() as http:
        got = http.post("/v1/chat/completions", json=body)
    assert got.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = got.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    objects = [json.loads(event.removeprefix("data: ")) for event in events]
    assert all(each["usage"] is None for each in objects[:-1])
    assert objects[-1]["usage"]["total_tokens"] > 6


def test_what_is_refused_is_refused_before_the_stream_begins(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="a", max_tokens=999, stream=True)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.usefixtures("slowly")
def test_a_client_that_goes_frees_its_place(server, stream):
    body = {"model": "tiny", "prompt": "the cat", "max_tokens": 120, "stream": stream}
    engine = server.service.engine
    with server.http() as http:
        if stream:
            with http.stream("POST", "/v1/completions", json=body) as response:
                lines = response.iter_lines()  # once nobody holds it, httpx ends the connection
                next(lines)
                assert engine.num_running == 1
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/completions", json={**body, "n": 3}, timeout=0.3)
    # That it ended early is what the log says; a busy machine may take its time.
    wait_until(lambda: engine.num_running == engine.num_waiting == 0, 60)
    wait_until(lambda: server.service.in_flight == 0, 60)
    gone = json.loads(server.log.getvalue().splitlines()[-1])
    assert gone["completion_tokens"] < 120
    assert gone["status"] == (200 if stream else 499)


def test_logprobs_of_a_completion(gpt, client):
    want = offline(gpt, "the cat", max_new_tokens=6, temperature=0, logprobs=2)
    settings = {"model": "tiny", "prompt": "the cat", "logprobs": 2, **GREEDY}
    choice = client.completions.create(**settings).choices[0]
    got = choice.logprobs
    assert got.token_logprobs == pytest.approx(want.logprobs)
    assert [len(each) for each in got.top_logprobs] == [2] * 6
    assert [max(each.values()) for each in got.top_logprobs] == pytest.approx(want.logprobs)
    assert got.text_offset[0] == 0
    assert got.text_offset == sorted(got.text_offset)
    for name, token in zip(got.tokens, want.token_ids, strict=True):
        data = gpt.tokenizer.token_bytes(token)
        if name.startswith("bytes:"):
            assert bytes.fromhex(name.removeprefix("bytes:").replace("\\x", "")) == data
        else:
            assert name.encode() == data
    streamed = [chunk.choices[0].logprobs for chunk in client.completions.create(
        stream=True, **settings
    )]  # fmt: skip
    for field in ("tokens", "token_logprobs", "text_offset"):
        joined = [value for each in streamed for value in getattr(each, field)]
        assert joined == getattr(got, field)


def test_logprobs_of_a_chat(gpt, client):
    settings = {"model": "tiny", "messages": MESSAGES, "logprobs": True, **GREEDY}
    got = client.chat.completions.create(top_logprobs=3, **settings).choices[0].logprobs.content
    assert len(got) == 6
    for each in got:
        assert len(each.top_logprobs) == 3
        assert each.top_logprobs[0].logprob == each.logprob  # greedy
        assert bytes(each.bytes).decode(errors="replace") == each.token
    chunks = client.chat.completions.create(top_logprobs=3, stream=True, **settings)
    pieces = [chunk.choices[0].logprobs for chunk in chunks]
    assert [each for piece in pieces if piece for each in piece.content] == got
    none = client.chat.completions.create(**settings).choices[0].logprobs.content
    assert [each.top_logprobs for each in none] == [[]] * 6
    assert client.chat.completions.create(
        model="tiny", messages=MESSAGES, **GREEDY
    ).choices[0].logprobs is None  # fmt: skip


SCHEMA: Any = {
    "type": "object",
    "properties": {"cat": {"enum": ["on", "sat"]}, "mats": {"type": "boolean"}},
    "required": ["cat", "mats"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_follows_a_schema(client, stream):
    pytest.importorskip("llguidance")
    form = {"type": "json_schema", "json_schema": {"name": "cats", "schema": SCHEMA}}
    got = client.chat.completions.create(
        model="tiny", messages=MESSAGES, response_format=form, seed=1, stream=stream
    )
    if stream:
        chunks = [chunk.choices[0] for chunk in got]
        text = "".join(chunk.delta.content or "" for chunk in chunks)
        assert chunks[-1].finish_reason == "stop"
    else:
        text = got.choices[0].message.content
        assert got.choices[0].finish_reason == "stop"
    answer = json.loads(text)
    assert answer["cat"] in ("on", "sat")
    assert isinstance(answer["mats"], bool)


def test_an_answer_is_an_object(client):
    pytest.importorskip("llguidance")
    got = client.chat.completions.create(
        model="tiny", messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=5
    )
    assert got.choices[0].message.content.startswith("{")
    plain = client.chat.completions.create(
        model="tiny", messages=MESSAGES, response_format={"type": "text"}, max_tokens=1
    )
    assert plain.usage.completion_tokens == 1


@pytest.mark.parametrize("schema", [{"type": "cat"}, {"$ref": "file:///etc/hostname"}])
def test_a_schema_that_cannot_be_followed(client, schema):
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="schema") as caught:
        client.chat.completions.create(model="tiny", messages=MESSAGES, response_format=form)
    assert caught.value.param == "response_format"


def test_forms_need_an_extra(client, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(openai.BadRequestError, match="llguidance"):
        client.chat.completions.create(
            model="tiny", messages=MESSAGES, response_format={"type": "json_object"}
        )
