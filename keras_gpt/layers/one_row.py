"""The product of one row and a matrix, which is what decoding one sequence spends its time on."""

from typing import Any

import keras
from keras import ops

# On a CPU, XLA reads a matrix fastest in groups of about this many rows, measured from 96 to 384.
_LEAST, _MOST = 64, 192


def product(x: Any, matrix: Any) -> Any:
    """Multiply, as `keras.ops.matmul` does; one row is multiplied in a faster way.

    The inputs are split into groups, and the groups' results are added. XLA on a CPU has a poor
    order of reading for one row and a tall matrix, and would fuse the whole with a sum behind it
    into one program that is slower still. Several rows gain nothing by it; where their number is
    not known while a function is traced, as in a SavedModel, they lose less than one row gains
    (tests/benchmarks/RESULTS.md has the figures).

    Args:
        x: (..., inputs) float; the faster way is for (batch, 1, inputs), batch one or not known.
        matrix: (inputs, outputs) of the same dtype.

    Returns:
        (..., outputs), in the dtype of `x`.

    Example:
        >>> product(ops.ones((1, 1, 768)), ops.ones((768, 3))).shape
        (1, 1, 3)
    """
    inputs, outputs = matrix.shape
    width = _group_width(inputs)
    may_be_one_row = len(x.shape) == 3 and x.shape[0] in (1, None) and x.shape[1] == 1
    # In half precision the groups' results would each be rounded.
    is_float32 = keras.backend.standardize_dtype(x.dtype) == "float32"
    if not may_be_one_row or not is_float32 or width == inputs:
        return ops.matmul(x, matrix)
    rows = ops.reshape(x, (-1, inputs // width, width))
    rows = ops.transpose(rows, (1, 0, 2))  # (groups, batch, width)
    groups = ops.reshape(matrix, (-1, width, outputs))
    return ops.expand_dims(ops.sum(ops.matmul(rows, groups), axis=0), 1)


def _group_width(inputs: int) -> int:
    """Give the largest width that the inputs can be split into; themselves where there is none."""
    widths = [width for width in range(_LEAST, _MOST + 1) if inputs % width == 0]
    return max(widths, default=inputs)
