"""32 requests of mixed lengths that come at random: our Engine, static batches, transformers.

    pip install -e '.[bench]'
    python -m tests.benchmarks.continuous [--requests 32] [--batch 8] [--rate 2.0] [--rounds 2]

GPT-2 124M with random weights (the same for all), float32, greedy. Requests have prompts of 16 to
200 tokens and ask for 16 to 128 new ones; they come at the same random times for every contender.
"static" runs the same compiled functions by `generate`: whenever it is free, it takes the requests
that wait, up to `--batch`, and answers them together. Latency runs from a request's arrival to its
last token. Contenders take turns, each in this process after a warm-up; medians of the rounds.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Wanted(NamedTuple):
    """A request: when it comes (seconds), its prompt, and how many new tokens it asks for."""

    arrival: float
    prompt: list[int]
    new: int


Latencies = dict[int, float]


def make_requests(count: int, rate: float) -> list[Wanted]:
    """Draw requests; `rate` of them come in a second."""
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(1 / rate, count))
    return [
        Wanted(
            float(arrival),
            rng.integers(0, 50257, int(rng.integers(16, 201))).tolist(),
            int(rng.integers(16, 129)),
        )
        for arrival in arrivals
    ]


def with_engine(gpt: Any, wanted: list[Wanted], batch: int) -> Latencies:
    """Submit each request to an Engine when it comes."""
    from keras_gpt.generation import Engine

    latencies: Latencies = {}
    with Engine(gpt, max_batch=batch, max_waiting=len(wanted)) as engine:

        def ask(index: int) -> None:
            request = engine.submit(
                wanted[index].prompt,
                max_new_tokens=wanted[index].new,
                temperature=0,
                stop_token_ids=[],
            )
            assert len(request.result().token_ids) == wanted[index].new
            latencies[index] = time.monotonic() - start - wanted[index].arrival

        start = time.monotonic()
        threads = []
        for index, each in enumerate(wanted):
            time.sleep(max(0.0, start + each.arrival - time.monotonic()))
            threads.append(threading.Thread(target=ask, args=(index,)))
            threads[-1].start()
        for thread in threads:
            thread.join()
    return latencies


def with_static_batches(gpt: Any, wanted: list[Wanted], batch: int) -> Latencies:
    """Answer what waits together, up to `batch`, as long as the longest of them asks for."""
    latencies: Latencies = {}
    start, done = time.monotonic(), 0
    while done < len(wanted):
        now = time.monotonic() - start
        if wanted[done].arrival > now:
            time.sleep(wanted[done].arrival - now)
            continue
        waiting = [each for each in wanted[done : done + batch] if each.arrival <= now]
        gpt.generate(
            [each.prompt for each in waiting],
            max_new_tokens=max(each.new for each in waiting),
            temperature=0,
            stop_token_ids=[],
        )
        for each in waiting:
            latencies[done] = time.monotonic() - start - each.arrival
            done += 1
    return latencies


def with_transformers(model: Any, wanted: list[Wanted], batch: int) -> Latencies:
    """Give each request to transformers' continuous batching when it comes."""
    from transformers import GenerationConfig

    config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    manager = model.init_continuous_batching(generation_config=config)
    manager.start()
    latencies: Latencies = {}
    start = time.monotonic()

    def collect() -> None:
        while len(latencies) < len(wanted) and manager.is_running():
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                index = int(result.request_id)
                assert len(result.generated_tokens) == wanted[index].new
                latencies[index] = time.monotonic() - start - wanted[index].arrival

    collector = threading.Thread(target=collect)
    collector.start()
    for index, each in enumerate(wanted):
        time.sleep(max(0.0, start + each.arrival - time.monotonic()))
        manager.add_request(each.prompt, request_id=str(index), max_new_tokens=each.new)
    collector.join()
    manager.stop(block=True)
    if len(latencies) < len(wanted):
        raise RuntimeError(f"its thread ended after {len(latencies)} of {len(wanted)} answers")
    return latencies


def main() -> None:
    """Run all contenders in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    import keras

    from keras_gpt import GPT, Tokenizer

    keras.utils.set_random_seed(0)
    wanted = make_requests(arguments.requests, arguments.rate)
    gpt = GPT.from_preset("gpt2", load_weights=False)
    started = time.monotonic()
    gpt.warmup(batch_size=arguments.batch, max_length=512)
    gpt.warmup(batch_size=arguments.batch, max_length=512, chunk=128)
    print(f"warm-up: {time.monotonic() - started:.0f} s", flush=True)
    contenders: dict[str, Callable[[], Latencies]] = {
        "Engine": lambda: with_engine(gpt, wanted, arguments.batch),
        "static batches": lambda: with_static_batches(gpt, wanted, arguments.batch),
    }
    with tempfile.TemporaryDirectory() as scratch:
        try:
            from transformers import AutoModelForCausalLM

            files = Path(__file__).resolve().parents[3] / "shared" / "data" / "bpe" / "gpt2"
            gpt.tokenizer = Tokenizer.from_files(files / "encoder.json", files / "vocab.bpe")
            gpt.save_to_huggingface(Path(scratch) / "hf")
            gpt.tokenizer = None
            model = AutoModelForCausalLM.from_pretrained(Path(scratch) / "hf").eval()
            with_transformers(model, wanted[:2], arguments.batch)
            contenders["transformers"] = lambda: with_transformers(model, wanted, arguments.batch)
        except Exception as error:  # a peer that does not run here is said so, not left out quietly
            print(f"transformers left out: {error!r}", flush=True)
        totals: dict[str, list[float]] = {name: [] for name in contenders}
        tails: dict[str, list[float]] = {name: [] for name in contenders}
        middles: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(arguments.rounds):
            for name, run in contenders.items():
                latencies = run()
                last = max(latencies[i] + wanted[i].arrival for i in latencies)
                totals[name].append(last)
                tails[name].append(float(np.percentile(list(latencies.values()), 95)))
                middles[name].append(statistics.median(latencies.values()))
                print(f"{name}: {last:.1f} s", flush=True)
    tokens = sum(each.new for each in wanted)
    print(
        f"\n{len(wanted)} requests, {tokens} new tokens, the last came at {wanted[-1].arrival:.1f} s"
    )
    print("| contender | all done, s | tokens/s | median latency, s | p95 latency, s |")
    print("|---|---|---|---|---|")
    for name in contenders:
        total, middle, tail = map(statistics.median, (totals[name], middles[name], tails[name]))
        print(f"| {name} | {total:.1f} | {tokens / total:.1f} | {middle:.1f} | {tail:.1f} |")


if __name__ == "__main__":
    main()
