"""Rows that are decoded together, each with its own length, settings and number of steps."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from keras import ops

from keras_gpt.generation.cache import (
    RECENT_SLOTS,
    batch_bucket,
    empty_recent,
    length_bucket,
    longest,
)
from keras_gpt.generation.constraints import ConstraintState, start_constraint
from keras_gpt.generation.control import Control, Seen, controls_of, forced_now, seen_of
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row, padded_prompts, sampling_of, taken, tensor
from keras_gpt.generation.steps import DecodeSteps, GoingOn, decode_steps
from keras_gpt.key_values import KeyValues

T = TypeVar("T")


class ReadPrompts(NamedTuple):
    """What reading prompts gives: for each row the logits of the next token, and the past."""

    logits: Any  # (size, vocab_size) float32
    past: Sequence[KeyValues]


class Logprobs(NamedTuple):
    """What the model itself gave the chosen tokens, before temperature, cut-offs and penalties."""

    chosen: np.ndarray  # (size,) float32
    top_ids: np.ndarray  # (size, TOP_LOGPROBS) int32, the most probable first
    top: np.ndarray  # (size, TOP_LOGPROBS) float32


class Batch:
    """What decoding keeps of its rows between two steps.

    Args:
        model: gives the logits.
        rows: what to go on with.
        read: what reading their prompts gave, for all of them and for those that fill the batch up.
        most_ahead: see below.

    Attributes:
        most_ahead: how many tokens of each row it may choose at a time where it is asked for one,
            up to where a row may end: many tokens sooner, the first one later.
        tokens: (size,) int32, each row's last chosen token.
        steps: (size,) int32, how many tokens of each row were chosen before `tokens`.
    """

    def __init__(
        self, model: Decoder, rows: Sequence[Row], read: ReadPrompts, most_ahead: int = 1
    ) -> None:
        self._model = model
        self._steps = decode_steps(model)
        self._rows = filled_up(rows)
        self.most_ahead = most_ahead
        self._ahead: list[np.ndarray] = []  # chosen and not yet asked for, each (size,)
        self._last = self._ends_of_rows()
        self._lengths = np.array([len(row.prompt) for row in self._rows], "int32")
        self._slots = np.zeros_like(self._lengths)
        self.steps = np.zeros_like(self._lengths)
        self._sampling = sampling_of(self._rows)
        self._control: Control | None = None
        self._seen: Seen  # where there is control
        if any(row.is_controlled for row in self._rows):
            self._be_controlled()
        # None for rows without a constraint, and for those that nobody looks at.
        self._states: list[ConstraintState | None] = [None] * self.size
        self._states[: len(rows)] = [self._start(row) for row in rows]
        self._logits, self._past = read.logits, list(read.past)
        self._recent = empty_recent(self._past)
        self.tokens = self._choose(self.steps)

    @property
    def size(self) -> int:
        """How many rows are computed, those that nobody looks at included."""
        return len(self._rows)

    @property
    def num_ahead(self) -> int:
        """How many more tokens of each row are chosen already: `step` takes no time for them."""
        return len(self._ahead)

    def step(self, live: Sequence[int]) -> None:
        """Read each row's last token and choose the next.

        Args:
            live: the places of the rows that somebody looks at; the others stay short.
        """
        if not self._ahead:
            self._go_on(live)
        self.steps = self.steps + 1
        self.tokens = self._ahead.pop(0)

    def logprobs(self) -> Logprobs:
        """Give the log-probabilities of the last chosen tokens, and of the most probable ones."""
        return logprobs_of(self._steps, self._logits, self.tokens)

    def end_of(self, place: int) -> str | None:
        """Say why a row's constraint ends it with its last token; None where it goes on."""
        state = self._states[place]
        return None if state is None else state.ended

    def keep(self, indices: Sequence[int], size: int | None = None) -> None:
        """Go on with these rows alone, in this order; one may be kept several times.

        Args:
            indices: their places.
            size: how many rows are computed from now on; None is what `batch_bucket` says.
        """
        places = filled_up(indices, size)
        index = np.array(places, "int32")
        self._rows = [self._rows[place] for place in places]
        states = [self._states[place] for place in indices]
        for at, state in enumerate(states):
            if state is not None and indices[at] in indices[:at]:
                states[at] = state.copy()
        self._states = [*states, *[None] * (len(places) - len(indices))]
        self._past, self._recent = taken(self._past, index), taken(self._recent, index)
        self._sampling = taken(self._sampling, index)
        if self._control is not None:
            self._control, self._seen = taken(self._control, index), taken(self._seen, index)
        self._logits = ops.take(self._logits, index, axis=0)
        self.tokens, self.steps = self.tokens[index], self.steps[index]
        self._ahead = [tokens[index] for tokens in self._ahead]
        self._lengths, self._slots = self._lengths[index], self._slots[index]

    def put(self, place: int, other: "Batch") -> None:
        """Go on with the one row of another batch at a place whose row nobody looks at any more."""
        length = max(longest(each._past) for each in (self, other))
        if self._control is not None or other._control is not None:
            for each in (self, other):
                if each._control is None:
                    each._be_controlled()
        for each in (self, other):
            each._past = self._steps.grow(each._past, length)
        at = tensor(place, "int32")
        self._past = self._steps.place_layers(self._past, other._past, at)
        self._recent = self._steps.place_layers(self._recent, other._recent, at)
        self._sampling, self._logits = self._steps.place(
            (self._sampling, self._logits), (other._sampling, other._logits), at
        )
        if self._control is not None:
            self._control, self._seen = self._steps.place(
                (self._control, self._seen), (other._control, other._seen), at
            )
        self._rows[place], self._states[place] = other._rows[0], other._states[0]
        self._last = self._ends_of_rows()
        for name in ("tokens", "steps", "_lengths", "_slots"):
            values = getattr(self, name).copy()
            values[place] = getattr(other, name)[0]
            setattr(self, name, values)

    def _go_on(self, live: Sequence[int]) -> None:
        """Choose the next tokens; several where nothing has to be looked at between them."""
        is_live = np.zeros(self.size, "bool")
        is_live[list(live)] = True
        self._lengths = np.where(is_live, self._lengths, 0).astype("int32")
        self._slots = np.where(is_live, self._slots, 0).astype("int32")
        self._states = [
            each if one_is_live else None
            for one_is_live, each in zip(is_live, self._states, strict=True)
        ]
        if not any(self._rows[place].is_controlled for place in live):
            self._control = None
        self._make_room()
        most = 1
        if self._control is None:
            left = [self._rows[place].max_new_tokens - self.steps[place] - 1 for place in live]
            most = min(self.most_ahead, RECENT_SLOTS - int(self._slots.max()), *left)
        found = self._steps.several(
            GoingOn(
                lengths=tensor(self._lengths, "int32"),
                slots=tensor(self._slots, "int32"),
                steps=tensor(self.steps + 1, "int32"),
                past=self._past,
                sampling=self._sampling,
                last=self._last,
                live=tensor(is_live, "bool"),
                most=tensor(most, "int32"),
            ),
            tensor(self.tokens, "int32"),
            self._recent,
        )
        self._logits, self._recent = found.logits, list(found.recent)
        self._slots = self._slots + len(found.tokens)
        self._ahead = list(found.tokens)
        if self._control is not None:
            self._ahead = [self._choose(self.steps + 1)]

    def _ends_of_rows(self) -> Any:
        """Give the tokens that end any of the rows, (known,) bool."""
        ends = np.zeros(self._steps.known, "bool")
        for row in self._rows:
            ends[[token for token in row.stop_token_ids if token < len(ends)]] = True
        return tensor(ends, "bool")

    def _be_controlled(self) -> None:
        self._control = controls_of(self._rows, self._steps.known)
        self._seen = seen_of(self._rows, self._steps.known, self._model.config.context_length)

    def _choose(self, steps: np.ndarray) -> np.ndarray:
        """Choose a token a row; `steps`, (size,), says how many of each row were chosen before."""
        if self._control is not None:
            chosen, self._seen = self._steps.choose_controlled(
                self._logits,
                self._sampling,
                tensor(steps, "int32"),
                self._control,
                self._seen,
                tensor(self._allowed(), "bool"),
                tensor(self._forced(steps), "int32"),
            )
        else:
            chosen = self._steps.choose(self._logits, self._sampling, tensor(steps, "int32"))
        tokens = np.asarray(ops.convert_to_numpy(chosen))
        for token, state in zip(tokens, self._states, strict=True):
            if state is not None:
                state.accept(int(token))
        return tokens

    def _start(self, row: Row) -> ConstraintState | None:
        tokenizer = self._model.tokenizer
        if row.constraint is None or tokenizer is None:
            return None
        return start_constraint(tokenizer, row.constraint, row.stop_token_ids)

    def _allowed(self) -> np.ndarray:
        """Give what constraints leave, (size or 1, vocab_size) bool."""
        if all(row.constraint is None for row in self._rows):
            return np.ones((1, self._steps.known), "bool")
        allowed = np.ones((self.size, self._steps.known), "bool")
        for place, state in enumerate(self._states):
            if state is not None:
                allowed[place] = state.allowed()
        return allowed

    def _forced(self, steps: np.ndarray) -> list[int]:
        """Give the token that each row must take now; -1 for none."""
        return [forced_now(row, step) for row, step in zip(self._rows, steps, strict=True)]

    def _make_room(self) -> None:
        """See to it that each row's next token finds a slot."""
        if self._slots.max() == RECENT_SLOTS:
            self._fold()

    def _fold(self) -> None:
        self._past = self._steps.fold_growing(self._past, self._recent, self._lengths, self._slots)
        self._lengths = self._lengths + self._slots
        self._slots = np.zeros_like(self._slots)


def read_at_once(model: Decoder, rows: Sequence[Row]) -> ReadPrompts:
    """Read the prompts of all rows at once."""
    rows = filled_up(rows)
    lengths = [len(row.prompt) for row in rows]
    time = length_bucket(max(lengths), model.config.context_length)
    return ReadPrompts(
        *decode_steps(model).first(
            tensor(padded_prompts(rows, time), "int32"), tensor(lengths, "int32")
        )
    )


def logprobs_of(steps: DecodeSteps, logits: Any, tokens: np.ndarray) -> Logprobs:
    """Give what logits (size, vocab_size) say of chosen tokens (size,), and of the most probable."""
    found = steps.logprobs(logits, tensor(tokens, "int32"))
    return Logprobs(*[ops.convert_to_numpy(each) for each in found])


def filled_up(rows: Sequence[T], size: int | None = None) -> list[T]:
    """Fill rows, or their places, up to a batch bucket with the first; nobody looks at those."""
    size = batch_bucket(len(rows)) if size is None else size
    return [*rows, *[rows[0]] * (size - len(rows))]
