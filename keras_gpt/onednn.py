"""Products by oneDNN inside the programs that XLA compiles for a CPU.

XLA's own products on a CPU use neither the instructions for integers of 8 bits (VNNI) nor those for
bfloat16. TensorFlow for Linux holds oneDNN, which does, and its XLA has a custom call for it.
tests/benchmarks/RESULTS.md has the figures. `TF_ENABLE_ONEDNN_OPTS=0` in the environment turns it off,
as it does for TensorFlow itself.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np

from keras_gpt.processor import instructions, is_on_cpu

# What a processor must have for it to be faster than XLA's own.
_INSTRUCTIONS = {"int8": "avx512_vnni", "bfloat16": "avx512_bf16"}
_SUMS = {"int8": "int32", "bfloat16": "float32"}

# Where the number of rows is not known while a program is traced, it is filled up to one of these: that
# of a batch is a power of two, and three integers stand for an input.
_SIZES = {
    "int8": [3 * 2**power for power in range(1, 11)],
    "bfloat16": [2**power for power in range(3, 16)],
}
# No more rows are taken, known or not: many sums of integers are a lot of memory beside the result.
MOST_ROWS = {dtype: sizes[-1] for dtype, sizes in _SIZES.items()}


class _Thread(threading.local):
    is_traced_for_xla = False
    may_know_no_rows = False


_thread = _Thread()


@contextlib.contextmanager
def _with(name: str, value: bool) -> Iterator[None]:
    before = getattr(_thread, name)
    setattr(_thread, name, value)
    try:
        yield
    finally:
        setattr(_thread, name, before)


def traced_for_xla() -> AbstractContextManager[None]:
    """Say that XLA compiles what this thread traces meanwhile: nothing else runs custom calls."""
    return _with("is_traced_for_xla", True)


def also_for_unknown_rows(wanted: bool = True) -> AbstractContextManager[None]:
    """Say that `takes` may be true of a number of rows that is not known while it is traced.

    A SavedModel is so. A TensorFlow without the custom call can then not run what was traced.

    Args:
        wanted: whether to say it at all.
    """
    return _with("may_know_no_rows", wanted)


def is_for_unknown_rows() -> bool:
    """Say whether `also_for_unknown_rows` holds now."""
    return _thread.may_know_no_rows


def takes(rows: int | None, dtype: str) -> bool:
    """Say whether `product` can be used, and is worth it, in what is traced now.

    Args:
        rows: how many, or None where it is not known yet.
        dtype: of both sides.
    """
    if rows is None and not _thread.may_know_no_rows:
        return False
    return _thread.is_traced_for_xla and is_here(dtype)


def is_here(dtype: str) -> bool:
    """Say whether this machine can multiply numbers of a dtype by oneDNN."""
    return dtype in _INSTRUCTIONS and _works(dtype)


def product(x: Any, matrix: Any) -> Any:
    """Multiply by a matrix that lies with each output's weights side by side: x Wᵀ.

    It has no gradient.

    Args:
        x: (rows, inputs) int8 or bfloat16, for which `takes` is true; at most `MOST_ROWS`.
        matrix: (outputs, inputs) of the same dtype.

    Returns:
        (rows, outputs): the sums, int32 of int8 and float32 of bfloat16.
    """
    if x.shape[0] is not None:
        return _call(x, matrix)
    import tensorflow as tf

    count = tf.shape(x)[0]
    sizes = _SIZES[keras.backend.standardize_dtype(x.dtype)]

    def filled_up(size: int) -> Any:
        return _call(tf.reshape(tf.pad(x, [[0, size - count], [0, 0]]), (size, -1)), matrix)[:count]

    # When XLA compiles it the number is known, and one branch is left.
    which = tf.reduce_sum(tf.cast(count > sizes, "int32"))
    return tf.switch_case(which, [functools.partial(filled_up, size) for size in sizes])


def _call(x: Any, matrix: Any) -> Any:
    from tensorflow.compiler.tf2xla.ops.gen_xla_ops import xla_custom_call_v2

    (sums,) = xla_custom_call_v2(
        [x, matrix],
        call_target_name="__onednn$matmul",
        backend_config='{"onednn_matmul_config": {"transpose_b": true}}',
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
        or _INSTRUCTIONS[dtype] not in instructions()
        or not is_on_cpu()
    ):
        return False
    import tensorflow as tf

    numbers = np.arange(-6, 6).reshape(3, 4)
    with tf.init_scope():
        try:
            x = tf.cast(numbers, dtype)
            found = tf.function(product, jit_compile=True, autograph=False)(x, x)
        except (ImportError, tf.errors.OpError):
            return False
        return np.array_equal(tf.cast(found, "int32"), numbers @ numbers.T)
