"""Random numbers that depend on their names alone: (seed, prompt, sequence, step, token).

A row of a batch must draw what it would draw alone, on every backend, eagerly, under XLA and inside
a SavedModel. Keras' generators draw for a whole tensor at once, so a row's numbers change with the
batch. Here each number is a hash of its own coordinates, in 32-bit integers that wrap around.
"""

from typing import Any

import numpy as np
from keras import ops

_GOLDEN = 0x9E3779B9  # 2**32 divided by the golden ratio: spreads neighbouring counters


def row_keys(seeds: Any, sequences: Any, step: Any) -> Any:
    """Mix the coordinates of each row into one key.

    Args:
        seeds: (batch,) int32.
        sequences: (batch,) int32, which of several answers to one prompt the row is.
        step: scalar or (batch,) int32, how many tokens were drawn before.

    Returns:
        (batch,) int32.
    """
    step = ops.cast(step, "int32")
    return _mix(seeds ^ _mix(sequences * _int32(_GOLDEN) ^ _mix(step + _int32(_GOLDEN))))


def prompt_seeds(seeds: Any, token_ids: Any, lengths: Any) -> Any:
    """Mix each row's prompt into its seed, so that different prompts draw different numbers.

    Args:
        seeds: (batch,) int32.
        token_ids: (batch, time) int32, padded on the right; the padding has no effect.
        lengths: (batch,) int32.

    Returns:
        (batch,) int32.
    """
    places = ops.expand_dims(ops.arange(ops.shape(token_ids)[1], dtype="int32"), 0)
    bits = _mix(token_ids * _int32(_GOLDEN) ^ _mix(places + _int32(_GOLDEN)))
    bits = ops.where(places < ops.expand_dims(lengths, 1), bits, 0)
    return seeds ^ _mix(ops.sum(bits, axis=1))


def seeds_for(purpose: int, seeds: Any) -> Any:
    """Give other seeds, for numbers that must be independent of those that tokens are chosen with.

    Args:
        purpose: a positive number, one for each purpose.
        seeds: (batch,) int32.

    Returns:
        (batch,) int32.
    """
    return _mix(seeds ^ _mix(_int32(_GOLDEN * purpose % 2**32) + ops.zeros_like(seeds)))


def uniforms(keys: Any, count: int) -> Any:
    """Draw numbers strictly between 0 and 1.

    Args:
        keys: (batch,) int32.
        count: numbers a row.

    Returns:
        (batch, count) float32, in steps of 2^-31 near 0 and of 2^-24 near 1.
    """
    keys = ops.expand_dims(keys, 1)
    counters = ops.expand_dims(ops.arange(count, dtype="int32"), 0) * _int32(_GOLDEN)
    bits = _mix(_mix(counters + keys) ^ _mix(keys + _int32(0x85EBCA6B)))
    # The half keeps 0 out. Near 1, float32 rounds up to 1 itself, which the minimum keeps out.
    numbers = (ops.cast(_shift_right(bits, 1), "float32") + 0.5) * np.float32(2.0**-31)
    return ops.minimum(numbers, np.float32(1.0 - 2.0**-24))


def _mix(bits: Any) -> Any:
    """Hash 32 bits to 32 bits: two rounds of shift, xor and multiply (a "murmur"-style finalizer)."""
    bits = bits ^ _shift_right(bits, 16)
    bits = bits * _int32(0x7FEB352D)
    bits = bits ^ _shift_right(bits, 15)
    bits = bits * _int32(0x846CA68B)
    return bits ^ _shift_right(bits, 16)


def _shift_right(bits: Any, by: int) -> Any:
    """Shift zeros in from the left; int32's own shift copies the sign."""
    return ops.bitwise_and(ops.right_shift(bits, np.int32(by)), np.int32((1 << (32 - by)) - 1))


def _int32(value: int) -> np.int32:
    return np.uint32(value).astype(np.int32)
