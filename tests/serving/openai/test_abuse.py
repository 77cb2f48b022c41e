"""Requests that are meant to break a server, or to make it stand still for the others."""

import json
import socket
import threading
import time
import urllib.parse
from typing import Any

import httpx
import pytest
from openai_server import Running, wait_until

from keras_gpt.serving.openai import Limits, grammars

ASK = {"model": "tiny", "prompt": "the cat", "max_tokens": 3, "temperature": 0}
START = json.dumps(ASK)[:-1].encode()
MESSAGES = [{"role": "user", "content": "a"}]
BIG = b"9" * 4000

REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "deep": START + b', "stop": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "not closed": b"[" * 1_000_000,
    "nan": START + b', "top_p": NaN}',
    "infinity": START + b', "presence_penalty": 1e999}',
    "many new tokens": START + b', "max_tokens": ' + BIG + b"}",
    "too many digits": START + b', "seed": ' + BIG * 2 + b"}",
    "many answers": START + b', "n": ' + BIG + b"}",
    "no utf-8": START + b', "user": "\xff\xfe"}',
    "utf-16": json.dumps(ASK).encode("utf-16"),
    "half a pair": START + b', "user": "\\ud800"}',
    "two values": json.dumps(ASK).encode() * 2,
    "again, and wrong": START + b', "prompt": 5}',
    "long stop": START + b', "stop": "' + b"a" * 1001 + b'"}',
    "unknown ids": START + b', "logit_bias": {"999999999": 1}}',
    "long prompt": START + b', "prompt": "' + b"a" * 4_000_000 + b'"}',
    "many ids": START + b', "prompt": [' + b"1," * 1_000_000 + b"1]}",
    "many prompts": START + b', "prompt": [' + b'"a",' * 500_000 + b'"a"]}',
    "a few prompts too many": START + b', "prompt": [' + b'"a",' * 200 + b'"a"]}',
    "long name": START + b', "' + b"x" * 1_000_000 + b'": 1}',
    "a path": START + b', "model": "../../etc/passwd"}',
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_at_once(server, name):
    with server.http() as http:
        start = time.monotonic()
        got = http.post("/v1/completions", content=REFUSED[name])
        assert 400 <= got.status_code < 500
        assert len(got.json()["error"]["message"]) < 2000
        # Ten times what the longest of them takes; without limits it is a minute.
        assert time.monotonic() - start < 10


def test_long_conversations(server):
    message = b'{"role": "user", "content": "a"},'
    bodies = [
        b'{"model": "tiny", "messages": [' + (message * 100_000)[:-1] + b"]}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "'
        + b"a" * 4_000_000
        + b'"}]}',
    ]
    with server.http() as http:
        for body in bodies:
            start = time.monotonic()
            assert http.post("/v1/chat/completions", content=body).status_code == 400
            assert time.monotonic() - start < 10


def test_the_last_of_two_values_counts(server):
    with server.http() as http:
        got = http.post("/v1/completions", content=START + b', "n": 1, "n": 2}').json()
    assert len(got["choices"]) == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"content-type": "application/x-www-form-urlencoded"}, 200),  # what curl says by itself
        ({"content-type": "text/plain", "sec-fetch-site": "cross-site"}, 415),
        ({"content-type": "application/json", "sec-fetch-site": "same-origin"}, 200),
        ({"content-encoding": "gzip"}, 415),
    ],
)
def test_types_of_bodies(server, headers, status):
    with server.http() as http:
        got = http.post("/v1/completions", content=json.dumps(ASK), headers=headers)
    assert got.status_code == status


@pytest.mark.parametrize("path", ["/v1/models/..%2f..%2fetc%2fpasswd", "/../../etc/passwd", "/etc"])
def test_no_path_is_a_file(server, path):
    place = urllib.parse.urlsplit(server.address)
    with socket.create_connection((place.hostname, place.port), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 404")


def schema_body(schema: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return {"model": "tiny", "messages": MESSAGES, "response_format": form}


# A grammar of a hundred million states: gigabytes, for 46 characters.
BOMB = schema_body({"type": "integer", "multipleOf": 99_999_989})


def test_a_schema_that_explodes_stops_nobody(server, monkeypatch):
    pytest.importorskip("llguidance")
    monkeypatch.setattr(grammars, "_SECONDS", 1)
    url = f"{server.address}/v1/chat/completions"
    got: list[httpx.Response] = []
    asking = [
        threading.Thread(target=lambda: got.append(httpx.post(url, json=BOMB, timeout=60)))
        for _ in range(3)
    ]
    for thread in asking:
        thread.start()
    with server.http() as http:
        assert http.post("/v1/completions", json=ASK).status_code == 200
    assert not got
    for thread in asking:
        thread.join()
    assert [each.status_code for each in got] == [400] * 3
    assert {each.json()["error"]["code"] for each in got} == {"invalid_response_format"}
    assert "too large" in got[0].json()["error"]["message"]


def test_a_client_that_goes_takes_its_schema_along(server, monkeypatch):
    pytest.importorskip("llguidance")
    monkeypatch.setattr(grammars, "_SECONDS", 300)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.address}/v1/chat/completions", json=BOMB, timeout=0.5)
    wait_until(lambda: server.service.in_flight == 0)


def test_a_long_schema(server):
    with server.http() as http:
        body = schema_body({"enum": ["a" * 200_000]})
        got = http.post("/v1/chat/completions", json=body).json()
    assert got["error"]["param"] == "response_format"
    assert "100000 characters" in got["error"]["message"]


@pytest.fixture
def slow_embedding(gpt, monkeypatch) -> list[int]:
    """Give how many inputs were embedded at each time."""
    embed, counts = gpt.embed, []

    def slow(inputs: Any) -> Any:
        counts.append(len(inputs))
        time.sleep(0.02)
        return embed(inputs)

    monkeypatch.setattr(gpt, "embed", slow)
    return counts


def embed(server: Running, count: int, timeout: float = 60) -> httpx.Response:
    body = {"model": "tiny", "input": ["the cat"] * count}
    return httpx.post(f"{server.address}/v1/embeddings", json=body, timeout=timeout)


@pytest.mark.usefixtures("slow_embedding")
def test_a_large_embedding_lets_others_between(server):
    got = []
    large = threading.Thread(target=lambda: got.append(embed(server, 400)))
    large.start()
    wait_until(lambda: server.service.in_flight == 1)
    assert embed(server, 1).status_code == 200
    assert large.is_alive()
    large.join()
    assert len(got[0].json()["data"]) == 400


def test_a_client_that_goes_ends_its_embedding(server, slow_embedding):
    with pytest.raises(httpx.ReadTimeout):
        embed(server, 400, timeout=0.3)
    wait_until(lambda: server.service.in_flight == 0, 60)
    assert sum(slow_embedding) < 400


@pytest.mark.usefixtures("slow_embedding")
def test_an_embedding_has_a_deadline(start):
    with start(limits=Limits(max_batch=1, deadline=0.2)) as server:
        got = embed(server, 400)
    assert (got.status_code, got.json()["error"]["code"]) == (503, "deadline_exceeded")


@pytest.mark.usefixtures("slowly")
def test_no_more_requests_than_have_a_place_are_read(start):
    long = {**ASK, "max_tokens": 100}
    with start(limits=Limits(max_batch=1, max_waiting=1)) as server:
        place = urllib.parse.urlsplit(server.address)
        held = [
            socket.create_connection((place.hostname, place.port), timeout=20) for _ in range(34)
        ]
        for each in held:  # their bodies do not come
            each.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n")
        wait_until(lambda: server.service.in_flight == 34)
        with server.http() as http:
            got = http.post("/v1/completions", json=long)
            assert (got.status_code, got.json()["error"]["code"]) == (429, "queue_full")
            assert got.headers["retry-after"] == "1"
            assert http.get("/health/live").status_code == 200
        for each in held:
            each.close()
        wait_until(lambda: server.service.in_flight == 0)


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_while_it_waits(start, stream):
    long = {**ASK, "max_tokens": 100}
    with start(limits=Limits(max_batch=1)) as server:
        engine, url = server.service.engine, f"{server.address}/v1/completions"
        first = threading.Thread(
            target=httpx.post, args=(url,), kwargs={"json": long, "timeout": 60}
        )
        first.start()
        wait_until(lambda: engine.num_running == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json={**long, "stream": stream}, timeout=0.3)
        wait_until(lambda: engine.num_waiting == 0)
        assert first.is_alive()
        first.join()
