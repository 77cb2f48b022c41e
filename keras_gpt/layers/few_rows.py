"""The product of few rows and a matrix, which is what decoding spends its time on."""

from typing import Any

import keras
from keras import ops

# On a CPU, XLA reads a matrix fastest in groups of about this many rows, measured from 96 to 384.
_LEAST, _MOST = 64, 192
# More rows are a prompt, or training; XLA's own product is better for them.
_FEW = 16
# Up to so many rows are read one after the other: XLA's product of several rows first copies the matrix
# into another order, which costs more than to read it again from the processor's cache.
_ALONE = 4


def product(x: Any, matrix: Any) -> Any:
    """Multiply, as `keras.ops.matmul` does; few rows are multiplied in a way that a CPU is faster with.

    tests/benchmarks/RESULTS.md has the figures. One row in float32: the inputs are split into
    groups, and the groups' results are added. XLA on a CPU has a poor order of reading for one row
    and a tall matrix, and would fuse the whole with a sum behind it into one program that is slower
    still. Several rows gain nothing by it; where their number is not known while a function is
    traced, as in a SavedModel, they lose less than one row gains. In half precision XLA's products
    of few rows are five times slower than they need be, where no GPU is in sight; there the
    matrix is widened to float32 first.

    Args:
        x: (..., inputs) float; the faster ways are for (batch, 1, inputs) with a small batch, or
            one that is not known.
        matrix: (inputs, outputs) of the same dtype.

    Returns:
        (..., outputs), in the dtype of `x`.

    Example:
        >>> product(ops.ones((1, 1, 768)), ops.ones((768, 3))).shape
        (1, 1, 3)
    """
    if len(x.shape) != 3 or x.shape[1] != 1 or (x.shape[0] or 1) > _FEW:
        return ops.matmul(x, matrix)
    is_cpu = not keras.distribution.list_devices("gpu")
    if is_cpu and _is_half(x.dtype):
        wide = ops.cast(matrix, "float32")
        if x.shape[0] == 1:
            # (1, 1, outputs) of (inputs, outputs) times (inputs, 1)
            column = ops.transpose(ops.cast(x[0], "float32"))
            return ops.cast(ops.sum(wide * column, axis=0)[None, None], x.dtype)
        # Times a one that XLA cannot know to be one: else it takes the widening back, and reads
        # half precision inside its product again.
        wide_x = ops.cast(x, "float32")
        one = ops.where(ops.argmax(ops.stop_gradient(wide_x)) >= 0, 1.0, 2.0)
        return ops.cast(ops.matmul(wide_x, wide * one), x.dtype)
    inputs, outputs = matrix.shape
    width = _group_width(inputs)
    if is_cpu and 1 < (x.shape[0] or 1) <= _ALONE:
        return ops.concatenate([product(row, matrix) for row in ops.split(x, x.shape[0])])
    if x.shape[0] not in (1, None) or width == inputs:
        return ops.matmul(x, matrix)
    rows = ops.reshape(x, (-1, inputs // width, width))
    rows = ops.transpose(rows, (1, 0, 2))  # (groups, batch, width)
    groups = ops.reshape(matrix, (-1, width, outputs))
    return ops.expand_dims(ops.sum(ops.matmul(rows, groups), axis=0), 1)


def _is_half(dtype: Any) -> bool:
    return keras.backend.standardize_dtype(dtype) in ("bfloat16", "float16")


def _group_width(inputs: int) -> int:
    """Give the largest width that the inputs can be split into; themselves where there is none."""
    widths = [width for width in range(_LEAST, _MOST + 1) if inputs % width == 0]
    return max(widths, default=inputs)
