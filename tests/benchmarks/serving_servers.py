"""Starts the servers of the serving benchmark, each alone in a process of its own."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class MissingError(Exception):
    """A server cannot be started here."""


class Command(NamedTuple):
    """How a server is started, and how one knows that it is ready."""

    words: list[str]
    health: str
    model: str  # what requests call it


class Server(NamedTuple):
    """A server that is ready."""

    address: str
    model: str
    seconds: float  # from its start until it was ready
    process: subprocess.Popen[bytes]

    @property
    def megabytes(self) -> float:
        """The most memory that it has held so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


def openai_command(contender: str, folder: Path, port: int, batch: int, length: int) -> Command:
    """Give the command of a server with OpenAI's API.

    Raises:
        MissingError: what it needs is not installed.
    """
    name, _, precision = contender.partition(":")
    numbers = [str(each) for each in (port, batch, length)]
    if name == "keras_gpt":
        words = [str(BIN / "keras-gpt"), "serve", "--model", str(folder / "model")]
        words += ["--port", numbers[0], "--max-batch", numbers[1], "--max-length", numbers[2]]
        words += [] if precision == "float32" else ["--quantize", precision]
        return Command(words, "/health/ready", "model")
    if name in ("transformers", "transformers_batching"):
        _require("transformers", "accelerate", "openai", "psutil")
        model = str(folder / "huggingface")
        words = [str(BIN / "transformers"), "serve", model, "--port", numbers[0]]
        words += ["--host", "127.0.0.1", "--device", "cpu", "--dtype", precision]
        if name == "transformers_batching":
            # Else its cache takes what memory the machine has.
            blocks = -(-batch * length // 256)
            words += [
                "--continuous-batching",
                "--cb-block-size",
                "256",
                "--cb-num-blocks",
                str(blocks),
            ]
        return Command(words, "/health", model)
    file = str(folder / f"model-{precision}.gguf")
    if name == "llama_server":
        program = shutil.which("llama-server", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
        if program is None:
            raise MissingError("there is no llama-server in PATH")
        words = [program, "--model", file, "--port", numbers[0], "--parallel", numbers[1]]
        words += ["--ctx-size", str(batch * length), "--threads", str(os.cpu_count())]
        return Command(words, "/health", "model")
    if name == "llama_cpp_python":
        _require("llama_cpp", "starlette_context")
        words = [sys.executable, "-m", "llama_cpp.server", "--model", file, "--port", numbers[0]]
        words += ["--n_ctx", numbers[2], "--n_threads", str(os.cpu_count())]
        # Its own default would end an answer when the next request comes.
        words += ["--interrupt_requests", "False"]
        return Command(words, "/v1/models", file)
    raise ValueError(f"unknown contender: {contender}")


@contextlib.contextmanager
def running(command: Command, port: int, seconds: float = 900) -> Iterator[Server]:
    """Start a server, wait until it is ready, and end it afterwards.

    Raises:
        RuntimeError: it ends, or is not ready in time.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"HF_HUB_OFFLINE": "1", "KERAS_BACKEND": "tensorflow"}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command.words, stdout=log, stderr=log, env=environment)
        address = f"http://127.0.0.1:{port}"
        try:
            while not _is_ready(address + command.health):
                late = time.perf_counter() - start > seconds
                if late or process.poll() is not None:
                    log.seek(0)
                    what = "was not ready in time" if late else "ended"
                    raise RuntimeError(f"{command.words[0]} {what}:\n{log.read()[-3000:]}")
                time.sleep(0.2)
            yield Server(address, command.model, time.perf_counter() - start, process)
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


def free_port() -> int:
    """Give a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _require(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(f"not installed: {', '.join(missing)}")
