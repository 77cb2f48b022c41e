"""Clients that act at random, for the soak."""

import collections
import random
import threading
from collections.abc import Callable
from typing import NamedTuple


class Kind(NamedTuple):
    """What a client may do next.

    Args:
        weight: how often, beside the others.
        act: does it, and gives what went wrong or "".
    """

    weight: int
    act: Callable[[random.Random], str]


class Traffic:
    """Clients that act at random until they are told to end.

    Args:
        kinds: what they do, by name.
        clients: how many act at a time.

    Attributes:
        counts: how often each was done.
        failures: what went wrong.
    """

    def __init__(self, kinds: dict[str, Kind], clients: int) -> None:
        self._kinds = kinds
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.counts: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self._threads = [
            threading.Thread(target=self._client, args=(random.Random(seed),))
            for seed in range(clients)
        ]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _client(self, rng: random.Random) -> None:
        names = list(self._kinds)
        weights = [kind.weight for kind in self._kinds.values()]
        while not self._over.is_set():
            (name,) = rng.choices(names, weights)
            try:
                failure = self._kinds[name].act(rng)
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
            with self._lock:
                self.counts[name] += 1
                if failure:
                    self.failures.append(f"{name}: {failure:.300}")
