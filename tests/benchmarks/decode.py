"""Decoding, ours beside CTranslate2, transformers, KerasHub and llama.cpp, in one run.

    pip install -e '.[bench]' llama-cpp-python
    python -m tests.benchmarks.decode [--rounds 3] [--contenders keras_gpt ctranslate2 ...]
        [--sections throughput latency context warmup smollm2]

A contender is NAME, NAME:PRECISION or NAME:PRECISION@THREADS; without a number it has the threads that
its library takes by itself, or as many as there are processors where it has to be told.

GPT-2 124M has random weights (the same for all), SmolLM2-135M its real ones (`keras-gpt models
pull smollm2-135m-instruct` first). Every contender is a process of its own that stays loaded; in
each round all are asked one after the other, so that a slow minute of the machine hits all alike.
Numbers are medians of the rounds. Tokens per second count the new tokens of all rows over the whole
time of the call, the reading of the prompt included. What rounding costs is in tests.benchmarks.precision.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
SECTIONS = ("throughput", "latency", "context", "warmup", "smollm2")
PRECISIONS = {
    "keras_gpt": ("float32", "bfloat16", "int8", "int4"),
    "saved_model": ("float32", "int8"),
    "ctranslate2": ("float32", "int8"),
    "transformers": ("float32", "bfloat16"),
    "keras_hub": ("float32",),
    "llama_cpp": ("float32",),
}


class Worker:
    """One contender in a process of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        environment["PYTHONPATH"] = str(ROOT)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.decode_worker", name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        self.loaded = self._read()

    def ask(self, **request: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self.name} ended:\n{self._log.read()[-2000:]}")
        return json.loads(line)


@contextlib.contextmanager
def workers(names: list[str], folder: Path) -> Iterator[list[Worker]]:
    """Start contenders one after the other, so that none loads while another is timed."""
    started: list[Worker] = []
    try:
        for name in names:
            try:
                started.append(Worker(name, folder))
            except RuntimeError as error:
                print(f"left out: {error}", file=sys.stderr)
        yield started
    finally:
        for worker in started:
            worker.close()


def medians(
    contenders: list[Worker], requests: list[dict[str, int]], rounds: int
) -> dict[str, list[float]]:
    """Give each contender's median seconds for each request; the first answers are not counted."""
    seconds: dict[str, list[list[float]]] = {
        worker.name: [[] for _ in requests] for worker in contenders
    }
    for round_ in range(rounds + 1):
        print(f"round {round_} of {rounds}", file=sys.stderr, flush=True)
        for place, request in enumerate(requests):
            for worker in contenders:
                answer = worker.ask(**request)
                if round_:
                    seconds[worker.name][place].append(answer["seconds"])
    return {name: [statistics.median(each) for each in lists] for name, lists in seconds.items()}


def throughput(folder: Path, names: list[str], rounds: int) -> None:
    """Prompt 32, 128 new tokens, greedy, batch 1 and 8: tokens per second."""
    print("\n## GPT-2 124M, prompt 32, 128 new tokens, greedy: tokens per second")
    print("| contender | batch 1 | batch 8 | load s | first call s | memory MB |")
    print("|---|---|---|---|---|---|")
    with workers(names, folder) as contenders:
        first = {each.name: each.ask(prompt=32, new=128, batch=1) for each in contenders}
        requests = [{"prompt": 32, "new": 128, "batch": batch} for batch in (1, 8)]
        results = medians(contenders, requests, rounds)
        for each in contenders:
            one, eight = results[each.name]
            print(
                f"| {each.name} | {128 / one:.1f} | {8 * 128 / eight:.1f} "
                f"| {each.loaded['load_seconds']:.1f} | {first[each.name]['seconds']:.1f} "
                f"| {first[each.name]['megabytes']:.0f} |",
                flush=True,
            )


def latency(folder: Path, names: list[str], rounds: int) -> None:
    """Time to the first token."""
    prompts = (16, 128, 512, 1000)
    print("\n## GPT-2 124M: milliseconds to the first token, batch 1")
    print("| contender | " + " | ".join(f"prompt {length}" for length in prompts) + " |")
    print("|---" * (1 + len(prompts)) + "|")
    with workers(names, folder) as contenders:
        requests = [{"prompt": length, "new": 1, "batch": 1} for length in prompts]
        for name, seconds in medians(contenders, requests, rounds).items():
            print(f"| {name} | " + " | ".join(f"{1e3 * each:.0f}" for each in seconds) + " |")


def context(folder: Path, names: list[str], rounds: int) -> None:
    """Milliseconds a token near a context of 64 and of 1000."""
    print("\n## GPT-2 124M: milliseconds a token at a context of 64 and of 1000, batch 1")
    print("| contender | 64 | 1000 |")
    print("|---|---|---|")
    with workers(names, folder) as contenders:
        requests = [
            {"prompt": prompt, "new": new, "batch": 1} for prompt in (48, 984) for new in (1, 33)
        ]
        for name, seconds in medians(contenders, requests, rounds).items():
            costs = [(seconds[i + 1] - seconds[i]) / 32 * 1e3 for i in (0, 2)]
            print(f"| {name} | {costs[0]:.1f} | {costs[1]:.1f} |")


def warmup(folder: Path) -> None:
    """Seconds of `gpt.warmup()`, and pieces of machine code compiled by requests after it."""
    from keras_gpt import GPT
    from tests.machine_code import num_pieces

    print("\n## GPT-2 124M: warm-up of batch 1, every length up to 1024")
    print("| weights | warm-up s | compiled after it |")
    print("|---|---|---|")
    asked = {"max_new_tokens": 20, "stop_token_ids": []}
    for precision in ("float32", "int8"):
        gpt = GPT.from_preset(folder / "ours")
        if precision != "float32":
            gpt.quantize(precision)
        start = time.perf_counter()
        gpt.warmup()
        seconds, before = time.perf_counter() - start, num_pieces()
        for length in (1, 16, 128, 512, 1000):
            gpt.generate([[7] * length], temperature=0, **asked)
            gpt.generate([[7] * length], top_k=5, seed=0, **asked)
            list(gpt.stream([7] * length, top_k=5, seed=0, **asked))
        print(f"| {precision} | {seconds:.1f} | {num_pieces() - before} |", flush=True)


def smollm2(folder: Path, names: list[str], rounds: int) -> None:
    """SmolLM2-135M with its real weights, batch 1."""
    print("\n## SmolLM2-135M, prompt 32, 128 new tokens, greedy, batch 1: tokens per second")
    print("| contender | tokens/s |")
    print("|---|---|")
    with workers(names, folder) as contenders:
        requests = [{"prompt": 32, "new": 128, "batch": 1}]
        for name, (seconds,) in medians(contenders, requests, rounds).items():
            print(f"| {name} | {128 / seconds:.1f} |")


def prepare_gpt2(folder: Path, names: list[str]) -> None:
    """Write one set of random weights in every contender's format."""
    import keras

    from keras_gpt import GPT, Tokenizer

    keras.utils.set_random_seed(0)
    files = DATA / "bpe" / "gpt2"
    gpt = GPT.from_preset("gpt2", load_weights=False)
    gpt.save_to_preset(folder / "ours")
    for exported in sorted({name.partition("@")[0] for name in names}):
        kind, _, precision = exported.partition(":")
        if kind == "saved_model":
            same = GPT.from_preset(folder / "ours")
            if precision != "float32":
                same.quantize(precision)
            same.export(folder / f"saved_model_{precision}")
    gpt.tokenizer = Tokenizer.from_files(files / "encoder.json", files / "vocab.bpe")
    gpt.save_to_huggingface(folder / "huggingface")
    if any(name.startswith("keras_hub") for name in names):
        gpt.save_to_keras_hub(folder / "keras_hub")


def main() -> None:
    """Run the sections that were asked for and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    arguments = parser.parse_args()
    names = []
    for name in arguments.contenders:
        names += [name] if ":" in name else [f"{name}:{each}" for each in PRECISIONS[name]]
    gpt2 = [name for name in names if not name.startswith("llama_cpp")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if set(arguments.sections) - {"smollm2"}:
            prepare_gpt2(folder, gpt2)
        for section in (throughput, latency, context):
            if section.__name__ in arguments.sections:
                section(folder, gpt2, arguments.rounds)
        if "warmup" in arguments.sections:
            warmup(folder)
        if "smollm2" in arguments.sections:
            prepare_smollm2(folder / "smollm2")
            kept = ("keras_gpt", "transformers", "llama_cpp")
            smollm2(
                folder / "smollm2",
                [name for name in names if name.partition(":")[0] in kept],
                arguments.rounds,
            )


def prepare_smollm2(folder: Path) -> None:
    """Put the pulled model where the contenders look."""
    from keras_gpt import GPT

    gpt = GPT.from_preset("smollm2-135m-instruct")
    gpt.save_to_preset(folder / "ours")
    gpt.save_to_huggingface(folder / "huggingface")
    gpt.save_to_gguf(folder / "model-q8_0.gguf", dtype="q8_0")


if __name__ == "__main__":
    main()
