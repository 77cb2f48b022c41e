"""Who sees whom: causal, banded, prefix, padding and document masks as one boolean tensor."""

from typing import Any

from keras import ops


def token_positions(time: Any, padding_mask: Any = None, segment_ids: Any = None) -> Any:
    """Number the tokens of each row, or of each document in a packed row, from 0.

    Padding on the left does not count, so a row gets the same numbers on whichever side it is
    padded.

    Args:
        time: number of positions.
        padding_mask: (batch, time), True at real tokens, or None.
        segment_ids: (batch, time) int, equal within a document, or None.

    Returns:
        (batch or 1, time) int32.
    """
    index = ops.arange(time, dtype="int32")
    if padding_mask is None and segment_ids is None:
        return ops.expand_dims(index, 0)
    # A token's number is how many tokens of its own document stand before it.
    before = ops.expand_dims(index, 0) < ops.expand_dims(index, 1)  # (query, key)
    before = ops.expand_dims(before, 0)
    if padding_mask is not None:
        before = ops.logical_and(before, _keys(ops.cast(padding_mask, "bool")))
    if segment_ids is not None:
        before = ops.logical_and(before, _same(segment_ids))
    return ops.sum(ops.cast(before, "int32"), axis=-1)


def attention_mask(
    time: Any,
    window: int | None = None,
    mask: Any = None,
    prefix_lengths: Any = None,
    segment_ids: Any = None,
) -> Any:
    """Say which keys each query sees.

    Args:
        time: number of positions.
        window: how many positions a query sees, itself included; None is all.
        mask: None, a padding mask (batch, time), True at real tokens, or an attention mask
            (batch, query, key), True where the query may look. It takes away from what causality
            leaves.
        prefix_lengths: (batch,) int: the first so many tokens of a row see each other both ways.
        segment_ids: (batch, time) int: tokens see only tokens with the same number.

    Returns:
        (batch or 1, 1, query, key) bool.
    """
    index = ops.arange(time, dtype="int32")
    query, key = ops.expand_dims(index, 1), ops.expand_dims(index, 0)
    seen = ops.expand_dims(key <= query, 0)  # (1, query, key)
    if prefix_lengths is not None:
        lengths = ops.reshape(ops.cast(prefix_lengths, "int32"), (-1, 1, 1))
        inside = ops.logical_and(query < lengths, key < lengths)
        seen = ops.logical_or(seen, inside)
    if window is not None:
        # In the prefix a key may stand after its query; the band then holds on both sides.
        seen = ops.logical_and(seen, ops.abs(query - key) < window)
    if mask is not None:
        mask = ops.cast(mask, "bool")
        seen = ops.logical_and(seen, mask if len(mask.shape) == 3 else _keys(mask))
    if segment_ids is not None:
        seen = ops.logical_and(seen, _same(segment_ids))
    return ops.expand_dims(seen, 1)


def branch_mask(
    positions: Any,
    segments: Any,
    branches: Any,
    window: int | None = None,
    both_ways: bool = False,
) -> Any:
    """Say which keys each query sees where continuations of one context stand side by side.

    A continuation sees its own context and what it holds itself up to the query.

    Args:
        positions: (batch, time) int32, each token's place in its own sequence.
        segments: (batch, time) int32, equal within a context and its continuations.
        branches: (batch, time) int32, 0 in a context, then one number a continuation.
        window: how many positions a query sees, itself included; None is all.
        both_ways: whether the tokens of a context see each other both ways.

    Returns:
        (batch, 1, query, key) bool.
    """
    query, key = ops.expand_dims(positions, 2), ops.expand_dims(positions, 1)
    in_context = ops.equal(branches, 0)
    seen = key <= query  # (batch, query, key)
    if both_ways:
        inside = ops.logical_and(ops.expand_dims(in_context, 2), ops.expand_dims(in_context, 1))
        seen = ops.logical_or(seen, inside)
    if window is not None:
        seen = ops.logical_and(seen, ops.abs(query - key) < window)
    seen = ops.logical_and(seen, ops.logical_or(_keys(in_context), _same(branches)))
    return ops.expand_dims(ops.logical_and(seen, _same(segments)), 1)


def _keys(padding_mask: Any) -> Any:
    return ops.expand_dims(padding_mask, 1)  # (batch, 1, key)


def _same(segment_ids: Any) -> Any:
    return ops.equal(ops.expand_dims(segment_ids, 2), ops.expand_dims(segment_ids, 1))
