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
from keras_gpt.generation.steps import TOP_LOGPROBS, DecodeSteps, GoingOn

# Where a stop string may end a row at any token, so many are chosen at a time (as an `Engine` does).
_MOST_TO_DROP = 4


class Continued(NamedTuple):
    """What the loop gives."""

    new_tokens: Any  # (batch, steps) int32, 0 where a row had ended
    new_lengths: Any  # (batch,) int32, tokens of each row that count
    has_stopped: Any  # (batch,) bool, whether a stop token or a stop string ended the row
    text: Any  # (batch,) string, the new bytes up to a stop string; "" without stop strings
    logprobs: Any  # (batch, steps) float32; (batch, 0) where no row asks
    top_ids: Any  # (batch, steps, most alternatives of a row) int32
    top_logprobs: Any  # (batch, steps, most alternatives of a row) float32


class _Answers(NamedTuple):
    """What rows have been given so far."""

    step: Any  # int32, how many tokens were chosen for every row
    live: Any  # (batch,) bool
    has_stopped: Any  # (batch,) bool
    text: Any  # (batch,) string, the new bytes up to a stop string
    counts: Any  # (batch,) int32
    chosen: Any  # TensorArray of (batch,) int32
    logprobs: tuple[Any, ...]  # a TensorArray for each part of what `Choice.logprobs` gives


class _State(NamedTuple):
    """What goes round in the loop."""

    answers: _Answers
    tokens: Any  # (batch,) int32, chosen last, not read yet
    seen: Seen  # of no rows where nothing is controlled
    lengths: Any  # (batch,) int32, tokens in `past`
    slot: Any  # where the next tokens of all rows go in `recent`
    past: Any
    recent: Any


def decode_in_graph(
    steps: DecodeSteps,
    token_ids: Any,
    lengths: Any,
    settings: Settings,
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
    is_last = settings.control.stops[0]  # (known,) bool
    # Each token is looked at before the next is chosen, or a few are, or as many as there is room for.
    has_stop_strings = tf.reduce_any(settings.stop != "")
    most_ahead = tf.where(
        choice.looks_at_each, 1, tf.where(has_stop_strings, _MOST_TO_DROP, RECENT_SLOTS)
    )

    def take(answers: _Answers, tokens: Any, count: Any, found: tuple[Any, ...]) -> _Answers:
        """Give each live row its first `count` of (steps, batch) tokens, up to where it ends.

        `found` is what `Choice.logprobs` gives for the one token where a row asks.
        """

        def one(place: Any, answers: _Answers) -> tuple[Any, _Answers]:
            chosen, live, step = tokens[place], answers.live, answers.step
            is_stop = tf.gather(is_last, chosen)
            has_stopped = answers.has_stopped | (live & is_stop)
            live &= ~is_stop
            text, is_end = add_text(answers.text, chosen, live, settings.stop, token_bytes)
            return place + 1, answers._replace(
                step=step + 1,
                live=live & ~is_end & (step + 1 < settings.limits),
                has_stopped=has_stopped | is_end,
                text=text,
                counts=answers.counts + tf.cast(live, tf.int32),
                chosen=answers.chosen.write(step, tf.where(live, chosen, 0)),
                logprobs=tuple(
                    array.write(step, part)
                    for array, part in zip(answers.logprobs, found, strict=True)
                ),
            )

        _, answers = tf.while_loop(
            lambda place, answers: (place < count) & tf.reduce_any(answers.live[:rows]),
            one,
            (tf.constant(0), answers),
        )
        return answers

    def go_on(state: _State) -> Any:
        return tf.reduce_any(state.answers.live[:rows])

    def body(state: _State) -> tuple[_State]:
        answers = state.answers

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
        left = tf.reduce_max(tf.where(answers.live, settings.limits - answers.step, 1))
        going_on = GoingOn(
            lengths=lengths,
            slots=tf.fill([batch], slot),
            steps=tf.fill([batch], answers.step),
            past=past,
            sampling=choice.sampling_ahead,
            last=is_last,
            live=answers.live,
            most=tf.minimum(tf.minimum(most_ahead, RECENT_SLOTS - slot), left),
        )
        count, several = steps.several_in_graph(going_on, state.tokens, state.recent)
        chosen, seen = choice.choose_last(several, answers.step, state.seen)
        tokens = chosen[count - 1]
        found = choice.logprobs(several.logits, tokens)
        return (
            _State(
                answers=take(answers, chosen, count, found),
                tokens=tokens,
                seen=seen,
                lengths=lengths,
                slot=slot + count,
                past=past,
                recent=several.recent,
            ),
        )

    tokens, seen = choice.choose(logits, tf.zeros_like(lengths), choice.seen(token_ids, lengths))
    found = choice.logprobs(logits, tokens)
    nothing = _Answers(
        step=tf.constant(0),
        live=settings.limits > 0,
        has_stopped=tf.zeros([batch], tf.bool),
        text=tf.fill([batch], ""),
        counts=tf.zeros([batch], tf.int32),
        chosen=_growing(tf.int32, None),
        logprobs=tuple(_growing(part.dtype, None, None) for part in found),
    )
    start = _State(
        answers=take(nothing, tokens[None], 1, found),
        tokens=tokens,
        seen=seen,
        lengths=lengths,
        slot=tf.constant(0),
        past=past,
        recent=empty_recent(past),
    )
    shapes = start._replace(answers=start.answers._replace(chosen=None, logprobs=()))
    shapes = tf.nest.map_structure(_shape, shapes)
    shapes = shapes._replace(
        answers=shapes.answers._replace(
            chosen=tf.TensorShape(None), logprobs=tuple(tf.TensorShape(None) for _ in found)
        ),
        past=[type(layer)(*[_any_length(part) for part in layer]) for layer in past],
    )
    (end,) = tf.while_loop(go_on, body, (start,), shape_invariants=(shapes,))
    answers = end.answers
    counts = answers.counts[:rows]
    # No row has a token of the last step where that ended all.
    longest = tf.maximum(tf.reduce_max(counts), 0)

    def stacked(array: Any, *columns: Any) -> Any:
        # Nothing to stack where there is no row.
        whole = tf.cond(
            answers.step > 0, array.stack, lambda: tf.zeros([0, batch, *columns], array.dtype)
        )
        return whole[:longest, :rows]  # (steps, rows, ...)

    parts = [
        tf.transpose(stacked(array, tf.shape(part)[1]), [1, 0, 2])  # (rows, steps, columns)
        for array, part in zip(answers.logprobs, found, strict=True)
    ]
    width = tf.clip_by_value(tf.reduce_max(settings.logprobs), 0, TOP_LOGPROBS)
    return Continued(
        new_tokens=tf.transpose(stacked(answers.chosen)),
        new_lengths=counts,
        has_stopped=answers.has_stopped[:rows],
        text=answers.text[:rows],
        logprobs=tf.reshape(parts[0], [rows, longest * tf.shape(parts[0])[2]]),
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


def _growing(dtype: Any, *shape: Any) -> tf.TensorArray:
    return tf.TensorArray(
        dtype, size=0, dynamic_size=True, clear_after_read=False, element_shape=shape
    )


def _shape(tensor: Any) -> tf.TensorShape | None:
    return None if tensor is None else tensor.shape


def _any_length(tensor: Any) -> tf.TensorShape:
    heads, _, head_dim = tensor.shape[1:]
    return tf.TensorShape([None, heads, None, head_dim])
