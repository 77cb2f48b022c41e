"""A server with the OpenAI-style API on a real socket, for tests."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import openai

from keras_gpt import GPT
from keras_gpt.serving.draining import DrainingServer
from keras_gpt.serving.openai import create_app
from keras_gpt.serving.openai.server import draining_server
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
    server: DrainingServer

    def client(self, **options: Any) -> openai.OpenAI:
        settings = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
        return openai.OpenAI(base_url=f"{self.address}/v1", **settings)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60)


@contextlib.contextmanager
def running(
    gpt: GPT,
    is_ready: bool = True,
    drain_seconds: float = 30,
    send_buffer: int | None = None,
    **options: Any,
) -> Iterator[Running]:
    log = io.StringIO()
    app = create_app(gpt, NAME, log=log, **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if send_buffer is not None:  # those of its connections are the same
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        server = draining_server(app, drain_seconds)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            started = Running(address, app.state.service, log, server)
            if is_ready:
                wait_until(lambda: app.state.service.is_ready, 300)
            yield started
        finally:
            server.should_exit = True
            thread.join(30)


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.01)
