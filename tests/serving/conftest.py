"""Small SavedModels, and servers for them on real sockets."""

import asyncio
import contextlib
import json
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from keras_gpt.serving import create_app
from keras_gpt.serving.server import Server


class Client:
    """A client that knows nothing but HTTP and JSON; and the stubs of tensorflow-serving-api."""

    def __init__(self, server: Server, channel: grpc.Channel) -> None:
        self.address = server.address
        self.app = server.app
        self.server = server
        self.channel = channel
        self.predictions = PredictionServiceStub(channel)
        self.models = ModelServiceStub(channel)

    def get(self, path: str) -> tuple[int, Any]:
        return self.send("GET", path)

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, data)

    def send(self, method: str, path: str, data: bytes | None = None) -> tuple[int, Any]:
        request = urllib.request.Request(self.address + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return self._answer(response)
        except urllib.error.HTTPError as error:
            with error:
                return self._answer(error)

    @staticmethod
    def _answer(response: Any) -> tuple[int, Any]:
        assert response.headers["content-type"] == "application/json"
        return response.status, json.loads(response.read())


@contextlib.contextmanager
def running(folder: Path, **options: Any) -> Iterator[Client]:
    """Serve the models of a folder on free ports of this machine."""
    started = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(folder, **options)
        server = Server(app, "127.0.0.1", options.get("max_request_bytes", 2**20))
        thread = threading.Thread(
            target=lambda: asyncio.run(server.run(listener, 0, started.set)), daemon=True
        )
        thread.start()
        try:
            assert started.wait(30)
            # A client's own limit of 4 MB would cut connections in the midst of an answer.
            any_size = [("grpc.max_receive_message_length", -1)]
            with grpc.insecure_channel(server.grpc_address, options=any_size) as channel:
                yield Client(server, channel)
        finally:
            server.rest.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def run_server() -> Callable[..., contextlib.AbstractContextManager[Client]]:
    """`with run_server(folder, **options) as client`."""
    return running


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each kind, and with what does not belong there."""
    folder = tmp_path_factory.mktemp("saved_models")
    _write_models(folder)
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "saved_model.pb").write_bytes(b"\xffnot a model")
    (folder / "empty_version" / "7").mkdir(parents=True)
    (folder / "notes").mkdir()
    (folder / ".aside-1" / "1").mkdir(parents=True)
    (folder / "models.config").write_text("model_config_list {}")
    return folder


@pytest.fixture(scope="session")
def client(models_folder: Path) -> Iterator[Client]:
    with running(models_folder) as running_client:
        yield running_client


@pytest.fixture(scope="session")
def half_plus_two_folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TensorFlow Serving's own test model: y = x / 2 + 2, y2 = x / 2 + 3."""
    folder = tmp_path_factory.mktemp("half_plus_two")
    source = shared_data / "serving" / "tfs_testdata" / "00000123"
    shutil.copytree(source, folder / "half_plus_two" / "123")
    return folder


@pytest.fixture(scope="session")
def half_plus_two(half_plus_two_folder: Path) -> Iterator[Client]:
    with running(half_plus_two_folder) as running_client:
        yield running_client


def _write_models(folder: Path) -> None:
    import tensorflow as tf

    def spec(name: str, dtype: Any, shape: Any = (None,)) -> Any:
        return tf.TensorSpec(shape, dtype, name)

    # Of shape [1] and not of the batch: the model broadcasts them.
    half, seven = tf.constant([0.5]), tf.constant([7])

    class Echo(tf.Module):
        """Strings in, strings out, with parameters a row that may be left out."""

        def __init__(self, greeting: str) -> None:
            super().__init__()
            self.greeting = tf.Variable(greeting)

        @tf.function(
            input_signature=[
                spec("prompt", tf.string),
                spec("temperature", tf.float32),
                spec("seed", tf.int32),
            ]
        )
        def generate(self, prompt: Any, temperature: Any = half, seed: Any = seven) -> Any:
            rows = tf.shape(prompt)
            temperature = tf.broadcast_to(temperature, rows)
            seed = tf.broadcast_to(seed, rows)
            text = tf.strings.join(
                [self.greeting, prompt, tf.strings.as_string(seed)], separator=" "
            )
            return {"text": text, "temperature": temperature}

        @tf.function(input_signature=[spec("prompt", tf.string)])
        def shout(self, prompt: Any) -> Any:
            return {"text": tf.strings.upper(prompt)}

    for version, greeting in ((1, "old"), (2, "hi"), (10, "hello")):
        model = Echo(greeting)
        tf.saved_model.save(
            model,
            str(folder / "echo" / str(version)),
            {"serving_default": model.generate, "shout": model.shout},
        )

    kinds = {
        "a_bool": tf.bool,
        "a_double": tf.float64,
        "a_float": tf.float32,
        "a_string": tf.string,
        "a_uint8": tf.uint8,
        "a_uint64": tf.uint64,
        "an_int32": tf.int32,
        "an_int64": tf.int64,
    }

    class Kinds(tf.Module):
        """Gives back what it gets: one input of each data type."""

        @tf.function(input_signature=[spec(name, dtype) for name, dtype in kinds.items()])
        def same(self, *values: Any) -> Any:
            return {name: tf.identity(v) for name, v in zip(kinds, values, strict=True)}

    model = Kinds()
    tf.saved_model.save(model, str(folder / "kinds" / "1"), {"serving_default": model.same})

    class Shapes(tf.Module):
        """Tensors of several ranks, errors from the graph, and a long computation."""

        @tf.function(input_signature=[spec("matrix", tf.float32, (None, 2))])
        def sums(self, matrix: Any) -> Any:
            check = tf.debugging.assert_positive(matrix, message="matrix must be positive")
            with tf.control_dependencies([check]):
                return {"sums": tf.reduce_sum(matrix, -1)}

        @tf.function(input_signature=[spec("x", tf.float32, ())])
        def double(self, x: Any) -> Any:
            return {"y": 2 * x}

        @tf.function(input_signature=[spec("data", tf.string)])
        def as_bytes(self, data: Any) -> Any:
            return {"raw_bytes": data, "text": data}

        @tf.function(input_signature=[spec("x", tf.float32)])
        def uneven(self, x: Any) -> Any:
            return {"all": x, "first": x[:1]}

        @tf.function(input_signature=[spec("x", tf.float32)])
        def halves(self, x: Any) -> Any:
            return {"half": tf.cast(x, tf.float16)}

        @tf.function(input_signature=[spec("x", tf.float32)])
        def wave(self, x: Any) -> Any:
            return {"y": tf.complex(x, x)}

        @tf.function(input_signature=[spec("steps", tf.int32)])
        def slow(self, steps: Any) -> Any:
            value = tf.ones((64, 64))
            for _ in tf.range(steps[0]):
                value = tf.tanh(value @ value)
            return {"y": tf.reshape(value[0, 0], (1,))}

    shapes = Shapes()
    tf.saved_model.save(
        shapes,
        str(folder / "shapes" / "1"),
        {
            "sums": shapes.sums,
            "double": shapes.double,
            "as_bytes": shapes.as_bytes,
            "uneven": shapes.uneven,
            "halves": shapes.halves,
            "wave": shapes.wave,
            "slow": shapes.slow,
        },
    )
