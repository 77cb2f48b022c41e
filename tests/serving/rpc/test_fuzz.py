"""Malformed, mutated and odd requests: each gets an answer or a status, and none is our mistake.

The small run is part of the suite. `pytest -m slow tests/serving/rpc/test_fuzz.py` sends 10,000.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor
from google.protobuf.message_factory import GetMessageClass
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

HALF_PLUS_TWO = Path(__file__).resolve().parents[3] / "shared" / "data" / "serving" / "tfs_testdata"
METHODS = {
    f"/{service.full_name}/{method.name}": GetMessageClass(method.input_type)
    for file in (prediction_service_pb2, model_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
NAMES = ["half_plus_two", "echo", "kinds", "shapes", "broken", "nothing", "", "../..", "é" * 300]
SIGNATURES = [
    *("", "serving_default", "regress_x_to_y", "classify_x_to_y", "shout"),
    *("sums", "double", "as_bytes", "uneven", "halves", "wave", "__saved_model_init_op", "no"),
]
# Model, signature, and its inputs with their types. ("slow" of "shapes" computes for as long as its
# input says: it is left out.)
CALLS = [
    ("half_plus_two", "serving_default", {"x": "float32"}),
    ("echo", "", {"prompt": "str", "seed": "int32"}),
    ("echo", "serving_default", {"prompt": "str"}),
    ("echo", "shout", {"prompt": "str"}),
    ("shapes", "sums", {"matrix": "float32"}),
    ("shapes", "double", {"x": "float32"}),
    ("shapes", "as_bytes", {"data": "str"}),
    ("shapes", "uneven", {"x": "float32"}),
    ("shapes", "halves", {"x": "float32"}),
    ("shapes", "wave", {"x": "float32"}),
]
INPUTS = ["x", "inputs", "prompt", "seed", "temperature", "matrix", "data", "a_float", "a_string"]
TEXTS = [
    *(*SIGNATURES, *INPUTS, "signature_def", "/etc", "text", "y", "tensorflow"),
    *("tensorflow/serving/classify", "tensorflow/serving/regress", "tensorflow/serving/predict"),
]


def requests(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Methods and bodies: whole messages, damaged ones, and bytes that never were one."""
    draw = random.Random(seed)
    for _ in range(count):
        method = draw.choice([*METHODS, *["/tensorflow.serving.PredictionService/Predict"] * 6])
        kind = draw.random()
        if kind < 0.1:
            yield method, draw.randbytes(draw.choice([0, 1, 5, 100, 5000]))
            continue
        message = METHODS[method]()
        fill(message, draw, 0)
        if method.endswith("/Predict") and draw.random() < 0.7:
            plausible(message, draw)
        body = bytearray(message.SerializeToString())
        if kind < 0.35:
            for _ in range(draw.randint(1, 4)):
                damage(body, draw)
        yield method, bytes(body)


def fill(message: Any, draw: random.Random, depth: int) -> None:
    """Set some fields of a message, and of those within, to odd or plausible values."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "model_spec" and draw.random() < 0.7:
            message.model_spec.name = draw.choice(["half_plus_two", "echo"])
            message.model_spec.signature_name = draw.choice(SIGNATURES[2:4])
            continue
        if depth > 6 or draw.random() < 0.35:
            continue
        is_map = field.message_type and field.message_type.GetOptions().map_entry
        times = draw.choice([0, 1, 1, 2, 3]) if field.is_repeated else 1
        for _ in range(times):
            if is_map:
                fill_map(getattr(message, field.name), field.message_type, draw, depth)
            elif field.type == descriptor.FieldDescriptor.TYPE_MESSAGE:
                target = getattr(message, field.name)
                fill(target.add() if field.is_repeated else target, draw, depth + 1)
            elif field.is_repeated:
                getattr(message, field.name).append(scalar(field, draw))
            else:
                setattr(message, field.name, scalar(field, draw))


def fill_map(target: Any, entry: Any, draw: random.Random, depth: int) -> None:
    key = scalar(entry.fields_by_name["key"], draw)
    value = entry.fields_by_name["value"]
    if value.type == descriptor.FieldDescriptor.TYPE_MESSAGE:
        fill(target[key], draw, depth + 1)
    else:
        target[key] = scalar(value, draw)


def scalar(field: Any, draw: random.Random) -> Any:
    kinds = descriptor.FieldDescriptor
    if field.cpp_type == kinds.CPPTYPE_STRING:
        if field.type == kinds.TYPE_BYTES:
            return draw.randbytes(draw.choice([0, 3, 40]))
        return draw.choice(NAMES if field.name == "name" else TEXTS)
    if field.cpp_type in (kinds.CPPTYPE_DOUBLE, kinds.CPPTYPE_FLOAT):
        return draw.choice([0.0, 1.5, -1e30, float("nan"), float("inf")])
    if field.cpp_type == kinds.CPPTYPE_BOOL:
        return draw.random() < 0.5
    if field.cpp_type == kinds.CPPTYPE_ENUM:
        return draw.choice([*field.enum_type.values_by_number, 77])
    bits = 31 if field.cpp_type in (kinds.CPPTYPE_INT32, kinds.CPPTYPE_UINT32) else 63
    least = 0 if field.cpp_type in (kinds.CPPTYPE_UINT32, kinds.CPPTYPE_UINT64) else -(2**bits)
    return draw.choice([0, 1, 2, 123, max(least, -1), least, 2**bits - 1, 2 ** (bits // 2)])


def plausible(message: Any, draw: random.Random) -> None:
    """Name a model that there is, and give tensors that are right or nearly so."""
    message.Clear()
    model, signature, inputs = draw.choice(CALLS)
    message.model_spec.name = model
    message.model_spec.signature_name = (
        signature if draw.random() < 0.9 else draw.choice(SIGNATURES)
    )
    for name, kind in inputs.items():
        shape = draw.choice([*[(1,), (3,), (2, 2)] * 3, (), (0,), (1, 1, 1), (0, 2)])
        if draw.random() < 0.2:
            kind = draw.choice(["float32", "int32", "int64", "float64", "bool", "str", "complex64"])
        proto = tf.make_tensor_proto(np.ones(shape, kind))
        odd = draw.random()
        if odd < 0.1:
            proto.tensor_shape.dim.add(size=draw.choice([-1, 0, 1, 2**20, 2**40, 2**62]))
        elif odd < 0.2:
            proto.tensor_content += b"\1"
        elif odd < 0.25:
            proto.dtype = draw.randint(0, 130)
        elif odd < 0.3:
            name = draw.choice(INPUTS)
        message.inputs[name].CopyFrom(proto)


def damage(body: bytearray, draw: random.Random) -> None:
    """Change, cut out or repeat some bytes."""
    if not body:
        return
    at, what = draw.randrange(len(body)), draw.random()
    if what < 0.5:
        body[at] = draw.randrange(256)
    elif what < 0.75:
        del body[at : at + draw.choice([1, 4, 100])]
    else:
        body[at:at] = body[at : at + draw.choice([1, 8, 200])]


@pytest.fixture(scope="module")
def targets(
    models_folder: Path, run_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Any]]:
    """A server that is asked, and one whose models are exchanged: by an empty list too."""
    folder = tmp_path_factory.mktemp("fuzzed")
    for source in models_folder.iterdir():
        if source.is_dir():
            (folder / source.name).symlink_to(source)
    if HALF_PLUS_TWO.is_dir():
        (folder / "half_plus_two").symlink_to(HALF_PLUS_TWO)
    other = tmp_path_factory.mktemp("reloaded")
    (other / "echo").symlink_to(models_folder / "echo")
    with (
        run_server(folder, max_request_bytes=2**20) as asked,
        run_server(other, max_request_bytes=2**20) as reloaded,
    ):
        yield asked, reloaded


def send(targets: Any, count: int, seed: int, caplog: pytest.LogCaptureFixture) -> Counter[str]:
    """Send them, several at a time; fail for each that is not answered as it should be."""
    asked, reloaded = targets
    codes: Counter[str] = Counter()
    running: list[tuple[str, bytes, Any]] = []

    def settle() -> None:
        for method, body, future in running:
            code = future.code().name  # waits
            codes[code] += 1
            assert code not in ("INTERNAL", "DEADLINE_EXCEEDED", "UNAVAILABLE"), (
                f"{code} {future.details()}\n{method} {body!r}"
            )
        running.clear()

    for method, body in requests(count, seed):
        target = reloaded if method.endswith("/HandleReloadConfigRequest") else asked
        call = target.channel.unary_unary(method)
        running.append((method, body, call.future(body, timeout=60)))
        if len(running) == 16:
            settle()
    settle()
    assert not [r for r in caplog.records if r.exc_info], "the server has logged an exception"
    # It is as well as before.
    prompt = {"instances": [{"prompt": "a"}]}
    assert asked.post("/v1/models/echo:predict", prompt)[1]["predictions"][0]["text"] == "hello a 7"
    return codes


def test_a_few_hundred(targets: Any, caplog: pytest.LogCaptureFixture) -> None:
    codes = send(targets, 400, 1, caplog)
    # The requests go deep: some are right, and the others are wrong in several ways.
    assert codes["OK"] > 30
    assert {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"} <= codes.keys()


@pytest.mark.slow
def test_ten_thousand(targets: Any, caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    codes = send(targets, 10_000, 2, caplog)
    print(f"{sum(codes.values())} requests in {time.monotonic() - began:.0f} s: {dict(codes)}")
    assert sum(codes.values()) == 10_000
