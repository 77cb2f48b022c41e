"""Matrices rounded to integers of 8 or 4 bits, and products with them.

Inputs are rounded too, row by row, so that what is multiplied are integers of 8 bits and their sums
are exact: a row's result does not depend on the rows beside it (arXiv:2208.07339 section 2.1). Four
bits are too few for one scale a row. Each group of 32 columns has a multiplier of its own beside
them, and the multiplier is an integer as well: an integer of 4 bits times its multiplier is one of 8
bits, and takes the same product.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

GROUP = 32  # columns of a 4-bit matrix that share a multiplier

_LARGEST = 127
_LARGEST_4 = 7
_LARGEST_MULTIPLIER = _LARGEST // _LARGEST_4
_TINY = float(np.finfo("float32").tiny)
_ROWS_AT_ONCE = 4096  # of a matrix that is rounded to 4 bits, which takes several copies


def rounded(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Round each row of a matrix to integers from -127 to 127.

    Args:
        matrix: (rows, columns) float.

    Returns:
        (rows, columns) int8, and (rows,) float32, what one step of each row stands for.
    """
    integers, scale = _round_rows(ops.cast(matrix, "float32"))
    return ops.convert_to_numpy(integers), ops.convert_to_numpy(scale)[:, 0]


def rounded_4(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Round each row of a matrix to integers from -7 to 7, with a multiplier for each group.

    Args:
        matrix: (rows, columns) float.

    Returns:
        (rows, bytes) int8: two integers a byte, those of the first half of the columns in the low
        bits; (rows, groups) int8, the multipliers, from 1 to 18; and (rows,) float32, what one step
        stands for where the multiplier is 1. Columns are filled up with zeros to whole groups in
        both halves.
    """
    matrix = ops.convert_to_numpy(ops.cast(matrix, "float32"))
    parts = [
        _round_4(matrix[start : start + _ROWS_AT_ONCE])
        for start in range(0, len(matrix), _ROWS_AT_ONCE)
    ]
    packed, multipliers, scale = (np.concatenate(each) for each in zip(*parts, strict=True))
    return packed, multipliers, scale


def _round_4(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = matrix.shape
    matrix = np.pad(matrix, ((0, 0), (0, -columns % (2 * GROUP))))
    groups = matrix.reshape(rows, -1, GROUP)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    step = np.maximum(largest.max(axis=1, keepdims=True), _TINY)
    step = step / np.float32(_LARGEST_4 * _LARGEST_MULTIPLIER)  # (rows, 1, 1)
    # The multiplier that reaches the largest of its group is seldom the best: a finer step is worth
    # that a few are cut off. The one of the least squared error is taken.
    reaching = np.ceil(largest / (_LARGEST_4 * step))
    best = np.ones_like(reaching)
    least = np.full_like(reaching, np.inf)
    for less in range(4):
        multipliers = np.clip(reaching - less, 1, _LARGEST_MULTIPLIER)
        units = multipliers * step
        error = np.clip(np.round(groups / units), -_LARGEST_4, _LARGEST_4) * units - groups
        squares = np.square(error).sum(axis=2, keepdims=True)
        best = np.where(squares < least, multipliers, best)
        least = np.minimum(squares, least)
    integers = np.clip(np.round(groups / (best * step)), -_LARGEST_4, _LARGEST_4).astype("int8")
    low, high = np.split(integers.reshape(rows, -1), 2, axis=1)
    return low & 15 | high << 4, best[:, :, 0].astype("int8"), step[:, 0, 0]


def packed_shapes(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give the shapes of the bytes and of the multipliers of a matrix rounded to 4 bits."""
    padded = columns + -columns % (2 * GROUP)
    return (rows, padded // 2), (rows, padded // GROUP)


def unpacked(packed: Any, multipliers: Any, columns: int) -> Any:
    """Give the 8-bit integers that a matrix of 4 bits stands for.

    Args:
        packed: (rows, bytes) int8, as from `rounded_4`.
        multipliers: (rows, groups) int8.
        columns: how many columns the matrix has.

    Returns:
        (rows, columns) int8.
    """
    return ops.concatenate(_halves(packed, multipliers), axis=1)[:, :columns]


def _halves(packed: Any, multipliers: Any) -> tuple[Any, Any]:
    low = ops.right_shift(ops.left_shift(packed, 4), 4)  # the second shift repeats the sign
    high = ops.right_shift(packed, 4)
    groups = multipliers.shape[1] // 2

    def multiplied(integers: Any, factors: Any) -> Any:
        each = ops.reshape(integers, (-1, groups, GROUP)) * ops.expand_dims(factors, 2)
        return ops.reshape(each, (-1, groups * GROUP))

    return multiplied(low, multipliers[:, :groups]), multiplied(high, multipliers[:, groups:])


def int8_product(x: Any, matrix: Any, scale: Any) -> Any:
    """Round x row by row and multiply it by a rounded matrix: x Wᵀ.

    The gradient of x is that of the product without the rounding.

    Args:
        x: (..., columns) float.
        matrix: (rows, columns) int8.
        scale: (rows,) float, what one step of each row stands for.

    Returns:
        (..., rows) in the dtype of `x`.
    """
    return _product(x, [matrix], scale, _integer_product, lambda matrix: matrix)


def int4_product(x: Any, packed: Any, multipliers: Any, scale: Any) -> Any:
    """Multiply as `int8_product` does, by a matrix rounded to 4 bits.

    Args:
        x: (..., columns) float.
        packed: (rows, bytes) int8, as from `rounded_4`.
        multipliers: (rows, groups) int8.
        scale: (rows,) float.

    Returns:
        (..., rows) in the dtype of `x`.
    """
    columns = x.shape[-1]

    def multiply(integers: Any, packed: Any, multipliers: Any) -> Any:
        width = packed.shape[1]
        integers = ops.pad(integers, [[0, 0], [0, 2 * width - columns]])
        low, high = _halves(packed, multipliers)
        # Two products: putting the halves side by side first costs a copy of the matrix.
        return _integer_product(integers[:, :width], low) + _integer_product(
            integers[:, width:], high
        )

    return _product(
        x,
        [packed, multipliers],
        scale,
        multiply,
        lambda packed, multipliers: unpacked(packed, multipliers, columns),
    )


def _product(
    x: Any,
    stored: list[Any],
    scale: Any,
    multiply: Callable[..., Any],
    widened: Callable[..., Any],
) -> Any:
    """Multiply by a matrix that lies in `stored`.

    `multiply` gives the int32 sums (n, rows) of (n, columns) int8 and what is stored, `widened` the
    integers (rows, columns) that it stands for.
    """
    columns = x.shape[-1]

    @ops.custom_gradient
    def product(x: Any, scale: Any, *stored: Any) -> Any:
        flat = ops.reshape(ops.cast(x, "float32"), (-1, columns))
        count = flat.shape[0]
        if count is None or count < 2:
            # A product with one row takes another road in XLA, which is slower.
            flat = ops.pad(flat, [[0, 1], [0, 0]])
        integers, steps = _round_rows(flat)
        sums = ops.cast(multiply(integers, *stored), "float32")
        # (rows of x, 1) * (rows of the matrix,)
        result = ops.cast(sums * steps * ops.cast(scale, "float32"), x.dtype)
        if count is None or count < 2:
            result = result[:-1]
        result = ops.reshape(result, (*ops.shape(x)[:-1], scale.shape[0]))

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, ...]:
            upstream = args[0] if upstream is None else upstream
            full = ops.cast(widened(*stored), upstream.dtype)
            full = full * ops.cast(ops.expand_dims(scale, 1), upstream.dtype)
            return ops.matmul(upstream, full), None, *(None for _ in stored)

        return result, gradient

    return product(x, ops.convert_to_tensor(scale), *map(ops.convert_to_tensor, stored))


def _integer_product(integers: Any, matrix: Any) -> Any:
    """Give x Wᵀ of (n, columns) and (rows, columns) int8 as (n, rows) int32."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Keras has no product with a transposed matrix, and XLA would lay the whole of it out anew.
        return tf.matmul(integers, matrix, transpose_b=True, output_type=tf.int32)
    return ops.matmul(integers, ops.transpose(matrix))


def _round_rows(matrix: Any) -> tuple[Any, Any]:
    """Give integers as (rows, columns) int8, and what a step stands for as (rows, 1) float32."""
    largest = ops.max(ops.abs(matrix), axis=1, keepdims=True)
    steps = ops.maximum(largest, _TINY) / _LARGEST
    return ops.cast(ops.round(matrix / steps), "int8"), steps
