"""The product of few rows and a matrix, which is what decoding spends its time on."""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_gpt import onednn
from keras_gpt.processor import is_on_cpu

# More rows are a prompt, or training; XLA's plain product on a CPU is better for them. Measured from 1
# to 128.
_FEW = 32
# One row is multiplied by groups of about so many outputs, measured from 48 to 384.
_LEAST, _MOST = 64, 384
# Groups of more outputs are as fast, if each core has some.
_FEWEST = 16
# Up to so many rows it is fastest to read what is widened while it is read again for each of them:
# the processor's cache still has it. For more at once XLA writes the widened matrix to memory.
ALONE = 4
# From so many places of a matrix rows are read in turn, measured from 1 to 64.
_PLACES = 8


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have TensorFlow trace a product once for each shape, where the number of rows is not known.

    It has a branch for each number there, and an exported model has hundreds of products.

    Args:
        function: takes (n, columns) and the tensors of a matrix, and what else it depends on.
    """

    @functools.cache
    def shared(*flags: bool) -> Callable[..., Any]:
        import tensorflow as tf

        return tf.function(function, autograph=False)

    @functools.wraps(function)
    def traced(x: Any, *args: Any) -> Any:
        if x.shape[0] is not None or keras.backend.backend() != "tensorflow":
            return function(x, *args)
        return shared(onednn.is_traced_for_xla(), onednn.is_for_server())(x, *args)

    return traced


def product(x: Any, matrix: Any) -> Any:
    """Multiply by a matrix that lies with each output's weights side by side: x Wᵀ.

    Few rows are multiplied in a way that a CPU is faster with; tests/benchmarks/RESULTS.md has the
    figures. Two and more with the matrix on the left: for x Wᵀ XLA's product first copies the matrix
    into another order, for Wxᵀ it does not. One row of floats is multiplied by groups of outputs:
    the whole would be read by one core. Half precision is widened to float32, for up to four rows
    while it is read, each by itself; more rows of bfloat16 oneDNN multiplies where it can. Where
    there is a GPU, the product is the plain one.

    Args:
        x: (..., inputs) float. The number of rows may be unknown while a function is traced, as in a
            SavedModel, if only that of the first axis is.
        matrix: (outputs, inputs) of the same dtype; of a variable a copy may be read, see
            `onednn.with_reordered`.

    Returns:
        (..., outputs), in the dtype of `x`.

    Example:
        >>> product(ops.ones((1, 1, 768)), ops.ones((3, 768))).shape
        (1, 1, 3)
    """
    outputs, inputs = matrix.shape
    known = x.shape[:-1] if x.shape[0] is not None else x.shape[1:-1]
    dtype = keras.backend.standardize_dtype(x.dtype)
    by_onednn = onednn.takes(None if None in x.shape else math.prod(known), dtype)
    copy = onednn.find_reordered(matrix)
    matrix, x = in_each_turn(_read(matrix), x)
    are_many = None in known or math.prod(known) > _FEW
    if not by_onednn and (are_many or not is_on_cpu()):
        return plain_product(x, matrix)
    found = _product(ops.reshape(x, (-1, inputs)), matrix, copy, by_onednn)
    return ops.reshape(found, (*ops.shape(x)[:-1], outputs))


@traced_once
def _product(x: Any, matrix: Any, copy: Any, by_onednn: bool) -> Any:
    """Give x Wᵀ of (n, inputs), where few rows have a way of their own."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    few = functools.partial(_by_onednn, copy=copy) if by_onednn else _with_matrix_left
    most_few = onednn.MOST_ROWS[dtype] if by_onednn else _FEW
    many = functools.partial(plain_product, matrix=matrix)
    most_alone, one_row = (ALONE, _widened) if is_half(dtype) else (1, _in_groups)
    alone = functools.partial(one_row, matrix=matrix)
    return by_number_of_rows(x, most_alone, alone, most_few, lambda x: few(x, matrix), many)


def by_number_of_rows(
    x: Any,
    most_alone: int,
    alone: Callable[[Any], Any],
    most_few: int,
    few: Callable[[Any], Any],
    many: Callable[[Any], Any],
) -> Any:
    """Give what one of three functions makes of rows, (n, columns).

    Up to `most_alone` rows are given to `alone` one by one, more to `few`, and more than `most_few`
    to `many`; a number that is not known while a function is traced is looked at when it is.
    """

    def one_by_one(rows: int) -> Any:
        # Of what `split` gives TensorFlow would not know that it is one row, where it does not know how
        # many `x` has; and what says so of all of `x` it would believe outside of this branch too.
        each = [ops.slice(x, (row, 0), (1, x.shape[1])) for row in range(rows)]
        return ops.concatenate([alone(row) for row in each])

    rows = x.shape[0]
    if rows is None and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # As in a SavedModel. Where XLA compiles it the number is known, and one branch is left.
        count = tf.shape(x)[0]
        branches = [functools.partial(one_by_one, each) for each in range(1, most_alone + 1)]
        which = tf.where(
            count <= most_alone, count - 1, tf.where(count <= most_few, most_alone, -1)
        )
        return tf.switch_case(which, [*branches, lambda: few(x), lambda: many(x)])
    if rows is not None and 0 < rows <= most_alone:
        return one_by_one(rows)
    return few(x) if rows is not None and rows <= most_few else many(x)


def in_each_turn(matrix: Any, x: Any) -> tuple[Any, Any]:
    """Give half precision and what it is read for so that it is made wider while it is read.

    In a loop XLA would make float32 of it once, before the first turn, and read twice as much in each.
    It moves nothing across this barrier, and takes nothing out of a loop that depends on what the loop
    changes, as `x` does.

    Args:
        matrix: of any dtype; what is no half precision stays as it is.
        x: a tensor that is not the same in each turn.

    Returns:
        The same two.
    """
    if not (_is_compiled_for_cpu() and is_half(matrix.dtype)):
        return matrix, x
    found: tuple[Any, Any] = _barrier(_read(matrix), x)
    return found


def _is_compiled_for_cpu() -> bool:
    """Say whether decoding is traced, and XLA compiles it for a CPU or for what a server has."""
    return onednn.is_traced_for_xla() and (is_on_cpu() or onednn.is_for_server())


@ops.custom_gradient
def _barrier(matrix: Any, x: Any) -> Any:
    from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_optimization_barrier

    def gradient(*upstream: Any) -> tuple[Any, ...]:
        return upstream

    return tuple(xla_optimization_barrier([matrix, x])), gradient


def _read(matrix: Any) -> Any:
    """Give the value of what may be a variable; of TensorFlow's each branch would read it for itself."""
    tensor = ops.convert_to_tensor(matrix)
    if keras.backend.backend() != "tensorflow":
        return tensor
    import tensorflow as tf

    return tf.convert_to_tensor(tensor)


def look_up(table: Any, ids: Any) -> Any:
    """Give the rows of a table that ids name, (..., width), and make no more of it wider than those."""
    table, ids = in_each_turn(ops.convert_to_tensor(table), ids)
    return ops.take(table, ids, axis=0)


def is_half(dtype: Any) -> bool:
    """Say whether numbers of a dtype have 16 bits."""
    return keras.backend.standardize_dtype(dtype) in ("bfloat16", "float16")


def plain_product(x: Any, matrix: Any) -> Any:
    """Give x Wᵀ as `product` does, in the way that suits many rows, training and GPUs."""
    return ops.matmul(x, ops.transpose(matrix))


def turned_product(x: Any, matrix: Any) -> Any:
    """Give x W of (..., inputs) and a matrix that lies as (inputs, outputs)."""
    matrix, x = in_each_turn(ops.convert_to_tensor(matrix), x)
    return ops.matmul(x, matrix)


def _in_groups(x: Any, matrix: Any) -> Any:
    outputs, inputs = matrix.shape
    widths = [each for each in range(1, outputs + 1) if outputs % each == 0]
    width = max(each for each in widths if each <= _MOST)
    if width < _LEAST:
        # As for the 50257 tokens of GPT-2, which are 29 groups of 1733.
        width = min((each for each in widths if each > _MOST), default=outputs)
        if outputs // width < _FEWEST:
            return plain_product(x, matrix)
    groups = ops.reshape(matrix, (outputs // width, width, inputs))
    repeated = ops.broadcast_to(x, (outputs // width, 1, inputs))
    found = ops.matmul(repeated, ops.transpose(groups, (0, 2, 1)))  # (groups, 1, width)
    return ops.reshape(found, (1, outputs))


def _widened(x: Any, matrix: Any) -> Any:
    wide = ops.cast(x, "float32")
    first = ops.square(wide[0, 0])
    # A division XLA does not take into the product, where it would be done again for each output;
    # and only a product that is scaled it divides between cores.
    divided = wide / unknown_ones(first, x.shape[1])

    def multiply(matrix: Any) -> Any:
        found = ops.matmul(divided, ops.transpose(ops.cast(matrix, "float32")))
        return found * unknown_ones(first, matrix.shape[0])

    return ops.cast(from_places(multiply, matrix), x.dtype)


def from_places(multiply: Callable[[Any], Any], matrix: Any) -> Any:
    """Give what `multiply` makes of a matrix, and have it read rows from several places in turn.

    A processor fetches ahead of what it reads, but not beyond a page; in several places it does so in
    each. XLA reads up to half as fast again so where a matrix comes from memory.

    Args:
        multiply: gives (1, rows) of (rows, inputs), each number of one row.
        matrix: (rows, inputs).

    Returns:
        (1, rows).
    """
    rows, inputs = matrix.shape
    each = rows // _PLACES
    if each == 0 or not _is_compiled_for_cpu():
        return multiply(matrix)
    dtype = keras.backend.standardize_dtype(matrix.dtype)
    if is_half(dtype):
        # A slice of half precision XLA makes wider, and rounds again, each number of it.
        return from_places(lambda bits: multiply(ops.view(bits, dtype)), ops.view(matrix, "uint16"))
    most = each * _PLACES
    places = ops.reshape(matrix[:most], (_PLACES, each, inputs))
    in_turn = ops.reshape(ops.transpose(places, (1, 0, 2)), (most, inputs))
    found = ops.reshape(multiply(in_turn), (each, _PLACES))
    found = ops.reshape(ops.transpose(found), (1, most))
    return found if most == rows else ops.concatenate([found, multiply(matrix[most:])], axis=1)


def _with_matrix_left(x: Any, matrix: Any) -> Any:
    dtype = keras.backend.result_type(x.dtype, "float32")  # double precision stays what it is
    wide_x, wide = ops.cast(x, dtype), ops.cast(matrix, dtype)
    # With an axis of one more for a moment: else XLA would take the product and the exchange of its
    # axes for the plain product, and compute that.
    turned = ops.expand_dims(ops.matmul(wide, ops.transpose(wide_x)), -1)  # (outputs, rows, 1)
    return ops.cast(ops.transpose(turned, (1, 2, 0))[:, 0], x.dtype)


def _by_onednn(x: Any, matrix: Any, copy: Any) -> Any:
    @ops.custom_gradient
    def found(x: Any, matrix: Any) -> Any:
        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, Any]:
            upstream = args[0] if upstream is None else upstream
            return ops.matmul(upstream, matrix), ops.matmul(ops.transpose(upstream), x)

        return ops.cast(onednn.product(x, matrix, copy), x.dtype), gradient

    return found(x, matrix)


def unknown_ones(number: Any, size: int) -> Any:
    """Give (size,) ones that XLA cannot know to be ones, out of a float32 that is never below 0."""
    return ops.where(number + ops.arange(size, dtype="float32") >= 0, 1.0, 2.0)
