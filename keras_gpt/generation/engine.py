"""Continuous batching: requests join and leave a batch between its steps."""

import dataclasses
import logging
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from keras_gpt.generation.answers import GrowingAnswer
from keras_gpt.generation.batch import Batch
from keras_gpt.generation.cache import batch_bucket
from keras_gpt.generation.decode import Wanted, chosen_tokens
from keras_gpt.generation.options import read_num_logprobs, read_prompts, read_rows, read_stop
from keras_gpt.generation.prompt_reader import Beginnings, PromptReader
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.requests import Asked, FairQueue, Listener, Request
from keras_gpt.generation.sampling_options import check_int, is_number

_log = logging.getLogger(__name__)

# What comes to an engine whose requests all run waits at most as many steps.
_MOST_AHEAD = 4


class Engine:
    """Answers many requests at a time with one model, in a thread of its own.

    Between two steps of the batch requests leave it, one that waits may join it, and one chunk of a
    long prompt is read, so that nobody waits for somebody else's prompt or answer. What prompts
    begin with in common is read once. An answer is the one that the request would get alone.

    Args:
        model: a `GPT`. Its weights must not change while the engine runs.
        max_batch: the most requests that are answered at a time.
        max_waiting: the most requests that wait for a place; `submit` refuses more.
        chunk: the most tokens of a prompt that are read between two steps.
        shared_bytes: how much memory prompts that others may begin with take up.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> with Engine(gpt, max_batch=8) as engine:
        ...     requests = [engine.submit(prompt, max_new_tokens=50) for prompt in prompts]
        ...     answers = [request.result().text for request in requests]

    Source: "Orca", OSDI 2022 (batches that change between steps); chunks of prompts,
    arXiv:2308.16369.
    """

    def __init__(
        self,
        model: Decoder,
        max_batch: int = 8,
        max_waiting: int = 256,
        chunk: int = 128,
        shared_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        check_int("max_batch", max_batch, 1, None)
        check_int("max_waiting", max_waiting, 1, None)
        check_int("chunk", chunk, 1, None)
        check_int("shared_bytes", shared_bytes, 0, None)
        self._model = model
        self._max_batch = max_batch
        self._chunk = min(chunk, model.config.context_length)
        self._beginnings = Beginnings(shared_bytes)
        self._waiting = FairQueue(max_waiting)
        self._changed = threading.Condition()  # guards `_waiting` and `_closed`
        self._closed = False
        self._reading: tuple[Request, PromptReader] | None = None
        self._running: list[Request] = []
        self._places: list[int] = []  # where each running request stands in the batch
        self._batch: Batch | None = None
        self._thread = threading.Thread(target=self._run, name="keras_gpt.Engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Any,
        *,
        client: str = "",
        deadline: float | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: int | None = None,
        sequence: int = 0,
        as_text: bool | None = None,
        listener: Listener | None = None,
        **settings: Any,
    ) -> Request:
        """Ask for an answer.

        Args:
            prompt: a string or a list of ids.
            client: who asks; clients take turns.
            deadline: seconds from now after which the answer ends with what there is; None is
                never.
            stop: as for `GPT.generate`.
            logprobs: as for `GPT.generate`.
            sequence: which of several answers to one prompt: the one that `GPT.generate` gives at
                this place with `num_return_sequences`.
            as_text: whether the answer is text; by default where the prompt is.
            listener: is called from the engine's thread after each token, with the text that has
                become sure and the token; and at the end, when `result` waits no more, with the
                rest of the text and None. It must not wait or fail.
            **settings: those of `GPT.generate`, without `num_return_sequences`, `echo` and `details`.

        Returns:
            The request: an iterator over pieces of the answer, and its `result()`.

        Raises:
            ValueError: an argument is out of range.
            QueueFullError: too many requests wait.
            RuntimeError: the engine was closed.
        """
        prompts = read_prompts(self._model, prompt)
        if not prompts.is_one:
            raise ValueError(
                f"prompt must be one prompt: submit each. Received: {len(prompts.ids)}"
            )
        if deadline is not None and not (is_number(deadline) and deadline >= 0):
            raise ValueError(
                f"deadline must be seconds, 0 or more. Received: deadline={deadline!r}"
            )
        check_int("sequence", sequence, 0, None)
        if as_text is None:
            as_text = prompts.are_strings
        elif as_text and self._model.tokenizer is None:
            raise ValueError("as_text needs a model with a tokenizer. Received: as_text=True")
        (row,) = read_rows(self._model, prompts, num_return_sequences=1, **settings)
        if row.attention_sinks is not None:
            raise ValueError(
                "attention_sinks must be None in an engine, whose requests end with the context: use "
                f"generate or stream. Received: attention_sinks={row.attention_sinks}"
            )
        row = dataclasses.replace(row, sequence=sequence)
        strings = read_stop(stop, as_text)
        asked = Asked(
            row=row,
            num_logprobs=read_num_logprobs(logprobs, True),
            as_text=as_text,
            client=client,
            deadline=None if deadline is None else time.monotonic() + deadline,
        )
        tokenizer = self._model.tokenizer if as_text else None
        growing = GrowingAnswer(row.prompt, tokenizer, strings, row.dropped)
        request = Request(asked, growing, listener)
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine was closed")
            # Requests that come together to an idle engine have places, although none runs yet.
            self._waiting.put(request, num_free=self._max_batch - self.num_running)
            self._changed.notify()
        return request

    @property
    def num_running(self) -> int:
        """Count the requests that are being answered."""
        # A request enters `_running` before it leaves `_reading`, so that one is looked at first;
        # and the other is looked at once, for the engine goes on meanwhile.
        reading, running = self._reading, [*self._running]
        return len(running) + (reading is not None and reading[0] not in running)

    @property
    def num_waiting(self) -> int:
        """Count the requests that wait."""
        with self._changed:
            return len(self._waiting)

    @property
    def is_closed(self) -> bool:
        """Say whether it takes no more requests: it was closed, or has failed."""
        return self._closed

    def close(self) -> None:
        """Stop: requests that have no answer yet get a RuntimeError."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> "Engine":
        """Give the engine, which is closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the engine."""
        self.close()

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        error: BaseException = RuntimeError("the engine was closed")
        try:
            while self._wait_for_work():
                self._end_unwanted()
                self._read_a_chunk()
                if self._batch is not None:
                    self._step(self._batch)
        except Exception as failure:  # whatever it was, nobody may wait for ever
            error = RuntimeError(f"the engine failed: {failure!r}")
            error.__cause__ = failure
        with self._changed:
            self._closed = True
            left = [*self._running, *([self._reading[0]] if self._reading else [])]
            while (waiting := self._waiting.take()) is not None:
                left.append(waiting)
        self._running, self._places, self._reading, self._batch = [], [], None, None
        self._beginnings = Beginnings(0)
        for request in left:
            try:
                request.fail(error)
            except Exception:  # a listener's; the others must hear of it all the same
                _log.exception("a listener failed")

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._closed or self._running or self._reading or len(self._waiting)):
                self._changed.wait()
            if not self._closed and self._reading is None and len(self._running) < self._max_batch:
                request = self._waiting.take()
                if request is not None:
                    reader = PromptReader(
                        self._model, request.asked.row.prompt, self._chunk, self._beginnings
                    )
                    self._reading = (request, reader)
            return not self._closed

    def _somebody_waits(self) -> bool:
        return self._reading is not None or self.num_waiting > 0

    def _end_unwanted(self) -> None:
        """End what was cancelled or came to its deadline."""
        with self._changed:
            unwanted = self._waiting.take_unwanted()
        for request in unwanted:
            request.finish(request.reason_to_end())
        if self._reading is not None and (reason := self._reading[0].reason_to_end()):
            self._reading[0].finish(reason)
            self._reading = None
        for request in list(self._running):
            if reason := request.reason_to_end():
                self._remove(request, reason)
        self._leave()

    def _read_a_chunk(self) -> None:
        if self._reading is None:
            return
        request, reader = self._reading
        read = reader.advance()
        if read is None:
            return
        joining = Batch(self._model, [request.asked.row], read)
        if not self._hand_out(joining, [request], [0]):
            self._places.append(self._join(joining))
            self._running.append(request)
        self._reading = None

    def _join(self, joining: Batch) -> int:
        """Take a row into the batch, and say at which place."""
        if self._batch is None:
            self._batch = joining
            return 0
        size = self._batch.size
        place = next((each for each in range(size) if each not in self._places), size)
        if place == size:
            self._batch.keep(range(size), 2 * size)
        self._batch.put(place, joining)
        return place

    def _step(self, batch: Batch) -> None:
        """Choose the next tokens: several at a time where nobody has to wait for that."""
        looks_at_each = any(each.asked.num_logprobs is not None for each in self._running)
        # Who waits while all places are taken gains nothing by shorter calls.
        may_join = self._somebody_waits() and len(self._running) < self._max_batch
        batch.most_ahead = 1 if looks_at_each or may_join else _MOST_AHEAD
        batch.step(self._places)
        self._hand_out(batch, self._running, self._places)
        while batch.num_ahead:
            batch.step(self._places)
            self._hand_out(batch, self._running, self._places)
        self._leave()

    def _hand_out(self, batch: Batch, requests: list[Request], places: list[int]) -> bool:
        """Give each request its token, and say whether one has ended."""
        wanted = [
            Wanted(place, request.asked.row.stop_token_ids, request.asked.num_logprobs)
            for place, request in zip(places, requests, strict=True)
        ]
        has_ended = False
        for request, each in zip(list(requests), chosen_tokens(batch, wanted), strict=True):
            if request.push(each):
                has_ended = True
                self._remove(request, None)
        return has_ended

    def _remove(self, request: Request, reason: str | None) -> None:
        if request in self._running:
            place = self._running.index(request)
            del self._running[place], self._places[place]
        request.finish(reason)

    def _leave(self) -> None:
        """Compute no more for rows that have ended, where that makes the batch smaller.

        While somebody waits, their places are about to be taken.
        """
        if not self._running:
            self._batch = None
        if self._batch is None or self._somebody_waits():
            return
        if batch_bucket(len(self._running)) < self._batch.size:
            self._batch.keep(self._places)
            self._places = [*range(len(self._running))]
