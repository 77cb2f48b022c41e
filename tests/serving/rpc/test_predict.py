"""Predict over a real channel, with the stubs of tensorflow-serving-api."""

import threading
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from keras_gpt.serving.rpc.tensors import write_tensor


def request_of(model: str, signature: str = "", **inputs: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def refused(call: Any, request: Any) -> tuple[str, str]:
    """The status code and the message that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=60)
    return caught.value.code().name, caught.value.details()


def test_tensorflow_servings_own_model(half_plus_two: Any) -> None:
    request = request_of("half_plus_two", x=np.array([[1.0], [2.0], [5.0]], np.float32))
    response = half_plus_two.predictions.Predict(request)
    assert response.model_spec.name == "half_plus_two"
    assert response.model_spec.signature_name == "serving_default"
    assert response.model_spec.version.value == 123
    # Many clients read the field and not the tensor; TensorFlow Serving fills it.
    assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [[2.5], [3.0], [4.5]]
    request.model_spec.version.value = 123
    assert half_plus_two.predictions.Predict(request) == response


def test_strings_and_defaults(client: Any) -> None:
    answer = client.predictions.Predict(request_of("echo", prompt=["a", "Grüße"]))
    assert list(answer.outputs["text"].string_val) == [b"hello a 7", "hello Grüße 7".encode()]
    assert list(answer.outputs["temperature"].float_val) == [0.5, 0.5]
    answer = client.predictions.Predict(request_of("echo", prompt=["a"], seed=np.int32([3])))
    assert list(answer.outputs["text"].string_val) == [b"hello a 3"]


def test_a_client_that_takes_no_more_of_an_answer_is_no_error_of_the_server(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends the stream while 16 MB are sent; gRPC would log a traceback."""
    request = request_of("shapes", "wave", x=np.ones(1, np.float32))
    request.inputs["x"].tensor_shape.dim[0].size = 2**21  # all of them the one that is there
    body = request.SerializeToString()
    with grpc.insecure_channel(client.server.grpc_address) as limited:
        call = limited.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for _ in range(3):
            with pytest.raises(grpc.RpcError, match=r"CLIENT: Received message larger than max"):
                call(body, timeout=60)
    client.predictions.Predict(request_of("echo", prompt=["a"]))
    assert not [record for record in caplog.records if record.exc_info]


def test_every_kind_comes_back(client: Any) -> None:
    sent = {
        "a_bool": np.array([True, False]),
        "a_double": np.array([0.1, -np.inf]),
        "a_float": np.array([0.2, np.nan], np.float32),
        "a_string": np.array([b"\xff\x00", b""], np.object_),
        "a_uint8": np.array([255, 0], np.uint8),
        "a_uint64": np.array([2**64 - 1, 0], np.uint64),
        "an_int32": np.array([-(2**31), 1], np.int32),
        "an_int64": np.array([-(2**63), 1], np.int64),
    }
    outputs = client.predictions.Predict(request_of("kinds", **sent)).outputs
    assert outputs.keys() == sent.keys()
    for name, value in sent.items():
        received = tf.make_ndarray(outputs[name])
        assert received.dtype == value.dtype
        np.testing.assert_array_equal(received, value)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -2.0]], np.float16),
        np.array([1.5, -2.0], ml_dtypes.bfloat16),
        np.array([1 + 2j, -3j], np.complex64),
        np.array([1 + 2j, -3j], np.complex128),
        np.array([-128, 127], np.int8),
        np.array([65535], np.uint16),
        np.array([2**32 - 1], np.uint32),
        np.zeros((0, 3), np.int64),
        np.array(7, np.int32),
        np.array([0.5], ml_dtypes.float8_e4m3fn),
        np.arange(6, dtype=np.float32).reshape(3, 2).T,
    ],
    ids=lambda array: f"{array.dtype.name}-{array.shape}",
)
def test_tensors_are_written_as_tensorflow_reads_them(array: np.ndarray) -> None:
    proto = predict_pb2.PredictRequest().inputs["x"]
    write_tensor(array, proto)
    received = tf.io.parse_tensor(proto.SerializeToString(), array.dtype)
    assert received.shape == array.shape
    np.testing.assert_array_equal(received.numpy(), array)


def test_an_output_filter(client: Any) -> None:
    request = request_of("echo", prompt=["a"])
    request.output_filter.append("text")
    assert client.predictions.Predict(request).outputs.keys() == {"text"}
    request.output_filter.append("text")
    assert refused(client.predictions.Predict, request) == (
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: text",
    )
    request.output_filter[:] = ["nothing"]
    code, message = refused(client.predictions.Predict, request)
    assert code == "INVALID_ARGUMENT"
    assert message.startswith("output tensor alias not found in signature: nothing")
    assert "{temperature,text}" in message


def test_unknown_models_versions_and_signatures(client: Any) -> None:
    call = client.predictions.Predict
    assert refused(call, predict_pb2.PredictRequest()) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    assert refused(call, request_of("")) == (
        "INVALID_ARGUMENT",
        "ModelSpec has no name specified.",
    )
    assert refused(call, request_of("nothing")) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(nothing)",
    )
    request = request_of("echo", prompt=["a"])
    request.model_spec.version.value = 2
    assert refused(call, request) == (
        "NOT_FOUND",
        "Servable not found for request: Specific(echo, 2)",
    )
    request.model_spec.version_label = "stable"
    assert refused(call, request) == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: stable",
    )
    assert refused(call, request_of("echo", "nothing", prompt=["a"])) == (
        "FAILED_PRECONDITION",
        'Serving signature key "nothing" not found.',
    )


def test_inputs_that_do_not_fit(client: Any, half_plus_two: Any) -> None:
    call = client.predictions.Predict
    x = np.float32([1])
    code, message = refused(
        half_plus_two.predictions.Predict, request_of("half_plus_two", z=x, y=x)
    )
    assert code == "INVALID_ARGUMENT"
    assert message == (
        "input size does not match signature: 2!=1 len({y,z}) != len({x}). "
        "Sent extra: {y,z}. Missing but required: {x}."
    )
    code, message = refused(call, request_of("echo", seed=np.int32([1])))
    assert code == "INVALID_ARGUMENT"
    assert message.startswith("Signature input alias: prompt(feed name: serving_default_prompt:0)")
    assert message.endswith("default input alias set: seed,temperature")
    code, message = refused(call, request_of("echo", prompt=["a"], nothing=x))
    assert (code, message) == (
        "INVALID_ARGUMENT",
        "Inputs contains invalid name. Used request inputs: prompt, request input: nothing,prompt",
    )
    code, message = refused(call, request_of("echo", prompt=["a"], seed=np.int64([1])))
    assert (code, message) == (
        "INVALID_ARGUMENT",
        "Expects arg[1] to be int32 but int64 is provided",
    )
    code, message = refused(call, request_of("shapes", "sums", matrix=np.ones((2, 3), np.float32)))
    assert code == "INVALID_ARGUMENT"
    assert "has shape [2,3] but the signature expects: [-1,2]" in message
    code, message = refused(call, request_of("shapes", "sums", matrix=-np.ones((1, 2), np.float32)))
    assert code == "INVALID_ARGUMENT"
    assert "matrix must be positive" in message


def test_malformed_tensors(client: Any) -> None:
    call = client.predictions.Predict
    parsing_error = ("INVALID_ARGUMENT", "tensor parsing error: x")
    request = request_of("shapes", "uneven")
    tensor = request.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_shape.dim.add(size=4)
    tensor.tensor_content = b"\0" * 15
    assert refused(call, request) == parsing_error
    tensor.tensor_content = b""
    tensor.tensor_shape.dim[0].size = -4
    assert refused(call, request) == parsing_error
    tensor.dtype = 9999
    assert refused(call, request) == parsing_error
    # Twelve bytes of a request must not become terabytes of memory.
    tensor.dtype = 1
    tensor.float_val.append(1.0)
    tensor.tensor_shape.dim[0].size = 2**40
    code, message = refused(call, request)
    assert code == "RESOURCE_EXHAUSTED"
    assert f"tensor x would have {2**42} bytes" in message
    tensor.tensor_shape.dim[0].size = 3
    assert list(call(request).outputs["all"].float_val) == [1.0, 1.0, 1.0]
    # Nor a text of a kilobyte, repeated ten million times.
    request = request_of("echo", prompt=["a" * 1000])
    request.inputs["prompt"].tensor_shape.dim[0].size = 10_000_000
    code, message = refused(call, request)
    assert (code, "would have 10240000000 bytes" in message) == ("RESOURCE_EXHAUSTED", True)


def test_bytes_that_are_no_request(client: Any) -> None:
    call = client.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    assert refused(call, b"\xff\xff\xff") == (
        "INVALID_ARGUMENT",
        "The request is not a tensorflow.serving.PredictRequest",
    )
    other = client.channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
    assert refused(other, b"")[0] == "UNIMPLEMENTED"


def test_long_messages_are_cut_as_tensorflow_serving_cuts_them(client: Any) -> None:
    code, message = refused(client.predictions.Predict, request_of("x" * 5000))
    assert code == "NOT_FOUND"
    assert len(message) == 1024 + len("...TRUNCATED")


def test_messages_beyond_the_limit(models_folder: Path, run_server: Any) -> None:
    with run_server(models_folder, max_request_bytes=10_000) as client:
        assert client.predictions.Predict(request_of("echo", prompt=["x" * 9000])).outputs
        code, _ = refused(client.predictions.Predict, request_of("echo", prompt=["x" * 11_000]))
        assert code == "RESOURCE_EXHAUSTED"
        # Compression does not carry more through.
        call = client.predictions.Predict
        with pytest.raises(grpc.RpcError) as caught:
            call(request_of("echo", prompt=["x" * 10**6]), compression=grpc.Compression.Gzip)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_long_request_keeps_nobody_waiting(client: Any) -> None:
    """One computes for long; others predict, and ask for states and metrics meanwhile."""
    running = client.predictions.Predict.future(
        request_of("shapes", "slow", steps=np.int32([100_000]))
    )
    for index in range(10):
        answer = client.predictions.Predict(request_of("echo", prompt=[str(index)]))
        assert list(answer.outputs["text"].string_val) == [f"hello {index} 7".encode()]
    assert client.get("/v1/models/echo")[0] == 200
    status = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "echo"})
    assert client.models.GetModelStatus(status).model_version_status[0].version == 10
    # A deadline is kept, whatever the model does.
    with pytest.raises(grpc.RpcError) as caught:
        client.predictions.Predict(
            request_of("shapes", "slow", steps=np.int32([10_000])), timeout=0.02
        )
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert not running.done(), "the long request was too quick to tell anything"
    assert len(running.result().outputs["y"].float_val) == 1


def test_many_clients_at_once_get_their_own_answers(client: Any) -> None:
    wrong: list[Any] = []

    def ask(number: int) -> None:
        for turn in range(10):
            prompt = f"{number}/{turn}"
            answer = client.predictions.Predict(request_of("echo", prompt=[prompt]))
            if list(answer.outputs["text"].string_val) != [f"hello {prompt} 7".encode()]:
                wrong.append(answer)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
