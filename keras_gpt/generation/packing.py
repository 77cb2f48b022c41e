"""Contexts and what may follow them, packed into few rows: a context is read once for all that follow it.

A row holds several contexts; behind each stand its continuations, side by side. A mask keeps them
apart: a continuation sees its own context and itself. So equal contexts cost one reading, short texts
fill long rows, and nearly all batches have one shape, which is compiled once.
"""

import bisect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_gpt.generation.cache import batch_bucket

# Tokens of a batch: enough for a matrix product to run at full rate on a CPU.
_TOKENS_AT_ONCE = 2048
# A row is filled up to here. Attention's cost grows with a row's length, the padding of rows shrinks.
_USUAL_LENGTH = 256
_SMALLEST_LENGTH = 32


class Request(NamedTuple):
    """A continuation to score, and what it follows: at least one token."""

    context: Sequence[int]
    continuation: Sequence[int]


class PackedBatch(NamedTuple):
    """What the model reads at once, and where the states are that tell the continuations' tokens.

    Args:
        token_ids: (rows, length) int32.
        positions: (rows, length) int32, each token's place in its own sequence.
        segments: (rows, length) int32, equal within a context and its continuations; 0 is padding.
        branches: (rows, length) int32, 0 in a context, then one number a continuation.
        places: (count,) where in (rows * length) the state is that tells each scored token.
        tokens: (count,) which tokens these are, counted through all requests' continuations.
        num_requests: how many requests are in the batch.
    """

    token_ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    branches: np.ndarray
    places: np.ndarray
    tokens: np.ndarray
    num_requests: int


def pack(requests: Sequence[Request]) -> Iterator[PackedBatch]:
    """Give batches that together hold every request with a continuation once, the longest first."""
    groups = sorted(_groups(requests), key=lambda group: group.length)
    lengths = [group.length for group in groups]
    ends = np.cumsum([len(request.continuation) for request in requests])
    length = 0
    while groups:
        left = sum(lengths)
        # One program more costs more time than a last batch that is not full.
        is_rest = left < _TOKENS_AT_ONCE and 0 < length <= _TOKENS_AT_ONCE
        if not is_rest:
            # A few short texts need no long row.
            length = length_of_row(max(lengths[-1], min(left, _USUAL_LENGTH)))
        most, rows = max(1, _TOKENS_AT_ONCE // length), list[list[_Group]]()
        while groups and len(rows) < most:
            rows.append(_take(groups, lengths, length))
        num_rows = most if is_rest else min(most, batch_bucket(len(rows)))
        yield _batch(requests, ends, rows, (num_rows, length))


def length_of_row(length: int) -> int:
    """Give the length that a row is padded to: 32, 48, 64, 96, 128, ...

    Example:
        >>> length_of_row(70)
        96
    """
    bucket = _SMALLEST_LENGTH
    while bucket < length:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3
    return bucket


class _Group(NamedTuple):
    length: int  # tokens that are read
    members: list[int]  # requests with one context


def _groups(requests: Sequence[Request]) -> Iterator[_Group]:
    by_context: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        if len(request.continuation):
            by_context.setdefault(tuple(request.context), []).append(index)
    for context, indices in by_context.items():
        indices.sort(key=lambda index: len(requests[index].continuation))
        # The last token of a continuation is not read.
        lengths = [len(requests[index].continuation) - 1 for index in indices]
        # What follows a context may be as long as it is, or fill a row.
        most = max(_USUAL_LENGTH - len(context), len(context))
        while indices:
            left = sum(lengths)
            members = _take(indices, lengths, max(most, lengths[-1]))
            yield _Group(len(context) + left - sum(lengths), members)


def _take(items: list[Any], lengths: list[int], room: int) -> list[Any]:
    """Take the longest that fits, again and again; `lengths` are those of `items`, ascending."""
    taken = []
    while place := bisect.bisect_right(lengths, room):
        taken.append(items.pop(place - 1))
        room -= lengths.pop(place - 1)
    return taken


def _batch(
    requests: Sequence[Request], ends: np.ndarray, rows: list[list[_Group]], shape: tuple[int, int]
) -> PackedBatch:
    token_ids, positions, segments, branches = np.zeros((4, *shape), "int32")
    places, tokens = list[np.ndarray](), list[np.ndarray]()
    for line, row in enumerate(rows):
        end = 0
        for segment, group in enumerate(row, 1):
            context = requests[group.members[0]].context
            segments[line, end : end + group.length] = segment
            start, end = end, end + len(context)
            token_ids[line, start:end] = context
            positions[line, start:end] = np.arange(len(context))
            last = line * shape[1] + end - 1
            for branch, index in enumerate(group.members, 1):
                continuation = requests[index].continuation
                start, end = end, end + len(continuation) - 1
                token_ids[line, start:end] = continuation[:-1]
                positions[line, start:end] = len(context) + np.arange(end - start)
                branches[line, start:end] = branch
                # The context's last state tells the first token.
                places.append(np.append(last, line * shape[1] + np.arange(start, end)))
                tokens.append(np.arange(ends[index] - len(continuation), ends[index]))
    return PackedBatch(
        token_ids,
        positions,
        segments,
        branches,
        np.concatenate(places),
        np.concatenate(tokens),
        len(places),
    )
