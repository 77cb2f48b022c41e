"""The decode loop as TensorFlow graph: the same compiled steps as `generate`, driven by tf.while_loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gpt.generation.cache import RECENT_SLOTS, empty_recent, grow_cache, length_buckets
from keras_gpt.generation.random import prompt_seeds
from keras_gpt.generation.sampling import Sampling
from keras_gpt.generation.steps import DecodeSteps


class Continued(NamedTuple):
    """What the loop gives."""

    new_tokens: Any  # (batch, steps) int32, 0 where a row had ended
    new_lengths: Any  # (batch,) int32, tokens of each row that count


class _State(NamedTuple):
    """What goes round in the loop."""

    step: Any
    tokens: Any  # (batch,) int32, chosen last
    live: Any  # (batch,) bool
    counts: Any  # (batch,) int32
    chosen: Any  # TensorArray of (batch,) int32
    lengths: Any  # (batch,) int32, tokens in `past`
    slot: Any  # where the next tokens of all rows go in `recent`
    past: Any
    recent: Any


def decode_in_graph(
    steps: DecodeSteps,
    token_ids: Any,
    lengths: Any,
    limits: Any,
    sampling: Sampling,
    stop_token_ids: list[int],
    context_length: int,
) -> Continued:
    """Choose token after token for every row until each has stopped.

    Mirrors `generation.decode.decode`, whose results it must equal; tests compare the two.

    Args:
        steps: the model's compiled functions.
        token_ids: (batch, time) int32 prompts, padded on the right with 0.
        lengths: (batch,) int32 lengths of the prompts.
        limits: (batch,) int32, the most new tokens of each row.
        sampling: every row's settings.
        stop_token_ids: ids that end a row.
        context_length: the model's.
    """
    rows = tf.shape(token_ids)[0]
    more = _missing_rows(rows)
    batch = rows + more
    # Rows beyond the real ones copy the first; nobody looks at what comes of them.
    token_ids, lengths = _repeat_first(token_ids, more), _repeat_first(lengths, more)
    limits = _repeat_first(limits, more)
    sampling = Sampling(*[_repeat_first(setting, more) for setting in sampling])
    time = bucket_in_graph(tf.reduce_max(lengths), context_length)
    token_ids = tf.pad(token_ids, [[0, 0], [0, tf.maximum(time - tf.shape(token_ids)[1], 0)]])
    token_ids = token_ids[:, :time]
    sampling = sampling._replace(seed=prompt_seeds(sampling.seed, token_ids, lengths))
    logits, past = steps.first(token_ids, lengths)
    tokens = steps.choose(logits, sampling, tf.zeros_like(lengths))
    stops = tf.constant(stop_token_ids, tf.int32)

    def not_stopped(tokens: Any) -> Any:
        return tf.reduce_all(tokens[:, None] != stops[None, :], axis=1)

    live = (limits > 0) & not_stopped(tokens)
    chosen = tf.TensorArray(
        tf.int32, size=0, dynamic_size=True, clear_after_read=False, element_shape=[None]
    )

    def go_on(state: _State) -> Any:
        return tf.reduce_any(state.live[:rows])

    def body(state: _State) -> tuple[_State]:
        chosen = state.chosen.write(state.step, tf.where(state.live, state.tokens, 0))
        counts = state.counts + tf.cast(state.live, tf.int32)
        step = state.step + 1
        live = state.live & (step < limits)

        def folded() -> Any:
            longest = tf.minimum(tf.reduce_max(state.lengths[:rows]) + RECENT_SLOTS, context_length)
            needed = bucket_in_graph(longest, context_length)
            length = tf.maximum(needed, tf.shape(state.past[0].keys)[2])
            past = steps.fold(grow_cache(state.past, length), state.recent, state.lengths)
            return past, state.lengths + RECENT_SLOTS, 0

        past, lengths, slot = tf.cond(
            state.slot == RECENT_SLOTS, folded, lambda: (state.past, state.lengths, state.slot)
        )

        def following() -> Any:
            slots = tf.fill([batch], slot)
            logits, recent = steps.next(state.tokens, lengths, slots, past, state.recent)
            return steps.choose(logits, sampling, tf.fill([batch], step)), recent

        tokens, recent = tf.cond(
            tf.reduce_any(live[:rows]), following, lambda: (state.tokens, state.recent)
        )
        live = live & not_stopped(tokens)
        return (_State(step, tokens, live, counts, chosen, lengths, slot + 1, past, recent),)

    start = _State(
        step=tf.constant(0),
        tokens=tokens,
        live=live,
        counts=tf.zeros([batch], tf.int32),
        chosen=chosen,
        lengths=lengths,
        slot=tf.constant(0),
        past=past,
        recent=empty_recent(past),
    )
    shapes = _State(
        *[None if part is chosen else tf.nest.map_structure(_shape, part) for part in start]
    )
    shapes = shapes._replace(
        chosen=tf.TensorShape(None),
        past=[type(layer)(*[_any_length(part) for part in layer]) for layer in past],
    )
    (end,) = tf.while_loop(go_on, body, (start,), shape_invariants=(shapes,))
    step, counts, chosen = end.step, end.counts, end.chosen
    # Nothing to stack when every row stopped at once.
    stacked = tf.cond(step > 0, chosen.stack, lambda: tf.zeros([0, batch], tf.int32))
    return Continued(tf.transpose(stacked)[:rows], counts[:rows])


def bucket_in_graph(length: Any, context_length: int) -> Any:
    """Give the smallest length bucket that holds `length`, as `generation.cache.length_bucket`."""
    buckets = tf.constant(length_buckets(context_length), tf.int32)
    return tf.reduce_min(tf.where(buckets >= length, buckets, context_length))


def in_batch_bucket(function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a compiled function on as many rows as its batch bucket has, and give the real ones' results.

    Args:
        function: takes tensors and gives one, each with a row for each row of the batch.
        *inputs: its arguments.
    """
    rows = tf.shape(inputs[0])[0]
    more = _missing_rows(rows)
    return function(*[_repeat_first(tensor, more) for tensor in inputs])[:rows]


def _missing_rows(rows: Any) -> Any:
    """Count the rows up to the next power of two, as `generation.cache.batch_bucket` has them."""
    powers = tf.constant([1 << power for power in range(31)], tf.int32)
    return tf.reduce_min(tf.where(powers >= rows, powers, powers[-1])) - rows


def _repeat_first(tensor: Any, times: Any) -> Any:
    first = tf.repeat(tensor[:1], times, axis=0)
    return tf.concat([tensor, first], axis=0)


def _shape(tensor: Any) -> tf.TensorShape:
    return tensor.shape


def _any_length(tensor: Any) -> tf.TensorShape:
    heads, _, head_dim = tensor.shape[1:]
    return tf.TensorShape([None, heads, None, head_dim])
