"""A model that reads one row and can forget the end of it again."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_gpt.generation.cache import RECENT_SLOTS, empty_recent, length_bucket
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row, padded_prompts, tensor
from keras_gpt.generation.sampling import Sampling
from keras_gpt.generation.steps import decode_steps


class RowReader:
    """What a model has read of one row: the prompt, and then what it is given.

    Args:
        model: reads.
        row: its prompt is read at once.
        sampling: the row's settings.

    Attributes:
        steps: the model's compiled functions.
        first: (1,) int32, the token chosen after the prompt.
    """

    def __init__(self, model: Decoder, row: Row, sampling: Sampling) -> None:
        self.steps = decode_steps(model)
        time = length_bucket(len(row.prompt), model.config.context_length)
        logits, self._past = self.steps.first(
            tensor(padded_prompts([row], time), "int32"), tensor([len(row.prompt)], "int32")
        )
        self.first = self.steps.choose(logits, sampling, tensor([0], "int32"))
        self._recent = empty_recent(self._past)
        self._lengths = np.array([len(row.prompt)], "int32")
        self._slots = np.zeros_like(self._lengths)

    @property
    def count(self) -> int:
        """How many tokens of the row are read and not forgotten."""
        return int(self._lengths[0] + self._slots[0])

    def forget_from(self, count: int) -> None:
        """Go back to where `count` tokens were read; only what came since `make_room` is forgotten.

        What lies in the slots behind is not looked at, and the next tokens overwrite it.
        """
        self._slots = np.array([count], "int32") - self._lengths

    def make_room(self, count: int) -> None:
        """See to it that `count` more tokens, at most `RECENT_SLOTS`, find slots."""
        if self._slots[0] + count > RECENT_SLOTS:
            self._past = self.steps.fold_growing(
                self._past, self._recent, self._lengths, self._slots
            )
            self._lengths = self._lengths + self._slots
            self._slots = np.zeros_like(self._slots)

    def next(self, token: Any, step: int, sampling: Sampling) -> tuple[Any, Any]:
        """Read a token, (1,) int32; give the next one and the logits it was chosen from."""
        logits, self._recent = self.steps.next(token, *self._places(), self._past, self._recent)
        self._slots = self._slots + 1
        return self.steps.choose(logits, sampling, tensor([step], "int32")), logits

    def read(self, tokens: Sequence[int], width: int) -> Any:
        """Read 1 to `width` tokens; give the logits after the last, (1, vocab_size).

        Args:
            tokens: what to read.
            width: how many are computed, so that the shape does not depend on how many there are.
        """
        padded = np.zeros((1, width), "int32")
        padded[0, : len(tokens)] = tokens
        logits, self._recent = self.steps.read(
            tensor(padded, "int32"),
            tensor([len(tokens)], "int32"),
            *self._places(),
            self._past,
            self._recent,
        )
        self._slots = self._slots + len(tokens)
        return logits

    def verify(self, tokens: Sequence[int]) -> Any:
        """Read tokens; give the logits after each, (1, len(tokens), vocab_size)."""
        logits, self._recent = self.steps.verify(
            tensor([tokens], "int32"), *self._places(), self._past, self._recent
        )
        self._slots = self._slots + len(tokens)
        return logits

    def _places(self) -> tuple[Any, Any]:
        return tensor(self._lengths, "int32"), tensor(self._slots, "int32")
