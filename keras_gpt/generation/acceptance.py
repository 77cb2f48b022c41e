"""Which drafted tokens to accept, such that the answer is drawn as if nothing had been drafted."""

from typing import Any

from keras import ops

from keras_gpt.generation.random import row_keys, seeds_for, uniforms
from keras_gpt.generation.sampling import Sampling, draw_from, probabilities

# What random numbers are for, beside the choice of a token; see `random.seeds_for`.
_FOR_DRAFTING, _FOR_ACCEPTING = 1, 2


def drafting_settings(sampling: Sampling) -> Sampling:
    """Give the settings that a draft is drawn with: the same, but with random numbers of its own."""
    return sampling._replace(seed=seeds_for(_FOR_DRAFTING, sampling.seed))


def accept(
    logits: Any,
    drafted: Any,
    draft_probabilities: Any,
    counts: Any,
    sampling: Sampling,
    step: Any,
) -> tuple[Any, Any]:
    """Accept each row's first drafted tokens, as many as may be, and choose the token after them.

    Let p be the model's distribution at a place and q the one its drafted token was drawn from. The
    token x is accepted with probability min(1, p(x) / q(x)). At the first place where one is not,
    the token comes from max(p - q, 0), normalized; after the last drafted token, from p. So every
    token has the distribution p. Both are the distributions after temperature, top-k and top-p; a
    greedy row's p is all in one token, which is then always the one chosen.

    Args:
        logits: (batch, places + 1, vocab_size) float32, the model's after its last token and after
            each drafted one.
        drafted: (batch, places) int32.
        draft_probabilities: (batch, places, vocab_size) float32, q.
        counts: (batch,) int32, how many drafted tokens of each row count; no later one is accepted.
        sampling: every row's settings.
        step: (batch,) int32, how many tokens were chosen before the first drafted one.

    Returns:
        How many drafted tokens are accepted, and the token that follows them, both (batch,) int32.

    Source: arXiv:2211.17192, algorithm 1.
    """
    places, vocab_size = drafted.shape[1], logits.shape[-1]
    every = Sampling(*[ops.repeat(each, places + 1, axis=0) for each in sampling])
    p = probabilities(ops.reshape(logits, (-1, vocab_size)), every)
    p = ops.reshape(p, (-1, places + 1, vocab_size))

    # Accepted is what comes before the first refusal.
    place = ops.expand_dims(ops.arange(places, dtype="int32"), 0)  # (1, places)
    steps = ops.reshape(ops.expand_dims(step, 1) + place, (-1,))  # (batch * places,)
    seeds = ops.repeat(seeds_for(_FOR_ACCEPTING, sampling.seed), places, axis=0)
    keys = row_keys(seeds, ops.repeat(sampling.sequence, places, axis=0), steps)
    chance = ops.reshape(uniforms(keys, 1), (-1, places))
    index = ops.expand_dims(drafted, 2)
    p_drafted = ops.take_along_axis(p[:, :places], index, axis=2)[:, :, 0]
    q_drafted = ops.take_along_axis(draft_probabilities, index, axis=2)[:, :, 0]
    fits = ops.logical_and(chance * q_drafted < p_drafted, place < ops.expand_dims(counts, 1))
    accepted = ops.sum(ops.cumprod(ops.cast(fits, "int32"), axis=1), axis=1)
    accepted = ops.cast(accepted, "int32")

    # After the last token that counts, nothing was drafted: q is 0 there.
    at = ops.reshape(accepted, (-1, 1, 1))
    p = ops.take_along_axis(p, at, axis=1)[:, 0]  # (batch, vocab_size)
    q = ops.take_along_axis(draft_probabilities, ops.minimum(at, places - 1), axis=1)[:, 0]
    refused = ops.expand_dims(accepted < counts, 1)
    rest = ops.where(refused, ops.maximum(p - q, 0.0), p)
    # Where p and q differ by rounding alone, nothing may be left: then p is as good.
    rest = ops.where(ops.sum(rest, axis=1, keepdims=True) > 0.0, rest, p)
    # A logarithm of 0 is -inf, which is never drawn.
    return accepted, draw_from(ops.log(rest), sampling, step + accepted)
