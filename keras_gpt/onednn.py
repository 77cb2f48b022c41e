"""Products by oneDNN inside the programs that XLA compiles for a CPU.

XLA's own products on a CPU use neither the instructions for integers of 8 bits (VNNI) nor those for
bfloat16. TensorFlow for Linux holds oneDNN, which does, and its XLA has a custom call for it.
tests/benchmarks/RESULTS.md has the figures. `TF_ENABLE_ONEDNN_OPTS=0` in the environment turns it off,
as it does for TensorFlow itself; what is exported does not look at it.

oneDNN multiplies by blocks of a matrix, and lays them out anew in each call, which is a fifth of the
time of few rows. Of a matrix that is multiplied again and again there may be a copy in that order. It
cannot be asked which order it wants, and a wrong one gives wrong sums: so each shape is tried first.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np

from keras_gpt.processor import instructions, is_on_cpu

# What a processor must have, by Linux's names. Without it the call gives wrong sums of int8, or ends the
# process where there is no AVX-512 either.
INSTRUCTIONS = {"int8": "avx512_vnni", "bfloat16": "avx512_bf16"}
_SUMS = {"int8": "int32", "bfloat16": "float32"}

# So many integers of 8 bits stand for an input of a product. Of SmolLM2's logits two leave an error of
# 1e-2 of their standard deviation, three one of 1e-5, as float32 does.
PARTS = 3

# Where the number of rows is not known while a program is traced, it is filled up to one of these: that
# of a batch is a power of two.
_SIZES = {
    "int8": [PARTS * 2**power for power in range(1, 11)],
    "bfloat16": [2**power for power in range(3, 16)],
}
# No more rows are taken, known or not: many sums of integers are a lot of memory beside the result.
MOST_ROWS = {dtype: sizes[-1] for dtype, sizes in _SIZES.items()}


# A block has so many outputs, and of each so many words of 4 bytes, in which inputs lie side by side.
_BLOCK, _WORDS = 64, 16


class _Thread(threading.local):
    is_traced_for_xla = False
    is_for_server = False
    find_reordered: Any = None


_thread = _Thread()


@contextlib.contextmanager
def _with(name: str, value: Any) -> Iterator[None]:
    before = getattr(_thread, name)
    setattr(_thread, name, value)
    try:
        yield
    finally:
        setattr(_thread, name, before)


def traced_for_xla() -> AbstractContextManager[None]:
    """Say that XLA compiles what this thread traces meanwhile: nothing else runs custom calls."""
    return _with("is_traced_for_xla", True)


def is_traced_for_xla() -> bool:
    """Say whether `traced_for_xla` holds now."""
    return _thread.is_traced_for_xla


def traced_for_server() -> AbstractContextManager[None]:
    """Say that a server runs what this thread traces meanwhile, if it finds that it has oneDNN.

    Then `takes` asks nothing of this machine, and is true of a number of rows that is not known yet.
    """
    return _with("is_for_server", True)


def with_reordered(find: Callable[[Any], Any]) -> AbstractContextManager[None]:
    """Say where copies of matrices in oneDNN's order are, for what this thread traces meanwhile.

    Args:
        find: takes a variable with a matrix; gives the copy, as from `reordered`, or None.
    """
    return _with("find_reordered", find)


def find_reordered(variable: Any) -> Any:
    """Give a copy of a variable's matrix, as from `reordered`, or None; see `with_reordered`."""
    return _thread.find_reordered and _thread.find_reordered(variable)


def is_for_server() -> bool:
    """Say whether `traced_for_server` holds now."""
    return _thread.is_for_server


def takes(rows: int | None, dtype: str) -> bool:
    """Say whether `product` can be used, and is worth it, in what is traced now.

    Args:
        rows: how many, or None where it is not known yet.
        dtype: of both sides.
    """
    if not _thread.is_traced_for_xla:
        return False
    if _thread.is_for_server:
        return dtype in INSTRUCTIONS
    return rows is not None and is_here(dtype)


def is_here(dtype: str) -> bool:
    """Say whether this machine can multiply numbers of a dtype by oneDNN."""
    return dtype in INSTRUCTIONS and _works(dtype)


def is_right(dtype: str) -> Any:
    """Say whether `product` gives the sums that it should, a bool scalar in what XLA compiles."""
    import tensorflow as tf

    # Neighbours of 127 are the first that go wrong where two of them are added in 16 bits.
    numbers = np.resize(np.array([127, 127, 127, 127, -128, 90, -3], "int8"), (24, 64))
    sums = product(*[tf.cast(numbers, dtype)] * 2)
    wide = numbers.astype("int32")
    return tf.reduce_all(tf.cast(sums, "int32") == wide @ wide.T)


def product(x: Any, matrix: Any, copy: Any = None) -> Any:
    """Multiply by a matrix that lies with each output's weights side by side: x Wᵀ.

    It has no gradient.

    Args:
        x: (rows, inputs) int8 or bfloat16, for which `takes` is true; at most `MOST_ROWS`.
        matrix: (outputs, inputs) of the same dtype.
        copy: what `reordered` made of the matrix, which is read in its place where the number of
            rows is known.

    Returns:
        (rows, outputs): the sums, int32 of int8 and float32 of bfloat16.
    """
    if x.shape[0] is not None:
        return _call(x, matrix, copy)
    import tensorflow as tf

    count = tf.shape(x)[0]
    sizes = _SIZES[keras.backend.standardize_dtype(x.dtype)]

    def filled_up(size: int) -> Any:
        return _call(tf.reshape(tf.pad(x, [[0, size - count], [0, 0]]), (size, -1)), matrix)[:count]

    # When XLA compiles it the number is known, and one branch is left.
    which = tf.reduce_sum(tf.cast(count > sizes, "int32"))
    return tf.switch_case(which, [functools.partial(filled_up, size) for size in sizes])


def reordered(matrix: np.ndarray) -> np.ndarray:
    """Lay a matrix out as oneDNN multiplies it, by its formats `BA16a64b4a` and `BA16a64b2a`.

    Behind integers lie the sums of each output's weights times -128: oneDNN adds 128 to the integers
    that it multiplies by them, to have none below 0.

    Args:
        matrix: (outputs, inputs) int8 or bfloat16.

    Returns:
        Numbers of the same dtype in one row.
    """
    outputs, inputs = matrix.shape
    side_by_side = 4 // matrix.itemsize
    strips, columns = -(-outputs // _BLOCK), -(-inputs // (_WORDS * side_by_side))
    num_words = strips * columns * _WORDS * _BLOCK
    are_integers = matrix.dtype == np.int8
    found = np.empty(num_words + are_integers * strips * _BLOCK, "int32")
    if are_integers:
        sums = found[num_words:]
        sums[outputs:] = 0
        np.sum(matrix, axis=1, dtype="int32", out=sums[:outputs])
        sums *= -128
    blocks = found[:num_words].reshape(strips, columns, _WORDS, _BLOCK)
    strip = np.zeros((_BLOCK, columns * _WORDS * side_by_side), matrix.dtype)
    for number, into in enumerate(blocks):
        rows = matrix[number * _BLOCK : (number + 1) * _BLOCK]
        strip[: len(rows), :inputs] = rows
        strip[len(rows) :] = 0
        words = strip.view("int32").reshape(_BLOCK, columns, _WORDS)
        into[:] = words.transpose(1, 2, 0)
    return found.view(matrix.dtype)


@functools.cache
def takes_reordered(rows: int, outputs: int, inputs: int, dtype: str) -> bool:
    """Say whether oneDNN multiplies so many rows by a matrix in the order that `reordered` gives.

    Args:
        rows: of what is multiplied.
        outputs: rows of the matrix.
        inputs: its columns.
        dtype: of both.
    """
    if not is_here(dtype):
        return False
    import tensorflow as tf

    # Where threads are more than blocks of outputs, it takes smaller blocks. How many threads it
    # counts may differ from one thread to the next: what is tried here could be wrong there.
    threads = max(os.cpu_count() or 1, tf.config.threading.get_intra_op_parallelism_threads())
    if threads * _BLOCK > outputs:
        return False
    rng = np.random.default_rng(0)
    most = 128 if dtype == "int8" else 8  # the sums of which float32 has exactly
    x, matrix = (
        rng.integers(-most, most, (each, inputs), "int8").astype(tf.as_dtype(dtype).as_numpy_dtype)
        for each in (rows, outputs)
    )

    def are_equal(x: Any, matrix: Any, copy: Any) -> Any:
        return tf.reduce_all(tf.equal(product(x, matrix), product(x, matrix, copy)))

    return bool(_compiled(are_equal, x, matrix, reordered(matrix)))


def _call(x: Any, matrix: Any, copy: Any = None) -> Any:
    from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_custom_call_v2

    if copy is None:
        config = '{"transpose_b": true}'
    else:
        config = '{"optimization_config": {"weights_prepacked": true}}'
    (sums,) = xla_custom_call_v2(
        [x, matrix if copy is None else copy],
        call_target_name="__onednn$matmul",
        backend_config=f'{{"onednn_matmul_config": {config}}}',
        has_side_effect=False,
        result_dtypes=[_SUMS[keras.backend.standardize_dtype(x.dtype)]],
        result_shapes=[(x.shape[0], matrix.shape[0])],
    )
    return sums


@functools.cache
def _works(dtype: str) -> bool:
    """Say whether the processor has the instructions, and this TensorFlow the custom call."""
    if (
        keras.backend.backend() != "tensorflow"
        or os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower() in ("0", "false")
        or INSTRUCTIONS[dtype] not in instructions()
        or not is_on_cpu()
    ):
        return False
    return bool(_compiled(lambda: is_right(dtype)))


def _compiled(function: Callable[..., Any], *args: np.ndarray) -> np.ndarray | None:
    """Give what a function compiled by XLA makes of some arrays; None where that cannot be."""
    import tensorflow as tf

    with tf.init_scope():
        try:
            run = tf.function(function, jit_compile=True, autograph=False)
            return run(*map(tf.constant, args)).numpy()
        except (ImportError, tf.errors.OpError):
            return None
