"""What each precision costs and saves: memory, perplexity, right answers, speed.

    keras-gpt models pull smollm2-135m-instruct
    python -m tests.benchmarks.precision [--sections memory quality speed] [--characters 100000]
        [--questions 500] [--precisions float32 bfloat16 int8 int4]

Each precision is a process of its own, which loads the model in it from the start
(`from_preset(..., quantize="int8")`, `from_preset(..., dtype="bfloat16")`). "int8 in place" loads
floats and calls `quantize`.

memory: GPT-2 124M with random weights, from a preset of float32. Anonymous memory (RssAnon: what the
process has of its own, without files that are mapped), above what the process has when the
libraries are loaded; the peak is the largest of a look every 2 ms from outside. Linux only. TensorFlow
runs without oneDNN there: with it (by default where a CPU has VNNI or bfloat16) its allocator keeps
what is freed, and a process stays as large as it ever was.
quality: SmolLM2-135M-Instruct on wikitext-2 (windows of 512, stride 256) and ARC-easy; 0 characters
or questions are all. speed: the same model, prompt 32, 128 new tokens, greedy, batch 1.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
PRECISIONS = ("float32", "bfloat16", "int8", "int4", "int8 in place", "int4 in place")
MODEL = "smollm2-135m-instruct"
MB = 1e6
Report = tuple[str, dict[str, Any]]


def anonymous_bytes(process: int | str) -> int:
    """Give the memory that is a process's own, in bytes."""
    with open(f"/proc/{process}/status", encoding="ascii") as status:
        lines = [line.split() for line in status if line.startswith("RssAnon")]
    return int(lines[0][1]) * 1024 if lines else 0


class Process:
    """A step of this benchmark in a process of its own; its memory is watched from outside."""

    def __init__(self, *arguments: Any) -> None:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
        if arguments[0] == "memory":
            environment["TF_ENABLE_ONEDNN_OPTS"] = "0"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.precision", "--step", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self._peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give what the step says, one report a part of it, with the part's peak."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            report = json.loads(line)
            yield {**report, "peak": max(self._peak, report["bytes"])}
            self._peak = 0
        if self._process.wait():
            raise RuntimeError(f"a step ended with {self._process.returncode}")

    def _watch(self) -> None:
        try:
            while self._process.poll() is None:
                self._peak = max(self._peak, anonymous_bytes(self._process.pid))
                time.sleep(0.002)
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            pass


# -- steps, each in a process of its own: names of their parts, and numbers ---------------------------


def load(source: str, precision: str) -> Any:
    """Load a model in a precision, from the start or in place."""
    from keras_gpt import GPT

    mode, _, place = precision.partition(" ")
    if mode in ("float32", "bfloat16"):
        return GPT.from_preset(source, dtype=mode)
    if not place:
        return GPT.from_preset(source, quantize=mode)
    gpt = GPT.from_preset(source)
    gpt.quantize(mode)
    return gpt


def prepare(folder: str) -> Iterator[Report]:
    """Write GPT-2's shapes with random weights."""
    import keras

    from keras_gpt import GPT

    keras.utils.set_random_seed(0)
    GPT.from_preset("gpt2", load_weights=False).save_to_preset(folder)
    yield "prepared", {}


def memory(source: str, precision: str) -> Iterator[Report]:
    """Load, then write 20 tokens."""
    import keras

    from keras_gpt import GPT

    small = GPT(16, 8, 1, 16, 1, context_length=8)  # what the first model of a process brings along
    small(keras.ops.zeros((1, 2), dtype="int32"))
    yield "libraries", {}
    gpt = load(source, precision)
    yield "loaded", {"weights": sum(map(_size, gpt.weights))}
    gpt.generate(list(range(1, 13)), max_new_tokens=20, temperature=0, stop_token_ids=[])
    yield "generated", {}


def _size(variable: Any) -> int:
    import ml_dtypes  # noqa: F401  numpy learns bfloat16 by this import
    import numpy as np

    return math.prod(variable.shape) * np.dtype(variable.dtype).itemsize


def quality(precision: str, characters: str, questions: str) -> Iterator[Report]:
    """Perplexity and ARC-easy."""
    from keras_gpt.evaluation import evaluate, perplexity

    gpt = load(MODEL, precision)
    text = (DATA / "text" / "wikitext-2" / "wiki.test.raw").read_text(encoding="utf-8")
    on_text = perplexity(gpt, text[: int(characters) or None], window=512, stride=256)
    arc = evaluate(gpt, "arc_easy", DATA / "eval" / "arc_easy.jsonl", int(questions) or None)
    numbers = {
        "perplexity": on_text.perplexity,
        "bits": on_text.bits_per_byte,
        "questions": arc.num_questions,
    }
    yield "quality", numbers | {name: each.value for name, each in arc.measures.items()}


def speed(precision: str) -> Iterator[Report]:
    """Tokens per second, the median of three calls after the first."""
    gpt = load(MODEL, precision)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        prompt = list(range(100, 132))
        gpt.generate(prompt, max_new_tokens=128, temperature=0, stop_token_ids=[])
        seconds.append(time.perf_counter() - start)
    yield "speed", {"tokens_per_second": 128 / statistics.median(seconds[1:])}


STEPS = {each.__name__: each for each in (prepare, memory, quality, speed)}


# -- tables -------------------------------------------------------------------------------------------


def memory_of(source: str | Path, precision: str) -> dict[str, float]:
    """Give bytes above those of the libraries: weights, loaded, peak while loading, generated."""
    parts = {each["part"]: each for each in Process("memory", source, precision)}
    libraries = parts["libraries"]["bytes"]
    return {
        "libraries": libraries,
        "weights": parts["loaded"]["weights"],
        "loaded": parts["loaded"]["bytes"] - libraries,
        "peak": parts["loaded"]["peak"] - libraries,
        "generated": parts["generated"]["bytes"] - libraries,
    }


def random_gpt2(folder: str | Path) -> Path:
    """Write GPT-2 124M with random weights into a folder and give its place."""
    place = Path(folder) / "gpt2"
    list(Process("prepare", place))
    return place


def memory_table(precisions: list[str]) -> None:
    """GPT-2 124M."""
    print("\n## GPT-2 124M: MB of anonymous memory above the libraries' own")
    print(
        "| precision | the weights' bytes | loaded | times float32 | peak of loading | 20 tokens |"
    )
    print("|---|---|---|---|---|---|")
    first = None
    with tempfile.TemporaryDirectory() as folder:
        source = random_gpt2(folder)
        for precision in precisions:
            found = memory_of(source, precision)
            first = first or found["loaded"]
            columns = [found[each] / MB for each in ("weights", "loaded", "peak", "generated")]
            weights, loaded, peak, generated = (f"{each:.0f}" for each in columns)
            times = f"{found['loaded'] / first:.2f}" if precisions[0] == "float32" else ""
            row = (precision, weights, loaded, times, peak, generated)
            print(f"| {' | '.join(row)} |", flush=True)
    print(f"The libraries' own: {found['libraries'] / MB:.0f} MB.")


def quality_table(precisions: list[str], characters: int, questions: int) -> None:
    """SmolLM2 on text and questions."""
    print(f"\n## {MODEL}: wikitext-2 ({characters or 'all'} characters) and ARC-easy")
    print("| precision | perplexity | bits per byte | ARC-easy acc | acc_norm | questions |")
    print("|---|---|---|---|---|---|")
    for precision in precisions:
        (found,) = Process("quality", precision, characters, questions)
        print(
            f"| {precision} | {found['perplexity']:.3f} | {found['bits']:.4f} | {found['acc']:.3f} "
            f"| {found['acc_norm']:.3f} | {found['questions']} |",
            flush=True,
        )


def speed_table(precisions: list[str]) -> None:
    """SmolLM2, batch 1."""
    print(f"\n## {MODEL}: prompt 32, 128 new tokens, greedy, batch 1")
    print("| precision | tokens/s |")
    print("|---|---|")
    for precision in precisions:
        (found,) = Process("speed", precision)
        print(f"| {precision} | {found['tokens_per_second']:.1f} |", flush=True)


def main() -> None:
    """Run the sections that were asked for and print a table for each."""
    if sys.argv[1:2] == ["--step"]:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # libraries print to standard output too
        for part, numbers in STEPS[sys.argv[2]](*sys.argv[3:]):
            said = {"part": part, "bytes": anonymous_bytes("self"), **numbers}
            print(json.dumps(said), file=answers, flush=True)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    sections = ("memory", "quality", "speed")
    parser.add_argument("--sections", nargs="+", default=list(sections), choices=sections)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--characters", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=500)
    arguments = parser.parse_args()
    # In place or not makes no difference but to memory.
    distinct = [each for each in arguments.precisions if not each.endswith("in place")]
    if "memory" in arguments.sections:
        memory_table(arguments.precisions)
    if "quality" in arguments.sections:
        quality_table(distinct, arguments.characters, arguments.questions)
    if "speed" in arguments.sections:
        speed_table(distinct)


if __name__ == "__main__":
    main()
