"""What the serving benchmark asks, how it asks it, and what it makes of the times.

The same code asks every server: so many clients at a time, each of which sends its next request
when its last one is answered.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np


class Wanted(NamedTuple):
    """A request, and the answer that the model gives to it offline."""

    prompt: str
    new: int  # the most new tokens
    text: str
    tokens: int


class Answer(NamedTuple):
    """What came, and when: seconds from the sending to the first text and to the end."""

    text: str
    tokens: int
    first: float | None  # None where an answer comes at once
    whole: float


Ask = Callable[[Wanted], Awaitable[Answer]]
Count = Callable[[str], int]  # how many tokens a text has


class Level(NamedTuple):
    """What one number of clients measured."""

    answers: list[Answer]
    seconds: float

    def row(self) -> dict[str, float]:
        """Give the numbers of a table's row; times in seconds."""
        row = {
            "requests": len(self.answers) / self.seconds,
            "tokens": sum(each.tokens for each in self.answers) / self.seconds,
        }
        first = [each.first for each in self.answers if each.first is not None]
        for name, times in (("first", first), ("whole", [each.whole for each in self.answers])):
            for part in (50, 95, 99):
                row[f"{name}_p{part}"] = float(np.percentile(times, part)) if times else np.nan
        return row


async def drive(ask: Ask, wanted: Iterable[Wanted], clients: int) -> Level:
    """Send requests, `clients` of them at a time; the answers come in the requests' order."""
    left = iter(list(enumerate(wanted)))
    answers: dict[int, Answer] = {}

    async def client() -> None:
        for place, each in left:
            answers[place] = await ask(each)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    seconds = time.perf_counter() - start
    return Level([answers[place] for place in sorted(answers)], seconds)


def completions(http: httpx.AsyncClient, model: str, count: Count) -> Ask:
    """Ask a server with OpenAI's API for a greedy stream."""

    async def ask(wanted: Wanted) -> Answer:
        body = {
            "model": model,
            "prompt": wanted.prompt,
            "max_tokens": wanted.new,
            "temperature": 0,
            "seed": 0,
            "stream": True,
        }
        text, first = "", None
        start = time.perf_counter()
        async with http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                raise RuntimeError(f"{response.status_code}: {await response.aread()!r}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(line)
                for choice in event["choices"]:
                    if choice["text"] and first is None:
                        first = time.perf_counter() - start
                    text += choice["text"]
        whole = time.perf_counter() - start
        # Counted here, for servers do not agree on whether the token that ends an answer is one.
        return Answer(text, count(text), first, whole)

    return ask


def rest(http: httpx.AsyncClient, model: str) -> Ask:
    """Ask a server with TensorFlow Serving's REST API."""

    async def ask(wanted: Wanted) -> Answer:
        instance = {"prompt": wanted.prompt, "max_new_tokens": wanted.new, "temperature": 0.0}
        start = time.perf_counter()
        response = await http.post(f"/v1/models/{model}:predict", json={"instances": [instance]})
        whole = time.perf_counter() - start
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {response.text}")
        (row,) = response.json()["predictions"]
        return Answer(row["completion"], wanted.tokens, None, whole)

    return ask


def grpc(channel: Any, model: str) -> Ask:
    """Ask a server with TensorFlow Serving's gRPC API, by the stubs that Google publishes."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    service = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    async def ask(wanted: Wanted) -> Answer:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        values = {
            "prompt": tf.make_tensor_proto([wanted.prompt], tf.string),
            "max_new_tokens": tf.make_tensor_proto([wanted.new], tf.int32),
            "temperature": tf.make_tensor_proto([0.0], tf.float32),
        }
        for name, value in values.items():
            request.inputs[name].CopyFrom(value)
        start = time.perf_counter()
        response = await service.Predict(request)
        whole = time.perf_counter() - start
        (text,) = tf.make_ndarray(response.outputs["completion"])
        return Answer(text.decode(), wanted.tokens, None, whole)

    return ask


def in_process(version: Path, threads: int) -> Ask:
    """Call a SavedModel in this process, from as many threads as there are clients."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    loaded = tf.saved_model.load(version)
    function = loaded.signatures["serving_default"]
    document = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    # Python's loader asks for every input; a server fills in these defaults.
    definition = document.meta_graphs[0].signature_def["serving_default"]
    defaults = {
        name: tf.constant(tf.make_ndarray(value)) for name, value in definition.defaults.items()
    }
    pool = ThreadPoolExecutor(threads)

    def call(wanted: Wanted) -> Answer:
        given = {
            "prompt": tf.constant([wanted.prompt]),
            "max_new_tokens": tf.constant([wanted.new], tf.int32),
            "temperature": tf.constant([0.0]),
        }
        start = time.perf_counter()
        (text,) = function(**{**defaults, **given})["completion"].numpy()
        whole = time.perf_counter() - start
        return Answer(text.decode(), wanted.tokens, None, whole)

    async def ask(wanted: Wanted) -> Answer:
        _ = loaded  # the function holds only weak references to the model's variables
        return await asyncio.get_running_loop().run_in_executor(pool, call, wanted)

    return ask
