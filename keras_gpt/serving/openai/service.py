"""What all requests to the OpenAI-style API share: the model, its engine, and the limits."""

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from keras_gpt.generation import Engine
from keras_gpt.generation.sampling_options import check_int, is_number
from keras_gpt.serving.openai.errors import ApiError, queue_full, shutting_down, unavailable
from keras_gpt.serving.openai.grammars import Grammars

# A longer one takes much memory and time to compile, so it has to be asked for.
_USUAL_LENGTH = 2048
_CHUNK = 128  # tokens of a prompt that are read between two steps of the others
_MOST_ANSWERS = 128  # of one request
_COMPOSED = 4  # characters that a tokenizer may take as one, at most

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a server takes on.

    Args:
        max_batch: how many answers are written at a time.
        max_waiting: how many wait; more get status 429.
        max_length: the most tokens of a prompt and its answer; None is the model's context, and
            at most 2048.
        max_request_bytes: a longer body gets status 413.
        warmup: whether to compile everything before the first request; else requests wait where
            they are the first of their size.
        deadline: seconds after which an answer ends with what there is; None is never.
        client_timeout: seconds that a client may take to send a request, or to read on in what it
            is sent, before its connection is closed.

    Raises:
        ValueError: a limit is out of range.
    """

    max_batch: int = 8
    max_waiting: int = 256
    max_length: int | None = None
    warmup: bool = True
    max_request_bytes: int = 4 * 2**20
    deadline: float | None = None
    client_timeout: float = 30.0

    def __post_init__(self) -> None:
        """Check every limit that the engine does not check."""
        check_int("max_request_bytes", self.max_request_bytes, 1, None)
        _check_seconds("client_timeout", self.client_timeout)
        if self.deadline is not None:
            _check_seconds("deadline", self.deadline)


class Service:
    """A model that answers requests, under a name.

    Args:
        gpt: a `GPT` with a tokenizer.
        name: what clients call it.
        limits: how much it takes on.

    Attributes:
        created: when it was made, in seconds since 1970.
        is_draining: whether it takes no more requests because it is to end.
        in_flight: how many requests are being answered.
        grammars: of the forms that clients ask for.

    Raises:
        ValueError: the model has no tokenizer, or a limit is out of range.
    """

    def __init__(self, gpt: Any, name: str, limits: Limits) -> None:
        if gpt.tokenizer is None:
            raise ValueError("gpt must have a tokenizer to serve text. Received: tokenizer=None")
        context = gpt.config.context_length
        usual = min(context, _USUAL_LENGTH)
        self.max_length = usual if limits.max_length is None else limits.max_length
        check_int("max_length", self.max_length, 2, context)
        self._most_characters = self.max_length * _longest_token(gpt.tokenizer) * _COMPOSED
        self.gpt = gpt
        self.name = name
        self.limits = limits
        self.created = int(time.time())
        self.is_draining = False
        self.in_flight = 0
        self.engine = Engine(gpt, limits.max_batch, limits.max_waiting, chunk=_CHUNK)
        self.grammars = Grammars()
        self._warm = threading.Event()
        # One thread: one at a time has bounded memory, also where nobody waits for it any more.
        self._reader = ThreadPoolExecutor(1, "keras_gpt.read")
        self._num_reading = 0  # those that wait included
        self._failure: Exception | None = None

    def warm_up(self) -> None:
        """Compile what requests need, if that is wanted; before its end no request is taken."""
        try:
            if self.limits.warmup:
                self.gpt.warmup(self.limits.max_batch, self.max_length, _CHUNK)
        except Exception as error:  # whatever it was, the server must say so
            self._failure = error
            raise
        self._warm.set()

    @property
    def is_compiling(self) -> bool:
        """Say whether `warm_up` has not ended yet."""
        return self._failure is None and not self._warm.is_set()

    @property
    def is_alive(self) -> bool:
        """Say whether it answers, or will do so."""
        return self._failure is None and (self.is_draining or not self.engine.is_closed)

    @property
    def is_ready(self) -> bool:
        """Say whether it takes requests."""
        return self.is_alive and self._warm.is_set() and not self.is_draining

    def check_ready(self) -> None:
        """Refuse a request that cannot be taken.

        Raises:
            ApiError: the server is starting, ending, or broken.
        """
        if self.is_draining:
            raise shutting_down()
        if not self.is_alive:
            raise ApiError(500, "the server has failed; its log says why", code="engine_failed")
        if not self._warm.is_set():
            raise unavailable("the model is being compiled: try again soon", "not_ready")

    def check_model(self, name: str) -> None:
        """Refuse the name of another model.

        Raises:
            ApiError: it is another one.
        """
        if name != self.name:
            raise ApiError(
                404,
                f"there is no model {name!r:.100} here; there is {self.name!r}",
                param="model",
                code="model_not_found",
            )

    def check_answers(self, num_prompts: int, n: int) -> None:
        """Refuse a request for more answers than one may have, before its prompts are read.

        Raises:
            ApiError: there are too many.
        """
        most = min(_MOST_ANSWERS, self.limits.max_waiting)
        if num_prompts * n > most:
            raise ApiError(
                400,
                f"a request may ask for at most {most} answers. Received: {num_prompts} prompts, "
                f"n={n}",
                param="n",
                code="invalid_value",
            )

    def check_tokens(self, count: int, param: str) -> None:
        """Refuse a text of too many tokens.

        Raises:
            ApiError: there are more than prompt and answer may have.
        """
        if count > self.max_length:
            raise self._too_long(f"{count} tokens", param)

    def check_characters(self, count: int, param: str) -> None:
        """Refuse a text that has too many tokens however it is cut: to count them takes long.

        Raises:
            ApiError: it has.
        """
        if count > self._most_characters:
            raise self._too_long(f"{count} characters", param)

    def _too_long(self, what: str, param: str) -> ApiError:
        return ApiError(
            400,
            f"{param} may have {self.max_length} tokens. Received: {what}",
            param=param,
            code="context_length_exceeded",
        )

    @contextlib.contextmanager
    def reading_place(self) -> Iterator[None]:
        """Hold a place among the requests that are read outside of the engine, or wait for that.

        Raises:
            ApiError: too many requests wait.
        """
        if self._num_reading > self.limits.max_waiting:
            raise queue_full()
        self._num_reading += 1
        try:
            yield
        finally:
            self._num_reading -= 1

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function that reads texts outside of the engine, when its turn comes.

        Raises:
            ApiError: the server ends before that.
        """
        try:
            future = self._reader.submit(function, *args)
        except RuntimeError as error:  # after `close`
            raise shutting_down() from error
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # by `close`, not whoever waits
                raise shutting_down() from error
            raise

    def close(self) -> None:
        """End the engine."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        self.engine.close()


def _check_seconds(name: str, seconds: float) -> None:
    if not (is_number(seconds) and seconds > 0):
        raise ValueError(f"{name} must be seconds above 0. Received: {name}={seconds!r}")


def _longest_token(tokenizer: Any) -> int:
    """Give the most characters that one token stands for, or more."""
    special = tokenizer.special_tokens
    names = set(special.values())
    known = (token for token in range(tokenizer.vocab_size) if token not in names)
    return max(*map(len, special), *(len(tokenizer.token_bytes(token)) for token in known), 1)
