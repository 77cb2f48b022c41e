"""A tiny model's page in a real browser."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser import Page, driver
from gpt_cases import make_gpt, small_tokenizer
from openai_server import TEMPLATE, Running, running

from keras_gpt import GPT
from keras_gpt.generation.batch import Batch
from keras_gpt.serving.openai import Limits


@pytest.fixture(scope="session")
def gpt() -> GPT:
    return make_gpt(
        vocab_size=320,
        num_layers=2,
        tokenizer=small_tokenizer(),
        context_length=64,
        generation_settings={"chat_template": TEMPLATE, "stop_token_ids": [], "temperature": 0.9},
    )


@pytest.fixture(scope="session")
def start(gpt: GPT) -> Callable[..., contextlib.AbstractContextManager[Running]]:
    limits = Limits(max_batch=1, warmup=False)
    return lambda **options: running(gpt, **{"limits": limits, **options})


@pytest.fixture(scope="session")
def server(start: Callable[..., contextlib.AbstractContextManager[Running]]) -> Iterator[Running]:
    with start() as started:
        yield started


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    pytest.importorskip("selenium", reason="the page is tested by selenium, which is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    program = shutil.which("chromedriver")
    if binary is None or program is None:
        pytest.skip("no browser is here: apt-get install chromium chromium-driver")
    with driver(binary, program) as started:
        yield started


@pytest.fixture
def page(chromium: object, server: Running) -> Iterator[Page]:
    """The page in a new tab; at its end nothing must have been written to the console."""
    with Page.in_new_tab(chromium, server) as opened:
        yield opened


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each step take so long that something can happen meanwhile."""
    step = Batch.step

    def slow(self: Batch, live: Any) -> None:
        time.sleep(0.05)
        step(self, live)

    monkeypatch.setattr(Batch, "step", slow)
