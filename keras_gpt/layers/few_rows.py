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
# The same for a matrix that lies by outputs, measured from 1 to 128.
_FEW_BY_OUTPUTS = 32


def product(x: Any, matrix: Any) -> Any:
    """Multiply, as `keras.ops.matmul` does; few rows are multiplied in a way that a CPU is faster with.

    tests/benchmarks/RESULTS.md has the figures. One row in float32: the inputs are split into
    groups, and the groups' results are added. XLA on a CPU has a poor order of reading for one row
    and a tall matrix, and would fuse the whole with a sum behind it into one program that is slower
    still. Two to four rows are multiplied so one by one. More gain nothing by it; where their
    number is not known while a function is traced, as in a SavedModel, they lose less than one row
    gains. In half precision XLA's products of few rows are five times slower than they need be: the
    matrix is widened to float32 first. Where there is a GPU, the product is the plain one.

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
    rows = x.shape[0] if len(x.shape) == 3 and x.shape[1] == 1 else _FEW + 1
    if (rows or 1) > _FEW or not is_on_cpu():
        return ops.matmul(x, matrix)
    if keras.backend.standardize_dtype(x.dtype) in ("bfloat16", "float16"):
        return _half_product(x, matrix)
    if rows in (1, None):
        return _in_groups(x, matrix)
    if rows <= _ALONE:
        return ops.concatenate([_in_groups(row, matrix) for row in ops.split(x, rows)])
    return ops.matmul(x, matrix)


def product_by_outputs(x: Any, matrix: Any) -> Any:
    """Multiply by a matrix that lies with each output's weights side by side: x Wᵀ.

    Few rows, or rows whose number is not known while a function is traced, are multiplied on a CPU
    with the matrix on the left: Wxᵀ is twice as fast as x Wᵀ, for which XLA's product copies the
    matrix into another order first. The result has an axis of one more for a moment, else XLA
    would take the product and the exchange of its axes for the plain product, and compute that.

    Args:
        x: (..., inputs) float; the fast way is for (rows, inputs).
        matrix: (outputs, inputs) of the same dtype.

    Returns:
        (..., outputs), in the dtype of `x`.

    Example:
        >>> product_by_outputs(ops.ones((2, 768)), ops.ones((3, 768))).shape
        (2, 3)
    """
    rows = x.shape[0] if len(x.shape) == 2 else 1
    if rows == 1 or (rows or 1) > _FEW_BY_OUTPUTS or not is_on_cpu():
        return ops.matmul(x, ops.transpose(matrix))
    # Of half precision XLA's products are slow here too.
    wide_x, wide = ops.cast(x, "float32"), ops.cast(matrix, "float32")
    turned = ops.expand_dims(ops.matmul(wide, ops.transpose(wide_x)), -1)  # (outputs, rows, 1)
    return ops.cast(ops.transpose(turned, (1, 2, 0))[:, 0], x.dtype)


def _in_groups(x: Any, matrix: Any) -> Any:
    inputs, outputs = matrix.shape
    width = _group_width(inputs)
    if width == inputs:
        return ops.matmul(x, matrix)
    grouped = ops.reshape(x, (-1, inputs // width, width))
    grouped = ops.transpose(grouped, (1, 0, 2))  # (groups, batch, width)
    groups = ops.reshape(matrix, (-1, width, outputs))
    return ops.expand_dims(ops.sum(ops.matmul(grouped, groups), axis=0), 1)


def _half_product(x: Any, matrix: Any) -> Any:
    wide_x, wide = ops.cast(x, "float32"), ops.cast(matrix, "float32")
    if x.shape[0] == 1:
        # (1, 1, outputs) of (inputs, outputs) times (inputs, 1)
        column = ops.transpose(wide_x[0])
        return ops.cast(ops.sum(wide * column, axis=0)[None, None], x.dtype)
    # Times a one that XLA cannot know to be one: else it takes the widening back, and reads half
    # precision inside its product again.
    one = ops.where(ops.argmax(ops.stop_gradient(wide_x)) >= 0, 1.0, 2.0)
    return ops.cast(ops.matmul(wide_x, wide * ops.cast(one, "float32")), x.dtype)


def is_on_cpu() -> bool:
    """Say whether a CPU is all there is; what Keras cannot ask, as on PyTorch, is none."""
    if keras.backend.backend() == "torch":
        return False
    return all(name.startswith("cpu") for name in keras.distribution.list_devices())


def _group_width(inputs: int) -> int:
    """Give the largest width that the inputs can be split into; themselves where there is none."""
    widths = [width for width in range(_LEAST, _MOST + 1) if inputs % width == 0]
    return max(widths, default=inputs)
