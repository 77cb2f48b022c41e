"""Rows that are decoded together, each with its own length, settings and number of steps."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_gpt.generation.cache import (
    RECENT_SLOTS,
    batch_bucket,
    empty_recent,
    length_bucket,
)
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row, padded_prompts, sampling_of, tensor
from keras_gpt.generation.sampling import Sampling
from keras_gpt.generation.steps import decode_steps
from keras_gpt.key_values import KeyValues


class Batch:
    """What decoding keeps of its rows between two steps.

    Args:
        model: gives the logits.
        rows: what to go on with; their prompts are read at once.

    Attributes:
        tokens: (size,) int32, each row's last chosen token.
        logits: (size, vocab_size) float32, what they were chosen from.
        steps: (size,) int32, how many tokens of each row were chosen before `tokens`.
    """

    def __init__(self, model: Decoder, rows: Sequence[Row]) -> None:
        self._steps = decode_steps(model)
        context = model.config.context_length
        # Rows beyond the real ones copy the first; nobody looks at what comes of them.
        padded = [*rows, *[rows[0]] * (batch_bucket(len(rows)) - len(rows))]
        self._lengths = np.array([len(row.prompt) for row in padded], "int32")
        time = length_bucket(int(self._lengths.max()), context)
        self._sampling = sampling_of(padded)
        chosen, self.logits, self._past = self._steps.first(
            tensor(padded_prompts(padded, time), "int32"),
            tensor(self._lengths, "int32"),
            self._sampling,
        )
        self.tokens = ops.convert_to_numpy(chosen)
        self._recent = empty_recent(self._past)
        self._slots = np.zeros_like(self._lengths)
        self.steps = np.zeros_like(self._lengths)

    @property
    def size(self) -> int:
        """How many rows are computed, those that nobody looks at included."""
        return len(self.tokens)

    def step(self) -> None:
        """Read each row's last token and choose the next."""
        if self._slots.max() == RECENT_SLOTS:
            self._fold()
        self.steps = self.steps + 1
        chosen, self.logits, self._recent = self._steps.next(
            tensor(self.tokens, "int32"),
            tensor(self.steps, "int32"),
            self._sampling,
            tensor(self._lengths, "int32"),
            tensor(self._slots, "int32"),
            self._past,
            self._recent,
        )
        self.tokens = ops.convert_to_numpy(chosen)
        self._slots = self._slots + 1

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; one may be kept several times."""
        more = batch_bucket(len(indices)) - len(indices)
        rows = np.array([*indices, *[indices[0]] * more], "int32")

        def kept(layers: list[KeyValues]) -> list[KeyValues]:
            return [KeyValues(*[ops.take(part, rows, axis=0) for part in each]) for each in layers]

        self._past, self._recent = kept(self._past), kept(self._recent)
        self._sampling = Sampling(*[ops.take(each, rows, axis=0) for each in self._sampling])
        self.logits = ops.take(self.logits, rows, axis=0)
        self.tokens, self.steps = self.tokens[rows], self.steps[rows]
        self._lengths, self._slots = self._lengths[rows], self._slots[rows]

    def _fold(self) -> None:
        self._past = self._steps.fold_growing(self._past, self._recent, self._lengths, self._slots)
        self._lengths = self._lengths + self._slots
        self._slots = np.zeros_like(self._slots)
