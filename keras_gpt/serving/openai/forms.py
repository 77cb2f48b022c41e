"""What both kinds of completions have in common: how answers become JSON, at once or in pieces."""

import abc
import time
import uuid
from typing import Any, NamedTuple

from keras_gpt.serving.openai.choices import Choice, Delta


class Usage(NamedTuple):
    """How many tokens were read and written."""

    prompt_tokens: int
    completion_tokens: int

    def to_dict(self) -> dict[str, int]:
        """Give it as OpenAI's API has it."""
        return {**self._asdict(), "total_tokens": sum(self)}


class Form(abc.ABC):
    """How the answers to one request are written.

    Args:
        model: its name.
        prefix: what the id begins with.
    """

    whole_object: str
    chunk_object: str

    def __init__(self, model: str, prefix: str) -> None:
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model

    def whole(self, choices: list[Choice], usage: Usage) -> dict[str, Any]:
        """Give all answers at once."""
        written = [self._whole_choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._object(self.whole_object, written), "usage": usage.to_dict()}

    def chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        """Give one object of a stream."""
        return self._object(self.chunk_object, list(choices))

    @abc.abstractmethod
    def first(self, index: int) -> list[dict[str, Any]]:
        """Give what a stream begins with for one answer."""

    @abc.abstractmethod
    def delta(self, index: int, delta: Delta) -> dict[str, Any]:
        """Give one more piece of an answer."""

    @abc.abstractmethod
    def last(self, index: int, finish_reason: str | None) -> dict[str, Any]:
        """Give the end of an answer."""

    @abc.abstractmethod
    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]: ...

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
