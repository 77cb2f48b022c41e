"""Servers under load: ours beside transformers serve and llama.cpp; a SavedModel by every road.

    pip install -e '.[bench,serve]' httpx accelerate openai psutil
    keras-gpt models pull smollm2-135m-instruct
    python -m tests.benchmarks.serving [--clients 1 8 32] [--requests 16] [--rounds 1]
        [--contenders keras_gpt:float32 transformers:float32 llama_server:float32 ...]

llama.cpp's `llama-server` (in Debian unstable's package llama.cpp-tools) must be in PATH or beside
Python; where a server is not installed or does not start, that is said in place of its rows. Every
server runs alone, in its turn, with the same model, and the same client code asks all of them the
same requests: prompts of 16 to 200 tokens out of Python's own help, 16 to 64 new tokens, greedy; no
prompt twice, so that what a server keeps of a prompt helps none. Each of so many clients sends its
next request when its last one is answered; `--requests` are sent at each level, and at least two a
client. Times to the first token end with the first text that comes. Every answer of ours must be
the one that `generate` gives offline, else the exit status is 1; for the others the share of
answers that are the same is told (float32 rounds differently in each). Numbers are medians of the
rounds, memory is the highest.

`saved_model` contenders ask the same of an exported SavedModel: called in a process by as many
threads, by TensorFlow Serving's REST API, and by its gRPC API. A SavedModel compiles a length when
it first comes and keeps nothing of a prompt, so a whole round is asked before it is measured.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.benchmarks import serving_load as load
from tests.benchmarks.serving_prepare import Lengths, prepare, read_requests
from tests.benchmarks.serving_servers import (
    BIN,
    Command,
    MissingError,
    Server,
    free_port,
    openai_command,
    running,
)

CONTENDERS = (
    "keras_gpt:float32",
    "transformers:float32",
    "transformers_batching:float32",
    "llama_server:float32",
    "keras_gpt:int8",
    "llama_server:int8",
    "saved_model:in_process",
    "saved_model:rest",
    "saved_model:grpc",
)
OURS = ("keras_gpt", "saved_model")


class Plan(NamedTuple):
    """How much is asked of every contender."""

    folder: Path
    clients: list[int]
    requests: int
    rounds: int
    batch: int
    lengths: Lengths

    def sizes(self) -> list[int]:
        """Give how many requests each level of a round has; the first is the warm-up."""
        return [8] + [max(self.requests, 2 * clients) for clients in self.clients]

    def wanted(self, precision: str) -> list[list[load.Wanted]]:
        """Give the warm-up's requests, and those of each level of each round."""
        left = iter(read_requests(self.folder, precision))
        warm_up, *sizes = self.sizes()
        return [[next(left) for _ in range(size)] for size in [warm_up, *sizes * self.rounds]]


class Result(NamedTuple):
    """What a contender did."""

    levels: list[load.Level]  # of each round in turn
    same: float  # the share of answers that are those given offline
    seconds: float  # until it was ready
    megabytes: float


async def ask_all(
    ask: load.Ask, plan: Plan, precision: str, is_ours: bool, compiles: bool = False
) -> tuple[Any, float]:
    """Warm up, then run every level of every round; check the answers.

    What `compiles` when a length comes for the first time is asked a whole round before.
    """
    warm_up, *parts = plan.wanted(precision)
    if compiles:
        warm_up += [each for part in parts[: len(plan.clients)] for each in part]
    await load.drive(ask, warm_up, 8)
    levels, same, total = [], 0, 0
    for clients, wanted in zip(plan.clients * plan.rounds, parts, strict=True):
        level = await load.drive(ask, wanted, clients)
        print(f"  {clients} clients: {level.seconds:.1f} s", file=sys.stderr, flush=True)
        for each, answer in zip(wanted, level.answers, strict=True):
            if is_ours and answer.text != each.text:
                print(
                    f"the answer must be the offline one. Received: {answer.text!r}, "
                    f"expected: {each.text!r}, prompt: {each.prompt!r}",
                    flush=True,
                )
            same += answer.text == each.text
            total += 1
        levels.append(level)
    return levels, same / total


def with_openai(contender: str, plan: Plan) -> Result:
    """Measure a server with OpenAI's API."""
    from tokenizers import Tokenizer

    port = free_port()
    command = openai_command(contender, plan.folder, port, plan.batch, plan.lengths.room)
    tokenizer = Tokenizer.from_file(str(plan.folder / "model" / "tokenizer.json"))

    async def go(server: Server) -> tuple[Any, float]:
        async with client_of(server.address) as http:
            ask = load.completions(http, server.model, lambda text: len(tokenizer.encode(text)))
            precision = contender.partition(":")[2]
            return await ask_all(ask, plan, precision, contender.startswith(OURS))

    with running(command, port) as server:
        levels, same = asyncio.run(go(server))
        return Result(levels, same, server.seconds, server.megabytes)


def with_saved_model(contender: str, plan: Plan) -> Result:
    """Measure one road to a SavedModel."""
    road = contender.partition(":")[2]
    if road == "in_process":
        return in_new_process(in_process, plan)
    port, grpc_port = free_port(), free_port()
    words = [str(BIN / "keras-gpt"), "serve", str(plan.folder / "saved_models")]
    words += ["--port", str(port), "--grpc-port", str(grpc_port)]
    # Only a model that is loaded has metadata.
    with running(Command(words, "/v1/models/model/metadata", "model"), port) as server:
        levels, same = in_new_process(over_network, plan, server.address, road, grpc_port)
        return Result(levels, same, server.seconds, server.megabytes)


def in_process(plan: Plan) -> Result:
    """Call the SavedModel here."""
    import resource
    import time

    start = time.perf_counter()
    ask = load.in_process(plan.folder / "saved_models" / "model" / "1", max(plan.clients))
    seconds = time.perf_counter() - start
    levels, same = asyncio.run(ask_all(ask, plan, "float32", True, True))
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Result(levels, same, seconds, megabytes)


def over_network(plan: Plan, address: str, road: str, grpc_port: int) -> tuple[Any, float]:
    """Ask the server of SavedModels; in a process of its own since gRPC's client loads TensorFlow."""

    async def go() -> tuple[Any, float]:
        if road == "rest":
            async with client_of(address) as http:
                return await ask_all(load.rest(http, "model"), plan, "float32", True, True)
        import grpc

        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            return await ask_all(load.grpc(channel, "model"), plan, "float32", True, True)

    return asyncio.run(go())


def client_of(address: str) -> httpx.AsyncClient:
    """Give a client that waits long, and opens as many connections as are wanted.

    Each request has one of its own: llama-server closes one now and then when an answer has ended.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=address, timeout=1800, limits=limits)


def in_new_process(run: Callable[..., Any], *arguments: Any) -> Any:
    """Run something in a process of its own, so that this one stays small."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def print_table(results: dict[str, Result], plan: Plan) -> None:
    """Print a row for each contender and number of clients."""
    titles = ["contender", "clients", "requests/s", "tokens/s"]
    titles += [f"{what} p{part}, s" for what in ("first token", "whole") for part in (50, 95, 99)]
    print("\n| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for name, result in results.items():
        for place, clients in enumerate(plan.clients):
            rounds = [level.row() for level in result.levels[place :: len(plan.clients)]]
            row = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
            numbers = [f"{row['requests']:.2f}", f"{row['tokens']:.1f}"]
            numbers += ["" if row[key] != row[key] else f"{row[key]:.2f}" for key in list(row)[2:]]
            print(f"| {name} | {clients} | " + " | ".join(numbers) + " |")
    print("\n| contender | ready after, s | memory, MB | answers as offline |\n|---|---|---|---|")
    for name, result in results.items():
        numbers = [f"{result.seconds:.0f}", f"{result.megabytes:.0f}", f"{result.same:.0%}"]
        print(f"| {name} | " + " | ".join(numbers) + " |")


def main() -> None:
    """Prepare, run every contender in its turn, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", default="smollm2-135m-instruct", help="what `GPT.from_preset` takes")
    add("--contenders", nargs="+", default=list(CONTENDERS))
    add("--clients", nargs="+", type=int, default=[1, 8, 32])
    add("--requests", type=int, default=16, help="at each level, and at least two a client")
    add("--rounds", type=int, default=1)
    add("--batch", type=int, default=8, help="answers that a server may write at a time")
    add("--folder", help="new folder for model and requests; by default one that goes afterwards")
    add("--quick", action="store_true", help="short prompts and answers, to see that it runs")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.folder or scratch)
        plan = Plan(
            folder,
            arguments.clients,
            arguments.requests,
            arguments.rounds,
            arguments.batch,
            Lengths.quick() if arguments.quick else Lengths(),
        )
        warm_up, *sizes = plan.sizes()
        count = warm_up + sum(sizes) * plan.rounds
        print(f"preparing {count} requests", file=sys.stderr, flush=True)
        in_new_process(prepare, arguments.model, folder, arguments.contenders, count, plan.lengths)
        results = {}
        failed = False
        for contender in arguments.contenders:
            print(contender, file=sys.stderr, flush=True)
            run = with_saved_model if contender.startswith("saved_model") else with_openai
            try:
                results[contender] = run(contender, plan)
            except Exception as error:
                # What a peer cannot do here is said; what ours cannot do is a failure.
                failed |= contender.startswith(OURS) and not isinstance(error, MissingError)
                print(f"{contender} left out: {error!r:.2000}", flush=True)
        print_table(results, plan)
        wrong = [name for name, each in results.items() if name.startswith(OURS) and each.same < 1]
        sys.exit(1 if failed or wrong else 0)


if __name__ == "__main__":
    main()
