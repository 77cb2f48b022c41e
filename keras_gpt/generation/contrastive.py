"""Contrastive search: the probable token whose state is least like those of all earlier tokens.

Greedy answers of a model go in circles. A token that repeats what was said gets a state close to those
of what it repeats; here that closeness is taken from its probability. To know the states of the
candidates the model reads all of them: each row stands in the cache once for each candidate, and when
one is chosen, what it left there is given to the others.
"""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gpt.generation.batch import Logprobs, filled_up, logprobs_of
from keras_gpt.generation.cache import RECENT_SLOTS, empty_recent, keep_windows, length_bucket
from keras_gpt.generation.compiled import compiled, kept_with
from keras_gpt.generation.control import (
    Changes,
    changed_logits,
    changes_of,
    forced_now,
    seen_with,
)
from keras_gpt.generation.decode import Chosen, follow
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.rows import Row, padded_prompts, taken, tensor
from keras_gpt.generation.steps import decode_steps
from keras_gpt.key_values import KeyValues


def decode_contrastively(
    model: Decoder,
    rows: Sequence[Row],
    penalty_alpha: float,
    ended: AbstractSet[int] = frozenset(),
    num_logprobs: int | None = None,
) -> Iterator[dict[int, Chosen]]:
    """Choose token after token for every row until each has stopped, as `decode` does.

    Of the `top_k` most probable tokens v, given the tokens x so far, the next one is that of the
    largest

        (1 - penalty_alpha) * P(v | x) - penalty_alpha * max over j of cos(h(v), h(x[j]))

    where h are the states that the model makes logits from. P is what penalties, biases and bans
    leave of the model's distribution.

    Args:
        model: gives logits and states.
        rows: what to go on with, all with the same settings; each fits the context together with
            its new tokens.
        penalty_alpha: from 0 to 1; 0 always takes the most probable token.
        ended: as for `decode`.
        num_logprobs: as for `decode`.

    Yields:
        At each step the chosen token of each row that has not ended.

    Source: arXiv:2202.06417, equation 5.
    """
    yield from follow(_ContrastiveBatch(model, rows, penalty_alpha), rows, ended, num_logprobs)


class _ContrastiveBatch:
    """What contrastive search keeps of its rows between two steps; see `ChoosingBatch`."""

    def __init__(self, model: Decoder, rows: Sequence[Row], penalty_alpha: float) -> None:
        rows = filled_up(rows)
        self._steps = decode_steps(model)
        self._functions = _functions_of(model)
        self._alpha = tensor(penalty_alpha, "float32")
        self._row = rows[0]  # for the settings, which are those of all
        self._width = min(self._row.options.top_k or 1, self._steps.known)
        self._lengths = np.array([len(row.prompt) for row in rows], "int32")
        self._slots = 0
        self._chosen = 0  # new tokens of each row
        context = model.config.context_length
        self._changes = changes_of(rows, self._steps.known, context)
        time = length_bucket(int(self._lengths.max()), context)
        self._next_logits, directions, past = self._functions.read(
            tensor(padded_prompts(rows, time), "int32"), tensor(self._lengths, "int32")
        )
        longest = max(len(row.prompt) + row.max_new_tokens for row in rows)
        more = length_bucket(longest, context) - time
        self._directions = ops.pad(directions, [[0, 0], [0, more], [0, 0]])
        self._past = taken(past, tensor(np.repeat(np.arange(self.size), self._width), "int32"))
        self._recent = empty_recent(self._past)
        self.step(range(self.size))

    @property
    def size(self) -> int:
        """How many rows are computed, those that nobody looks at included."""
        return len(self._lengths)

    def step(self, live: Sequence[int]) -> None:
        """Choose the next token of each row; the states that this needs are those of reading it."""
        if self._slots == RECENT_SLOTS:
            self._fold()
        self._logits = self._next_logits
        step, forced = self._chosen, forced_now(self._row, self._chosen)
        tokens, self._next_logits, self._directions, self._recent, seen = self._functions.step(
            self._logits,
            tensor(step, "int32"),
            tensor(forced, "int32"),
            self._changes,
            self._alpha,
            self._directions,
            tensor(self._lengths, "int32"),
            tensor(np.full_like(self._lengths, self._slots), "int32"),
            self._past,
            self._recent,
        )
        if self._changes is not None:
            self._changes = Changes(self._changes.control, seen)
        self._slots += 1
        self._chosen += 1
        self.tokens = np.asarray(ops.convert_to_numpy(tokens))

    def logprobs(self) -> Logprobs:
        """Give the log-probabilities of the last chosen tokens, and of the most probable ones."""
        return logprobs_of(self._steps, self._logits, self.tokens)

    def end_of(self, place: int) -> None:
        """No constraint ends a row."""

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        places = np.array(filled_up(indices))
        rows = tensor(places, "int32")
        columns = np.arange(self._width)
        of_candidates = tensor((places[:, None] * self._width + columns).reshape(-1), "int32")
        self._past = taken(self._past, of_candidates)
        self._recent = taken(self._recent, of_candidates)
        self._next_logits = ops.take(self._next_logits, rows, axis=0)
        self._directions = ops.take(self._directions, rows, axis=0)
        if self._changes is not None:
            self._changes = taken(self._changes, rows)
        self._lengths, self.tokens = self._lengths[places], self.tokens[places]

    def _fold(self) -> None:
        lengths = np.repeat(self._lengths, self._width)
        slots = np.full_like(lengths, self._slots)
        self._past = self._steps.fold_growing(self._past, self._recent, lengths, slots)
        self._lengths, self._slots = self._lengths + self._slots, 0


class _Functions(NamedTuple):
    read: Callable[..., Any]
    step: Callable[..., Any]


def _functions_of(model: Decoder) -> _Functions:
    """Give the compiled functions, made on first use and kept."""
    functions: _Functions = kept_with(
        model, "_contrastive_functions", lambda: _make_functions(model)
    )
    return functions


def _make_functions(model: Decoder) -> _Functions:
    known = decode_steps(model).known

    def directions_of(states: Any) -> Any:
        """Give last states at length 1, so that a product is a cosine."""
        last = ops.cast(model.finish(states), "float32")
        squares = ops.sum(ops.square(last), axis=-1, keepdims=True)
        return last * ops.rsqrt(ops.maximum(squares, 1e-30))

    def read(token_ids: Any, lengths: Any) -> tuple[Any, Any, list[KeyValues]]:
        """Give the next logits, the directions (batch, time, embedding_dim), and the past."""
        states, cache = model.prefill(token_ids, lengths)
        ends = ops.reshape(lengths - 1, (-1, 1, 1))
        last = ops.take_along_axis(states, ends, axis=1)[:, 0, :]
        past = keep_windows(cache, lengths, model.config)
        return model.next_logits(last)[:, :known], directions_of(states), past

    def step(
        logits: Any,
        step: Any,
        forced: Any,
        changes: Changes | None,
        alpha: Any,
        directions: Any,
        lengths: Any,
        slots: Any,
        past: Sequence[KeyValues],
        recent: Sequence[KeyValues],
    ) -> tuple[Any, Any, Any, list[KeyValues], Any]:
        """Choose one token a row.

        Args:
            logits: (batch, vocab_size) float32.
            step, forced, changes: as for `changed_logits`.
            alpha: scalar float32.
            directions: (batch, time, embedding_dim) float32, of each row's tokens so far.
            lengths, slots: (batch,) int32, as for `GPT.step`.
            past, recent: as for `GPT.step`, of batch * candidates rows.

        Returns:
            (batch,) int32 tokens; the logits after them; directions, recent and what was seen with
            them.
        """
        batch, count = logits.shape[0], recent[0].keys.shape[0] // logits.shape[0]
        changed = changed_logits(logits, step, forced, changes)
        best, tokens = ops.top_k(changed, count)  # (batch, candidates)
        tokens = ops.cast(tokens, "int32")
        probabilities = ops.exp(best - ops.logsumexp(changed, axis=-1, keepdims=True))
        states, recent = model.step(
            ops.reshape(tokens, (-1, 1)),
            ops.repeat(lengths, count),
            ops.repeat(slots, count),
            past,
            recent,
        )
        states = states[:, 0, :]  # (batch * candidates, embedding_dim)
        own = ops.reshape(directions_of(states), (batch, count, -1))
        cosines = ops.einsum("bcd,btd->bct", own, directions)
        places = ops.expand_dims(ops.arange(directions.shape[1], dtype="int32"), 0)  # (1, time)
        ends = ops.expand_dims(lengths + slots, 1)  # (batch, 1)
        cosines = ops.where(ops.expand_dims(places < ends, 1), cosines, -float("inf"))
        scores = (1.0 - alpha) * probabilities - alpha * ops.max(cosines, axis=-1)
        # Where fewer tokens than candidates are allowed, the others are none.
        scores = ops.where(best == -float("inf"), best, scores)
        winners = ops.argmax(scores, axis=-1)
        rows = ops.cast(winners, "int32") + ops.arange(batch, dtype="int32") * count
        chosen = ops.take(ops.reshape(tokens, (-1,)), rows, axis=0)
        taken_on = ops.repeat(rows, count)
        direction = ops.take(ops.reshape(own, (batch * count, 1, -1)), rows, axis=0)
        is_here = ops.expand_dims(places == ends, 2)  # (batch, time, 1)
        return (
            chosen,
            model.next_logits(ops.take(states, rows, axis=0))[:, :known],
            ops.where(is_here, direction, directions),
            taken(recent, taken_on),
            None if changes is None else seen_with(changes.seen, chosen),
        )

    return _Functions(compiled(read, model), compiled(step, model))
