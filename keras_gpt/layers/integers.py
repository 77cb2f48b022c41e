"""Matrices rounded to integers of 8 or 4 bits, and products with them.

Only the weights are rounded to so few bits. Of the inputs a few are often far larger than all others
of their row (arXiv:2208.07339), and 8 bits for the row leave little of those others: it cost several
times what rounding the weights does, and the last digit of an input decided between two integers, so
that answers depended on the batch they were in (tests/benchmarks/RESULTS.md). Very few rows are
multiplied as floats; more, where a product of integers is faster, as three integers of 8 bits each,
which is as fine as float32: by oneDNN where it can, else some by XLA and many as floats.

Four bits are too few for one scale a row. Each group of 32 columns has a multiplier and an offset of
its own beside them, and these are integers as well: an integer of 4 bits times its multiplier plus its
offset is one of 8 bits, and takes the same products.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gpt import onednn
from keras_gpt.layers.few_rows import (
    ALONE,
    by_number_of_rows,
    from_places,
    traced_once,
    unknown_ones,
)
from keras_gpt.processor import is_on_cpu

GROUP = 32  # columns of a 4-bit matrix that share a multiplier and an offset

_LARGEST = 127
_LARGEST_4 = 15
_TINY = float(np.finfo("float32").tiny)
# Up to so many rows XLA's integer product on a CPU is faster than widening the matrix for one of floats.
_FEW = 32
_AT_ONCE = 1 << 20  # numbers of a matrix that are rounded, which takes several copies of them


def rounded(matrix: Any, dtype: str = "float32") -> tuple[np.ndarray, ...]:
    """Round each row of a matrix to integers from -127 to 127.

    Args:
        matrix: (rows, columns) float; read some rows at a time.
        dtype: what the numbers are cast to before they are rounded.

    Returns:
        (rows, columns) int8, and (rows,) float32, what one step of each row stands for.
    """
    return _by_rows(_round_8, matrix, dtype)


def rounded_4(matrix: Any, dtype: str = "float32") -> tuple[np.ndarray, ...]:
    """Round each row of a matrix to integers from 0 to 15, times a multiplier, plus an offset.

    Args:
        matrix: (rows, columns) float; read some rows at a time.
        dtype: what the numbers are cast to before they are rounded.

    Returns:
        (rows, bytes) int8: two integers a byte, those of the first half of the columns in the low
        bits; (rows, groups) int8, the multipliers; (rows, groups) int8, the offsets; and (rows,)
        float32, what one step of the sums stands for. Columns are filled up with zeros to whole
        groups in both halves.
    """
    return _by_rows(_round_4, matrix, dtype)


def _by_rows(
    round_: Callable[[Any], tuple[np.ndarray, ...]], matrix: Any, dtype: str
) -> tuple[np.ndarray, ...]:
    rows, columns = matrix.shape
    step = max(1, _AT_ONCE // columns)
    whole: list[np.ndarray] = []
    for start in range(0, rows, step):
        floats = ops.cast(ops.cast(matrix[start : start + step], dtype), "float32")
        parts = round_(floats)
        whole = whole or [np.empty((rows, *part.shape[1:]), part.dtype) for part in parts]
        for array, part in zip(whole, parts, strict=True):
            array[start : start + step] = part
    return tuple(whole)


def _round_8(matrix: Any) -> tuple[np.ndarray, ...]:
    integers, scale = _round_rows(matrix)
    return ops.convert_to_numpy(integers), ops.convert_to_numpy(scale)[:, 0]


def _round_4(matrix: Any) -> tuple[np.ndarray, ...]:
    matrix = ops.convert_to_numpy(matrix)
    rows, columns = matrix.shape
    matrix = np.pad(matrix, ((0, 0), (0, -columns % (2 * GROUP))))
    step = np.maximum(np.abs(matrix).max(axis=1) / np.float32(_LARGEST), np.float32(_TINY))
    groups = (matrix / step[:, None]).reshape(rows, -1, GROUP)
    lowest, highest = groups.min(axis=2, keepdims=True), groups.max(axis=2, keepdims=True)
    # The multiplier that reaches from end to end of its group is seldom the best: a finer step is
    # worth that a few are cut off. The one of the least squared error is taken.
    reaching = np.ceil((highest - lowest) / _LARGEST_4)
    multipliers = offsets = np.zeros_like(reaching)
    least = np.full_like(reaching, np.inf)
    integers = np.zeros_like(groups)
    for less in range(3):
        factors = np.maximum(reaching - less, 1)
        middle = np.round((lowest + highest - factors * _LARGEST_4) / 2)
        starts = np.maximum(middle, -_LARGEST)
        most = np.minimum(_LARGEST_4, np.floor((_LARGEST - starts) / factors))
        near = np.clip(np.round((groups - starts) / factors), 0, most)
        squares = np.square(near * factors + starts - groups).sum(axis=2, keepdims=True)
        better = squares < least
        multipliers, offsets = (
            np.where(better, factors, multipliers),
            np.where(better, starts, offsets),
        )
        integers, least = np.where(better, near, integers), np.minimum(squares, least)
    low, high = np.split(integers.astype("uint8").reshape(rows, -1), 2, axis=1)
    packed = (low | high << 4).view("int8")
    return packed, multipliers[:, :, 0].astype("int8"), offsets[:, :, 0].astype("int8"), step


def packed_shapes(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give the shapes of the bytes and of the multipliers (and offsets) of a matrix of 4 bits."""
    padded = columns + -columns % (2 * GROUP)
    return (rows, padded // 2), (rows, padded // GROUP)


def unpacked(packed: Any, multipliers: Any, offsets: Any, columns: int) -> Any:
    """Give the 8-bit integers that a matrix of 4 bits stands for.

    Args:
        packed: (rows, bytes) int8, as from `rounded_4`.
        multipliers: (rows, groups) int8.
        offsets: (rows, groups) int8.
        columns: how many columns the matrix has.

    Returns:
        (rows, columns) int8.
    """
    return ops.concatenate(_halves(packed, multipliers, offsets), axis=1)[:, :columns]


def _halves(packed: Any, multipliers: Any, offsets: Any) -> tuple[Any, Any]:
    groups = multipliers.shape[1] // 2

    def widened(integers: Any, factors: Any, starts: Any) -> Any:
        # A plain 15 would make all of this 32 bits wide.
        four_bits = ops.bitwise_and(integers, np.int8(_LARGEST_4))
        each = ops.reshape(four_bits, (-1, groups, GROUP))
        each = each * ops.expand_dims(factors, 2) + ops.expand_dims(starts, 2)
        return ops.reshape(each, (-1, groups * GROUP))

    return (
        widened(packed, multipliers[:, :groups], offsets[:, :groups]),
        widened(ops.right_shift(packed, 4), multipliers[:, groups:], offsets[:, groups:]),
    )


def int8_product(x: Any, matrix: Any, scale: Any) -> Any:
    """Multiply by a rounded matrix: x Wᵀ.

    Args:
        x: (..., columns) float.
        matrix: (rows, columns) int8; of a variable a copy may be read, see `onednn.with_reordered`.
        scale: (rows,) float, what one step of each row stands for.

    Returns:
        (..., rows) in the dtype of `x`.
    """
    copy = onednn.find_reordered(matrix)
    return _product(
        x, scale, [matrix], lambda *args: _sums_8(*args, copy), widened=lambda matrix: matrix
    )


def int4_product(x: Any, packed: Any, multipliers: Any, offsets: Any, scale: Any) -> Any:
    """Multiply as `int8_product` does, by a matrix rounded to 4 bits.

    Args:
        x: (..., columns) float.
        packed: (rows, bytes) int8, as from `rounded_4`.
        multipliers: (rows, groups) int8.
        offsets: (rows, groups) int8.
        scale: (rows,) float.

    Returns:
        (..., rows) in the dtype of `x`.
    """
    return _product(
        x,
        scale,
        [packed, multipliers, offsets],
        _sums_4,
        functools.partial(unpacked, columns=x.shape[-1]),
    )


def _product(
    x: Any, scale: Any, stored: list[Any], sums: Callable[..., Any], widened: Callable[..., Any]
) -> Any:
    """Multiply by a matrix that lies in `stored`.

    `sums` gives x Wᵀ, (n, rows) float32, of (n, columns) float32, the scale, and the integers of W in
    what is stored; `widened` those integers, (rows, columns). The gradient is that of the product of
    floats.
    """
    columns = x.shape[-1]

    @ops.custom_gradient
    def product(x: Any, scale: Any, *stored: Any) -> Any:
        flat = ops.reshape(ops.cast(x, "float32"), (-1, columns))
        found = sums(flat, scale, *stored) * ops.cast(scale, "float32")
        result = ops.reshape(ops.cast(found, x.dtype), (*ops.shape(x)[:-1], scale.shape[0]))

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, ...]:
            upstream = args[0] if upstream is None else upstream
            full = ops.cast(widened(*stored), upstream.dtype)
            full = full * ops.cast(ops.expand_dims(scale, 1), upstream.dtype)
            return ops.matmul(upstream, full), None, *(None for _ in stored)

        return result, gradient

    return product(x, ops.convert_to_tensor(scale), *map(ops.convert_to_tensor, stored))


@traced_once
def _sums_8(x: Any, scale: Any, matrix: Any, copy: Any) -> Any:
    return _sums(
        x,
        scale,
        lambda integer_product, integers: integer_product(integers, matrix),
        lambda: _read_again(matrix, x),
        functools.partial(onednn.product, copy=copy),
        takes_floats=True,
    )


@traced_once
def _sums_4(x: Any, scale: Any, packed: Any, multipliers: Any, offsets: Any) -> Any:
    columns, width = x.shape[1], packed.shape[1]
    packed = _read_again(packed, x)

    def multiply(integer_product: Callable[..., Any], integers: Any) -> Any:
        integers = ops.pad(integers, [[0, 0], [0, 2 * width - columns]])
        low, high = _halves(packed, multipliers, offsets)
        # Two products: putting the halves side by side first costs a copy of the matrix.
        return integer_product(integers[:, :width], low) + integer_product(
            integers[:, width:], high
        )

    return _sums(
        x,
        scale,
        multiply,
        lambda: unpacked(packed, multipliers, offsets, columns),
        onednn.product,
        takes_floats=False,  # the whole matrix of them would be written and read again
    )


def _sums(
    x: Any,
    scale: Any,
    multiply: Callable[..., Any],
    widened: Callable[[], Any],
    by_onednn: Callable[..., Any],
    takes_floats: bool,
) -> Any:
    """Give x Wᵀ, (n, rows) float32, of (n, columns) float32 and the integers of W.

    `multiply` gives the sums (n, rows) of (n, columns) int8, by a product of integers, and `widened`
    the integers (rows, columns). Up to `ALONE` rows (one on a GPU) are multiplied one by one as floats
    where it `takes_floats`, more as integers: a thousand where `by_onednn` can be called, else up to
    `_FEW`.
    """

    def as_floats(x: Any) -> Any:
        # For one row XLA on a CPU widens the weights as it reads them, for many rows once for all.
        laid_out = _laid_out(x, scale)

        def found(matrix: Any) -> Any:
            return _matmul_transposed(laid_out, ops.cast(matrix, "float32"))

        return from_places(found, widened()) if x.shape[0] == 1 else found(widened())

    def as_integers(x: Any, integer_product: Callable[..., Any]) -> Any:
        return _in_parts(x, functools.partial(multiply, integer_product))

    by_xla = functools.partial(as_integers, integer_product=_integer_product)
    if onednn.takes(x.shape[0], "int8"):
        few = functools.partial(as_integers, integer_product=by_onednn)
        most_few = onednn.MOST_ROWS["int8"] // onednn.PARTS
    else:
        few, most_few = by_xla, _FEW
    # One row of integers stays XLA's: it makes the matrix out of 4 bits while it reads it, where oneDNN
    # would read it from memory once more.
    alone = as_floats if takes_floats else by_xla
    most_alone = ALONE if takes_floats and is_on_cpu() else 1
    return by_number_of_rows(x, most_alone, alone, most_few, few, as_floats)


def _read_again(integers: Any, x: Any) -> Any:
    """Give integers that are made wider while they multiply `x`, in each turn of a loop.

    XLA would make them wider once, before the loop, and read several times as much in each turn. It
    takes nothing out of a loop that depends on what the loop changes, as `x` does, and does not see
    that no number is both NaN and 0.
    """
    if not onednn.is_traced_for_xla():
        return integers
    first = ops.sum(x[:1, :1])  # of no rows 0
    is_never = ops.logical_and(ops.isnan(first), ops.equal(first, 0))
    return ops.where(is_never, np.int8(0), integers)


def _laid_out(x: Any, scale: Any) -> Any:
    """Give (n, columns) floats in the form that XLA on a CPU multiplies fast.

    A division XLA does not take into the product, where it would be done again for each row of the
    matrix with all that made `x`; and one by a vector keeps the shape, where XLA would else read `x` as
    it came, as (heads, head_dim) perhaps, number by number. No scale is below 0.
    """
    return x / unknown_ones(ops.cast(scale[0], "float32"), x.shape[1])


def _in_parts(x: Any, multiply: Callable[[Any], Any]) -> Any:
    """Multiply (n, columns) floats as sums of integers from -127 to 127.

    The first are whole steps of a row, each of the next counts 254ths of what the one before left.
    """
    rest, steps = _scaled(x)
    parts = []
    for _ in range(onednn.PARTS):
        parts.append(ops.round(rest))
        rest = (rest - parts[-1]) * (2 * _LARGEST)
    sums = ops.cast(multiply(ops.cast(ops.concatenate(parts), "int8")), "float32")
    total, *others = ops.split(sums, onednn.PARTS)
    for place, part in enumerate(others, 1):
        total = total + part / (2 * _LARGEST) ** place
    return total * steps


def _integer_product(integers: Any, matrix: Any) -> Any:
    """Give the sums, (n, rows) int32, of (n, columns) and (rows, columns) int8."""
    return _matmul_transposed(integers, matrix, "int32")


def _matmul_transposed(x: Any, matrix: Any, dtype: str | None = None) -> Any:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Keras has no product with a transposed matrix, and XLA would lay the whole of it out anew.
        return tf.matmul(x, matrix, transpose_b=True, output_type=dtype)
    return ops.matmul(x, ops.transpose(matrix))


def _round_rows(matrix: Any) -> tuple[Any, Any]:
    """Give integers as (rows, columns) int8, and what a step stands for as (rows, 1) float32."""
    numbers, steps = _scaled(matrix)
    return ops.cast(ops.round(numbers), "int8"), steps


def _scaled(matrix: Any) -> tuple[Any, Any]:
    """Give each row in steps of its own, up to 127 of them, and these steps, (rows, 1)."""
    largest = ops.max(ops.abs(matrix), axis=1, keepdims=True)
    # Never smaller than a normal number: what is, is taken for zero, and 0 / 0 is no integer.
    steps = ops.maximum(largest / _LARGEST, _TINY)
    return matrix / steps, steps
