"""Requests that TensorFlow Serving sends itself before it takes others: TFRecords of PredictionLog.

The messages are those of the package tensorflow-serving-api. It would bring grpcio to everybody for
these few fields, all of which protobuf encodes alike: number, length, bytes. So they are written
here; a test reads them with that package.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

# Where TensorFlow Serving looks for them in the folder of a version.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"


class PredictRequest(NamedTuple):
    """A request of the Predict API."""

    signature: str
    inputs: Mapping[str, Any]  # arrays or tensors, by the names of the signature


def write_warmup_records(path: Path, model: str, requests: Iterable[PredictRequest]) -> None:
    """Write requests as warm-up records; no file where there are none.

    Args:
        path: the file.
        model: the model's name.
        requests: what to ask. TensorFlow Serving does not load a model that fails on one of them.
    """
    records = [_prediction_log(model, request) for request in requests]
    if not records:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def _prediction_log(model: str, request: PredictRequest) -> bytes:
    model_spec = _field(1, model.encode()) + _field(3, request.signature.encode())
    predict_request = _field(1, model_spec)
    for name, value in sorted(request.inputs.items()):
        tensor = tf.make_tensor_proto(value).SerializeToString()
        predict_request += _field(2, _field(1, name.encode()) + _field(2, tensor))
    predict_log = _field(1, predict_request)
    return _field(6, predict_log)


def _field(number: int, content: bytes) -> bytes:
    """Encode a field of bytes, a string, or a message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Encode a number, seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
