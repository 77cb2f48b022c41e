"""A model's own warm-up requests: answered once before it is served."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_gpt.serving.errors import ServingError
from keras_gpt.serving.servable import Servable

# TensorFlow Serving's place for them, and the most that it reads.
_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_MAX_RECORDS = 1000


def warm_up(servable: Servable, path: Path) -> None:
    """Answer the warm-up requests of a version, where it has any.

    What is compiled on the first request of a shape is then compiled before a client waits for it.

    Args:
        servable: the loaded version.
        path: its folder; the requests are records of type PredictionLog in
            `assets.extra/tf_serving_warmup_requests`.

    Raises:
        ServingError: a request is not answered, or the file has another form.
        tf.errors.OpError: the file is not one of records.
    """
    file = path / _FILE
    if not file.is_file():
        return
    from tensorflow_serving.apis import prediction_log_pb2

    from keras_gpt.serving.rpc.parsing import parse

    for count, record in enumerate(tf.data.TFRecordDataset([str(file)]).as_numpy_iterator()):
        if count == _MAX_RECORDS:
            raise ServingError(
                f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {file}"
            )
        _replay(servable, parse(prediction_log_pb2.PredictionLog, record))


def _replay(servable: Servable, log: Any) -> None:
    from keras_gpt.serving.rpc.examples import classify, multi_inference, regress
    from keras_gpt.serving.rpc.predict import predict

    answers = {
        "predict_log": predict,
        "classify_log": classify,
        "regress_log": regress,
        "multi_inference_log": multi_inference,
    }
    kind = log.WhichOneof("log_type")
    if kind not in answers:
        raise ServingError(f"Unsupported log_type for warmup: {kind}", "UNIMPLEMENTED")
    answers[kind](servable, getattr(log, kind).request)
