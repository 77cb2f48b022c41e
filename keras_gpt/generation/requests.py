"""Requests to an `Engine`: what is asked for, what has come of it, and the queue they wait in."""

import dataclasses
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

from keras_gpt.generation.answers import Answer, GrowingAnswer
from keras_gpt.generation.decode import Chosen
from keras_gpt.generation.rows import Row

# Takes the text that a token has made sure of, and the token; None at the end.
Listener = Callable[[str, Chosen | None], None]


class QueueFullError(RuntimeError):
    """More requests wait than an engine takes."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a request asks for, checked."""

    row: Row
    num_logprobs: int | None
    as_text: bool
    client: str
    deadline: float | None  # of time.monotonic


class Request:
    """One request to an `Engine`, which answers it in the background.

    Attributes:
        time_to_first: seconds from the call of `submit` to the first token; None before it.

    Example:
        >>> request = engine.submit("Once upon a time", max_new_tokens=20)
        >>> for piece in request:
        ...     print(piece, end="")
        >>> request.result().finish_reason
        'length'
    """

    def __init__(
        self, asked: Asked, growing: GrowingAnswer, listener: Listener | None = None
    ) -> None:
        self.asked = asked
        self.growing = growing
        self._listener = listener
        self.time_to_first: float | None = None
        self._start = time.monotonic()
        self._pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._finished = threading.Event()
        self._cancelled = threading.Event()
        self._answer: Answer | None = None
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Any]:
        """Give each piece of the answer as it comes: text, or ids where the prompt was ids.

        Leaving the loop early cancels the request.

        Raises:
            RuntimeError: the engine failed or was closed.
        """
        try:
            while True:
                piece = self._pieces.get()
                if piece is None:
                    break
                yield piece
        finally:
            if not self._finished.is_set():
                self.cancel()
        if self._error is not None:
            raise self._error

    def result(self, timeout: float | None = None) -> Answer:
        """Wait for the whole answer; its text is the continuation alone.

        Args:
            timeout: the most seconds to wait; None waits for ever.

        Raises:
            TimeoutError: it did not come in time; the request goes on.
            RuntimeError: the engine failed or was closed.
        """
        if not self._finished.wait(timeout):
            raise TimeoutError(f"the answer was not there in time. Received: timeout={timeout}")
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer

    def cancel(self) -> None:
        """Ask for no more: what has come so far is the answer, which ends as "cancelled"."""
        self._cancelled.set()

    # -- the engine's side ------------------------------------------------------------------------

    def reason_to_end(self) -> str | None:
        """Say why the request is to end though its answer has not."""
        if self._cancelled.is_set():
            return "cancelled"
        deadline = self.asked.deadline
        return "deadline" if deadline is not None and time.monotonic() > deadline else None

    def push(self, chosen: Chosen) -> bool:
        """Take a token, and say whether the answer has ended."""
        if self.time_to_first is None:
            self.time_to_first = time.monotonic() - self._start
        piece = self.growing.push(chosen)
        if self.asked.as_text:
            self._show(piece)
        elif not chosen.is_stop:
            self._pieces.put(chosen.token)
        if self._listener is not None:
            self._listener(piece, chosen)
        is_full = len(self.growing.token_ids) >= self.asked.row.max_new_tokens
        return self.growing.has_stopped or is_full

    def finish(self, reason: str | None = None) -> None:
        """Give the answer."""
        rest = self.growing.finish()
        if self.asked.as_text:
            self._show(rest)
        answer = self.growing.answer("", self.asked.num_logprobs is not None)
        self._answer = dataclasses.replace(answer, finish_reason=reason or answer.finish_reason)
        self._end(rest)

    def fail(self, error: BaseException) -> None:
        """Give an error in the place of an answer."""
        self._error = error
        self._end("")

    def _show(self, piece: str) -> None:
        if piece:
            self._pieces.put(piece)

    def _end(self, rest: str) -> None:
        self._finished.set()
        self._pieces.put(None)
        if self._listener is not None:
            self._listener(rest, None)


class FairQueue:
    """Requests that wait: clients take turns, and each client's requests keep their order.

    Args:
        most: how many may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._of_clients: OrderedDict[str, deque[Request]] = OrderedDict()

    def __len__(self) -> int:
        """Count what waits."""
        return sum(map(len, self._of_clients.values()))

    def put(self, request: Request, num_free: int = 0) -> None:
        """Let a request wait.

        Args:
            request: the request.
            num_free: how many places are free, which as many of those that wait are about to take.

        Raises:
            QueueFullError: too many wait already.
        """
        if len(self) >= self._most + num_free:
            raise QueueFullError(
                f"at most {self._most} requests may wait: try again later, or make the engine with "
                f"a larger max_waiting. Received: one more"
            )
        self._of_clients.setdefault(request.asked.client, deque()).append(request)

    def take(self) -> Request | None:
        """Give the next request of the client whose turn it is."""
        if not self._of_clients:
            return None
        client, requests = self._of_clients.popitem(last=False)
        request = requests.popleft()
        if requests:
            self._of_clients[client] = requests  # behind all others
        return request

    def take_unwanted(self) -> list[Request]:
        """Give those that were cancelled or came to their deadline; they wait no more."""
        unwanted = []
        for client, requests in list(self._of_clients.items()):
            wanted = deque(each for each in requests if not each.reason_to_end())
            if len(wanted) == len(requests):
                continue
            unwanted += [each for each in requests if each not in wanted]
            if wanted:
                self._of_clients[client] = wanted
            else:
                del self._of_clients[client]
        return unwanted
