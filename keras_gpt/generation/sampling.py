"""Choosing the next token: greedy, temperature, top-k and top-p, each row by its own settings."""

from typing import Any, NamedTuple

from keras import ops

from keras_gpt.generation.random import row_keys, uniforms


class Sampling(NamedTuple):
    """The settings of every row, each (batch,)."""

    temperature: Any  # float32; 0 takes the most probable token
    top_k: Any  # int32; 0 keeps all
    top_p: Any  # float32; 1 keeps all
    seed: Any  # int32
    sequence: Any  # int32, which of several answers to one prompt


def choose(logits: Any, sampling: Sampling, step: Any) -> Any:
    """Choose one token a row.

    First the logits are divided by the temperature, then all but the `top_k` largest are left out,
    then all but the smallest set of the most probable ones whose probabilities sum to `top_p`, and
    one of the rest is drawn in proportion to its probability. Tokens as probable as the last one
    kept are kept too.

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
    """Divide the logits by the temperature and leave out what top-k and top-p leave out."""
    # With 0 as the largest logit and the smallest normal numbers left out, no division gives
    # infinity or NaN where it matters.
    temperature = ops.expand_dims(ops.maximum(sampling.temperature, 1e-30), 1)
    scaled = (logits - ops.max(logits, axis=-1, keepdims=True)) / temperature
    return keep_probable(scaled, sampling.top_k, sampling.top_p)


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


def largest_threshold(keys: Any, weights: Any, wanted: Any) -> Any:
    """Find, for each row, the largest key such that the keys from it upward weigh at least `wanted`.

    Bisection over the 32 bits of an integer finds the exact key without sorting the vocabulary.

    Args:
        keys: (batch, vocab_size) int32.
        weights: (batch, vocab_size) float32.
        wanted: (batch,) float32.

    Returns:
        (batch, 1) int32.
    """
    low = ops.min(keys, axis=-1, keepdims=True)  # weighs enough, or nothing does
    high = ops.max(keys, axis=-1, keepdims=True)
    wanted = ops.expand_dims(wanted, 1)

    def halve(_: Any, bounds: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = bounds
        # The upper middle of two int32 whose sum may not fit: floor mean, plus one if it was cut.
        middle = (low & high) + ops.right_shift(low ^ high, 1) + ((low ^ high) & 1)
        weight = ops.sum(ops.where(keys >= middle, weights, 0.0), axis=-1, keepdims=True)
        enough = weight >= wanted
        return ops.where(enough, middle, low), ops.where(enough, high, middle - 1)

    low, _ = ops.fori_loop(0, 32, halve, (low, high))
    return low


def ordered_integers(values: Any) -> Any:
    """Map float32 to int32 so that the order stays."""
    bits = ops.view(values + 0.0, "int32")  # -0.0 + 0.0 is 0.0: the two zeros are equal
    return ops.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
