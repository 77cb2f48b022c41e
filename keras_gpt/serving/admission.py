"""How many requests are answered at a time, how many wait, and when none is taken any more."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from keras_gpt.serving.errors import ServingError

Answer = TypeVar("Answer")

# More threads than cores: a model's operations leave some idle, and short requests pass long ones.
DEFAULT_MAX_RUNNING = 16
DEFAULT_MAX_WAITING = 256


class Admission:
    """Runs requests on threads of its own, so that the event loop stays free for the others.

    Args:
        max_running: how many requests run at a time.
        max_waiting: how many more may wait; the next one is refused.
        on_refused: is called with the status code of each refusal.

    Raises:
        ValueError: a limit is out of range.

    Example:
        >>> admission = Admission(max_running=4)
        >>> answer = await admission.run(servable.predict, document)
    """

    def __init__(
        self,
        max_running: int = DEFAULT_MAX_RUNNING,
        max_waiting: int = DEFAULT_MAX_WAITING,
        on_refused: Callable[[str], None] = lambda code: None,
    ) -> None:
        for name, value, least in (
            ("max_running", max_running, 1),
            ("max_waiting", max_waiting, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}. Received: {name}={value}")
        self._on_refused = on_refused
        self._limit = max_running + max_waiting
        self._threads = ThreadPoolExecutor(max_running, thread_name_prefix="requests")
        self._lock = threading.Lock()  # threads end what the event loop has begun
        self.in_flight = 0
        self.is_draining = False

    def check(self) -> None:
        """Refuse when the server is about to end.

        Raises:
            ServingError: it is.
        """
        if self.is_draining:
            self._on_refused("UNAVAILABLE")
            raise ServingError("The server is shutting down", "UNAVAILABLE")

    async def run(
        self,
        function: Callable[..., Answer],
        *arguments: Any,
        threads: ThreadPoolExecutor | None = None,
    ) -> Answer:
        """Call a function on one of the threads.

        When the caller is cancelled the function is not begun any more. One that has begun
        goes on, and counts as in flight until it ends.

        Args:
            function: what to call.
            arguments: what to call it with.
            threads: others to call it on, for what may take very long; it counts all the same.

        Returns:
            What the function returns.

        Raises:
            ServingError: too many wait, or the server is about to end.
        """
        self.check()
        if self.in_flight >= self._limit:
            self._on_refused("RESOURCE_EXHAUSTED")
            raise ServingError(
                f"{self._limit} requests are being answered or wait; try again later",
                "RESOURCE_EXHAUSTED",
            )
        with self._lock:
            self.in_flight += 1
        future = (threads or self._threads).submit(function, *arguments)
        future.add_done_callback(self._ended)
        return await asyncio.wrap_future(future)

    def _ended(self, future: Future[Any]) -> None:
        with self._lock:
            self.in_flight -= 1
