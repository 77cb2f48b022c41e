"""Changing the logits before a token is chosen: biases, penalties, bans and cut-offs, row by row.

Each function takes the logits of a batch and gives them back changed. Every row has its own
parameters, and a neutral value leaves a row as it is. They are to be applied in this order:

1. `add_bias`: biases and banned ids
2. `penalize`: repetition, frequency and presence penalties
3. `ban_repeated_ngrams`
4. `hold_back`: the least number of new tokens; then what a constraint does not allow
5. temperature, top-k and top-p, in `sampling`
6. `keep_min_p`
7. `keep_typical`

That is the order of transformers' `_get_logits_processor` (5.23), where `sequence_bias`,
`repetition_penalty`, `no_repeat_ngram_size`, `min_new_tokens`, `temperature`, `top_k`, `top_p`,
`min_p` and `typical_p` follow each other so. It has no presence and frequency penalties; here they
come right after the repetition penalty, as in vLLM. It bans ids after the n-grams; here the bias
does, which comes to the same, because nothing that follows changes -inf.

As there, 1 to 4 count for a greedy row too, and 5 to 7 only where a token is drawn: the most
probable token may be one that `keep_typical` leaves out.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_gpt.generation.thresholds import largest_threshold, ordered_integers

_INFINITY = float("inf")
_LARGEST_FLOAT = float(np.finfo("float32").max)


class TokenCounts(NamedTuple):
    """How often each token of the vocabulary stands in a row, each (batch, vocab_size) int32."""

    prompt: Any
    new: Any  # the answer so far


def bias_rows(
    logit_bias: Mapping[int, float], banned: Iterable[int], vocab_size: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Make the bias of one row, for `add_bias`, from biased and banned ids.

    Args:
        logit_bias: what to add to the logits of ids; -inf bans an id.
        banned: ids that must not be chosen, whatever their bias.
        vocab_size: how many ids there are.

    Returns:
        (vocab_size,) float32.

    Raises:
        ValueError: an id is outside the vocabulary, a bias is no float32 below infinity, or every
            id is banned.
    """
    row = np.zeros(vocab_size, "float32")
    for token, bias in logit_bias.items():
        _check_token("logit_bias", token, vocab_size)
        is_number = isinstance(bias, int | float | np.number) and not isinstance(bias, bool)
        if not is_number or not (bias == -_INFINITY or abs(bias) <= _LARGEST_FLOAT):
            raise ValueError(
                "logit_bias must give each id a number that fits float32, or -inf. Received: "
                f"logit_bias with {token}: {bias!r}"
            )
        row[token] = bias
    for token in banned:
        _check_token("banned_token_ids", token, vocab_size)
        row[token] = -_INFINITY
    if not np.isfinite(row).any():
        raise ValueError(
            "logit_bias and banned_token_ids must leave at least one id to choose. Received: all "
            f"{vocab_size} ids banned"
        )
    return row


def add_bias(logits: Any, bias: Any) -> Any:
    """Add a number to each logit; -inf bans a token, and -inf for all others forces one.

    Args:
        logits: (batch, vocab_size) float32.
        bias: (batch, vocab_size) float32; 0 leaves a token as it is.

    Returns:
        (batch, vocab_size) float32.
    """
    return logits + bias


def count_tokens(token_ids: Any, lengths: Any, vocab_size: int) -> Any:
    """Count how often each token stands in each row.

    Args:
        token_ids: (batch, time) int32, padded on the right; the padding is not counted, and neither
            are ids from `vocab_size` on, which only the model's padded vocabulary has.
        lengths: (batch,) int32.
        vocab_size: how many tokens to count.

    Returns:
        (batch, vocab_size) int32.
    """
    return _count_where(token_ids, _places(token_ids) < ops.expand_dims(lengths, 1), vocab_size)


def add_token(counts_new: Any, tokens: Any) -> Any:
    """Count one more token a row.

    Args:
        counts_new: (batch, vocab_size) int32, the tokens of the answer so far.
        tokens: (batch,) int32.

    Returns:
        (batch, vocab_size) int32.
    """
    is_token = _vocabulary(counts_new) == ops.expand_dims(tokens, 1)  # (batch, vocab_size)
    return counts_new + ops.cast(is_token, "int32")


def penalize(
    logits: Any, counts: TokenCounts, repetition: Any, presence: Any, frequency: Any
) -> Any:
    """Make the tokens that a row already has less probable.

    The repetition penalty counts for the prompt and the answer: positive logits are divided by it
    and negative ones multiplied. The other two count for the answer alone, and the logit becomes
    logit - count * frequency - (count > 0) * presence.

    Args:
        logits: (batch, vocab_size) float32.
        counts: the tokens of the prompts and of the answers so far.
        repetition: (batch,) float32, positive; 1 changes nothing.
        presence: (batch,) float32; 0 changes nothing.
        frequency: (batch,) float32; 0 changes nothing.

    Returns:
        (batch, vocab_size) float32.

    Sources: repetition, arXiv:1909.05858, section 4.1, with the signs of transformers'
    `RepetitionPenaltyLogitsProcessor`; presence and frequency, the reference of OpenAI's API.
    """
    repetition = ops.expand_dims(repetition, 1)
    seen = ops.logical_or(counts.prompt > 0, counts.new > 0)
    repeated = ops.where(logits < 0.0, logits * repetition, logits / repetition)
    logits = ops.where(seen, repeated, logits)
    logits = logits - ops.cast(counts.new, "float32") * ops.expand_dims(frequency, 1)
    return logits - ops.cast(counts.new > 0, "float32") * ops.expand_dims(presence, 1)


def ban_repeated_ngrams(logits: Any, history: Any, lengths: Any, sizes: Any) -> Any:
    """Ban each token that would complete an n-gram that its row already has.

    Args:
        logits: (batch, vocab_size) float32.
        history: (batch, time) int32, prompt and answer, padded on the right.
        lengths: (batch,) int32, how many tokens of `history` are no padding.
        sizes: (batch,) int32, each row's n; 1 bans all earlier tokens, 0 bans nothing.

    Returns:
        (batch, vocab_size) float32.

    Source: arXiv:1705.04304, section 2.5; transformers' `NoRepeatNGramLogitsProcessor`.
    """
    places, lengths = _places(history), ops.expand_dims(lengths, 1)
    columns = ops.expand_dims(sizes, 1)
    # (batch, time): whether the n-gram that ends in this place is all in the row, and whether the
    # n - 1 tokens before its last one are those that the row ends with.
    inside = ops.logical_and(places < lengths, places >= columns - 1)
    matches = ops.logical_and(inside, columns > 0)

    def compare(back: Any, matches: Any) -> Any:
        before = ops.take(history, ops.maximum(places[0] - back, 0), axis=1)  # (batch, time)
        # (batch, 1). Rows of fewer tokens have no match anyway.
        ending = ops.take_along_axis(history, ops.maximum(lengths - back, 0), axis=1)
        return ops.logical_and(matches, ops.logical_or(before == ending, columns <= back))

    # The largest n is known only here, so that no n is compiled apart.
    matches = ops.fori_loop(1, ops.maximum(ops.max(sizes), 1), compare, matches)
    banned = _count_where(history, matches, logits.shape[-1]) > 0
    return ops.where(banned, -_INFINITY, logits)


def hold_back(logits: Any, stops: Any, min_new_tokens: Any, step: Any) -> Any:
    """Ban the stop tokens while a row has fewer new tokens than it must have.

    Args:
        logits: (batch, vocab_size) float32.
        stops: (batch, vocab_size) bool, True at each row's stop tokens.
        min_new_tokens: (batch,) int32; 0 bans nothing.
        step: scalar or (batch,) int32, how many tokens were chosen before.

    Returns:
        (batch, vocab_size) float32.
    """
    early = ops.expand_dims(step < min_new_tokens, 1)
    return ops.where(ops.logical_and(early, stops), -_INFINITY, logits)


def keep_min_p(logits: Any, min_p: Any) -> Any:
    """Set the logits of all tokens less probable than `min_p` times the most probable to -inf.

    Args:
        logits: (batch, vocab_size) float32.
        min_p: (batch,) float32 from 0 to 1; 0 keeps all.

    Returns:
        (batch, vocab_size) float32.

    Source: arXiv:2407.01082.
    """
    # p >= min_p * p_max, as logarithms: the sum of softmax cancels. log(0) = -inf keeps all.
    least = ops.max(logits, axis=-1, keepdims=True) + ops.expand_dims(ops.log(min_p), 1)
    return ops.where(logits >= least, logits, -_INFINITY)


def keep_typical(logits: Any, typical_p: Any) -> Any:
    """Set the logits of all tokens that are not locally typical to -inf.

    Kept is the smallest set of the tokens whose information -log p is closest to the entropy, such
    that their probabilities sum to `typical_p`. Tokens as close as the last one kept are kept too.

    Args:
        logits: (batch, vocab_size) float32.
        typical_p: (batch,) float32, above 0; 1 keeps all.

    Returns:
        (batch, vocab_size) float32.

    Source: arXiv:2202.00666; transformers' `TypicalLogitsWarper`.
    """

    def by_mass() -> Any:
        information = -ops.log_softmax(logits, axis=-1)
        probabilities = ops.exp(-information)
        # A banned token has infinite information, and p * information goes to 0 with p.
        terms = ops.where(probabilities > 0.0, probabilities * information, 0.0)
        distances = ops.abs(information - ops.sum(terms, axis=-1, keepdims=True))
        keys = ordered_integers(-distances)  # the closest has the largest key
        least = largest_threshold(keys, probabilities, typical_p)
        # Sums of floats may stay just below 1: a row with typical_p = 1 keeps all by rule.
        keep = ops.logical_or(keys >= least, ops.expand_dims(typical_p >= 1.0, 1))
        return ops.where(keep, logits, -_INFINITY)

    return ops.cond(ops.any(typical_p < 1.0), by_mass, lambda: logits)


def _count_where(token_ids: Any, counted: Any, vocab_size: int) -> Any:
    """Count the tokens of each row that `counted`, (batch, time) bool, marks."""
    counted = ops.logical_and(counted, token_ids < vocab_size)
    # Each row counts in a stretch of its own, (batch * vocab_size,). What is not counted adds 0, in
    # a place that exists.
    starts = ops.expand_dims(ops.arange(ops.shape(token_ids)[0], dtype="int32") * vocab_size, 1)
    places = starts + ops.where(counted, token_ids, 0)
    counts = ops.segment_sum(
        ops.reshape(ops.cast(counted, "int32"), (-1,)),
        ops.reshape(places, (-1,)),
        num_segments=ops.shape(token_ids)[0] * vocab_size,
    )
    return ops.reshape(counts, (-1, vocab_size))


def _places(token_ids: Any) -> Any:
    """Give (1, time) int32, the place of each token of a row."""
    return ops.expand_dims(ops.arange(ops.shape(token_ids)[1], dtype="int32"), 0)


def _vocabulary(logits: Any) -> Any:
    """Give (1, vocab_size) int32, the id that each logit belongs to."""
    return ops.expand_dims(ops.arange(logits.shape[-1], dtype="int32"), 0)


def _check_token(name: str, token: Any, vocab_size: int) -> None:
    is_id = isinstance(token, int | np.integer) and not isinstance(token, bool)
    if not is_id or not 0 <= token < vocab_size:
        raise ValueError(
            f"{name} must hold ids from 0 to {vocab_size - 1}. Received: {name} with {token!r}"
        )
