"""The decode loop as TensorFlow graph: the same compiled steps as `generate`, driven by tf.while_loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from keras_gpt.export.graph_choice import Choice
from keras_gpt.export.graph_settings import Settings, repeat_first, repeat_settings
from keras_gpt.export.graph_stop import add_text
from keras_gpt.generation.cache import RECENT_SLOTS, empty_recent, length_buckets
from keras_gpt.generation.control import Seen
from keras_gpt.generation.random import prompt_seeds
from keras_gpt.generation.steps import TOP_LOGPROBS, DecodeSteps


class Continued(NamedTuple):
    """What the loop gives."""

    new_tokens: Any  # (batch, steps) int32, 0 where a row had ended
    new_lengths: Any  # (batch,) int32, tokens of each row that count
    has_stopped: Any  # (batch,) bool, whether a stop token or a stop string ended the row
    text: Any  # (batch,) string, the new bytes up to a stop string; "" without stop strings
    logprobs: Any  # (batch, steps) float32; (batch, 0) where no row asks
    top_ids: Any  # (batch, steps, most alternatives of a row) int32
    top_logprobs: Any  # (batch, steps, most alternatives of a row) float32


class _State(NamedTuple):
    """What goes round in the loop."""

    step: Any
    tokens: Any  # (batch,) int32, chosen last
    live: Any  # (batch,) bool
    has_stopped: Any  # (batch,) bool
    text: Any  # (batch,) string, the new bytes up to a stop string
    seen: Seen  # of no rows where nothing is controlled
    counts: Any  # (batch,) int32
    chosen: Any  # TensorArray of (batch,) int32
    found: Any  # what `logprobs` gives for `tokens`, each with no columns where no row asks
    logprobs: tuple[Any, ...]  # a TensorArray for each part of `found`
    lengths: Any  # (batch,) int32, tokens in `past`
    slot: Any  # where the next tokens of all rows go in `recent`
    past: Any
    recent: Any


def decode_in_graph(
    steps: DecodeSteps,
    token_ids: Any,
    lengths: Any,
    settings: Settings,
    stop_token_ids: list[int],
    token_bytes: Callable[[Any], Any] | None,
    context_length: int,
) -> Continued:
    """Choose token after token for every row until each has stopped.

    Mirrors `generation.decode.decode`, whose results it must equal; tests compare the two.

    Args:
        steps: the model's compiled functions.
        token_ids: (batch, time) int32 prompts, padded on the right with 0.
        lengths: (batch,) int32 lengths of the prompts.
        settings: what is asked of every row.
        stop_token_ids: ids that end a row.
        token_bytes: gives the bytes of (batch,) ids, "" for special ones; None for a model without
            text.
        context_length: the model's.
    """
    rows = tf.shape(token_ids)[0]
    more = _missing_rows(rows)
    batch = rows + more
    # Rows beyond the real ones copy the first; nobody looks at what comes of them.
    token_ids, lengths = repeat_first(token_ids, more), repeat_first(lengths, more)
    settings = repeat_settings(settings, more)
    time = bucket_in_graph(tf.reduce_max(lengths), context_length)
    token_ids = tf.pad(token_ids, [[0, 0], [0, tf.maximum(time - tf.shape(token_ids)[1], 0)]])
    token_ids = token_ids[:, :time]
    seed = prompt_seeds(settings.sampling.seed, token_ids, lengths)
    settings = settings._replace(sampling=settings.sampling._replace(seed=seed))
    logits, past = steps.first(token_ids, lengths)
    choice = Choice(steps, settings, context_length)
    stops = tf.constant(stop_token_ids, tf.int32)

    tokens, seen = choice.choose(logits, tf.zeros_like(lengths), choice.seen(token_ids, lengths))
    found = choice.logprobs(logits, tokens)

    def not_stopped(tokens: Any) -> Any:
        return tf.reduce_all(tokens[:, None] != stops[None, :], axis=1)

    live = (settings.limits > 0) & not_stopped(tokens)

    def growing(dtype: Any, *shape: Any) -> Any:
        return tf.TensorArray(
            dtype, size=0, dynamic_size=True, clear_after_read=False, element_shape=shape
        )

    chosen = growing(tf.int32, None)
    arrays = tuple(growing(part.dtype, None, None) for part in found)

    def go_on(state: _State) -> Any:
        return tf.reduce_any(state.live[:rows])

    def body(state: _State) -> tuple[_State]:
        chosen = state.chosen.write(state.step, tf.where(state.live, state.tokens, 0))
        counts = state.counts + tf.cast(state.live, tf.int32)
        arrays = tuple(
            array.write(state.step, part)
            for array, part in zip(state.logprobs, state.found, strict=True)
        )
        text, is_end = add_text(state.text, state.tokens, state.live, settings.stop, token_bytes)
        step = state.step + 1
        live = state.live & ~is_end & (step < settings.limits)

        def folded() -> Any:
            longest = tf.minimum(tf.reduce_max(state.lengths[:rows]) + RECENT_SLOTS, context_length)
            past = steps.grow(state.past, bucket_in_graph(longest, context_length))
            slots = tf.fill([batch], RECENT_SLOTS)
            return (
                steps.fold(past, state.recent, state.lengths, slots),
                state.lengths + RECENT_SLOTS,
                0,
            )

        past, lengths, slot = tf.cond(
            state.slot == RECENT_SLOTS, folded, lambda: (state.past, state.lengths, state.slot)
        )

        def following() -> Any:
            slots = tf.fill([batch], slot)
            logits, recent = steps.next(state.tokens, lengths, slots, past, state.recent)
            tokens, seen = choice.choose(logits, tf.fill([batch], step), state.seen)
            return tokens, seen, choice.logprobs(logits, tokens), recent

        tokens, seen, found, recent = tf.cond(
            tf.reduce_any(live[:rows]),
            following,
            lambda: (state.tokens, state.seen, state.found, state.recent),
        )
        going_on = not_stopped(tokens)
        return (
            _State(
                step=step,
                tokens=tokens,
                live=live & going_on,
                has_stopped=state.has_stopped | is_end | (live & ~going_on),
                text=text,
                seen=seen,
                counts=counts,
                chosen=chosen,
                found=found,
                logprobs=arrays,
                lengths=lengths,
                slot=slot + 1,
                past=past,
                recent=recent,
            ),
        )

    start = _State(
        step=tf.constant(0),
        tokens=tokens,
        live=live,
        has_stopped=~not_stopped(tokens),
        text=tf.fill([batch], ""),
        seen=seen,
        counts=tf.zeros([batch], tf.int32),
        chosen=chosen,
        found=found,
        logprobs=arrays,
        lengths=lengths,
        slot=tf.constant(0),
        past=past,
        recent=empty_recent(past),
    )
    shapes = start._replace(chosen=None, logprobs=())
    shapes = tf.nest.map_structure(_shape, shapes)._replace(
        chosen=tf.TensorShape(None),
        found=tuple(tf.TensorShape([None, None]) for _ in found),
        logprobs=tuple(tf.TensorShape(None) for _ in arrays),
        past=[type(layer)(*[_any_length(part) for part in layer]) for layer in past],
    )
    (end,) = tf.while_loop(go_on, body, (start,), shape_invariants=(shapes,))
    step, counts, chosen = end.step, end.counts, end.chosen
    # Nothing to stack when every row stopped at once.
    stacked = tf.cond(step > 0, chosen.stack, lambda: tf.zeros([0, batch], tf.int32))
    parts = []
    for array, part in zip(end.logprobs, found, strict=True):
        nothing = tf.zeros([0, batch, tf.shape(part)[1]], part.dtype)
        whole = tf.cond(step > 0, array.stack, lambda nothing=nothing: nothing)
        parts.append(tf.transpose(whole, [1, 0, 2])[:rows])  # (rows, steps, columns)
    width = tf.clip_by_value(tf.reduce_max(settings.logprobs), 0, TOP_LOGPROBS)
    return Continued(
        new_tokens=tf.transpose(stacked)[:rows],
        new_lengths=counts[:rows],
        has_stopped=end.has_stopped[:rows],
        text=end.text[:rows],
        logprobs=tf.reshape(parts[0], [rows, step * tf.shape(parts[0])[2]]),
        top_ids=parts[1][:, :, :width],
        top_logprobs=parts[2][:, :, :width],
    )


def bucket_in_graph(length: Any, context_length: int) -> Any:
    """Give the smallest length bucket that holds `length`, as `generation.cache.length_bucket`."""
    buckets = tf.constant(length_buckets(context_length), tf.int32)
    return tf.reduce_min(tf.where(buckets >= length, buckets, context_length))


def in_batch_bucket(function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a compiled function on as many rows as its batch bucket has, and give the real ones' results.

    Args:
        function: takes and gives (nested) tensors, each with a row for each row of the batch.
        *inputs: its arguments.
    """
    rows = tf.shape(inputs[0])[0]
    more = _missing_rows(rows)
    results = function(*[repeat_first(tensor, more) for tensor in inputs])
    return tf.nest.map_structure(lambda tensor: tensor[:rows], results)


def _missing_rows(rows: Any) -> Any:
    """Count the rows up to the next power of two, as `generation.cache.batch_bucket` has them."""
    powers = tf.constant([1 << power for power in range(31)], tf.int32)
    return tf.reduce_min(tf.where(powers >= rows, powers, powers[-1])) - rows


def _shape(tensor: Any) -> tf.TensorShape | None:
    return None if tensor is None else tensor.shape


def _any_length(tensor: Any) -> tf.TensorShape:
    heads, _, head_dim = tensor.shape[1:]
    return tf.TensorShape([None, heads, None, head_dim])
