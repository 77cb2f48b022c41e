"""The REST API over a real socket."""

import base64
import json
import math
import shutil
import socket
import subprocess
import threading
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from keras_gpt.serving.servable import Servable

ECHO = "/v1/models/echo"
SHAPES = "/v1/models/shapes"
KINDS = "/v1/models/kinds"
HALF = "/v1/models/half_plus_two"
ROW = {
    "a_bool": True,
    "a_double": 0.1,
    "a_float": 0.2,
    "a_string": "Grüße, 世界 🙂",
    "a_uint8": 255,
    "a_uint64": 2**64 - 1,
    "an_int32": -(2**31),
    "an_int64": -(2**63),
}


class TestStatus:
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}

    def test_lists_the_latest_version(self, client: Any) -> None:
        expected = {"model_version_status": [{"version": "10", **self.available}]}
        assert client.get(ECHO) == (200, expected)
        assert client.get(f"{ECHO}/versions/10") == (200, expected)

    def test_an_older_version_is_not_found(self, client: Any) -> None:
        status, answer = client.get(f"{ECHO}/versions/2")
        assert (status, answer) == (404, {"error": "Could not find version 2 of model echo"})

    @pytest.mark.parametrize("name", ["nothing", "notes", ".aside-1", "models.config"])
    def test_unknown_model(self, client: Any, name: str) -> None:
        expected = {"error": f"Could not find any versions of model {name}"}
        assert client.get(f"/v1/models/{name}") == (404, expected)

    def test_a_broken_model_says_why(self, client: Any) -> None:
        status, answer = client.get("/v1/models/empty_version")
        (version,) = answer["model_version_status"]
        assert (status, version["version"], version["state"]) == (200, "7", "END")
        assert version["status"]["error_code"] == "NOT_FOUND"
        assert "saved_model.pb" in version["status"]["error_message"]
        assert client.get("/v1/models/broken")[1]["model_version_status"][0]["state"] == "END"


class TestMetadata:
    def test_has_the_form_of_the_protobuf(self, client: Any) -> None:
        status, answer = client.get(f"{ECHO}/metadata")
        assert status == 200
        assert answer["model_spec"] == {"name": "echo", "signature_name": "", "version": "10"}
        signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["method_name"] == "tensorflow/serving/predict"
        assert signature["inputs"]["prompt"] == {
            "dtype": "DT_STRING",
            "name": "serving_default_prompt:0",
            "tensor_shape": {"dim": [{"name": "", "size": "-1"}], "unknown_rank": False},
        }
        assert signature["outputs"]["temperature"]["dtype"] == "DT_FLOAT"
        assert signature["defaults"].keys() == {"temperature", "seed"}
        assert signature["defaults"]["temperature"]["float_val"] == [0.5]
        assert signature["defaults"]["seed"]["int_val"] == [7]
        assert client.get(f"{ECHO}/versions/10/metadata") == (status, answer)

    def test_of_tensorflow_servings_own_model(self, half_plus_two: Any) -> None:
        answer = half_plus_two.get(f"{HALF}/metadata")[1]
        assert answer["model_spec"]["version"] == "123"
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        assert signatures["regress_x_to_y"]["method_name"] == "tensorflow/serving/regress"
        assert signatures["regress_x_to_y"]["inputs"]["inputs"]["tensor_shape"] == {
            "dim": [],
            "unknown_rank": True,
        }

    def test_unknown_model(self, client: Any) -> None:
        latest = {"error": "Servable not found for request: Latest(nothing)"}
        assert client.get("/v1/models/nothing/metadata") == (404, latest)
        specific = {"error": "Servable not found for request: Specific(echo, 2)"}
        assert client.get(f"{ECHO}/versions/2/metadata") == (404, specific)


class TestPredict:
    def test_tensorflow_servings_own_example(self, half_plus_two: Any) -> None:
        x = [1.0, 2.0, 5.0]
        assert half_plus_two.post(f"{HALF}:predict", {"instances": x}) == (
            200,
            {"predictions": [2.5, 3.0, 4.5]},
        )
        rows = {"signature_name": "serving_default", "instances": [{"x": [v]} for v in x]}
        assert half_plus_two.post(f"{HALF}/versions/123:predict", rows) == (
            200,
            {"predictions": [[2.5], [3.0], [4.5]]},
        )
        for columns in ([[1.0], [2.0], [5.0]], {"x": [[1.0], [2.0], [5.0]]}):
            assert half_plus_two.post(f"{HALF}:predict", {"inputs": columns}) == (
                200,
                {"outputs": [[2.5], [3.0], [4.5]]},
            )

    def test_curl(self, half_plus_two: Any) -> None:
        if shutil.which("curl") is None:
            pytest.skip("curl is not on this machine")
        command = ["curl", "-sS", "-i", "-d", '{"instances": [1.0, 2.0, 5.0]}']
        url = f"{half_plus_two.address}{HALF}:predict"
        done = subprocess.run([*command, url], capture_output=True, text=True, check=True)
        head, _, body = done.stdout.replace("\r", "").partition("\n\n")
        assert head.startswith("HTTP/1.1 200")
        assert json.loads(body) == {"predictions": [2.5, 3.0, 4.5]}

    def test_rows_with_parameters(self, client: Any) -> None:
        rows = [
            {"prompt": "a", "temperature": 0.1, "seed": 1},
            {"prompt": "b", "temperature": 2, "seed": 2},
        ]
        assert client.post(f"{ECHO}:predict", {"instances": rows}) == (
            200,
            {
                "predictions": [
                    {"temperature": 0.1, "text": "hello a 1"},
                    {"temperature": 2.0, "text": "hello b 2"},
                ]
            },
        )

    def test_columns_with_parameters(self, client: Any) -> None:
        columns = {"prompt": ["a", "b"], "temperature": [0.1, 2], "seed": [1, 2]}
        assert client.post(f"{ECHO}:predict", {"inputs": columns}) == (
            200,
            {"outputs": {"temperature": [0.1, 2.0], "text": ["hello a 1", "hello b 2"]}},
        )

    def test_defaults_fill_what_is_left_out(self, client: Any) -> None:
        rows = [{"prompt": "a", "seed": 3}, {"prompt": "b", "seed": 4}]
        assert client.post(f"{ECHO}:predict", {"instances": rows})[1]["predictions"] == [
            {"temperature": 0.5, "text": "hello a 3"},
            {"temperature": 0.5, "text": "hello b 4"},
        ]
        columns = {"inputs": {"prompt": ["a", "b"]}}
        assert client.post(f"{ECHO}:predict", columns)[1]["outputs"] == {
            "temperature": [0.5, 0.5],
            "text": ["hello a 7", "hello b 7"],
        }

    def test_a_single_output_has_no_name(self, client: Any) -> None:
        request = {"signature_name": "shout", "instances": ["a", {"b64": "Yg=="}]}
        assert client.post(f"{ECHO}:predict", request) == (200, {"predictions": ["A", "B"]})
        named = {"signature_name": "shout", "inputs": {"prompt": ["a"]}}
        assert client.post(f"{ECHO}:predict", named) == (200, {"outputs": ["A"]})

    def test_every_data_type_comes_back(self, client: Any) -> None:
        expected = {"predictions": [ROW, ROW]}
        assert client.post(f"{KINDS}:predict", {"instances": [ROW, ROW]}) == (200, expected)
        columns = {name: [value] for name, value in ROW.items()}
        assert client.post(f"{KINDS}:predict", {"inputs": columns}) == (200, {"outputs": columns})

    def test_not_a_number_and_infinity(self, client: Any) -> None:
        row = ROW | {"a_float": math.nan, "a_double": -math.inf}
        (answer,) = client.post(f"{KINDS}:predict", {"instances": [row]})[1]["predictions"]
        assert math.isnan(answer["a_float"])
        assert answer["a_double"] == -math.inf

    def test_bytes(self, client: Any) -> None:
        raw = b"\x00\xff\xfe"
        data = {"b64": base64.b64encode(raw).decode()}
        request = {"signature_name": "as_bytes", "inputs": [data]}
        status, answer = client.post(f"{SHAPES}:predict", request)
        assert status == 200
        assert answer["outputs"]["raw_bytes"] == [data]
        assert answer["outputs"]["text"] == ["\x00\ufffd\ufffd"]

    def test_a_scalar_goes_through_columns(self, client: Any) -> None:
        request = {"signature_name": "double", "inputs": 1.5}
        assert client.post(f"{SHAPES}:predict", request) == (200, {"outputs": 3.0})

    def test_half_precision_comes_out(self, client: Any) -> None:
        request = {"signature_name": "halves", "instances": [0.1]}
        assert client.post(f"{SHAPES}:predict", request) == (200, {"predictions": [0.1]})

    def test_a_model_is_asked_by_its_encoded_name(
        self, half_plus_two_folder: Path, tmp_path: Path, run_server: Any
    ) -> None:
        name = "halb plus zwei, é"
        shutil.copytree(half_plus_two_folder / "half_plus_two", tmp_path / name)
        with run_server(tmp_path) as client:
            path = f"/v1/models/{urllib.parse.quote(name)}:predict"
            assert client.post(path, {"instances": [2.0]}) == (200, {"predictions": [3.0]})


class TestClassifyAndRegress:
    def test_regress(self, half_plus_two: Any) -> None:
        request = {
            "signature_name": "regress_x_to_y",
            "examples": [{"x": 1.0}, {"x": [2.0]}, {"x": 5.0}],
        }
        expected = (200, {"results": [2.5, 3.0, 4.5]})
        assert half_plus_two.post(f"{HALF}:regress", request) == expected
        request["signature_name"] = "regress_x_to_y2"
        assert half_plus_two.post(f"{HALF}/versions/123:regress", request) == (
            200,
            {"results": [3.5, 4.0, 5.5]},
        )

    def test_classify(self, half_plus_two: Any) -> None:
        request = {
            "signature_name": "classify_x_to_y",
            "examples": [{"x": 1.0}, {"x": 2.0}, {"x": 5.0}],
        }
        expected = {"results": [[["", 2.5]], [["", 3.0]], [["", 4.5]]]}
        assert half_plus_two.post(f"{HALF}:classify", request) == (200, expected)

    def test_a_context_is_in_every_example(self, half_plus_two: Any) -> None:
        request = {
            "signature_name": "regress_x_to_y",
            "context": {"x": 4.0},
            "examples": [{}, {"other": "text"}],
        }
        assert half_plus_two.post(f"{HALF}:regress", request) == (200, {"results": [4.0, 4.0]})

    @pytest.mark.parametrize(
        ("verb", "request_body", "words"),
        [
            ("classify", {"examples": [{"x": 1.0}]}, "Was: tensorflow/serving/predict"),
            ("regress", {"examples": [{"x": 1.0}]}, "Was: tensorflow/serving/predict"),
            (
                "regress",
                {"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}]},
                "method_name to be tensorflow/serving/regress. Was: tensorflow/serving/classify",
            ),
            (
                "classify",
                {"signature_name": "nothing", "examples": [{"x": 1.0}]},
                "No signature was found with the name: nothing",
            ),
            ("classify", {"instances": [1.0]}, "key 'examples' is expected"),
            (
                "regress",
                {"signature_name": "regress_x_to_y", "examples": [{"y": 1.0}]},
                "Feature: x (data type: float) is required but could not be found",
            ),
            (
                "regress",
                {"signature_name": "regress_x_to_y", "examples": [{"x": 1}]},
                "Data types don't match",
            ),
            (
                "regress",
                {"signature_name": "regress_x2_to_y3", "examples": [{"x": 1.0}]},
                "Expects arg[0] to be float but string is provided",
            ),
        ],
    )
    def test_errors(
        self, half_plus_two: Any, verb: str, request_body: dict[str, Any], words: str
    ) -> None:
        status, answer = half_plus_two.post(f"{HALF}:{verb}", request_body)
        assert (status, list(answer)) == (400, ["error"])
        assert words in answer["error"]


class TestErrors:
    @pytest.mark.parametrize(
        ("path", "body", "words"),
        [
            (ECHO, b"", "JSON Parse error: The document is empty"),
            (ECHO, b"instances = [1]", "JSON Parse error: Invalid value. at offset: 0"),
            (ECHO, b'{"instances": [1 2]}', "Missing a comma or ] after an array element."),
            (ECHO, b'{"a": 1 "b": 2}', "Missing a comma or } after an object member. at offset: 8"),
            (ECHO, b'{"a": "\xff"}', "Invalid encoding in string. at offset: 7"),
            (ECHO, b'{"inputs": 1e999}', "Number too big to be stored in double."),
            (ECHO, b'{"inputs": ' + b"[" * 10**6, "Too many nested arrays or objects."),
            (ECHO, b"[1]", "JSON Value: [1] Is not object"),
            (ECHO, {}, "Missing 'inputs' or 'instances' key"),
            (ECHO, {"instances": ["a"], "inputs": ["a"]}, "only one of 'inputs' or 'instances'"),
            (ECHO, {"instances": "a"}, "Excepting 'instances' to be an list/array"),
            (ECHO, {"instances": []}, "No values in 'instances' array"),
            (ECHO, {"instances": ["a"]}, "instances is a plain list, but expecting list of object"),
            (ECHO, {"inputs": ["a"]}, "inputs is a plain value/list, but expecting an object"),
            (ECHO, {"signature_name": 1}, "'signature_name' key must be a string value."),
            (
                ECHO,
                {"signature_name": "no", "instances": ["a"]},
                'Serving signature name: "no" not found in signature def',
            ),
            (
                ECHO,
                {"signature_name": "__saved_model_init_op", "instances": ["a"]},
                "Failed to get input map for signature: __saved_model_init_op",
            ),
            (
                SHAPES,
                {"instances": [1.0]},
                'Serving signature name: "serving_default" not found in signature def',
            ),
            (ECHO, {"inputs": {"seed": [1]}}, "Missing named input: prompt in 'inputs' object."),
            (
                ECHO,
                {"inputs": {"prompt": ["a"], "temprature": [1.0]}},
                "JSON object: does not have named input: temprature",
            ),
            (
                ECHO,
                {"instances": [{"prompt": "a"}, {"prompt": "b", "seed": 1}]},
                'element: 1 of \'instances\' list. JSON object: {"prompt": "b", "seed": 1} keys',
            ),
            (
                ECHO,
                {"instances": [{"prompt": "a", "seed": 1.5}]},
                "Failed to process element: 0 key: seed of 'instances' list. Error: "
                "INVALID_ARGUMENT: JSON Value: 1.5 Type: Number is not of expected type: int32",
            ),
            (ECHO, {"inputs": {"prompt": [1]}}, "Type: Number is not of expected type: string"),
            (ECHO, {"inputs": {"prompt": [{"b64": "*"}]}}, "Unable to base64 decode"),
            (ECHO, b'{"inputs": {"prompt": ["\\ud800"]}}', "surrogate pair in string is invalid"),
            (
                ECHO,
                {"inputs": {"prompt": [["a"]]}},
                "Tensor name: prompt has shape [1,1] but the signature expects: [-1]",
            ),
            (
                SHAPES,
                {"signature_name": "sums", "instances": [[1.0, 2.0, 3.0]]},
                "Tensor name: matrix has shape [1,3] but the signature expects: [-1,2]",
            ),
            (
                SHAPES,
                {"signature_name": "sums", "instances": [[1.0, 2.0], [3.0]]},
                "Expecting tensor size: 2 but got: 1",
            ),
            (
                SHAPES,
                {"signature_name": "sums", "instances": [[1.0, -2.0]]},
                "matrix must be positive",
            ),
            (
                SHAPES,
                {"signature_name": "uneven", "instances": [1.0, 2.0]},
                "Tensor name: first has inconsistent batch size: 1 expecting: 2",
            ),
            (
                SHAPES,
                {"signature_name": "wave", "instances": [1.0]},
                "Failed to write JSON value for tensor type: complex64",
            ),
        ],
    )
    def test_bad_requests(self, client: Any, path: str, body: Any, words: str) -> None:
        status, answer = client.post(f"{path}:predict", body)
        assert (status, list(answer)) == (400, ["error"])
        assert words in answer["error"]

    def test_a_graph_error_tells_nothing_of_the_machine(self, client: Any) -> None:
        request = {"signature_name": "sums", "instances": [[1.0, -2.0]]}
        message = client.post(f"{SHAPES}:predict", request)[1]["error"]
        assert message.startswith("assertion failed: [matrix must be positive")
        assert "Graph execution error" not in message
        assert ".py" not in message

    @pytest.mark.parametrize(
        ("path", "found"),
        [
            ("/v1/models/nothing", "Latest(nothing)"),
            ("/v1/models/broken", "Latest(broken)"),
            (f"{ECHO}/versions/2", "Specific(echo, 2)"),
            (f"{ECHO}/versions/11", "Specific(echo, 11)"),
            ("/v1/models/echo%2F10", "Latest(echo/10)"),
            ("/v1/models/..%2Fecho", "Latest(../echo)"),
            ("/v1/models/%2Fetc", "Latest(/etc)"),
        ],
    )
    @pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
    def test_unknown_servables(self, client: Any, path: str, found: str, verb: str) -> None:
        request = {"instances": ["a"], "examples": [{}]}
        assert client.post(f"{path}:{verb}", request) == (
            404,
            {"error": f"Servable not found for request: {found}"},
        )

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/v1/foo"),
            ("POST", "/v1/foo"),
            ("POST", "/v1/models"),
            ("POST", ECHO),
            ("GET", f"{ECHO}:predict"),
            ("GET", f"{ECHO}/"),
            ("GET", f"{ECHO}/version/10"),
            ("POST", f"{ECHO}/versions/ten:predict"),
            ("POST", f"{ECHO}:generate"),
            ("PUT", ECHO),
            ("DELETE", ECHO),
        ],
    )
    def test_malformed_requests(self, client: Any, method: str, path: str) -> None:
        data = b"{}" if method == "POST" else None
        assert client.send(method, path, data) == (
            400,
            {"error": f"Malformed request: {method} {path}"},
        )

    def test_other_urls(self, client: Any) -> None:
        assert client.get("/v1/models") == (400, {"error": "Missing model name in request."})
        assert client.get("/")[0] == 404
        assert "error" in client.get("/index.html")[1]
        status, answer = client.get(f"{ECHO}/versions/{2**64}")
        assert status == 400
        assert "Failed to convert version" in answer["error"]
        status, answer = client.get(f"{ECHO}/versions/{'9' * 5000}")
        assert status == 400
        status, answer = client.post(f"{ECHO}/labels/stable:predict", {"inputs": ["a"]})
        assert (status, answer["error"]) == (400, "Unrecognized servable version label: stable")

    def test_an_error_does_not_repeat_a_long_request(self, client: Any) -> None:
        status, answer = client.post(f"{ECHO}:predict", {"instances": "x" * 100_000})
        assert status == 400
        assert len(answer["error"]) < 1000

    def test_a_request_that_is_too_long(self, models_folder: Path, run_server: Any) -> None:
        rows = {"signature_name": "shout", "instances": ["a" * 100]}
        longer = {"signature_name": "shout", "instances": ["a" * 101]}
        limit = len(json.dumps(rows))
        with run_server(models_folder, max_request_bytes=limit) as client:
            assert client.post(f"{ECHO}:predict", rows)[0] == 200
            status, answer = client.post(f"{ECHO}:predict", longer)
            assert (status, answer) == (413, {"error": f"The request is longer than {limit} bytes"})
            # A client that sends all of it before it reads gets the same answer.
            assert client.post(f"{ECHO}:predict", b" " * (4 * limit))[0] == 413
            # Without an announced length: in chunks.
            host, port = urllib.parse.urlsplit(client.address).netloc.split(":")
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                connection.sendall(
                    b"POST /v1/models/echo:predict HTTP/1.1\r\nHost: x\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n"
                    b"400\r\n" + b" " * 0x400 + b"\r\n0\r\n\r\n"
                )
                assert connection.recv(4096).startswith(b"HTTP/1.1 413")

    def test_the_server_outlives_its_own_faults(
        self, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: Servable, document: Any) -> None:
            raise KeyError("a fault of ours")

        request = {"signature_name": "shout", "instances": ["a"]}
        with monkeypatch.context() as patch:
            patch.setattr(Servable, "predict", fail)
            assert client.post(f"{ECHO}:predict", request) == (
                500,
                {"error": "KeyError: 'a fault of ours'"},
            )
        assert client.post(f"{ECHO}:predict", request) == (200, {"predictions": ["A"]})


def test_status_is_answered_while_a_model_works(client: Any) -> None:
    done = threading.Event()
    answers: list[Any] = []

    def work() -> None:
        request = {"signature_name": "slow", "inputs": [60_000]}
        answers.append(client.post(f"{SHAPES}:predict", request))
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    statuses = 0
    while not done.is_set():
        assert client.get(ECHO)[0] == 200
        statuses += not done.is_set()
    worker.join()
    assert answers[0][0] == 200
    assert statuses >= 5


def test_requests_at_the_same_time_do_not_mix(client: Any) -> None:
    answers: dict[int, Any] = {}

    def work(number: int) -> None:
        request = {"inputs": {"prompt": [f"p{number}"] * 20, "seed": [number]}}
        answers[number] = [client.post(f"{ECHO}:predict", request)[1] for _ in range(5)]

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number in range(8):
        for answer in answers[number]:
            assert answer["outputs"]["text"] == [f"hello p{number} {number}"] * 20
