"""A model that reads one row and can forget the end of it again."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_gpt.generation.batch import read_at_once
from keras_gpt.generation.cache import RECENT_SLOTS, empty_recent
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row, tensor
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
        read = read_at_once(model, [row])
        self._past = list(read.past)
        self.first = self.steps.choose(read.logits, sampling, tensor([0], "int32"))
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
        return self._read(padded, len(tokens), [len(tokens) - 1])[:, 0, :]

    def verify(self, tokens: Sequence[int]) -> Any:
        """Read tokens; give the logits after each, (1, len(tokens), vocab_size)."""
        return self._read([tokens], len(tokens), range(len(tokens)))

    def _read(self, token_ids: Any, count: int, wanted: Sequence[int]) -> Any:
        """Read the first `count` of (1, width) ids; give the logits after the wanted ones."""
        logits, self._recent = self.steps.read(
            tensor(token_ids, "int32"),
            tensor([wanted], "int32"),
            *self._places(),
            self._past,
            self._recent,
        )
        self._slots = self._slots + count
        return logits

    def _places(self) -> tuple[Any, Any]:
        return tensor(self._lengths, "int32"), tensor(self._slots, "int32")
