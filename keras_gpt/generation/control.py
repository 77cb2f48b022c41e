"""What changes the logits of rows that ask for it: their settings, what they have seen, the choice."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gpt.generation.processors import (
    TokenCounts,
    add_bias,
    add_token,
    ban_repeated_ngrams,
    bias_rows,
    count_tokens,
    hold_back,
    penalize,
)
from keras_gpt.generation.rows import Row, padded_prompts, tensor
from keras_gpt.generation.sampling import Sampling, choose


class Control(NamedTuple):
    """The settings of every row."""

    bias: Any  # (batch, vocab_size) float32
    repetition: Any  # (batch,) float32
    presence: Any  # (batch,) float32
    frequency: Any  # (batch,) float32
    ngram_size: Any  # (batch,) int32
    min_new_tokens: Any  # (batch,) int32
    stops: Any  # (batch, vocab_size) bool


class Seen(NamedTuple):
    """The tokens of every row so far."""

    prompt_counts: Any  # (batch, vocab_size) int32
    new_counts: Any  # (batch, vocab_size) int32
    history: Any  # (batch, context) int32
    lengths: Any  # (batch,) int32


class Changes(NamedTuple):
    """What changes the logits of rows that follow a search, all of them with the same settings."""

    control: Control
    seen: Seen


def controls_of(rows: Sequence[Row], vocab_size: int) -> Control:
    """Give the rows' settings as tensors."""
    stops = np.zeros((len(rows), vocab_size), "bool")
    for index, row in enumerate(rows):
        stops[index, [token for token in row.stop_token_ids if token < vocab_size]] = True
    options = [row.options for row in rows]
    return Control(
        bias=tensor(
            [
                bias_rows(each.logit_bias or {}, each.banned_token_ids, vocab_size)
                for each in options
            ],
            "float32",
        ),
        repetition=tensor([each.repetition_penalty for each in options], "float32"),
        presence=tensor([each.presence_penalty for each in options], "float32"),
        frequency=tensor([each.frequency_penalty for each in options], "float32"),
        ngram_size=tensor([each.no_repeat_ngram_size or 0 for each in options], "int32"),
        min_new_tokens=tensor([each.min_new_tokens for each in options], "int32"),
        stops=tensor(stops, "bool"),
    )


def seen_of(rows: Sequence[Row], vocab_size: int, context_length: int) -> Seen:
    """Give what the rows have seen before their first new token: their prompts."""
    history = tensor(padded_prompts(rows, context_length), "int32")
    lengths = tensor([len(row.prompt) for row in rows], "int32")
    counts = count_tokens(history, lengths, vocab_size)
    return Seen(counts, ops.zeros_like(counts), history, lengths)


def choose_controlled(
    logits: Any,
    sampling: Sampling,
    step: Any,
    control: Control,
    seen: Seen,
    allowed: Any,
    forced: Any,
) -> tuple[Any, Seen]:
    """Choose one token a row from logits that are changed first, in the order of `processors`.

    Args:
        logits: (batch, vocab_size) float32.
        sampling: every row's cut-offs.
        step: (batch,) int32, how many tokens were chosen before.
        control: every row's other settings.
        seen: the tokens of every row so far.
        allowed: (batch or 1, vocab_size) bool, what a constraint leaves.
        forced: (batch,) int32, the token that is taken whatever the logits; -1 forces none.

    Returns:
        (batch,) int32 tokens, and `seen` with them.
    """
    logits = controlled_logits(logits, step, control, seen, allowed)
    tokens = ops.where(forced >= 0, forced, choose(logits, sampling, step))
    return tokens, seen_with(seen, tokens)


def controlled_logits(logits: Any, step: Any, control: Control, seen: Seen, allowed: Any) -> Any:
    """Change logits in the order of `processors`; the arguments are those of `choose_controlled`."""
    plain = logits
    logits = add_bias(logits, control.bias)
    counts = TokenCounts(seen.prompt_counts, seen.new_counts)
    logits = penalize(logits, counts, control.repetition, control.presence, control.frequency)
    logits = ban_repeated_ngrams(logits, seen.history, seen.lengths, control.ngram_size)
    logits = hold_back(logits, control.stops, control.min_new_tokens, step)
    logits = ops.where(allowed, logits, -float("inf"))
    # A constraint holds whatever the other settings ban: where they leave nothing, they are not asked.
    is_blocked = ops.max(logits, axis=-1, keepdims=True) == -float("inf")
    return ops.where(is_blocked, ops.where(allowed, plain, -float("inf")), logits)


def changes_of(rows: Sequence[Row], vocab_size: int, context_length: int) -> Changes | None:
    """Give what changes the logits of rows before their first new token; None where nothing does."""
    if not rows[0].is_controlled:
        return None
    return Changes(controls_of(rows, vocab_size), seen_of(rows, vocab_size, context_length))


def changed_logits(logits: Any, step: Any, forced: Any, changes: Changes | None) -> Any:
    """Change logits for a search.

    Args:
        logits: (batch, vocab_size) float32.
        step: scalar int32, how many tokens were chosen before.
        forced: scalar int32, the one token that is left, with its own logit; -1 forces none.
        changes: None changes nothing.

    Returns:
        (batch, vocab_size) float32.
    """
    if changes is None:
        return logits
    allowed = ops.ones((1, 1), "bool")
    changed = controlled_logits(logits, step, changes.control, changes.seen, allowed)
    vocabulary = ops.expand_dims(ops.arange(logits.shape[-1], dtype="int32"), 0)
    only = ops.where(vocabulary == forced, logits, -float("inf"))
    return ops.where(forced >= 0, only, changed)


def forced_now(row: Row, step: int) -> int:
    """Give the token that a row must take now; -1 for none."""
    ids = row.options.forced_token_ids
    return ids[step] if step < len(ids) else -1


def seen_with(seen: Seen, tokens: Any) -> Seen:
    """Give what the rows have seen with one more token each, (batch,) int32."""
    places = ops.expand_dims(ops.arange(ops.shape(seen.history)[1], dtype="int32"), 0)
    here = places == ops.expand_dims(seen.lengths, 1)
    return Seen(
        seen.prompt_counts,
        add_token(seen.new_counts, tokens),
        ops.where(here, ops.expand_dims(tokens, 1), seen.history),
        seen.lengths + 1,
    )
