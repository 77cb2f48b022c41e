"""examples/ray_serve.py, run as a user runs it: one process, Ray, and replicas that come and go."""

import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import openai
import pytest
from gpt_cases import make_gpt, small_tokenizer

from keras_gpt import GPT

ROOT = Path(__file__).resolve().parents[2]
ray = pytest.importorskip("ray", reason="needs the extra ray: pip install 'keras-gpt[ray]'")
pytestmark = pytest.mark.slow


class Example(NamedTuple):
    process: subprocess.Popen[str]
    client: openai.OpenAI
    lines: "queue.Queue[str]"
    scratch: Path  # Ray's, and in the environment of every process that it starts

    def ask(self, seed: int) -> tuple[str, str]:
        """Ask for an answer; give it, and the name of the replica that gave it."""
        got = self.client.completions.with_raw_response.create(
            model="gpt", prompt="the cat", max_tokens=12, temperature=0.9, seed=seed
        )
        return got.parse().choices[0].text, got.headers["x-replica"]

    def processes(self) -> list[str]:
        """Name the processes that the example has started and that still run."""
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if str(self.scratch).encode() in environment.read_bytes():
                    found.append((environment.parent / "comm").read_text().strip())
            except OSError:  # it has ended, or is another user's
                continue
        return found


@pytest.fixture(scope="module")
def gpt() -> GPT:
    return make_gpt(vocab_size=320, num_layers=1, tokenizer=small_tokenizer(), context_length=64)


@pytest.fixture(scope="module")
def answers(gpt: GPT) -> list[str]:
    """What the model answers offline to each seed."""
    settings = {"max_new_tokens": 12, "temperature": 0.9, "echo": False}
    return [gpt.generate("the cat", seed=seed, **settings) for seed in range(16)]


@pytest.fixture(scope="module")
def example(gpt: GPT, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    folder = tmp_path_factory.mktemp("ray")
    gpt.save_to_preset(folder / "model")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    scratch = Path(tempfile.mkdtemp(prefix="ray"))  # Ray's sockets need a short path
    flags = ["--port", str(port), "model=model", "max_batch=2"]
    flags += ["min_replicas=1", "max_replicas=2", "patience=3"]
    environment = {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(scratch)}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "ray_serve.py"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, **environment, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)

    threading.Thread(target=read, daemon=True).start()
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=120)
    try:
        wait_for(lines, "Serving gpt at")
        yield Example(process, client, lines, scratch)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def wait_for(lines: "queue.Queue[str]", words: str, seconds: float = 600) -> None:
    seen, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            seen.append(lines.get(timeout=1))
        except queue.Empty:
            continue
        if words in seen[-1]:
            return
    pytest.fail(f"{words!r} was not printed, but\n{''.join(seen)[-5000:]}")


def test_an_answer_streams(example: Example, answers: list[str]) -> None:
    stream = example.client.completions.create(
        model="gpt", prompt="the cat", max_tokens=12, temperature=0.9, seed=3, stream=True
    )
    pieces = [chunk.choices[0].text for chunk in stream]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == answers[3]


def test_an_error_is_openai_s(example: Example) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        example.client.completions.create(model="other", prompt="the cat")


def test_a_second_replica_comes_when_the_first_is_busy(
    example: Example, answers: list[str]
) -> None:
    assert len(set(answers)) > 8
    assert len({example.ask(0)[1] for _ in range(4)}) == 1
    replicas: set[str] = set()
    deadline = time.monotonic() + 600
    with ThreadPoolExecutor(8) as threads:
        while len(replicas) < 2 and time.monotonic() < deadline:
            got = list(threads.map(example.ask, range(16)))
            assert [answer for answer, _ in got] == answers
            replicas |= {replica for _, replica in got}
    assert len(replicas) == 2


def test_it_ends_and_leaves_nothing(example: Example) -> None:
    assert len(example.processes()) > 3
    example.process.send_signal(signal.SIGINT)
    assert example.process.wait(90) == 0
    wait_for(example.lines, "the replicas have ended", 5)
    deadline = time.monotonic() + 30
    while example.processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert example.processes() == []
