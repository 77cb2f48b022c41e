"""/v1/models, /v1/completions and /v1/chat/completions, by the official client."""

import asyncio
import json
from typing import Any

import openai
import pytest

from keras_gpt.generation.chat import chat_prompt_ids

GREEDY = {"max_tokens": 6, "temperature": 0}
MESSAGES: Any = [
    {"role": "developer", "content": "be short"},
    {
        "role": "user",
        "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}],
    },
]
PLAIN = [{"role": "system", "content": "be short"}, {"role": "user", "content": "the cat"}]


def offline(gpt: Any, prompt: Any, **settings: Any) -> Any:
    return gpt.generate(prompt, echo=False, details=True, **settings)


def chat_ids(gpt: Any) -> list[int]:
    return chat_prompt_ids(gpt.tokenizer, gpt.generation_settings, PLAIN)


def chat_text(gpt: Any, **settings: Any) -> str:
    answer = offline(gpt, chat_ids(gpt), **settings)
    return gpt.tokenizer.decode(answer.token_ids)


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.object) == ("tiny", "model")
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other/one")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("as_ids", [False, True])
def test_a_completion_is_what_generate_gives(gpt, client, as_ids):
    prompt = gpt.tokenizer.encode("the cat") if as_ids else "the cat"
    want = offline(gpt, "the cat", max_new_tokens=6, temperature=0)
    got = client.completions.create(model="tiny", prompt=prompt, **GREEDY)
    assert got.id.startswith("cmpl-")
    assert got.object == "text_completion"
    (choice,) = got.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == (want.text, "length", None)
    assert got.usage.completion_tokens == 6
    assert got.usage.prompt_tokens == len(gpt.tokenizer.encode("the cat"))
    assert got.usage.total_tokens == got.usage.prompt_tokens + 6


def test_settings_reach_the_engine(gpt, client):
    settings = {"temperature": 1.3, "top_p": 0.9, "presence_penalty": 1.0, "seed": 3}
    extra = {"top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1}
    got = client.completions.create(
        model="tiny",
        prompt="the cat",
        max_tokens=6,
        frequency_penalty=-0.5,
        logit_bias={"5": 4},
        user="somebody",
        extra_body=extra,
        **settings,
    )
    want = offline(
        gpt,
        "the cat",
        max_new_tokens=6,
        frequency_penalty=-0.5,
        logit_bias={5: 4},
        **settings,
        **extra,
    )
    assert got.choices[0].text == want.text
    # The same numbers below 2^31; any others are numbers too, and no top_k is top_k=-1.
    again = client.completions.create(model="tiny", prompt="a", max_tokens=2, seed=-(2**62))
    minus = client.completions.create(
        model="tiny", prompt="a", max_tokens=2, seed=2**62, extra_body={"top_k": -1}
    )
    assert again.choices[0].text == minus.choices[0].text


def test_several_prompts_several_answers_and_an_echo(gpt, client):
    prompts = ["the cat", "the mat", ""]
    got = client.completions.create(
        model="tiny", prompt=prompts, n=2, seed=1, temperature=1.5, max_tokens=5, echo=True
    )
    assert [choice.index for choice in got.choices] == [0, 1, 2, 3, 4, 5]
    for place, prompt in enumerate(prompts):
        ids = gpt.tokenizer.encode(prompt) or [gpt.tokenizer.end_of_text_id]
        want = offline(gpt, ids, num_return_sequences=2, seed=1, temperature=1.5, max_new_tokens=5)
        for choice, answer in zip(got.choices[2 * place :], want, strict=False):
            assert choice.text == prompt + gpt.tokenizer.decode(answer.token_ids)
    assert got.usage.prompt_tokens == sum(len(gpt.tokenizer.encode(each)) for each in prompts) + 1
    assert got.usage.completion_tokens == 30


def test_top_p_zero_takes_the_most_probable(gpt, client):
    got = client.completions.create(model="tiny", prompt="the cat", top_p=0, max_tokens=6)
    assert got.choices[0].text == offline(gpt, "the cat", max_new_tokens=6, temperature=0).text


def test_a_chat_is_what_the_template_and_generate_give(gpt, client):
    want = chat_text(gpt, max_new_tokens=6, temperature=0)
    for limit in ("max_tokens", "max_completion_tokens"):
        got = client.chat.completions.create(
            model="tiny", messages=MESSAGES, temperature=0, **{limit: 6}
        )
        (choice,) = got.choices
        assert (choice.message.role, choice.message.content) == ("assistant", want)
    assert got.id.startswith("chatcmpl-")
    assert got.object == "chat.completion"
    assert got.usage.prompt_tokens == len(chat_ids(gpt))
    # What came goes back as it is.
    answered = [*MESSAGES, choice.message, {"role": "user", "content": "and?"}]
    client.chat.completions.create(model="tiny", messages=answered, max_tokens=1)


def test_a_chat_goes_on_to_the_end_of_the_context(gpt, client):
    got = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0)
    assert got.usage.total_tokens == 128
    assert got.choices[0].finish_reason == "length"


def test_makers_suggestions_hold_where_a_chat_says_nothing(gpt, start):
    import dataclasses

    made = gpt.generation_settings
    gpt.generation_settings = dataclasses.replace(made, temperature=0.0)
    try:
        want = chat_text(gpt, max_new_tokens=6, temperature=0)
        with start() as server:
            got = server.client().chat.completions.create(
                model="tiny", messages=MESSAGES, max_tokens=6
            )
        assert got.choices[0].message.content == want
    finally:
        gpt.generation_settings = made


def test_stop_strings(gpt, client):
    whole = offline(gpt, "the cat", max_new_tokens=6, temperature=0).text
    stop = whole[2:4]
    got = client.completions.create(model="tiny", prompt="the cat", stop=stop, **GREEDY)
    assert (got.choices[0].text, got.choices[0].finish_reason) == (whole.split(stop)[0], "stop")
    many = client.completions.create(
        model="tiny", prompt="the cat", stop=["never", stop], logprobs=0, **GREEDY
    ).choices[0]
    assert many.text == got.choices[0].text
    # Tokens that only the stop string has are no part of the answer.
    assert all(offset < len(many.text) for offset in many.logprobs.text_offset)


def test_eight_at_a_time_are_what_each_gets_alone(gpt, server):
    prompts = ["the cat", "the mat", "on", "Once upon a time", "sat", "a", "time.", "the cat sat"]
    want = [
        offline(gpt, prompt, max_new_tokens=4 + place, temperature=1, seed=place).text
        for place, prompt in enumerate(prompts)
    ]

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{server.address}/v1", api_key="none", max_retries=0
        ) as client:

            async def one(place: int, prompt: str) -> str:
                settings = {"max_tokens": 4 + place, "seed": place}
                if place % 2:
                    got = await client.completions.create(model="tiny", prompt=prompt, **settings)
                    return got.choices[0].text
                stream = await client.completions.create(
                    model="tiny", prompt=prompt, stream=True, **settings
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*[one(*pair) for pair in enumerate(prompts)])

    assert asyncio.run(ask()) == want


COMPLETION = {"model": "tiny", "prompt": "a", "max_tokens": 1}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
        ({"suffix": "end"}, "suffix", "unsupported_parameter"),
        ({"best_of": 3}, "", "invalid_value"),
        ({"echo": True, "logprobs": 1}, "", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 100, "prompt": ["a", "b"]}, "n", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"999": 1}}, "logit_bias", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": 5}, "prompt", "invalid_value"),
        ({"prompt": [5, 999]}, "prompt", "invalid_value"),
        ({"prompt": [5, -1]}, "prompt", "invalid_value"),
        ({"model": None}, "model", "missing_parameter"),
        ({"stream_options": {"include_usage": True}}, "", "invalid_value"),
        ({"max_tokens": 128}, "prompt", "context_length_exceeded"),
        ({"prompt": "a b " * 100}, "prompt", "context_length_exceeded"),
    ],
)
def test_completions_that_are_refused(server, change, param, code):
    with server.http() as http:
        got = http.post("/v1/completions", json={**COMPLETION, **change})
    assert got.status_code == 400, got.text
    error = got.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert (error["param"], error["code"]) == (param or None, code)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "missing_parameter"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"top_logprobs": 2}, "", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"max_completion_tokens": 3}, "", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format", "invalid_value"),
        ({"max_tokens": 127}, "messages", "context_length_exceeded"),
    ],
)
def test_chats_that_are_refused(server, change, param, code):
    with server.http() as http:
        got = http.post("/v1/chat/completions", json={**CHAT, **change})
    assert got.status_code == 400, got.text
    error = got.json()["error"]
    assert (error["param"], error["code"]) == (param or None, code)


def test_what_says_nothing_is_taken(server):
    with server.http() as http:
        for change in ({"tools": []}, {"tools": None, "stop": None}, {"response_format": None}):
            assert http.post("/v1/chat/completions", json={**CHAT, **change}).status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b"\xff", b'{"model": "\\ud800"}', b"[" * 100_000]
)
def test_bodies_that_are_no_json_objects(server, body):
    with server.http() as http:
        for path in ("/v1/completions", "/v1/chat/completions"):
            got = http.post(path, content=body)
            assert got.status_code == 400
            assert got.json()["error"]["type"] == "invalid_request_error"


def test_unknown_paths_methods_and_models(server, client):
    with server.http() as http:
        got = http.get("/v1/nothing")
        assert (got.status_code, got.json()["error"]["code"]) == (404, "unknown_url")
        assert http.get("/nothing").status_code == 404
        got = http.get("/v1/completions")
        assert (got.status_code, got.json()["error"]["code"]) == (405, "method_not_allowed")
        assert got.headers["allow"] == "POST"
        assert got.headers["x-request-id"].startswith("req_")
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'") as caught:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert caught.value.param == "model"


def test_a_mistake_of_the_server_is_an_error_like_others(server, monkeypatch):
    def broken(*args: Any, **settings: Any) -> Any:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(server.service.engine, "submit", broken)
    with server.http() as http:
        got = http.post("/v1/completions", json=COMPLETION)
    assert got.status_code == 500
    assert got.json()["error"]["type"] == "server_error"
    assert "secret" not in got.text
    lines = [json.loads(line) for line in server.log.getvalue().splitlines()]
    assert [line for line in lines if "a secret" in line.get("traceback", "")]
