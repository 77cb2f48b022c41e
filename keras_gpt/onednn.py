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
from typing import Any

import keras
import numpy as np

from keras_gpt.processor import instructions, is_on_cpu

# What a processor must have for it to be faster than XLA's own.
_INSTRUCTIONS = {"int8": "avx512_vnni", "bfloat16": "avx512_bf16"}
_SUMS = {"int8": "int32", "bfloat16": "float32"}

_thread = threading.local()


@contextlib.contextmanager
def traced_for_xla() -> Iterator[None]:
    """Say that XLA compiles what this thread traces meanwhile: nothing else runs custom calls."""
    before = _is_traced_for_xla()
    _thread.is_traced_for_xla = True
    try:
        yield
    finally:
        _thread.is_traced_for_xla = before


def takes(rows: int | None, dtype: str) -> bool:
    """Say whether `product` can be used, and is worth it, in what is traced now.

    Args:
        rows: how many; None, where it is not known yet, cannot be multiplied.
        dtype: of both sides.
    """
    return rows is not None and _is_traced_for_xla() and dtype in _INSTRUCTIONS and _works(dtype)


def product(x: Any, matrix: Any) -> Any:
    """Multiply by a matrix that lies with each output's weights side by side: x Wᵀ.

    Args:
        x: (rows, inputs) int8 or bfloat16, for which `takes` is true.
        matrix: (outputs, inputs) of the same dtype.

    Returns:
        (rows, outputs): the sums, int32 of int8 and float32 of bfloat16.
    """
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


def _is_traced_for_xla() -> bool:
    return getattr(_thread, "is_traced_for_xla", False)


@functools.cache
def _works(dtype: str) -> bool:
    """Say whether the processor has the instructions, and this TensorFlow the custom call."""
    if (
        keras.backend.backend() != "tensorflow"
        or os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0"
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
