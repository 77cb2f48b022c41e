"""Who may use the API, and how much of it."""

import json
import math

import openai
import pytest

from keras_gpt.serving.openai.errors import ApiError
from keras_gpt.serving.openai.keys import Allowance, Keys

LINES = [
    {"key": "sk-ada", "name": "ada"},
    {"key": "sk-bob", "name": "bob", "requests_per_minute": 3},
    {"key": "sk-eve", "name": "eve", "tokens_per_minute": 60},
]


@pytest.fixture
def keys(tmp_path):
    return keys_of(tmp_path, *map(json.dumps, LINES))


def keys_of(folder, *lines):
    path = folder / "keys.jsonl"
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return Keys.from_file(path)


def test_an_allowance_comes_back_with_time():
    now = [100.0]
    allowance = Allowance(60, clock=lambda: now[0])
    assert allowance.seconds_until(60) == 0
    assert allowance.seconds_until(61) == math.inf
    allowance.take(60)
    assert allowance.seconds_until(5) == pytest.approx(5)
    now[0] += 5
    assert allowance.seconds_until(5) == pytest.approx(0)
    allowance.take(20)  # more than there is
    assert allowance.headers("tokens") == {
        "x-ratelimit-limit-tokens": "60",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "75.000s",
    }
    now[0] += 1000
    assert allowance.seconds_until(60) == 0
    assert allowance.headers("tokens")["x-ratelimit-remaining-tokens"] == "60"


def test_a_key_is_found_by_its_header(keys):
    assert keys.find("Bearer sk-ada").name == "ada"
    assert keys.find("bearer  sk-bob ").name == "bob"
    for header in (None, "", "Bearer", "Bearer ", "Basic sk-ada", "sk-ada", "Bearer sk-ad", "é ü"):
        with pytest.raises(ApiError) as caught:
            keys.find(header)
        assert caught.value.status == 401
        assert caught.value.headers == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "at least one"),
        (["{}"], "line 1: key Field required"),
        (['{"key": "sk-secret", "name": "a"}', "nonsense"], "line 2"),
        (['{"key": "sk-secret", "name": ""}'], "line 1: name"),
        (['{"key": "sk-secret", "name": "a", "limit": 1}'], "line 1: limit"),
        (['{"key": "sk-secret", "name": "a", "tokens_per_minute": 0}'], "tokens_per_minute"),
        (['{"key": "sk secret", "name": "a"}'], "line 1: key"),
        (['{"key": "sk-secret", "name": "a"}'] * 2, "line 2 again"),
    ],
)
def test_bad_files_are_refused_without_a_word_of_the_key(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message) as caught:
        keys_of(tmp_path, *lines)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        Keys.from_file(tmp_path / "nothing")


def test_a_server_with_keys(start, keys):
    ask = {"model": "tiny", "prompt": [1] * 10, "max_tokens": 40}
    with start(keys=keys) as server:
        with server.http() as http:
            got = http.get("/v1/models")
            assert (got.status_code, got.headers["www-authenticate"]) == (401, "Bearer")
            assert got.json()["error"]["code"] == "invalid_api_key"
            assert http.get("/health/ready").status_code == 200
        with pytest.raises(openai.AuthenticationError, match="not known"):
            server.client(api_key="sk-wrong").completions.create(**ask)

        ada = server.client(api_key="sk-ada")
        raw = ada.completions.with_raw_response.create(**ask)
        assert not [name for name in raw.headers if name.startswith("x-ratelimit")]

        bob = server.client(api_key="sk-bob")
        left = [
            bob.models.with_raw_response.list().headers["x-ratelimit-remaining-requests"]
            for _ in range(3)
        ]
        assert left == ["2", "1", "0"]
        with pytest.raises(openai.RateLimitError, match="3 requests a minute") as caught:
            bob.completions.create(**ask)
        assert caught.value.code == "rate_limit_exceeded"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 20

        eve = server.client(api_key="sk-eve")
        with pytest.raises(openai.RateLimitError, match="this request has 70") as caught:
            eve.completions.create(**{**ask, "prompt": [1] * 70})
        assert "retry-after" not in caught.value.response.headers
        for _ in range(2):  # 60 - 10 - 40, and then 10 - 10 - 40
            eve.completions.create(**ask)
        with pytest.raises(openai.RateLimitError, match="60 tokens a minute: try again") as caught:
            eve.completions.create(**ask)
        assert 40 <= int(caught.value.response.headers["retry-after"]) <= 50
    log = server.log.getvalue()
    assert "sk-" not in log
    clients = [json.loads(line).get("client") for line in log.splitlines()]
    assert {"ada", "bob", "eve"} < set(clients)
