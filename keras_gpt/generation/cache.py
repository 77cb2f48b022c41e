"""The keys and values that decoding keeps, and the shapes it runs in: few, each compiled once.

What earlier tokens left lies in two tensors a layer. `past` holds a row's tokens at their positions; a
step only reads it. `recent` holds the tokens of the last steps, one slot a step; a step makes it anew
with one more token in it, which costs little because it is short. When a row's slots are full, `fold`
moves those of all rows into `past`. Each row has its own length and its own slot. So no step copies the
whole cache, no variable is changed, and the same functions run in Python and in a SavedModel that
answers several requests at a time.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_gpt.key_values import KeyValues, put

# Below this, a compiled program more costs more than the saved work.
SMALLEST_BUCKET = 32
# Each step copies this many places; each fold copies the whole past.
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


def batch_bucket(rows: int) -> int:
    """Give the power of two that a batch is padded to."""
    return 1 << (rows - 1).bit_length()


def empty_recent(past: Sequence[KeyValues], slots: int = RECENT_SLOTS) -> list[KeyValues]:
    """Make the slots for the next steps, beside the past that prompts left."""
    batch, heads, _, head_dim = ops.shape(past[0].keys)
    shape = (batch, heads, slots, head_dim)
    return [KeyValues(*[ops.zeros(shape, part.dtype) for part in layer]) for layer in past]


def fold(past: Sequence[KeyValues], recent: Sequence[KeyValues], lengths: Any) -> list[KeyValues]:
    """Move the slots behind each row's past.

    Args:
        past: for each layer a pair of (batch, heads, length, head_dim); what would go beyond its
            length (of a row that has ended, or of slots that are not in use) is left out.
        recent: for each layer a pair of (batch, heads, slots, head_dim).
        lengths: (batch,) int32, how many tokens of each row are in `past`.

    Returns:
        The new past, of the same shape.
    """
    return [put(layer, new, lengths) for layer, new in zip(past, recent, strict=True)]


def grow_cache(cache: Sequence[KeyValues], length: Any) -> list[KeyValues]:
    """Pad every layer's keys and values with zeros to `length` places.

    Args:
        cache: for each layer a pair of (batch, heads, old length, head_dim).
        length: the new length, at least the old one.
    """
    more = length - ops.shape(cache[0].keys)[2]
    padding = [[0, 0], [0, 0], [0, more], [0, 0]]
    return [KeyValues(*[ops.pad(part, padding) for part in layer]) for layer in cache]
