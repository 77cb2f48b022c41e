"""A tiny model behind the OpenAI-style API, on a real socket."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import openai
import pytest
import uvicorn
from gpt_cases import make_gpt, small_tokenizer

from keras_gpt import GPT
from keras_gpt.generation.batch import Batch
from keras_gpt.serving.openai import Limits, create_app
from keras_gpt.serving.openai.service import Service

NAME = "tiny"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] }}:{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}"
)


class Running(NamedTuple):
    """A server, and what is behind it."""

    address: str
    service: Service
    log: io.StringIO

    def client(self, **options: Any) -> openai.OpenAI:
        settings = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
        return openai.OpenAI(base_url=f"{self.address}/v1", **settings)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60)


@contextlib.contextmanager
def running(gpt: GPT, **options: Any) -> Iterator[Running]:
    log = io.StringIO()
    app = create_app(gpt, NAME, log=log, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            started = Running(
                f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.service, log
            )
            wait_until(lambda: app.state.service.is_ready, 60)
            yield started
        finally:
            server.should_exit = True
            thread.join(30)


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def gpt() -> GPT:
    return make_gpt(
        vocab_size=320,
        num_layers=1,
        tokenizer=small_tokenizer(),
        context_length=128,
        generation_settings={"chat_template": TEMPLATE, "stop_token_ids": []},
    )


@pytest.fixture(scope="session")
def start(gpt: GPT) -> Callable[..., contextlib.AbstractContextManager[Running]]:
    """`with start(**options) as server`: another server, of the same compiled model."""
    return lambda **options: running(gpt, **{"limits": Limits(max_batch=2), **options})


@pytest.fixture(scope="session")
def server(gpt: GPT) -> Iterator[Running]:
    with running(gpt, limits=Limits(max_batch=2)) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: Running) -> openai.OpenAI:
    return server.client()


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each step take so long that something can happen meanwhile."""
    step = Batch.step

    def slow(self: Batch, live: Any) -> None:
        time.sleep(0.03)
        step(self, live)

    monkeypatch.setattr(Batch, "step", slow)
