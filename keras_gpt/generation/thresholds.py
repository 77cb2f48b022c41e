"""Cut-offs in a vocabulary without sorting it."""

from typing import Any

from keras import ops


def largest_threshold(keys: Any, weights: Any, wanted: Any) -> Any:
    """Find, for each row, the largest key such that the keys from it upward weigh at least `wanted`.

    Bisection over the 32 bits of an integer finds the exact key without sorting the vocabulary.

    Args:
        keys: (batch, vocab_size) int32.
        weights: (batch, vocab_size) float32.
        wanted: (batch,) float32.

    Returns:
        (batch, 1) int32.
    """
    low = ops.min(keys, axis=-1, keepdims=True)  # weighs enough, or nothing does
    high = ops.max(keys, axis=-1, keepdims=True)
    wanted = ops.expand_dims(wanted, 1)

    def halve(_: Any, bounds: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = bounds
        # The upper middle of two int32 whose sum may not fit: floor mean, plus one if it was cut.
        middle = (low & high) + ops.right_shift(low ^ high, 1) + ((low ^ high) & 1)
        weight = ops.sum(ops.where(keys >= middle, weights, 0.0), axis=-1, keepdims=True)
        enough = weight >= wanted
        return ops.where(enough, middle, low), ops.where(enough, high, middle - 1)

    low, _ = ops.fori_loop(0, 32, halve, (low, high))
    return low


def ordered_integers(values: Any) -> Any:
    """Map float32 to int32 so that the order stays."""
    bits = ops.view(values + 0.0, "int32")  # -0.0 + 0.0 is 0.0: the two zeros are equal
    return ops.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
