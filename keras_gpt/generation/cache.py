"""The keys and values that decoding keeps, and the shapes it runs in: few, each compiled once.

What earlier tokens left lies in two tensors a layer. `past` holds a row's tokens at their positions (in
a layer with a window, only the last ones, in a ring that is no longer than the window); a step only
reads it. `recent` holds the tokens of the last steps, one slot a step; a step puts one more token into
it, or makes it anew where there are several rows, which costs little because it is short. When a row's
slots are full, `fold` moves those of all rows into `past`. Each row has its own length and its own slot.
So no step copies the whole cache, no variable is changed, and the same functions run in Python and in a
SavedModel that answers several requests at a time.
"""

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from keras_gpt.config import GPTConfig
from keras_gpt.key_values import KeyValues, put_in_ring, ring_positions

# Below this, a compiled program more costs more than the saved work.
SMALLEST_BUCKET = 32
# In an engine a past is no shorter: a step beside less costs hardly less, and is a program more.
SHORTEST_SHARED_PAST = 128
# Each step of several rows copies this many places; each fold copies the whole past.
RECENT_SLOTS = 32


def length_buckets(context_length: int) -> list[int]:
    """List the lengths that prompts and caches are padded to: doubling, up to the context.

    Example:
        >>> length_buckets(200)
        [32, 64, 128, 200]
    """
    buckets = []
    bucket = SMALLEST_BUCKET
    while bucket < context_length:
        buckets.append(bucket)
        bucket *= 2
    return [*buckets, context_length]


def length_bucket(length: int, context_length: int) -> int:
    """Give the smallest bucket that holds `length` tokens."""
    return next(bucket for bucket in length_buckets(context_length) if bucket >= length)


def shared_buckets(context_length: int) -> list[int]:
    """List the lengths of pasts in an engine.

    Example:
        >>> shared_buckets(1000)
        [128, 256, 512, 1000]
    """
    shortest = min(SHORTEST_SHARED_PAST, context_length)
    return [bucket for bucket in length_buckets(context_length) if bucket >= shortest]


def shared_bucket(length: int, context_length: int) -> int:
    """Give the smallest of `shared_buckets` that holds `length` tokens."""
    return next(bucket for bucket in shared_buckets(context_length) if bucket >= length)


def batch_bucket(rows: int) -> int:
    """Give the power of two that a batch is padded to."""
    return 1 << (rows - 1).bit_length()


def empty_recent(past: Sequence[KeyValues], slots: int = RECENT_SLOTS) -> list[KeyValues]:
    """Make the slots for the next steps, beside the past that prompts left."""
    batch, heads, _, head_dim = ops.shape(past[0].keys)
    shape = (batch, heads, slots, head_dim)
    return [KeyValues(*[ops.zeros(shape, part.dtype) for part in layer]) for layer in past]


def fold(
    past: Sequence[KeyValues],
    recent: Sequence[KeyValues],
    lengths: Any,
    slots: Any,
    put: Callable[..., KeyValues] = put_in_ring,
) -> list[KeyValues]:
    """Move the slots behind each row's past.

    Args:
        past: for each layer a pair of (batch, heads, length, head_dim).
        recent: for each layer a pair of (batch, heads, slots, head_dim).
        lengths: (batch,) int32, how many tokens of each row are in `past`.
        slots: (batch,) int32, how many are in `recent`.
        put: does it for one layer; `put_in_ring`, which may be compiled.

    Returns:
        The new past, of the same shape.
    """
    return [put(layer, new, lengths, slots) for layer, new in zip(past, recent, strict=True)]


def keep_windows(past: Sequence[KeyValues], lengths: Any, config: GPTConfig) -> list[KeyValues]:
    """Leave of each layer what its window lets later tokens see.

    Args:
        past: for each layer a pair of (batch, heads, length, head_dim), every token at its position.
        lengths: (batch,) int32, how many tokens of each row are in it.
        config: has the windows.

    Returns:
        The same past for layers without a window, and rings of at most a window's length.
    """
    kept = []
    for layer, each in enumerate(past):
        whole, window = ops.shape(each.keys)[2], config.attention_window(layer)
        size = _within(whole, window)
        if size is not whole:
            index = ops.maximum(ring_positions(lengths, size), 0)[:, None, :, None]
            each = KeyValues(*[ops.take_along_axis(part, index, axis=2) for part in each])
        kept.append(each)
    return kept


def grow_past(past: Sequence[KeyValues], length: Any, config: GPTConfig) -> list[KeyValues]:
    """Make room for rows of `length` tokens: in a layer with a window, at most a window's length.

    A ring grows only until it is as long as its window; no row is longer than it before.

    Args:
        past: for each layer a pair of (batch, heads, old length, head_dim).
        length: tokens of the longest row.
        config: has the windows.
    """
    return [
        _grown(each, _within(length, config.attention_window(layer)))
        for layer, each in enumerate(past)
    ]


def grow_cache(cache: Sequence[KeyValues], length: Any) -> list[KeyValues]:
    """Pad every layer's keys and values with zeros to `length` places.

    Args:
        cache: for each layer a pair of (batch, heads, old length, head_dim).
        length: the new length, at least the old one.
    """
    return [_grown(layer, length) for layer in cache]


def longest(past: Sequence[KeyValues]) -> int:
    """Give the places of the layer that has most."""
    return max(ops.shape(layer.keys)[2] for layer in past)


def _within(length: Any, window: int | None) -> Any:
    """Give `length`, the same object, or the window where it is shorter."""
    if window is None:
        return length
    if isinstance(length, int):
        return length if length <= window else window
    return ops.minimum(length, window)


def _grown(layer: KeyValues, length: Any) -> KeyValues:
    old = ops.shape(layer.keys)[2]
    if isinstance(length, int) and isinstance(old, int):
        if length <= old:
            return layer
        more = length - old
    else:
        more = ops.maximum(length - old, 0)
    padding = [[0, 0], [0, 0], [0, more], [0, 0]]
    return KeyValues(*[ops.pad(part, padding) for part in layer])
