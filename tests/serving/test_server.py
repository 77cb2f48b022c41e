"""`serve` in a process of its own, and what goes wrong before it serves."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_a_port_in_use_is_said_before_anything_is_loaded(models_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"choose another port .*port={port}"):
            serve(models_folder / "nothing", port=port, grpc_port=0)


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


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_a_missing_extra_says_what_to_install(missing: str) -> None:
    done = python(
        f"import sys; sys.modules[{missing!r}] = None; from keras_gpt.serving import serve"
    )
    assert "ImportError" in done.stderr
    assert "pip install 'keras-gpt[serve]'" in done.stderr


def test_unknown_names() -> None:
    import keras_gpt.serving

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = keras_gpt.serving.nothing
