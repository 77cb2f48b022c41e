"""What is known about one request to the API: for its response's headers and for the log."""

import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from keras_gpt.serving.openai.choices import Choice
from keras_gpt.serving.openai.errors import ApiError
from keras_gpt.serving.openai.forms import Usage
from keras_gpt.serving.openai.keys import Key

CLIENT_GONE = 499  # the status that no client sees, as nginx has it
_LONGEST_PATH = 200


class Record:
    """One request.

    Args:
        method: of HTTP.
        path: as it came.
        address: where it came from.

    Attributes:
        id: is in the response's headers and in the log.
        client: who asks: a key's name, or an address.
        key: whose, where keys are needed.
        error: what went wrong.
        prompt: what was asked, for logs that are to have it.
        first_token_seconds: how long the first token took; None before it.
    """

    def __init__(self, method: str, path: str, address: str) -> None:
        self.id = f"req_{uuid.uuid4().hex}"
        self.client = address
        self.key: Key | None = None
        self.error: ApiError | None = None
        self.prompt: Any = None
        self._method, self._path = method, path[:_LONGEST_PATH]
        self._start = time.monotonic()
        self.first_token_seconds: float | None = None
        self._num_prompt_tokens: int | None = None
        self._choices: Sequence[Choice] = ()
        self._is_stream = False
        self._at_end: list[Callable[[], None]] = []

    def begin(
        self, num_prompt_tokens: int, choices: Sequence[Choice] = (), is_stream: bool = False
    ) -> None:
        """Take what is asked for, and the answers that will grow.

        Raises:
            ApiError: the key may not use so many tokens now.
        """
        if self.key is not None:
            self.key.take_prompt(num_prompt_tokens)
        self._num_prompt_tokens = num_prompt_tokens
        self._choices = choices
        self._is_stream = is_stream

    def at_end(self, work: Callable[[], None]) -> None:
        """Have something done when the response has ended, or the client has gone."""
        self._at_end.append(work)

    def end(self) -> None:
        """Do it."""
        if self.key is not None:
            self.key.take_answer(self.usage().completion_tokens)
        for work in self._at_end:
            work()

    def headers(self) -> dict[str, str]:
        """Give what the response's headers have besides its own."""
        return {"x-request-id": self.id, **({} if self.key is None else self.key.headers())}

    def saw_token(self) -> None:
        """Note when the first token comes."""
        if self.first_token_seconds is None:
            self.first_token_seconds = self.seconds()

    def seconds(self) -> float:
        """Give how long it has been here."""
        return time.monotonic() - self._start

    def usage(self) -> Usage:
        """Give how many tokens were read and written so far."""
        return Usage(self._num_prompt_tokens or 0, sum(each.num_tokens for each in self._choices))

    def finish_reasons(self) -> list[str | None]:
        """Give what ended each answer; None where it has not ended."""
        return [each.finish_reason for each in self._choices]

    def fields(self, status: int) -> dict[str, Any]:
        """Give what the log says of it."""
        fields: dict[str, Any] = {
            "request_id": self.id,
            "client": self.client,
            "method": self._method,
            "path": self._path,
            "status": status,
            "seconds": round(self.seconds(), 4),
        }
        if self._num_prompt_tokens is not None:
            fields |= self.usage()._asdict()
            fields["stream"] = self._is_stream
            fields["finish_reasons"] = self.finish_reasons()
            first = self.first_token_seconds
            fields["seconds_to_first_token"] = None if first is None else round(first, 4)
        if self.error is not None:
            fields["error_code"] = self.error.code
        if self.prompt is not None:
            fields["prompt"] = self.prompt
        return fields


class Log:
    """Writes one line of JSON for each thing that happens.

    Args:
        stream: takes the lines; None drops them.
        with_prompts: whether they have what clients asked.
    """

    def __init__(self, stream: TextIO | None, with_prompts: bool = False) -> None:
        self._stream = stream
        self.with_prompts = with_prompts

    def write(self, event: str, **fields: Any) -> None:
        """Write a line."""
        if self._stream is not None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            # Only ASCII: whatever a client sends, it is one line of text.
            self._stream.write(json.dumps({"time": now, "event": event, **fields}) + "\n")
            self._stream.flush()


class LogHandler(logging.Handler):
    """Gives what libraries log to a `Log`, so that all of it is of one form.

    Args:
        log: takes it.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            level, text = record.levelname.lower(), self.format(record)
            self._log.write("log", level=level, logger=record.name, message=text)
        except Exception:
            self.handleError(record)
