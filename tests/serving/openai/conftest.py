"""A tiny model behind the OpenAI-style API."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from gpt_cases import make_gpt, small_tokenizer
from openai_server import TEMPLATE, Running, running

from keras_gpt import GPT
from keras_gpt.generation.batch import Batch
from keras_gpt.serving.openai import Limits


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
