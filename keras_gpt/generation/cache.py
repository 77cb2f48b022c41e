"""The keys and values that decoding keeps, and the shapes it runs in: few, each compiled once.

What earlier tokens left lies in two tensors a layer. `past` holds a row's tokens at their positions; a
step only reads it. `recent` holds the tokens of the last steps, one slot a step; a step makes it anew
with one more token in it, which costs little because it is short. When it is full, `fold` moves it into
`past`. So no step copies the whole cache, no variable is changed, and the same functions run in Python
and in a SavedModel that answers several requests at a time.
"""

from collections.abc import Sequence
from typing import Any

from keras import ops

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


def empty_recent(past: Sequence[Any]) -> list[Any]:
    """Make the slots for the next steps, beside the past that prompts left."""
    batch, heads, _, head_dim = ops.shape(past[0].keys)
    shape = (batch, heads, RECENT_SLOTS, head_dim)
    return [type(layer)(*[ops.zeros(shape, part.dtype) for part in layer]) for layer in past]


def fold(past: Sequence[Any], recent: Sequence[Any], lengths: Any) -> list[Any]:
    """Move full slots behind each row's past.

    Args:
        past: for each layer a pair of (batch, heads, length, head_dim); what would go beyond its
            length (of a row that has ended) is left out.
        recent: for each layer a pair of (batch, heads, slots, head_dim).
        lengths: (batch,) int32, how many tokens of each row are in `past`.

    Returns:
        The new past, of the same shape.
    """
    slots = ops.shape(recent[0].keys)[2]
    places = ops.arange(ops.shape(past[0].keys)[2], dtype="int32")[None, :]
    wanted = places - lengths[:, None]  # (batch, length): the slot that goes to each place
    moved = ops.logical_and(wanted >= 0, wanted < slots)[:, None, :, None]
    wanted = ops.clip(wanted, 0, slots - 1)[:, None, :, None]

    def moved_in(old: Any, new: Any) -> Any:
        return ops.where(moved, ops.take_along_axis(new, wanted, axis=2), old)

    return [
        type(layer)(*[moved_in(*parts) for parts in zip(layer, new, strict=True)])
        for layer, new in zip(past, recent, strict=True)
    ]


def grow_cache(cache: Sequence[Any], length: Any) -> list[Any]:
    """Pad every layer's keys and values with zeros to `length` places.

    Args:
        cache: for each layer a pair of (batch, heads, old length, head_dim).
        length: the new length, at least the old one.
    """
    more = length - ops.shape(cache[0].keys)[2]
    padding = [[0, 0], [0, 0], [0, more], [0, 0]]
    return [
        type(layer)(ops.pad(layer.keys, padding), ops.pad(layer.values, padding)) for layer in cache
    ]
