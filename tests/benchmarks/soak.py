"""Mixed traffic on real server processes for a long time: every answer right, no memory gained.

    python -m tests.benchmarks.soak [--minutes 20] [--clients 8] [--server openai | tensorflow]

A tiny model is served by `keras-gpt serve`; clients send it valid requests, whose answers must be
those of `gpt.generate`, and between them disconnects, malformed bodies and prompts that are too
long. For the TensorFlow-Serving-style server versions come and go meanwhile. Memory is that of the
server's process. The exit status is 1 where anything failed.
"""

import argparse
import sys
import time
from collections.abc import Callable

from tests.benchmarks import soak_openai, soak_tensorflow
from tests.benchmarks.soak_process import Server
from tests.benchmarks.soak_traffic import Kind, Traffic

# The share of the time after which caches, pools and compiled shapes are what they will be.
_WARM_UP = 0.25
_GROWTH = 1.03  # of the memory: more is a leak


def run(
    server: Server, kinds: dict[str, Kind], clients: int, seconds: float, turn: Callable[[], str]
) -> bool:
    """Let clients act on a server, print what came of it, and say whether all was well.

    Args:
        server: is ready.
        kinds: what clients do.
        clients: how many there are.
        seconds: how long.
        turn: is called again and again meanwhile; gives what went wrong or "".
    """
    memory: list[tuple[float, float]] = []
    start = time.monotonic()
    every = max(5.0, seconds / 40)
    with Traffic(kinds, clients) as traffic:
        while (now := time.monotonic() - start) < seconds:
            memory.append((now, server.megabytes()))
            traffic.failures += _failures(lambda: [each] if (each := turn()) else [])
            if server.has_ended():
                traffic.failures.append("the server has ended")
                break
            time.sleep(every)
    failures = [*traffic.failures, *_failures(server.failures_at_rest)]
    print("\n| what | times |\n|---|---|")
    for name, count in traffic.counts.most_common():
        print(f"| {name} | {count} |")
    print("\nMB of the server's process at minutes:", ", ".join(
        f"{at / 60:.1f}: {size:.0f}" for at, size in memory
    ))  # fmt: skip
    warm = [size for at, size in memory if at >= seconds * _WARM_UP]
    if warm:
        third = max(1, len(warm) // 3)
        first, last = (sum(part) / third for part in (warm[:third], warm[-third:]))
        print(f"after warm-up: {first:.1f} MB, at the end {last:.1f} MB ({last / first - 1:+.2%})")
        if last > first * _GROWTH:
            failures.append(f"memory grew from {first:.1f} to {last:.1f} MB")
    print(f"failures: {len(failures)}")
    for failure in failures[:20]:
        print(f"  {failure}")
    return not failures


def _failures(look: Callable[[], list[str]]) -> list[str]:
    """Give what `look` found, or that it could not look: the rest is to be told all the same."""
    try:
        return look()
    except Exception as error:
        return [repr(error)]


def main() -> None:
    """Run the servers that are asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="for each server")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--server", choices=["openai", "tensorflow"], action="append")
    arguments = parser.parse_args()
    parts = {"openai": soak_openai.part, "tensorflow": soak_tensorflow.part}
    is_well = True
    for name in arguments.server or parts:
        print(f"\n== {name}", flush=True)
        with parts[name]() as (server, kinds, turn):
            is_well &= run(server, kinds, arguments.clients, arguments.minutes * 60, turn)
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
