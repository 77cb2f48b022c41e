"""Copies of a model's matrices in the order that oneDNN multiplies by, for steps of a batch.

A step multiplies a few rows by every matrix, and oneDNN would lay each of them out anew. So the first
step of a batch leaves a copy of each of int8 or bfloat16 beside the model, as large as it. Up to four
rows do without: they are multiplied as float32 (`keras_gpt/layers`). What is trained after such a batch
has both, and what the copy was made from, until the next request, which makes the copy again.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np

from keras_gpt.matrix_order import may_be_reordered
from keras_gpt.onednn import (
    PARTS,
    reordered,
    takes_reordered,
    with_reordered,
)

# Of the powers of two that batches have, the smallest that oneDNN multiplies.
SMALLEST_BATCH = 8


class _Copy:
    """A variable's matrix in another order, and the value that it was made from."""

    def __init__(self, variable: Any) -> None:
        import tensorflow as tf

        self._variable = variable
        self._value, self._address = self._read()
        self.copy = tf.Variable(reordered(_numbers(self._value)), trainable=False)

    def renew(self) -> None:
        """Make it again where the variable has another value.

        TensorFlow never writes into what somebody else holds: another value lies elsewhere.
        """
        value, address = self._read()
        if address != self._address:
            self.copy.assign(reordered(_numbers(value)))
            self._value, self._address = value, address

    def _read(self) -> tuple[Any, int]:
        import tensorflow as tf

        # As `convert_to_tensor` does, in a third less time: every request looks at all matrices.
        handle = self._variable.value.handle
        value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=self._variable.dtype)
        return value, _numbers(value).__array_interface__["data"][0]


def _numbers(value: Any) -> np.ndarray:
    """Give the array that TensorFlow holds, which it makes no buffer of where it is bfloat16."""
    import tensorflow as tf

    if value.dtype != tf.bfloat16:
        return np.asarray(memoryview(value))
    bits = np.asarray(memoryview(tf.bitcast(value, tf.int16)))
    return bits.view(tf.bfloat16.as_numpy_dtype)


class ReorderedMatrices:
    """The copies of one model, each made when a step of a batch first asks for it."""

    def __init__(self) -> None:
        self._copies: dict[int, _Copy] = {}
        self._making = threading.Lock()

    def renew(self) -> None:
        """Make copies again of what was changed since."""
        with self._making:
            for copy in self._copies.values():
                copy.renew()

    def of(self, variables: Sequence[Any], rows: int | None) -> list[Any]:
        """Give the copies of matrices, or None for what has none.

        Args:
            variables: in which those of matrices may be; see `may_be_reordered`.
            rows: how many are multiplied; None, or few, have no copies.

        Returns:
            One for each that may be reordered.
        """
        return [self._find(each, rows) for each in variables if may_be_reordered(each)]

    def read_by(self, rows: int | None) -> AbstractContextManager[None]:
        """Let what this thread traces meanwhile read copies, where so many rows have any."""
        return with_reordered(lambda variable: self._find(variable, rows))

    def _find(self, variable: Any, rows: int | None) -> Any:
        if not may_be_reordered(variable) or rows is None or rows < SMALLEST_BATCH:
            return None
        dtype = keras.backend.standardize_dtype(variable.dtype)
        num_rows = PARTS * rows if dtype == "int8" else rows
        if not takes_reordered(num_rows, *variable.shape, dtype):
            return None
        import tensorflow as tf

        with self._making:
            if id(variable) not in self._copies:
                # In another thread: while TensorFlow traces a function in this one, it lets it make
                # no variables.
                with ThreadPoolExecutor(1) as thread:
                    self._copies[id(variable)] = thread.submit(_Copy, variable).result()
            return tf.convert_to_tensor(self._copies[id(variable)].copy)
