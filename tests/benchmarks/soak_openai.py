"""The soak's traffic for the OpenAI-style server."""

import contextlib
import json
import random
import re
import socket
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import numpy as np
import openai

from tests.benchmarks.soak_process import ROOT, Server, started
from tests.benchmarks.soak_traffic import Kind

NAME = "tiny"
CONTEXT = 128
_CASES = 150
_BYTES = 20_000  # of a request
_WORDS = ["the", "cat", "sat", "on", "a", "mat.", "Once", "upon", "time", "7", "été", "中文"]


class Case(NamedTuple):
    """A request, and what must come of it."""

    path: str
    body: dict[str, Any]
    texts: list[str]
    reasons: list[str]


def make_model() -> Any:
    """Make the model that is served."""
    sys.path.insert(0, str(ROOT / "tests"))
    import keras
    from gpt_cases import make_gpt, small_tokenizer
    from openai_server import TEMPLATE

    keras.utils.set_random_seed(0)
    settings = {"chat_template": TEMPLATE, "stop_token_ids": []}
    return make_gpt(
        vocab_size=320,
        tokenizer=small_tokenizer(),
        context_length=CONTEXT,
        generation_settings=settings,
    )


def make_cases(gpt: Any, count: int) -> list[Case]:
    """Draw requests, and have the model answer each alone."""
    rng = random.Random(0)
    return [_case(gpt, rng) for _ in range(count)]


def _case(gpt: Any, rng: random.Random) -> Case:
    from keras_gpt.generation.chat import chat_prompt_ids

    text = " ".join(rng.choices(_WORDS, k=rng.randint(1, 12)))
    new, n = rng.randint(1, 40), rng.choice([1, 1, 1, 2, 3])
    settings: dict[str, Any] = {"temperature": rng.choice([0, 0, 0.7, 1.0, 1.5])}
    settings["seed"] = rng.randrange(2**31)
    for name, values in {
        "top_p": [0.5, 0.9],
        "top_k": [5, 40],
        "min_p": [0.05],
        "presence_penalty": [1.0],
        "frequency_penalty": [-0.5],
        "repetition_penalty": [1.2],
        "stop": [" ", ["th", "a"]],
        "logit_bias": [{"5": 3, "70": -100}],
    }.items():
        if rng.random() < 0.2:
            settings[name] = rng.choice(values)
    body = {"model": NAME, "max_tokens": new, "n": n, **settings}
    if "logit_bias" in settings:
        settings["logit_bias"] = {int(key): bias for key, bias in settings["logit_bias"].items()}
    is_chat = rng.random() < 0.4
    if is_chat:
        messages = [{"role": "user", "content": text}]
        ids = chat_prompt_ids(gpt.tokenizer, gpt.generation_settings, messages)
        path, body = "/v1/chat/completions", {**body, "messages": messages}
        text = gpt.tokenizer.decode(ids)
        assert gpt.tokenizer.encode(text) == list(ids)
    else:
        path, body = "/v1/completions", {**body, "prompt": text}
    answers = gpt.generate(
        text, max_new_tokens=new, num_return_sequences=n, echo=False, details=True, **settings
    )
    answers = [answers] if n == 1 else answers
    reasons = ["stop" if answer.finish_reason == "stop" else "length" for answer in answers]
    return Case(path, body, [answer.text for answer in answers], reasons)


# What must get status 400 to 499, whatever path it comes to.
MALFORMED: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[" * 10_000,
    b'{"model": "tiny", "prompt": "a", "max_tokens": NaN}',
    b'{"model": "tiny", "prompt": "a", "temperature": 1e999}',
    b'{"model": "tiny", "prompt": "a", "n": ' + b"9" * 4000 + b"}",
    b'{"model": "tiny", "prompt": "\xff\xfe"}',
    b'{"model": "tiny", "prompt": "\\ud800"}',
    b'{"model": "../../etc/passwd", "prompt": "a"}',
    b'{"model": "tiny", "prompt": [1, 999999]}',
    b'{"model": "tiny", "prompt": "a", "nothing": 1}',
    b'{"model": "tiny", "prompt": "a", "stop": ["a", "b", "c", "d", "e"]}',
    b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "response_format": '
    b'{"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "cat"}}}}',
    b'{"model": "tiny", "messages": [{"role": "king", "content": "a"}]}',
    b'{"model": "tiny", "input": []}',
]


class Client:
    """Does what a client may do, well or badly.

    Args:
        address: the server's.
        cases: requests with their answers.
        vectors: of `_WORDS`, one each.
    """

    def __init__(self, address: str, cases: list[Case], vectors: np.ndarray) -> None:
        self._cases = cases
        self._vectors = vectors
        self._place = urllib.parse.urlsplit(address)
        self._http = httpx.Client(base_url=address, timeout=60)
        self._official = openai.OpenAI(
            base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60
        )

    def _ask(self, case: Case, stream: bool) -> Any:
        body = dict(case.body)
        extra = {name: body.pop(name) for name in ("top_k", "min_p", "repetition_penalty")
                 if name in body}  # fmt: skip
        chat, completions = self._official.chat.completions, self._official.completions
        room = chat if "messages" in body else completions
        return room.create(stream=stream, extra_body=extra, **body)

    def whole(self, rng: random.Random) -> str:
        """Ask for a whole answer."""
        case = rng.choice(self._cases)
        choices = self._ask(case, False).choices
        texts = [choice.message.content if "messages" in case.body else choice.text
                 for choice in choices]  # fmt: skip
        return _differs(case, texts, [choice.finish_reason for choice in choices])

    def stream(self, rng: random.Random) -> str:
        """Ask for a stream and read it to its end."""
        case = rng.choice(self._cases)
        texts, reasons = [""] * len(case.texts), [""] * len(case.texts)
        for chunk in self._ask(case, True):
            (choice,) = chunk.choices
            piece = choice.delta.content if "messages" in case.body else choice.text
            texts[choice.index] += piece or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        return _differs(case, texts, reasons)

    def embed(self, rng: random.Random) -> str:
        """Ask for vectors."""
        places = rng.choices(range(len(_WORDS)), k=rng.randint(1, 12))
        got = self._official.embeddings.create(model=NAME, input=[_WORDS[i] for i in places])
        vectors = np.array([each.embedding for each in got.data])
        apart = float(np.abs(vectors - self._vectors[places]).max())
        return f"{apart} apart" if apart > 1e-5 else ""

    def leave_a_stream(self, rng: random.Random) -> str:
        """Go after a few pieces."""
        case = rng.choice(self._cases)
        body = {**case.body, "stream": True, "n": rng.choice([1, 4])}
        with self._http.stream("POST", case.path, json=body) as response:
            lines = response.iter_lines()
            for _ in range(rng.randint(0, 6)):
                next(lines, None)
        return "" if response.status_code == 200 else f"status {response.status_code}"

    def leave_while_waiting(self, rng: random.Random) -> str:
        """Send a request, and go at once or soon."""
        case = rng.choice(self._cases)
        with self._connection() as connection:
            connection.sendall(_request(case.path, json.dumps(case.body).encode()))
            time.sleep(rng.choice([0, 0.005, 0.05]))
        return ""

    def leave_in_a_body(self, rng: random.Random) -> str:
        """Send half a request and go."""
        case = rng.choice(self._cases)
        sent = _request(case.path, json.dumps(case.body).encode())
        with self._connection() as connection:
            connection.sendall(sent[: rng.randrange(len(sent))])
        return ""

    def malformed(self, rng: random.Random) -> str:
        """Send what is no request of this API."""
        path = rng.choice(["/v1/completions", "/v1/chat/completions", "/v1/embeddings"])
        got = self._http.post(path, content=rng.choice(MALFORMED))
        return _refusal(got)

    def oversize(self, rng: random.Random) -> str:
        """Send a prompt that does not fit, or a body that may not come."""
        length = rng.choice([CONTEXT * 4, _BYTES + 1, 2 * _BYTES])
        body = {"model": NAME, "prompt": "\t" * length, "max_tokens": 1}
        got = self._http.post("/v1/completions", json=body)
        return _refusal(got, 400 if length < _BYTES // 2 else 413)

    def no_http(self, rng: random.Random) -> str:
        """Send bytes that mean nothing."""
        with self._connection() as connection:
            connection.sendall(rng.randbytes(rng.randint(1, 300)) + b"\r\n\r\n")
            first = connection.recv(4096).partition(b"\r\n")[0]
        return "" if re.match(rb"HTTP/1.1 4|$", first) else repr(first)

    def look(self, rng: random.Random) -> str:
        """Ask what the server is."""
        path = rng.choice(["/health/live", "/health/ready", "/metrics", "/v1/models"])
        got = self._http.get(path)
        return "" if got.status_code == 200 else f"{path}: {got.status_code}"

    def _connection(self) -> socket.socket:
        return socket.create_connection((self._place.hostname, self._place.port), timeout=60)


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _differs(case: Case, texts: list[str], reasons: list[str]) -> str:
    if (texts, reasons) == (case.texts, case.reasons):
        return ""
    return f"{case.body} gave {texts} {reasons}, not {case.texts} {case.reasons}"


def _refusal(got: httpx.Response, status: int | None = None) -> str:
    is_right = got.status_code == status if status else 400 <= got.status_code < 500
    return "" if is_right and got.json()["error"]["message"] else f"{got.status_code}: {got.text}"


def failures_at_rest(address: str) -> list[str]:
    """Say what is still held when no client asks for anything."""
    held: dict[str, float] = {}
    for _ in range(50):
        text = httpx.get(f"{address}/metrics").text
        held = {
            name: float(re.findall(rf"^keras_gpt_{name} (\S+)$", text, re.M)[0])
            for name in ("answers_running", "answers_waiting", "requests_in_flight")
        }
        # The request for the metrics itself is in flight.
        if held == {"answers_running": 0, "answers_waiting": 0, "requests_in_flight": 1}:
            return []
        time.sleep(0.1)
    return [f"held at rest: {held}"]


@contextlib.contextmanager
def part() -> Iterator[tuple[Server, dict[str, Kind], Callable[[], str]]]:
    """Start the server, and give it with what clients do."""
    gpt = make_model()
    cases = make_cases(gpt, _CASES)
    with tempfile.TemporaryDirectory() as scratch:
        gpt.save_to_preset(f"{scratch}/{NAME}")
        arguments = ["--model", f"{scratch}/{NAME}", "--port", "0", "--max-batch", "4"]
        arguments += ["--max-request-bytes", str(_BYTES), "--max-waiting", "64"]
        with started(arguments, failures_at_rest) as server:
            while httpx.get(f"{server.address}/health/ready").status_code != 200:
                time.sleep(0.5)
            client = Client(server.address, cases, gpt.embed(_WORDS))
            kinds = {
                "whole": Kind(20, client.whole),
                "stream": Kind(20, client.stream),
                "embed": Kind(5, client.embed),
                "leave_a_stream": Kind(5, client.leave_a_stream),
                "leave_while_waiting": Kind(5, client.leave_while_waiting),
                "leave_in_a_body": Kind(5, client.leave_in_a_body),
                "malformed": Kind(10, client.malformed),
                "oversize": Kind(5, client.oversize),
                "no_http": Kind(2, client.no_http),
                "look": Kind(5, client.look),
            }
            yield server, kinds, lambda: ""
