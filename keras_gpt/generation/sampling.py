"""Choosing the next token: greedy, temperature, top-k and top-p, each row by its own settings."""

from typing import Any, NamedTuple

from keras import ops

from keras_gpt.generation.processors import keep_min_p, keep_typical
from keras_gpt.generation.random import row_keys, uniforms
from keras_gpt.generation.thresholds import largest_threshold, ordered_integers


class Sampling(NamedTuple):
    """The settings of every row, each (batch,)."""

    temperature: Any  # float32; 0 takes the most probable token
    top_k: Any  # int32; 0 keeps all
    top_p: Any  # float32; 1 keeps all
    min_p: Any  # float32; 0 keeps all
    typical_p: Any  # float32; 1 keeps all
    seed: Any  # int32
    sequence: Any  # int32, which of several answers to one prompt


def choose(logits: Any, sampling: Sampling, step: Any) -> Any:
    """Choose one token a row.

    First the logits are divided by the temperature, then all but the `top_k` largest are left out,
    then all but the smallest set of the most probable ones whose probabilities sum to `top_p`, then
    those less probable than `min_p` times the most probable, then all that are not locally typical,
    and one of the rest is drawn in proportion to its probability. Tokens as probable as the last
    one kept are kept too.

    Args:
        logits: (batch, vocab_size) float32.
        sampling: every row's settings.
        step: scalar or (batch,) int32, how many tokens were chosen before.

    Returns:
        (batch,) int32.

    Sources: top-k, arXiv:1805.04833; top-p, arXiv:1904.09751.
    """
    greedy = ops.cast(ops.argmax(logits, axis=-1), "int32")

    def draw() -> Any:
        drawn = draw_from(kept_logits(logits, sampling), sampling, step)
        return ops.where(sampling.temperature <= 0.0, greedy, drawn)

    return ops.cond(ops.any(sampling.temperature > 0.0), draw, lambda: greedy)


def draw_from(logits: Any, sampling: Sampling, step: Any) -> Any:
    """Draw one token a row, each in proportion to the exponential of its logit.

    Args:
        logits: (batch, vocab_size) float32; -inf is never drawn.
        sampling: every row's seed and sequence.
        step: scalar or (batch,) int32, how many tokens were chosen before.

    Returns:
        (batch,) int32.
    """
    # The largest of log p + Gumbel noise is a draw from p (the "Gumbel-max trick"). Improbable
    # tokens win by large noise: it comes from numbers near 0, where they lie densest.
    noise = uniforms(row_keys(sampling.seed, sampling.sequence, step), logits.shape[-1])
    return ops.cast(ops.argmax(logits - ops.log(-ops.log1p(-noise)), axis=-1), "int32")


def probabilities(logits: Any, sampling: Sampling) -> Any:
    """Give the distribution that `choose` chooses from; a greedy row's is all in one token.

    Args:
        logits: (batch, vocab_size) float32.
        sampling: every row's settings.

    Returns:
        (batch, vocab_size) float32.
    """
    best = ops.one_hot(ops.argmax(logits, axis=-1), logits.shape[-1], dtype="float32")
    drawn_from = ops.softmax(kept_logits(logits, sampling), axis=-1)
    return ops.where(ops.expand_dims(sampling.temperature <= 0.0, 1), best, drawn_from)


def kept_logits(logits: Any, sampling: Sampling) -> Any:
    """Divide the logits by the temperature and leave out what the cut-offs leave out."""
    # With 0 as the largest logit and the smallest normal numbers left out, no division gives
    # infinity or NaN where it matters.
    temperature = ops.expand_dims(ops.maximum(sampling.temperature, 1e-30), 1)
    scaled = (logits - ops.max(logits, axis=-1, keepdims=True)) / temperature
    kept = keep_probable(scaled, sampling.top_k, sampling.top_p)
    return keep_typical(keep_min_p(kept, sampling.min_p), sampling.typical_p)


def keep_probable(logits: Any, top_k: Any, top_p: Any) -> Any:
    """Set the logits of all tokens outside top-k and top-p to -inf.

    Args:
        logits: (batch, vocab_size) float32.
        top_k: (batch,) int32; 0 keeps all.
        top_p: (batch,) float32; 1 keeps all.

    Returns:
        (batch, vocab_size) float32.
    """
    vocab_size = logits.shape[-1]
    keys = ordered_integers(logits)
    infinity = float("inf")

    def by_count(logits: Any) -> Any:
        count = ops.where(top_k > 0, top_k, vocab_size)
        least = largest_threshold(keys, ops.ones_like(logits), ops.cast(count, "float32"))
        return ops.where(keys >= least, logits, -infinity)

    def by_mass(logits: Any) -> Any:
        probabilities = ops.softmax(logits, axis=-1)
        # Sums of floats may stay just below 1: a row with top_p = 1 keeps all by rule.
        least = largest_threshold(keys, probabilities, top_p)
        keep = ops.logical_or(keys >= least, ops.expand_dims(top_p >= 1.0, 1))
        return ops.where(keep, logits, -infinity)

    # A search costs 32 passes over the vocabulary: none is made that no row asks for.
    some_top_k = ops.any(ops.logical_and(top_k > 0, top_k < vocab_size))
    logits = ops.cond(some_top_k, lambda: by_count(logits), lambda: logits)
    return ops.cond(ops.any(top_p < 1.0), lambda: by_mass(logits), lambda: logits)
