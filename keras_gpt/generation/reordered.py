"""Copies of a model's int8 matrices in the order that oneDNN multiplies, which batches are read with.

A batch multiplies by every matrix at each step, and oneDNN would lay each of them out anew. So the
first batch leaves a copy of each beside the model, as large as it. A few rows do without: they are
multiplied as floats (`keras_gpt/layers/integers.py`).
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from keras_gpt.matrix_order import may_be_reordered
from keras_gpt.onednn import is_for_unknown_rows, reordered, takes_reordered, with_reordered

# Of the powers of two that batches have, the smallest that is multiplied as integers.
_SMALLEST_BATCH = 8


class _Copy:
    """A variable's matrix in another order, and the value that it was made from."""

    def __init__(self, variable: Any) -> None:
        import tensorflow as tf

        self._variable = variable
        self._value = self._read()
        self.copy = tf.Variable(reordered(_array(self._value)), trainable=False)

    def renew(self) -> None:
        """Make it again where the variable has another value.

        TensorFlow never writes into what somebody else holds: another value lies elsewhere.
        """
        value = self._read()
        if _array(value).ctypes.data != _array(self._value).ctypes.data:
            self.copy.assign(reordered(_array(value)))
            self._value = value

    def _read(self) -> Any:
        import tensorflow as tf

        return tf.convert_to_tensor(self._variable.value)


class ReorderedMatrices:
    """The copies of one model, each made when a batch first asks for it."""

    def __init__(self) -> None:
        self._copies: dict[int, _Copy] = {}
        self._making = threading.Lock()

    def renew(self) -> None:
        """Make copies again of what was changed since."""
        for copy in list(self._copies.values()):
            copy.renew()

    def of(self, variables: Sequence[Any], batch: Any) -> list[Any]:
        """Give the copies of those variables that have one, for a batch of so many rows.

        Args:
            variables: in which those of matrices may be; see `may_be_reordered`.
            batch: how many rows; None, or few, have none.

        Returns:
            Tensors, in the order of the variables.
        """
        if not self._are_worth(batch):
            return []
        return [self._find(each) for each in variables if may_be_reordered(each)]

    def read_by(self, batch: Any) -> AbstractContextManager[None]:
        """Let what this thread traces meanwhile read copies, where a batch of so many rows has any."""
        return with_reordered(self._find) if self._are_worth(batch) else nullcontext()

    def _are_worth(self, batch: Any) -> bool:
        return (
            isinstance(batch, int)
            and batch >= _SMALLEST_BATCH
            and not is_for_unknown_rows()
            and takes_reordered()
        )

    def _find(self, variable: Any) -> Any:
        import tensorflow as tf

        if not may_be_reordered(variable):
            return None
        with self._making:
            if id(variable) not in self._copies:
                # In another thread: while TensorFlow traces a function in this one, it lets it make
                # no variables.
                with ThreadPoolExecutor(1) as thread:
                    self._copies[id(variable)] = thread.submit(_Copy, variable).result()
        return tf.convert_to_tensor(self._copies[id(variable)].copy)


def _array(value: Any) -> np.ndarray:
    """Give a tensor's numbers where they lie."""
    return np.asarray(memoryview(value))
