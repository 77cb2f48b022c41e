"""The answers to one request while they are being written, for the event loop."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool

from keras_gpt.generation import Answer, QueueFullError, Request
from keras_gpt.generation.decode import Chosen
from keras_gpt.serving.openai.errors import (
    ApiError,
    of_argument,
    queue_full,
    shutting_down,
    unavailable,
)
from keras_gpt.serving.openai.service import Service


@dataclasses.dataclass(frozen=True)
class Job:
    """What a request asks the engine for: `n` answers to each prompt.

    Args:
        prompts: their ids.
        param: the argument that they came in.
        max_new_tokens: the most tokens of each answer; None is `usual`, or as many as fit.
        usual: how many tokens an answer has where nobody said; None is as many as fit.
        n: how many answers to each prompt.
        settings: other arguments of `Engine.submit`.
    """

    prompts: list[list[int]]
    param: str
    max_new_tokens: int | None
    usual: int | None
    n: int
    settings: dict[str, Any]

    @property
    def num_prompt_tokens(self) -> int:
        """Count the tokens of the prompts."""
        return sum(map(len, self.prompts))


class Event(NamedTuple):
    """What came of one answer: a token with the text that is sure now, or the end."""

    place: int  # prompts in their order, each with its n answers
    text: str
    chosen: Chosen | None
    answer: Answer | None  # at the end


class Running:
    """The answers to a job.

    Args:
        service: answers.
        job: what is asked for.
        client: who asks; clients take turns.
    """

    def __init__(self, service: Service, job: Job, client: str) -> None:
        self._service = service
        self._job = job
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, str, Chosen | None]] = asyncio.Queue()
        self._requests: list[Request] = []
        self._max_new_tokens = [self._room(len(prompt)) for prompt in job.prompts]

    async def start(self) -> None:
        """Hand the job to the engine, all of it or nothing.

        Raises:
            ApiError: an argument is refused, or too many requests wait.
        """
        try:
            # In a thread: a grammar may take long to compile.
            await run_in_threadpool(self._submit)
        except BaseException as error:
            self.cancel()
            if isinstance(error, QueueFullError):
                raise queue_full() from error
            if isinstance(error, ValueError | TypeError | ImportError):
                raise of_argument(error) from error
            if isinstance(error, RuntimeError):
                raise self._closed() from error
            raise

    async def events(self) -> AsyncIterator[Event]:
        """Give what comes until all answers have ended.

        Raises:
            ApiError: an answer could not be given.
        """
        left = len(self._requests)
        while left:
            index, text, chosen = await self._events.get()
            if chosen is None:
                left -= 1
            yield Event(index, text, chosen, self._answer(index) if chosen is None else None)

    def cancel(self) -> None:
        """Let the engine write no more of it."""
        for request in self._requests:
            request.cancel()

    def _room(self, length: int) -> int:
        """Give the most new tokens behind a prompt."""
        room = self._service.max_length - length
        if (self._job.max_new_tokens or 1) > room:
            wanted = self._job.max_new_tokens
            answer = "" if wanted is None else f", and {wanted} of the answer"
            raise ApiError(
                400,
                f"prompt and answer may have {self._service.max_length} tokens together. "
                f"Received: {length} tokens in {self._job.param}{answer}",
                param=self._job.param,
                code="context_length_exceeded",
            )
        return self._job.max_new_tokens or min(room, self._job.usual or room)

    def _submit(self) -> None:
        for place, prompt in enumerate(self._job.prompts):
            for sequence in range(self._job.n):
                self._requests.append(
                    self._service.engine.submit(
                        prompt,
                        client=self._client,
                        deadline=self._service.limits.deadline,
                        sequence=sequence,
                        as_text=True,
                        listener=self._listener(place * self._job.n + sequence),
                        max_new_tokens=self._max_new_tokens[place],
                        **self._job.settings,
                    )
                )

    def _listener(self, index: int) -> Any:
        def tell(text: str, chosen: Chosen | None) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, text, chosen))

        return tell

    def _answer(self, index: int) -> Answer:
        try:
            answer = self._requests[index].result(timeout=0)
        except RuntimeError as error:
            raise self._closed() from error
        if answer.finish_reason == "deadline" and not answer.token_ids:
            raise unavailable("no answer could be begun in time: try again", "deadline_exceeded")
        return answer

    def _closed(self) -> ApiError:
        if self._service.is_draining:
            return shutting_down()
        return ApiError(500, "the engine has failed; the server's log says why")
