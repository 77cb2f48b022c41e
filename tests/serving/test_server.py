"""`serve` in a process of its own, and what goes wrong before it serves."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from keras_gpt.serving import serve

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture
def process(half_plus_two_folder: Path) -> Iterator[subprocess.Popen[str]]:
    code = f"from keras_gpt.serving import serve; serve({str(half_plus_two_folder)!r}, port=0, grpc_port=0)"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as started:
        yield started
        started.kill()


@pytest.mark.skipif(os.name != "posix", reason="the printed line is for a POSIX shell")
def test_serves_until_interrupted(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    head, model, _, line = (process.stdout.readline() for _ in range(4))
    assert head.startswith("Serving 1 model(s)")
    assert model.endswith("/v1/models/half_plus_two  (version 123)\n")
    assert line.strip().startswith("curl ")
    # The printed line works as it stands.
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"predictions": [[2.5]]}
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_sigterm_lets_requests_end_and_refuses_new_ones(
    models_folder: Path, tmp_path: Path
) -> None:
    for name in ("shapes", "echo"):
        (tmp_path / name).symlink_to(models_folder / name)
    code = (
        f"from keras_gpt.serving import serve; serve({str(tmp_path)!r}, port=0, grpc_port=0, "
        "drain_seconds=600)"
    )
    steps = 150_000  # seconds of work
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as started:
        try:
            assert started.stdout is not None
            head = started.stdout.readline()
            found = re.search(r"at (http://\S+) \(REST\) and (\S+) \(gRPC\)", head)
            assert found is not None
            rest, rpc = found.groups()
            with grpc.insecure_channel(rpc) as channel, ThreadPoolExecutor(1) as threads:
                stub = PredictionServiceStub(channel)
                request = PredictRequest(model_spec={"name": "shapes", "signature_name": "slow"})
                request.inputs["steps"].CopyFrom(tf.make_tensor_proto([steps]))
                by_grpc = stub.Predict.future(request)
                body = {"signature_name": "slow", "instances": [steps]}
                url = f"{rest}/v1/models/shapes:predict"
                by_rest = threads.submit(httpx.post, url, json=body, timeout=600)
                until(lambda: in_flight(rest) == 2)
                started.send_signal(signal.SIGTERM)
                until(lambda: httpx.get(f"{rest}/v1/models/echo", timeout=60).status_code == 503)
                # New ones, on old connections and on new ones.
                refused = httpx.post(url, json=body, timeout=60)
                assert refused.status_code == 503
                assert refused.json() == {"error": "The server is shutting down"}
                assert "retry-after" in refused.headers
                with grpc.insecure_channel(rpc) as another:
                    for each in (stub, PredictionServiceStub(another)):
                        with pytest.raises(grpc.RpcError) as caught:
                            each.Predict(request)
                        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
                assert not by_grpc.done(), "the long request was too quick to tell anything"
                # Those that were begun end.
                assert len(by_grpc.result().outputs["y"].float_val) == 1
                assert by_rest.result().status_code == 200
            _, errors = started.communicate(timeout=300)
            assert started.returncode == 0, errors
            assert "Traceback" not in errors
        finally:
            started.kill()


def in_flight(rest: str) -> int:
    page = httpx.get(f"{rest}/monitoring/prometheus/metrics", timeout=60).text
    (count,) = re.findall(r"^:keras_gpt:serving:requests_in_flight (\S+)$", page, re.M)
    return int(float(count))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_port_in_use_is_said_before_anything_is_loaded(models_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"choose another port .*port={port}"):
            serve(models_folder / "nothing", port=port, grpc_port=0)
        with pytest.raises(OSError, match=f"choose another grpc_port .*grpc_port={port}"):
            serve(models_folder / "nothing", port=0, grpc_port=port)


def test_folders_without_models(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no models"):
        serve(tmp_path, port=0, grpc_port=0)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        serve(tmp_path / "nothing", port=0, grpc_port=0)


def test_bad_arguments(models_folder: Path) -> None:
    with pytest.raises(ValueError, match="Received: port=65536"):
        serve(models_folder, port=65536, grpc_port=0)
    with pytest.raises(ValueError, match="Received: max_request_bytes=0"):
        serve(models_folder, port=0, grpc_port=0, max_request_bytes=0)
    with pytest.raises(OSError, match="Received: host='no such host'"):
        serve(models_folder, host="no such host", port=0, grpc_port=0)


def test_nothing_heavy_is_loaded_before_it_is_used() -> None:
    done = python(
        "import sys, keras_gpt.serving.openai\n"
        "assert not {'fastapi', 'pydantic', 'starlette', 'uvicorn'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_extra_says_what_to_install() -> None:
    code = """
        import sys
        for missing in ("fastapi", "uvicorn", "prometheus_client", "grpc", "tensorflow_serving"):
            before = dict(sys.modules)
            for name in [each for each in before if each.partition(".")[0] == missing]:
                del sys.modules[name]
            sys.modules[missing] = None
            try:
                from keras_gpt.serving import serve
            except ImportError as error:
                assert "pip install 'keras-gpt[serve]'" in str(error), (missing, error)
            else:
                raise AssertionError(f"{missing} was not missed")
            for name in set(sys.modules) - set(before):
                if name.startswith("keras_gpt"):
                    del sys.modules[name]
            del sys.modules[missing]
        from keras_gpt.serving import serve
    """
    done = python(textwrap.dedent(code))
    assert done.returncode == 0, done.stderr


def test_unknown_names() -> None:
    import keras_gpt.serving

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = keras_gpt.serving.nothing
